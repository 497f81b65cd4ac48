"""Found networks beside known ones at 3 M MACs on a CPU: the figures of docs/results.md.

    OMP_NUM_THREADS=1 python experiments/compare.py --workers 2 [--data FOLDER] [--out runs/compare]

Trains every network of `gemkit compare` on 10,000 images of the CIFAR-10 JPEG copy, ours searched
at 0.8 times the MACs of the others. The networks that the bars are about come first, from 1 seed
and then 3; then all the rest from 2; then the first from 5. After each of these four parts
results/compare.json and docs/results.md are written from all trainings so far. About 3 hours on two
free cores; the time left is said at the start of each part. Killed at any moment it goes on from
the last epoch.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import results_page
from rich.console import Console

from gemkit.app.comparison import Comparison, names
from gemkit.app.steps.compare import compare
from gemkit.files import read_json, write_json
from gemkit.records import plain, read

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "compare.json"
JPEG_COPY = ROOT.parent / "shared" / "data" / "cifar10_jpeg.npz"
MAX_MACS, SHARE, IMAGES, EPOCHS, BATCH, TRIALS = 3_000_000, 0.8, 10_000, 8, 64, 32
FIRST = ("found", "narrow", "random", "darts_v2", "pc_darts", "p_darts")
PARTS = ((1, 0), (3, 0), (3, 2), (5, 2))
"""Seeds of the networks of FIRST and of all others, one part after the other."""


def trainings(result: Comparison) -> int:
    """Number of trainings in a comparison."""
    return sum(len(entry.accuracies) for entry in result.networks)


def main() -> int:
    """Run or go on with the comparison and write its results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=JPEG_COPY.parent)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "compare")
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    file = given.data / JPEG_COPY.name
    if not file.is_file():
        print(f"skipped: there is no {file} (CIFAR-10 as JPEG files)")
        return 0
    console = Console(highlight=False, soft_wrap=True, width=140)
    earlier = read(Comparison, read_json(RESULTS), str(RESULTS)) if RESULTS.is_file() else None
    for place, (first, others) in enumerate(PARTS, start=1):
        rest = dict.fromkeys(names(), others) if others else {}
        seeds = rest | dict.fromkeys(FIRST, first)
        result = compare(
            f"npz:{file}",
            max_macs=MAX_MACS,
            share=SHARE,
            images=IMAGES,
            epochs=EPOCHS,
            batch_size=BATCH,
            trials=TRIALS,
            seeds=seeds,
            networks=tuple(seeds),
            out=given.out,
            workers=given.workers,
            device="cpu",
            console=console,
        )
        if earlier is not None and trainings(result) < trainings(earlier):
            continue  # done before, and more than this
        # Nothing of this machine's folders goes into the results.
        config = {**result.config, "data": f"npz:{file.name}"}
        write_json(RESULTS, plain(replace(result, config=config)))
        results_page.write()
        console.print(
            f"{RESULTS.name} and {results_page.PAGE.name} hold part {place} of {len(PARTS)}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
