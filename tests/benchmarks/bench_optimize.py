"""Optimised against plain exports, and the least memory, on a few random 30-node cells.

`experiments/optimize.py` is the full measurement.
"""

import statistics
import tempfile
from pathlib import Path

import numpy as np
import onnx
from row import Row

from gemkit.architecture import Architecture, skeleton_for
from gemkit.export import memory, optimize, rewrites, schedule, timing
from gemkit.export.graph import read
from gemkit.export.onnx_builder import build_onnx
from gemkit.search.sampling import random_cells

CELLS = 5
SEED = 20


def rows() -> list[Row]:
    """Median speed-up of both kinds of cells, the slowest of all, and the peak of memory."""
    rng = np.random.default_rng(SEED)
    found, slowest = [], []
    networks = {kind: list(_networks(rng, kind)) for kind in ("sum", "concat")}
    for kind, bar in (("sum", 1.3), ("concat", 1.1)):
        first, again = [], []
        for architecture in networks[kind]:
            model = build_onnx(architecture)
            better, report = optimize.optimize(model)
            first.append(report.speedup)
            again.append(_speedup(model, better) if report.applied else 1.0)
        found.append(
            Row(
                f"optimised against plain export, {kind}",
                statistics.median(first),
                None,
                "times faster",
                bar,
                higher=True,
                note=f"median of {CELLS} random 30-node cells, widths 8-32, one thread",
            )
        )
        slowest += again
    found.append(
        Row(
            "slowest optimised export, measured again",
            min(slowest),
            None,
            "times faster",
            0.98,
            higher=True,
            note=f"{len(slowest)} networks",
        )
    )
    shares, by_order = [], []
    for architecture in networks["sum"] + networks["concat"]:
        graph = read(build_onnx(architecture))
        plain = schedule.peak(graph)
        order = schedule.best_order(graph, seconds=2)
        ordered = schedule.in_order(graph, order.units)
        peaks = [order.peak]
        for start in (ordered, rewrites.share_sums(graph)):
            peaks.append(schedule.peak(memory.accumulate(start, tries=500), accumulate=True))
        shares.append(1 - min(peaks) / plain)
        by_order.append(1 - order.peak / plain)
    found.append(
        Row(
            "peak activation memory saved by order and rewrites",
            statistics.median(shares),
            None,
            "of the plain peak",
            0.2,
            higher=True,
            note=f"median of {len(shares)}; by order alone {statistics.median(by_order):.3f}",
        )
    )
    return found


def _networks(rng: np.random.Generator, kind: str) -> list[Architecture]:
    cells = random_cells(rng, CELLS, 30, kind, 30)
    skeleton = skeleton_for((3, 32, 32), 10)
    return [
        Architecture((cells.cell(index),), skeleton, int(rng.integers(8, 33)))
        for index in range(CELLS)
    ]


def _speedup(plain: onnx.ModelProto, better: onnx.ModelProto) -> float:
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / f"{name}.onnx") for name in ("plain", "better")]
        for path, model in zip(paths, (plain, better), strict=True):
            onnx.save(model, path)
        before, after = (one["calm_ms"] for one in timing.measure(paths, rounds=3, seconds=0.03))
    return float(before / after)
