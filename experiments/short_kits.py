"""A device's latency from 20 measured cells, another device's table as prior: short_kits.py.

    python experiments/short_kits.py [--seeds 30] [--samples 20]

On HW-NAS-Bench (CIFAR-10), edge GPU and Raspberry Pi 4, each as prior for the other, judged on the
cells not sampled. Ways without a prior: `table`, the predictor of `gemkit ablate --latency`;
`additive`, each executed operation adds a time that hardly depends on its place, with errors of
Student's t distribution (a neighbour on the machine makes a measurement late, never early). Ways
with one: `table, mean of two`, as `gemkit latency fit --prior` combines; `additive, places`, where
the other device's table says which places act alike, whichever is the dearer. `chosen`: the cells
to measure are those from which the others are known best, of 1,000 random ones. Writes
results/short_kits.json and prints a table; a minute of processor time.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from gemkit.files import write_json
from gemkit.search.ablation import opened
from gemkit.search.table_latency import latency_predictor

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT.parent / "shared" / "data" / "hw_nas_bench_cifar10.npz"
DEVICES = ("edgegpu_latency", "raspi4_latency")
FREEDOM = 3.0
"""Degrees of freedom of the errors."""
Floats = NDArray[np.float64]


def executed(path: Path) -> Floats:
    """Which operation is executed on which edge (n, 6 * 4), of those that lead to the output."""
    with np.load(path) as table:
        ops, edges = table["ops"], table["edges"].astype(int)
    wanted = {3: np.ones(len(ops), dtype=bool)}
    live = np.zeros(ops.shape, dtype=bool)
    for edge in sorted(range(len(edges)), key=lambda edge: -edges[edge][1]):
        source, to = edges[edge].tolist()
        live[:, edge] = (ops[:, edge] > 0) & wanted.get(to, False)
        wanted[source] = wanted.get(source, False) | live[:, edge]
    kinds = (ops[:, :, None] == np.arange(1, 5)) & live[:, :, None]
    return kinds.reshape(len(ops), -1).astype(float)


def effects(rows: Floats, times: Floats) -> Floats:
    """Milliseconds of each operation at each place (6, 4), by a fit that late ones do not draw."""
    matrix, weights = np.c_[np.ones(len(rows)), rows], 1 / times**2
    for _ in range(15):
        root = np.sqrt(weights)
        found = np.linalg.lstsq(matrix * root[:, None], times * root, rcond=None)[0]
        expected = np.maximum(matrix @ found, 0.3 * np.median(times))
        off = (times - matrix @ found) / expected
        scale = 1.4826 * np.median(np.abs(off))
        weights = 1 / (1 + (off / scale) ** 2 / FREEDOM) / expected**2
    return found[1:].reshape(6, 4)


def covariance(other: Floats | None) -> Floats:
    """Of constant and effects (25, 25): alike for an operation at all places; with another device's
    effects also along the direction in which its places differ."""
    same = np.kron(np.ones((6, 6)), np.eye(4))
    found = 0.1 * (same + 0.05 * np.eye(24))
    if other is not None:
        direction = np.median(other - other.mean(axis=0), axis=1)
        along = np.outer(direction, direction) * 6 / (direction**2).sum()
        found = 0.1 * (same + 0.02 * np.eye(24) + 0.1 * np.kron(along, np.ones((4, 4)) + np.eye(4)))
    return np.block([[np.ones((1, 1)), np.zeros((1, 24))], [np.zeros((24, 1)), found]])


def additive(matrix: Floats, times: Floats, prior: Floats) -> Floats:
    """Weights of a linear model with errors of Student's t distribution; the prior's scale is
    the likeliest of five."""
    unit = np.median(times)
    y, best = times / unit, (-np.inf, np.zeros(matrix.shape[1]))
    for scale in (0.1, 0.3, 1, 3, 10):
        kernel = scale * matrix @ prior @ matrix.T
        trust, noise = np.ones(len(y)), 0.1
        for _ in range(12):
            solved = np.linalg.solve(kernel + np.diag(noise**2 / trust), np.c_[y, kernel])
            off = y - kernel @ solved[:, 0]
            off = off**2 + np.diag(kernel - kernel @ solved[:, 1:])
            noise = max(np.sqrt(np.mean(trust * off)), 0.01)
            trust = (FREEDOM + 1) / (FREEDOM + off / noise**2)
        whole = kernel + np.diag(noise**2 / trust)
        weights = np.linalg.solve(whole, y)
        evidence = -0.5 * y @ weights - np.linalg.slogdet(whole)[1] / 2
        evidence += np.sum((FREEDOM / 2 - 1) * np.log(trust) - FREEDOM / 2 * trust)
        best = max(best, (evidence, scale * unit * prior @ matrix.T @ weights), key=lambda b: b[0])
    return best[1]


def chosen(matrix: Floats, prior: Floats, count: int) -> list[int]:
    """Rows from which the others are known best, one after another."""
    known, picked = prior.copy(), list[int]()
    for _ in range(count):
        shared = matrix @ known @ matrix.T
        variance = np.diag(shared) + 0.02
        gain = (shared**2).sum(axis=0) / variance
        gain[picked] = -1
        best = int(gain.argmax())
        picked.append(best)
        along = known @ matrix[best]
        known = known - np.outer(along, along) / variance[best]
    return picked


def judge(samples: int, seeds: int, name: str, before: str) -> dict[str, dict[str, float]]:
    """Spearman correlation and share within 10 % by way, means over seeds."""
    at = opened(str(TABLE), False, False)
    rows, times, old = executed(TABLE), at.table.metric(name), at.table.metric(before)
    matrix = np.c_[np.ones(len(rows)), rows]
    alone, helped = covariance(None), covariance(effects(rows, old))

    def table(train: NDArray[np.intp], test: NDArray[np.intp], values: Floats) -> Floats:
        fitted = latency_predictor(at.space.memo)(at.space.candidates(train), values[train])
        return np.maximum(fitted.predict(at.space.candidates(test)).mean, 1e-3)

    ways: dict[str, Callable[[NDArray[np.intp], NDArray[np.intp]], Floats]] = {
        "table": lambda train, test: table(train, test, times),
        "table, mean of two": lambda train, test: np.sqrt(
            table(train, test, times) * table(train, test, times / old) * old[test]
        ),
        "additive": lambda train, test: matrix[test] @ additive(matrix[train], times[train], alone),
        "additive, places": lambda train, test: (
            matrix[test] @ additive(matrix[train], times[train], helped)
        ),
    }
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in range(seeds):
        order = np.random.default_rng([seed, 7]).permutation(len(times))
        picks = {"": (order[:samples], [*ways])}
        for prior, way in ((alone, "additive"), (helped, "additive, places")):
            pool = order[:1000]
            picks[f"{way}, chosen"] = (pool[chosen(matrix[pool], prior, samples)], [way])
        for label, (train, asked) in picks.items():
            test = np.setdiff1d(order, train)
            for way in asked:
                predicted = ways[way](train, test)
                within = np.mean(np.abs(predicted / times[test] - 1) <= 0.1)
                rank = spearmanr(predicted, times[test])[0]
                found.setdefault(label or way, []).append((float(rank), float(within)))
        print(name, seed, flush=True)
    return {
        way: {"spearman": float(rank), "within_10_percent": float(within)}
        for way, values in found.items()
        for rank, within in [np.mean(values, axis=0)]
    }


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=30)
    options = parser.parse_args()
    if not TABLE.exists():
        print(f"skipped: {TABLE} is not there")
        return
    pairs = zip(DEVICES, DEVICES[::-1], strict=True)
    found = {name: judge(options.samples, options.seeds, name, old) for name, old in pairs}
    write_json(
        ROOT / "results" / "short_kits.json",
        {"samples": options.samples, "seeds": options.seeds, "devices": found},
    )
    for way in found[DEVICES[0]]:
        values = [found[name][way] for name in DEVICES]
        shown = [f"{100 * v['within_10_percent']:.0f} %, {v['spearman']:.3f}" for v in values]
        print(f"| {way} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
