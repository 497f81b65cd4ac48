"""Found networks beside known ones at 3 M MACs on a CPU: the figures of docs/results.md.

    OMP_NUM_THREADS=1 python experiments/compare.py [--data FOLDER] [--seeds 3] [--out runs/compare]

Trains every network of `gemkit compare` on 10,000 images of the CIFAR-10 JPEG copy, ours searched
at 0.8 times the MACs of the others. Some 3 to 5 hours on a free core (reckoned from steps on a busy
machine); the time left is said at the start. Killed at any moment it goes on from the last epoch.
The networks that the bars are about come first; after each of their seeds, and after the others,
results/compare.json and docs/results.md are written from all trainings so far.

    python experiments/compare.py --report      only writes docs/results.md anew from the results
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from gemkit.app import comparing, report, zoo
from gemkit.files import read_json, write_json, write_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "results" / "compare.json", ROOT / "docs" / "results.md"
FIDELITY = ROOT / "results" / "fidelity.json"
MAX_MACS, SHARE, IMAGES, EPOCHS, TRIALS = 3_000_000, 0.8, 10_000, 8, 32
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
        report.Code("OMP_NUM_THREADS=1 python experiments/compare.py"),
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
    found = fidelity["correlation"]
    rows = [
        (str(row["epochs"]), f"{row['spearman']:.2f}", f"{row['kendall_tau']:.2f}")
        for row in found["rows"]
    ]
    return [
        report.Heading("Short trainings against long ones"),
        report.Paragraph(
            f"Rank correlation over {found['cells']} random cells ({found['data']}) between their "
            f"accuracy after few epochs and after {found['long']} from another seed. The last row "
            "compares two long trainings: no short one can be expected to do better."
        ),
        report.Table(("epochs", "Spearman", "Kendall tau"), rows),
        report.Code("OMP_NUM_THREADS=1 python experiments/fidelity.py"),
    ]


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
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "compare")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--report", action="store_true")
    given = parser.parse_args()
    file = given.data / "cifar10_jpeg.npz"
    if given.report:
        write_page()
        return 0
    if not file.is_file():
        print(f"skipped: there is no {file} (CIFAR-10 as JPEG files)")
        return 0
    console = Console(highlight=False, soft_wrap=True, width=140)
    parts = [(FIRST, seeds) for seeds in range(1, given.seeds + 1)]
    for networks, seeds in [*parts, ((), given.seeds)]:
        result = comparing.compare(
            f"npz:{file}",
            max_macs=MAX_MACS,
            share=SHARE,
            images=IMAGES,
            epochs=EPOCHS,
            trials=TRIALS,
            seeds=seeds,
            networks=networks,
            out=given.out,
            workers=given.workers,
            device="cpu",
            console=console,
        )
        # Nothing of this machine's folders goes into the results.
        result["config"]["data"] = f"npz:{file.name}"
        write_json(RESULTS, result)
        write_page()
        console.print(f"{RESULTS.name} and {PAGE.name} hold {seeds} of {given.seeds} seeds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
