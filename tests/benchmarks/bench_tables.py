"""Tabular benchmarks: reading a TFRecord file, predicting from 100 cells, one search.

The bars for times hold on two free cores; what is compared are processor seconds.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_tables.py

reads and searches as many synthetic cells as NAS-Bench-101 has, and writes
results/ablation-fullsize.json.
"""

import base64
import json
import resource
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from row import Row

from gemkit.files import write_json
from gemkit.machine import describe_machine, versions

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
FULL_SIZE = ROOT / "results" / "ablation-fullsize.json"
NASBENCH101 = 423_624
_OPERATIONS = ("conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3")


def synthetic_records(path: Path, cells: int, seed: int = 0) -> None:
    """A file in the form of nasbench_only108.tfrecord with made-up accuracies of distinct cells.

    All cells have seven nodes and an edge from each to the next, so no two are isomorphic.
    """
    from gemkit.search.nasbench101 import masked_crc32c

    rng = np.random.default_rng(seed)
    codes = rng.choice(2**15 * 3**5, size=cells, replace=False)
    upper = np.triu_indices(7, 2)
    adjacency = np.repeat(np.eye(7, k=1, dtype=np.uint8)[None], cells, axis=0)
    adjacency[:, upper[0], upper[1]] = codes[:, None] >> np.arange(15) & 1
    ops = (codes // 2**15)[:, None] // 3 ** np.arange(5) % 3
    quality = 0.9 + 0.01 * (ops == 0).sum(axis=1) - 0.002 * adjacency.sum(axis=(1, 2))
    final = quality[:, None, None] + 0.002 * rng.normal(size=(cells, 3, 4))
    final[:, :, 0] = 1000.0
    head = np.frombuffer(bytes([0x0A, 45]), np.uint8)
    messages = np.zeros((cells, 3, 3, 47), dtype=np.uint8)
    messages[..., :2] = head
    for field in range(5):
        at = 2 + 9 * field
        messages[..., at] = field + 1 << 3 | 1
        for moment in (1, 2):
            values = np.full((cells, 3), 54.0 * moment) if field == 0 else final[..., field - 1]
            raw = np.ascontiguousarray(values, dtype="<f8").view(np.uint8).reshape(cells, 3, 8)
            messages[:, :, moment, at + 1 : at + 9] = raw
    flat = messages.reshape(cells, 3, 141)
    with open(path, "wb") as file:
        for start in range(0, cells, 20_000):
            records = []
            for row in range(start, min(cells, start + 20_000)):
                names = ",".join(("input", *(_OPERATIONS[o] for o in ops[row]), "output"))
                edges = (adjacency[row].ravel() + ord("0")).tobytes().decode()
                for run in range(3):
                    text = base64.b64encode(flat[row, run].tobytes() + b"\x10\xe8\x07").decode()
                    records.append(json.dumps([f"{row:032x}", 108, edges, names, text]).encode())
            lengths = [struct.pack("<Q", len(record)) for record in records]
            marks = _checksums(masked_crc32c, lengths), _checksums(masked_crc32c, records)
            for length, first, record, last in zip(
                lengths, marks[0], records, marks[1], strict=True
            ):
                file.write(length + first + record + last)


def _checksums(masked_crc32c: Any, parts: list[bytes]) -> list[bytes]:
    sizes = np.array([len(part) for part in parts])
    data = np.frombuffer(b"".join(parts), dtype=np.uint8)
    starts = np.cumsum(sizes) - sizes
    found: list[bytes] = [b""] * len(parts)
    for size in np.unique(sizes):
        some = np.flatnonzero(sizes == size)
        for place, crc in zip(some, masked_crc32c(data, starts[some], int(size)), strict=True):
            found[place] = struct.pack("<I", crc)
    return found


def _reading() -> Row:
    from gemkit.search import tables

    cells = 8_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "synthetic.tfrecord"
        synthetic_records(path, cells)
        begun = time.process_time()
        tables.load(path)
        seconds = (time.process_time() - begun) * NASBENCH101 / cells
    return Row(
        "NAS-Bench-101's 423,624 cells out of a TFRecord file, checksums verified, keys made",
        seconds,
        None,
        "CPU s",
        120.0,
        note=f"measured on {cells} cells and scaled",
    )


def _predicting() -> list[Row]:
    from gemkit.search import ablation, table_latency
    from gemkit.search.predictor import flat_predictor, nasgem_predictor

    at = ablation.opened(str(SHARED / "nasbench201_cifar10.npz"), False, True)
    scores = {
        name: np.mean(
            [
                (
                    ablation.correlation(
                        at.table, at.space, "ep200_cifar10_val", predictor, seed, 100
                    )
                    or {}
                )["kendall_tau"]
                for seed in range(5)
            ]
        )
        for name, predictor in (
            ("ours", nasgem_predictor(at.embedding, at.space.memo)),
            ("flat", flat_predictor(at.space.memo)),
        )
    }
    device = table_latency.latency(
        SHARED / "hw_nas_bench_cifar10.npz", "raspi4_latency", samples=100, seeds=5
    )
    ridge = device["baselines"]["ridge on counts and positions"]
    begun = time.process_time()
    ablation.search(at.table, at.space, "ep12_cifar10_val", "nasgem", 0, 150, at.embedding)
    seconds = time.process_time() - begun
    return [
        Row(
            "Kendall tau of the predictor, NAS-Bench-201 (ep200), 100 cells, 5 seeds",
            float(scores["ours"]),
            None,
            "tau",
            0.75,
            higher=True,
            note=f"Gaussian process on the flat encoding: {scores['flat']:.2f}",
        ),
        Row(
            "Spearman of Raspberry Pi 4 latency, 100 cells, 5 seeds",
            device["spearman"],
            None,
            "rho",
            0.95,
            higher=True,
            note=f"ridge on counts and positions: {ridge['spearman']:.3f}",
        ),
        Row(
            "Raspberry Pi 4 latencies within 10 %, 100 cells, 5 seeds",
            device["within_10_percent"],
            None,
            "share",
            0.57,
            higher=True,
            note=f"ridge on counts and positions: {ridge['within_10_percent']:.2f}",
        ),
        Row("150 queries on NAS-Bench-201, one seed", seconds, None, "CPU s", 60.0),
    ]


def rows() -> list[Row]:
    """All rows; those on real tables only where the tables are."""
    found = [_reading()]
    if SHARED.is_dir():
        found += _predicting()
    else:
        print("tables: rows on real tables are skipped, there is no ../shared/data")
    return found


def fullsize() -> dict[str, Any]:
    """423,624 synthetic cells: read, cached, read again, searched, and one round over all."""
    from gemkit.search import ablation, tables

    report: dict[str, Any] = {"cells": NASBENCH101}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "synthetic.tfrecord"
        synthetic_records(path, NASBENCH101)
        report["file_bytes"] = path.stat().st_size

        def timed(name: str, work: Callable[[], Any]) -> Any:
            begun, processor = time.perf_counter(), time.process_time()
            found = work()
            report[f"{name}_seconds"] = round(time.perf_counter() - begun, 1)
            report[f"{name}_cpu_seconds"] = round(time.process_time() - processor, 1)
            print(name, flush=True)
            return found

        table = timed("read", lambda: tables.load(path))
        timed("read_cache", lambda: tables.load(path))
        space = tables.TableSpace(table)
        embedding = timed("encoder", lambda: ablation.table_embedding(table))
        metric = "validation_accuracy"
        whole = NASBENCH101 + 1
        for name, seed, queries, more in (
            ("whole_table_round", 1, 11, {"random": whole}),
            ("search_150", 0, 150, {}),
        ):
            timed(
                name,
                lambda seed=seed, queries=queries, more=more: ablation.search(
                    table, space, metric, "nasgem", seed, queries, embedding, **more
                ),
            )
    report["cpu_seconds_of_this_call"] = round(time.process_time(), 1)
    report["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return report | {"machine": describe_machine(), "versions": versions()}


if __name__ == "__main__":
    write_json(FULL_SIZE, fullsize())
