"""Deployment: how long an export takes, how true a benchmark is, how well latency is predicted.

Latencies are of this machine while the benchmark ran; both sides of a row were measured in turn.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from row import Row
from torch import nn

from gemkit.architecture import Architecture, skeleton_for
from gemkit.cell import Cell, CellArrays
from gemkit.network import build

SKELETON = skeleton_for((3, 32, 32), 10)
MEASURED, UNSEEN = 80, 40
EXPORTS = 3


def _cell(rng: np.random.Generator, aggregation: str) -> Cell:
    from gemkit.search.sampling import random_cells

    return random_cells(rng, 1, 30, aggregation, smallest=30).cell(0)


class _Unknown(nn.Module):
    """A network that does not say what it is made of: PyTorch's exporter must find out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)


def _export(rng: np.random.Generator, path: Path) -> tuple[float, float]:
    """Seconds of processor time for an export of thirty nodes with all checks, by our builder and
    by PyTorch's exporter."""
    from gemkit.export.exporter import export_onnx

    network = build(Architecture((_cell(rng, "concat"),), SKELETON, 16))
    with torch.no_grad():
        for _ in range(10):
            network(torch.randn(8, 3, 32, 32))
    images = rng.integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
    spent: dict[str, list[float]] = {"theirs": [], "ours": []}
    for _ in range(EXPORTS):
        for name, source in (("theirs", _Unknown(network)), ("ours", network)):
            begin = time.process_time()
            export_onnx(
                source,
                path,
                input_shape=(3, 32, 32),
                class_names=[str(label) for label in range(10)],
                mean=[0.5] * 3,
                std=[0.25] * 3,
                images=images,
                test=(images, np.zeros(50, dtype=np.int64)),
            )
            spent[name].append(time.process_time() - begin)
    return statistics.median(spent["ours"]), statistics.median(spent["theirs"])


def _plain_loop(path: Path, rounds: int = 45, calls: int = 60) -> tuple[float, float]:
    """p50 by our timer and by a loop written here, which other programs disturb: its calmest round.

    Processor time, so that a busy machine does not decide.
    """
    from gemkit.export import timing

    session = timing.open_session(path)
    inputs = {"image": np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32)}
    plain = []
    for _ in range(rounds):
        begin = time.thread_time_ns()
        for _ in range(calls):
            session.run(None, inputs)
        plain.append((time.thread_time_ns() - begin) / calls / 1e6)
    (ours,) = timing.measure([str(path)])
    return ours["latency_ms"]["p50"], min(plain)


def _prediction(rng: np.random.Generator) -> tuple[float, float, float, float, float]:
    """Share within 10 %, rank correlation, the same of a second measurement, seconds.

    All networks are measured in one session, in random order, so that a change of the machine's
    load does not fall between those learned from and those predicted.
    """
    from scipy.stats import spearmanr

    from gemkit.budget import Budget
    from gemkit.export.latency import LatencyModel, Measured, measure_here, plan, this_device
    from gemkit.search.sampling import random_cells

    def pools() -> list[CellArrays]:
        return [random_cells(rng, 800, 30, aggregation) for aggregation in ("concat", "sum")]

    budget = Budget(macs=20_000_000)
    chosen = plan(SKELETON, pools(), budget=budget, samples=MEASURED)
    # The first half of a plan is a random sample.
    unseen = plan(SKELETON, pools(), budget=budget, samples=2 * UNSEEN)[1 : UNSEEN + 1]
    both = [*chosen, *unseen]

    def measured() -> np.ndarray:
        order = rng.permutation(len(both))
        times = np.empty(len(both))
        times[order] = measure_here([both[i] for i in order])
        return times

    start = time.perf_counter()
    first = measured()
    seconds = (time.perf_counter() - start) * MEASURED / len(both)
    second = measured()
    known = [Measured(one.cells[0], one.width, ms) for one, ms in zip(chosen, first, strict=False)]
    model = LatencyModel.fit(SKELETON, known, this_device())
    predicted = np.array([model.of(one)[0] for one in unseen])
    true, again = first[MEASURED:], second[MEASURED:]
    again = again * np.median(first / second)

    def within(values: np.ndarray) -> float:
        return float((np.abs(values / true - 1) <= 0.1).mean())

    rank = float(spearmanr(predicted, true)[0])
    return within(predicted), rank, within(again), float(spearmanr(again, true)[0]), seconds


def rows() -> list[Row]:
    """See the module's text."""
    rng = np.random.default_rng(0)
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export, by_pytorch = _export(rng, path)
        ours, plain = _plain_loop(path)
    within, rank, floor, floor_rank, fitting = _prediction(rng)
    what = f"{UNSEEN} unseen networks from {MEASURED} measured ({fitting:.0f} s)"
    return [
        Row(
            "export of a 30-node network, all checks, beside PyTorch's exporter",
            export,
            by_pytorch,
            "s",
            5,
            note=f"processor time, 50 test images, median of {EXPORTS}",
        ),
        Row(
            "p50 against a plain loop: deviation", abs(ours / plain - 1), None, "", 0.03, note=load
        ),
        Row(
            f"latency within 10 %, {what}",
            within,
            floor,
            "share",
            0.95,
            higher=True,
            note=f"{load}; the reference is a second measurement of the same networks",
        ),
        Row(
            f"latency, Spearman, {what}",
            rank,
            None,
            "",
            0.97,
            higher=True,
            note=f"a second measurement: {floor_rank:.3f}",
        ),
    ]
