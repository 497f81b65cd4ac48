"""Speed and memory of optimised networks beside the plain export, on random 30-node cells.

    python experiments/optimize.py [--cells 20] [--memory-cells 12] [--seed 0]
                                   [--objective latency,memory]

Every network is optimised (`gemkit.export.optimize`), then measured a second time from its
written files: plain and optimised in turn, one thread. Results are written as they come to
results/optimize.json; a network that is there is not measured again (--again 1 measures the speed
of all anew, with the rewrites chosen anew).
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from gemkit.architecture import Architecture, skeleton_for
from gemkit.cost import cost
from gemkit.export import optimize
from gemkit.export.onnx_builder import build_onnx
from gemkit.files import write_json
from gemkit.machine import describe_machine, versions
from gemkit.search.sampling import random_cells

RESULTS = Path(__file__).resolve().parents[1] / "results" / "optimize.json"
SHAPES = {"32x32": (3, 32, 32), "8x8": (1, 8, 8)}
ROUNDS, RUNS = 15, 20


def networks(seed: int, cells: int) -> list[tuple[str, Architecture]]:
    """Random 30-node cells of any density at random widths 8 to 32, of both kinds; a third as
    many of each in the skeleton for 8x8 images."""
    rng = np.random.default_rng(seed)
    found = []
    for size, shape in SHAPES.items():
        for aggregation in ("concat", "sum"):
            drawn = random_cells(rng, cells, 30, aggregation, 30)
            for index in range(cells if size == "32x32" else cells // 3):
                width = int(rng.integers(8, 33))
                architecture = Architecture((drawn.cell(index),), skeleton_for(shape, 10), width)
                found.append((f"{size} {aggregation} {index}", architecture))
    return found


def second_measurement(plain: Path, better: Path, rounds: int = ROUNDS) -> dict[str, float]:
    """Milliseconds of two files: median over interleaved rounds of each round's median, by the
    wall clock and in processor time, which other programs on the machine lengthen little."""
    sessions = []
    for path in (plain, better):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        sessions.append(
            onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        )
    given = sessions[0].get_inputs()[0]
    values = np.random.default_rng(1).random((1, *given.shape[1:]), dtype=np.float32)
    medians: dict[str, list[float]] = {name: [] for name in ("plain", "optimized")}
    medians |= {f"{name}_cpu": [] for name in medians}
    for number in range(rounds + 1):
        times: dict[str, list[float]] = {name: [] for name in medians}
        for turn in range(2 * RUNS):
            which = (turn + number) % 2
            name = ("plain", "optimized")[which]
            wall, processor = time.perf_counter(), time.thread_time()
            sessions[which].run(None, {given.name: values})
            times[f"{name}_cpu"].append(time.thread_time() - processor)
            times[name].append(time.perf_counter() - wall)
        if number:  # the first round warms up
            for name, durations in times.items():
                medians[name].append(statistics.median(durations))
    return {name: statistics.median(found) * 1e3 for name, found in medians.items()}


_ARENA = """
import sys
import numpy, onnxruntime as ort
path, file_order = sys.argv[1], sys.argv[2] == "file order"
ort.set_default_logger_severity(1)
info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
ort.create_and_register_allocator(info, ort.OrtArenaCfg(
    {"max_mem": 0, "arena_extend_strategy": 1, "initial_chunk_size_bytes": -1,
     "max_dead_bytes_per_chunk": -1}))
options = ort.SessionOptions()
options.intra_op_num_threads = 1
options.log_severity_level = 3
options.add_session_config_entry("session.use_env_allocators", "1")
if file_order:
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
given = session.get_inputs()[0]
values = numpy.zeros((1, *given.shape[1:]), numpy.float32)
for _ in range(2):
    print("RUN", file=sys.stderr, flush=True)
    session.run(None, {given.name: values})
"""


def arena_bytes(path: Path, order: str) -> int | None:
    """The block that onnxruntime plans for all activations of a run, from its arena's log.

    The first run records what is alive when; for the second one block is requested that holds
    everything. Network input and output lie outside.

    Args:
        order: "default", or "file order": without graph optimisations and in the order of the
            file, as interpreters on small devices run.
    """
    ran = subprocess.run(
        [sys.executable, "-c", _ARENA, str(path), order], capture_output=True, text=True, check=True
    )
    second = ran.stderr.split("RUN")[2]
    requests = [int(size) for size in re.findall(r"\(requested\) num_bytes: (\d+)", second)]
    return max(requests, default=None)


def measure(architecture: Architecture, objective: str) -> dict[str, Any]:
    """Optimise one network and measure the result a second time."""
    model = build_onnx(architecture)
    started = time.perf_counter()
    quick = objective == "memory"  # its time is only reported
    better, report = optimize.optimize(model, objective, seconds=0.05 if quick else 0.1)
    took = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder) / "plain.onnx", Path(folder) / "better.onnx"
        for path, one in zip(paths, (model, better), strict=True):
            onnx.save(one, path)
        again = second_measurement(*paths, rounds=3 if quick else ROUNDS)
        arena = {
            order: dict(
                zip(("plain", "optimized"), (arena_bytes(p, order) for p in paths), strict=True)
            )
            for order in ("default", "file order")
            if objective == "memory"
        }
    return {
        "arena_bytes": arena,
        "edges": len(architecture.cells[0].edges),
        "width": architecture.width,
        "macs": cost(architecture).macs,
        "seconds": round(took, 1),
        **report.to_json(),
        "second_latency_ms": again,
        "second_speedup": again["plain"] / again["optimized"] if better is not model else 1.0,
        "second_speedup_cpu": (
            again["plain_cpu"] / again["optimized_cpu"] if better is not model else 1.0
        ),
    }


def _median_reduction(found: list[dict[str, Any]]) -> float | None:
    shares = [1 - one["optimized"] / one["plain"] for one in found if all(one.values())]
    return statistics.median(shares) if shares else None


def summary(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Medians by objective, skeleton and kind of cell."""
    found: dict[str, Any] = {}
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for name, row in rows.items():
        size, aggregation, _ = name.split(" ", 2)
        groups.setdefault((row["objective"], f"{size} {aggregation}"), []).append(row)
    for (objective, kind), group in groups.items():
        processor = [row["second_speedup_cpu"] for row in group]
        speed = [row["second_speedup"] for row in group]
        entry: dict[str, Any] = {"networks": len(group)}
        if objective == "latency":
            aligned = [row["second_speedup"] for row in group if row["width"] % 8 == 0]
            entry |= {
                "median_speedup": statistics.median(speed),
                "median_speedup_cpu": statistics.median(processor),
                "least_speedup": min(speed),
                "least_speedup_cpu": min(processor),
                "most_speedup": max(speed),
                "median_speedup_width_multiple_of_8": statistics.median(aligned)
                if aligned
                else None,
                "networks_width_multiple_of_8": len(aligned),
                "below_0.98": sum(one < 0.98 for one in speed),
            }
            tried: Counter[str] = Counter()
            applied: Counter[str] = Counter()
            gains: dict[str, list[float]] = {}
            for row in group:
                for item in row["rewrites"]:
                    tried[item["name"]] += 1
                    applied[item["name"]] += item["applied"]
                    if item["speedup"] is not None:
                        gains.setdefault(item["name"], []).append(item["speedup"])
            entry["rewrites"] = {
                name: {
                    "tried": tried[name],
                    "applied": applied[name],
                    "median_speedup": statistics.median(gains[name]) if name in gains else None,
                }
                for name in tried
            }
        else:
            peaks = [row["peak_memory_bytes"] for row in group]
            entry |= {
                "median_reduction": statistics.median(
                    1 - peak["optimized"] / peak["plain"] for peak in peaks
                ),
                "median_reduction_by_order_alone": statistics.median(
                    1 - peak["order_only"] / peak["plain"] for peak in peaks
                ),
                "most_reduction_by_order_alone": max(
                    1 - peak["order_only"] / peak["plain"] for peak in peaks
                ),
                "proven_best_order": sum(
                    peak["lower_bound"] == peak["optimized"] for peak in peaks
                ),
                "median_speedup_cpu": statistics.median(processor),
                "median_arena_reduction": {
                    order: _median_reduction([row["arena_bytes"][order] for row in group])
                    for order in ("default", "file order")
                },
            }
        found.setdefault(objective, {})[kind] = entry
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cells", type=int, default=20)
    parser.add_argument("--memory-cells", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help='names that begin so, such as "32x32 sum"')
    parser.add_argument("--objective", default="latency,memory")
    parser.add_argument("--again", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    if options.out.exists() and not options.again:
        written = json.loads(options.out.read_text())
        if (written["seed"], written["cells"]) == (options.seed, options.cells):
            rows = written["networks"]
    for objective in options.objective.split(","):
        for name, architecture in networks(options.seed, options.cells):
            key = f"{name} {objective}"
            few = objective == "memory" and int(name.split()[-1]) >= options.memory_cells
            if key in rows or few or not name.startswith(options.only):
                continue
            rows[key] = measure(architecture, objective)
            peak = rows[key]["peak_memory_bytes"]
            print(
                f"{key}: width {rows[key]['width']}, {rows[key]['edges']} edges, "
                f"speed-up {rows[key]['speedup']:.3f}, again {rows[key]['second_speedup']:.3f} "
                f"(processor time {rows[key]['second_speedup_cpu']:.3f}), "
                f"peak {peak['plain']} -> {peak['optimized']} bytes, {rows[key]['seconds']} s",
                flush=True,
            )
            result = {
                "seed": options.seed,
                "cells": options.cells,
                "machine": describe_machine(),
                "versions": versions(),
                "summary": summary(rows),
                "networks": rows,
            }
            write_json(options.out, result)
    print(json.dumps(summary(rows), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
