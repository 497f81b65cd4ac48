"""Found networks beside known ones at 3 M MACs on a CPU: the figures of docs/results.md.

    OMP_NUM_THREADS=1 python experiments/compare.py --workers 2 [--data FOLDER] [--out runs/compare]

Trains every network of `gemkit compare` on 10,000 images of the CIFAR-10 JPEG copy, ours searched
at 0.8 times the MACs of the others. The networks that the bars are about come first and from more
seeds: 1, then 3, then 5 of them; then the others from 2. After each of these four parts
results/compare.json and docs/results.md are written from all trainings so far. About 3 hours on two
free cores (reckoned from steps on busy ones); the time left is said at the start of each part.
Killed at any moment it goes on from the last epoch.

    python experiments/compare.py --report      only writes docs/results.md anew from the results
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from gemkit.app import comparing, report, tables, zoo
from gemkit.files import read_json, write_json, write_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "results" / "compare.json", ROOT / "docs" / "results.md"
FIDELITY = ROOT / "results" / "fidelity.json"
JPEG_COPY = ROOT.parent / "shared" / "data" / "cifar10_jpeg.npz"
MAX_MACS, SHARE, IMAGES, EPOCHS, BATCH, TRIALS = 3_000_000, 0.8, 10_000, 8, 64, 32
PARTS = (1, 3, 5)
"""Seeds of the networks of FIRST, part by part."""
OTHERS = 2
FIRST = ("found", "random", "darts_v2", "pc_darts", "p_darts")
GOAL = (0.004, 0.036)
"""What the paper says its networks are more accurate by than those of other searches."""


def page(
    result: dict[str, Any] | None,
    cards: list[dict[str, Any]],
    fidelity: dict[str, Any] | None,
) -> str:
    """docs/results.md as text: whatever of the comparison, the zoo and the proxy is there."""
    blocks: list[report.Block] = [
        report.Heading("Results", 1),
        report.Paragraph(
            "Written by the programs in `experiments/` from the files in `results/` and the cards "
            "of the networks that come with gemkit. Every network was trained here, by one loop; "
            "no figure is copied from a paper."
        ),
    ]
    if result is not None:
        blocks += _comparison(result)
    if cards:
        blocks += _zoo(cards)
    if fidelity is not None and fidelity.get("correlation"):
        blocks += _proxy(fidelity)
    blocks += [
        report.Heading("Not run"),
        report.Paragraph(
            "The comparison at 40 M MACs with the full recipe and the training speed on a GPU "
            "need a GPU and were not run: "
            "`gemkit compare --data cifar10 --max-macs 40M --share 0.8 --seeds 3 --recipe full "
            "--device cuda --out runs/compare-40M`."
        ),
    ]
    absent = [name for name in zoo.NAMES if name not in {card["name"] for card in cards}]
    if absent:
        blocks.append(
            report.Paragraph(
                f"Of the ready-made networks {', '.join(absent)}: "
                "`python experiments/zoo.py --only "
                f"{absent[0].removeprefix('gemnet-')}`."
            )
        )
    return report.markdown(blocks)


def _comparison(result: dict[str, Any]) -> list[report.Block]:
    return [
        report.Heading("Found networks beside known ones"),
        report.Paragraph(comparing.summary(result)),
        report.Table(comparing.HEADS, comparing.table_rows(result)),
        report.Paragraph(comparing.notes(result)),
        report.Paragraph(
            "The search draws its proxy images (a tenth) from all 50,000 training images, also "
            "where the networks are then trained on fewer. It never sees a test image."
        ),
        report.Heading("Against what was aimed for", 3),
        report.Table(("bar", "found here", "holds"), bars(result)),
        report.Heading("How to repeat it", 3),
        report.Code("OMP_NUM_THREADS=1 python experiments/compare.py --workers 2"),
        report.Paragraph(comparing.made(result)),
    ]


def _zoo(cards: list[dict[str, Any]]) -> list[report.Block]:
    blocks: list[report.Block] = [
        report.Heading("Ready-made networks"),
        report.Paragraph(
            "Accuracy of the ONNX file by onnxruntime alone on the test images; the interval is "
            "that of so many images. `gemkit export zoo:NAME --out FILE.onnx` writes one."
        ),
        report.Table(zoo.HEADS, [zoo.row(card) for card in cards]),
    ]
    for card in cards:
        text = f"{card['name']}: {card['search']['text']} Trained {card['training']['text']}."
        blocks += [report.Paragraph(text), report.Code(card["command"])]
    return blocks


def _proxy(fidelity: dict[str, Any]) -> list[report.Block]:
    of, shown = fidelity["settings"], {"full": "full", "again": "full, another seed"}
    rows = [
        (
            shown.get(row["training"], f"{row['training']}, proxy"),
            str(row["cells"]),
            f"{row['spearman']:.2f}",
            "{:.2f} to {:.2f}".format(*row["interval"]),
            f"{row['kendall_tau']:.2f}",
        )
        for row in fidelity["correlation"]
    ]
    blocks: list[report.Block] = [
        report.Heading("Short trainings against full ones"),
        report.Paragraph(
            f"Rank correlation over random cells within {of['budget']['macs']:,} MACs between the "
            "accuracy of a search's trial (validation part of its tenth of the training images) "
            f"and that of a full training ({of['full']['epochs']} epochs on {of['images']:,} "
            f"images, judged on {of['test_images']:,} test images, another seed); {of['data']}. "
            "The interval is a bootstrap's over cells (95 %). Two full trainings of the same cells "
            "agree as far as the row `full, another seed` says, where it is there: no short one "
            "can be expected to do better."
        ),
        report.Table(("epochs", "cells", "Spearman", "95 % interval", "Kendall tau"), rows),
    ]
    if fidelity["compared"]:
        ways = [
            (
                f"all for {tables.number(row['epochs'], 'epoch')}"
                + (f", the best {row['promoted']} for 9" if row["promoted"] else ""),
                f"{100 * row['cost']:.0f} %",
                f"{100 * row['accuracy']:.2f}",
            )
            for row in fidelity["compared"]
        ]
        blocks += [
            report.Paragraph(
                "What a search of 16 such cells finds by them: the time it takes, and the full "
                "accuracy of the cell it chooses (mean of many drawn searches)."
            ),
            report.Table(("trials", "time", "accuracy"), ways),
        ]
    return [*blocks, report.Code("OMP_NUM_THREADS=1 python experiments/fidelity.py --workers 2")]


def write_page() -> None:
    """Write docs/results.md from all that is there."""
    result = read_json(RESULTS) if RESULTS.is_file() else None
    fidelity = read_json(FIDELITY) if FIDELITY.is_file() else None
    write_text(PAGE, page(result, zoo.cards(), fidelity))


def bars(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The bars of the design that this comparison speaks about."""
    networks = {entry["id"]: entry for entry in result["networks"]}
    found = networks["found"]
    rows = []
    for entry in networks.values():
        better = entry["found_better_by"]
        if better is None or entry["kind"] not in ("differentiable", "random"):
            continue
        text = f"{comparing.points(better['mean'])} points"
        if better["interval"]:
            text += " ({} to {})".format(*(comparing.points(end) for end in better["interval"]))
        if entry["kind"] == "random":
            bar = "above random cells of equal cost with 95 % confidence"
            holds = bool(better["interval"] and better["interval"][0] > 0)
        else:
            low, high = (comparing.points(end) for end in GOAL)
            bar = f"{low} to {high} points against {entry['id']}, at least 11 % fewer MACs"
            fewer = 1 - found["macs"] / entry["macs"]
            text += (
                f", {100 * fewer:.0f} % fewer MACs, "
                f"{100 * (1 - found['params'] / entry['params']):.0f} % fewer parameters"
            )
            holds = better["mean"] >= GOAL[0] and fewer >= 0.11
        rows.append((bar, text, "yes" if holds else "no"))
    return rows


def main() -> int:
    """Run or go on with the comparison and write its results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=JPEG_COPY.parent)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "compare")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--report", action="store_true")
    given = parser.parse_args()
    file = given.data / JPEG_COPY.name
    if given.report:
        write_page()
        return 0
    if not file.is_file():
        print(f"skipped: there is no {file} (CIFAR-10 as JPEG files)")
        return 0
    console = Console(highlight=False, soft_wrap=True, width=140)
    everyone = dict.fromkeys(comparing.names(), OTHERS) | dict.fromkeys(FIRST, PARTS[-1])
    parts = [*(dict.fromkeys(FIRST, seeds) for seeds in PARTS), everyone]
    for place, seeds in enumerate(parts, start=1):
        result = comparing.compare(
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
        # Nothing of this machine's folders goes into the results.
        result["config"]["data"] = f"npz:{file.name}"
        write_json(RESULTS, result)
        write_page()
        console.print(f"{RESULTS.name} and {PAGE.name} hold part {place} of {len(parts)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
