"""Networks delivered under a latency budget, measured again: experiments/deliveries.py.

    python experiments/deliveries.py [--deliveries 50] [--samples 100] [--seed 0] [--quiet]

Each delivery is what `gemkit run --max-latency` does: a cell drawn from the space, at the largest
width whose predicted latency fits with its margin; measured and, if need be, narrowed; written, and
measured once more before it is delivered. The weights are random, which latency does not depend on.
Meanwhile two neighbours are started and stopped at random (`latency.neighbours`). At the end they
are stopped, and all delivered files are measured again, in rounds over all. Reported: how many
exceed their budget, by how much, and how much of the budget is used. Resumable by delivery: what
was found stays in build/deliveries.json, the summary goes to results/deliveries.json. One to two
minutes of processor time to learn and 3 s for each delivery.
"""

import argparse
import contextlib
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from latency import neighbours

from gemkit.app.steps.train import narrowed
from gemkit.architecture import Architecture, skeleton_for
from gemkit.budget import Budget
from gemkit.cell import Cell
from gemkit.export.benchmark import latency_ms
from gemkit.export.latency import LatencyModel, fit_latency, this_device
from gemkit.export.onnx_builder import build_onnx
from gemkit.files import write_json
from gemkit.search.cell_space import CellSpace
from gemkit.search.sampling import random_cells

ROOT = Path(__file__).resolve().parents[1]
RESULTS, KEPT = ROOT / "results" / "deliveries.json", ROOT / "build" / "deliveries.json"
SKELETON = skeleton_for((3, 32, 32), 10)
MOST = Budget(macs=20_000_000)


def learned(samples: int, seed: int) -> LatencyModel:
    """The predictor of a search in this space."""
    rng = np.random.default_rng(seed)
    pools = [random_cells(rng, 800, 30, kind).pruned() for kind in ("concat", "sum")]
    return fit_latency(SKELETON, pools, budget=MOST, samples=samples, seed=seed)


def delivery(model: LatencyModel, seed: int, folder: Path) -> dict[str, Any]:
    """One network under a budget drawn between 0.3 and 3 ms; None as width where none was found."""
    rng = np.random.default_rng(seed)
    limit = float(np.exp(rng.uniform(np.log(0.3), np.log(3))))
    kind = ("concat", "sum")[seed % 2]
    space = CellSpace(
        SKELETON, replace(MOST, latency_ms=limit), aggregation=kind, latency=model.safe
    )
    candidates = space.sample(rng, 1)
    proposed = space.architecture(candidates, 0)
    row: dict[str, Any] = {
        "limit_ms": limit,
        "cell": proposed.cells[0].to_json(),
        "proposed_width": proposed.width,
        "predicted_ms": model.of(proposed)[0],
        "at_most_ms": float(candidates.payload.latency_ms[0]),
        "width": None,
    }
    fitting, row["before_training_ms"] = narrowed(proposed, limit)
    if fitting is None:
        return row
    path = folder / "model.onnx"
    path.write_bytes(build_onnx(fitting, seed=seed).SerializeToString())
    row["at_export_ms"] = latency_ms([path])[0]
    if row["at_export_ms"] <= limit:
        row["width"] = fitting.width
    return row


def measured_again(rows: list[dict[str, Any]], folder: Path) -> list[float]:
    """p50 of all delivered files, in rounds over all."""
    paths = []
    for index, row in enumerate(rows):
        cell = Cell.from_json(row["cell"])
        paths.append(folder / f"{index}.onnx")
        model = build_onnx(Architecture((cell,), SKELETON, row["width"]), seed=index)
        paths[-1].write_bytes(model.SerializeToString())
    return latency_ms(paths)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--deliveries", type=int, default=50)
    parser.add_argument("--samples", type=int, default=100, help="networks to learn latency from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quiet", action="store_true", help="without the neighbours")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--kept", type=Path, default=KEPT)
    options = parser.parse_args()
    setting = {name: getattr(options, name) for name in ("samples", "seed", "quiet")}
    value: dict[str, Any] = {"setting": setting, "device": this_device(), "tried": []}
    if options.kept.exists():
        before = json.loads(options.kept.read_text())
        if (before["setting"], before["device"]) == (setting, value["device"]):
            value = before
    options.kept.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with contextlib.nullcontext() if options.quiet else neighbours(options.seed):
            if "predictor" not in value:
                value["predictor"] = learned(options.samples, options.seed).to_json()
                write_json(options.kept, value)
            model = LatencyModel.from_json(value["predictor"])
            while sum(row["width"] is not None for row in value["tried"]) < options.deliveries:
                row = delivery(model, 1000 * options.seed + len(value["tried"]), folder)
                value["tried"].append(row)
                write_json(options.kept, value)
                print(
                    f"{len(value['tried'])}: limit {row['limit_ms']:.3f} ms, predicted at most "
                    f"{row['at_most_ms']:.3f}, width {row['proposed_width']} -> {row['width']}",
                    flush=True,
                )
        delivered = [row for row in value["tried"] if row["width"] is not None]
        again = measured_again(delivered, folder)
    used = np.array([ms / row["limit_ms"] for ms, row in zip(again, delivered, strict=True)])
    checked = np.array([row["at_export_ms"] for row in delivered])
    narrower = [row["width"] < row["proposed_width"] for row in delivered]
    summary = {
        "delivered": len(delivered),
        "refused": len(value["tried"]) - len(delivered),
        "narrowed": sum(narrower),
        "over_by_more_than_3_percent": int((used > 1.03).sum()),
        "over": int((used > 1).sum()),
        "most_of_the_budget": float(used.max()),
        "median_of_the_budget": float(np.median(used)),
        "again_over_checked_median": float(np.median(again / checked)),
        "again_over_checked_most": float((again / checked).max()),
    }
    write_json(options.out, {"setting": setting, "device": value["device"], "summary": summary})
    print(json.dumps(summary, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
