"""Which WL similarity carries topology, and how closely the encoder follows it.

Writes `results/embedding.json` and prints the tables of `docs/embedding.md`; a few minutes.

    python experiments/embedding.py [--seeds 5] [--part forms|encoder] [--encoder FILE]
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from gemkit.cell import CellArrays
from gemkit.files import read_json, write_json
from gemkit.machine import describe_machine, versions
from gemkit.search import encoder as encoders
from gemkit.search import sampling, similarity

RESULTS = Path(__file__).resolve().parents[1] / "results" / "embedding.json"
FORMS: dict[str, similarity.Similarity] = {
    **similarity.SIMILARITIES,
    "continuous, 1 round": partial(similarity.continuous, widths=((1, 0.5),)),
    "continuous, 2 rounds": partial(similarity.continuous, widths=((2, 0.7),)),
    "continuous, 3 rounds": partial(similarity.continuous, widths=((3, 1.0),)),
    "continuous, narrow": partial(similarity.continuous, widths=((1, 0.3), (2, 0.5))),
    "continuous, wide": partial(similarity.continuous, widths=((1, 1.0), (2, 1.4))),
}
KINDS = 3
Vectors = NDArray[Any]


def forms_on(seed: int, bases: int = 300, alike: int = 6, edits: int = 8) -> dict[str, Any]:
    """For each form: spread of the similarity and its agreement with the number of edits."""
    rng = np.random.default_rng([1, seed])
    cells = sampling.random_cells(rng, bases, smallest=8)
    parts = [cells, *(sampling.reshuffled(rng, cells) for _ in range(alike))]
    parts += [sampling.mutate(rng, cells, count) for count in range(1, edits + 1)]
    everything = CellArrays.concatenate(parts)
    others = rng.permutation(bases)
    found = {}
    for name, form in FORMS.items():
        started = time.process_time()
        vectors = form(everything.operations, everything.adjacency, KINDS)
        mapped = time.process_time()
        base = np.arange(bases)
        to_others = similarity.products(vectors, base, others)
        to_part = [
            similarity.products(vectors, base, base + bases * part) for part in range(len(parts))
        ]
        compared = time.process_time()
        equal, mutants = np.array(to_part[1 : alike + 1]), np.array(to_part[alike + 1 :])
        numbers = np.repeat(np.arange(edits), bases)
        per_base = [-spearmanr(mutants[:, row], np.arange(edits))[0] for row in range(bases)]
        found[name] = {
            "sd_all_pairs": float(to_others.std()),
            "sd_equal_counts": float(equal.std()),
            "sd_equal_counts_one_cell": float(np.sqrt(equal.var(axis=0).mean())),
            "mean_equal_counts": float(equal.mean()),
            "edits_spearman": float(-spearmanr(mutants.ravel(), numbers)[0]),
            "edits_spearman_one_cell": float(np.nanmean(per_base)),
            "us_per_graph": 1e6 * (mapped - started) / len(everything),
            "us_per_pair": 1e6 * (compared - mapped) / (bases * (len(parts) + 1)),
        }
    return found


def counts(cells: CellArrays) -> Vectors:
    return np.stack([(cells.operations == kind).sum(axis=1) for kind in (1, 2)], axis=1)


def flat(cells: CellArrays) -> Vectors:
    one_hot = cells.operations[:, :, None] == np.arange(KINDS)
    return np.concatenate(
        [cells.adjacency.reshape(len(cells), -1), one_hot.reshape(len(cells), -1)], 1
    )


def cosine(vectors: Vectors, first: NDArray[np.intp], second: NDArray[np.intp]) -> Vectors:
    vectors = np.asarray(vectors, dtype=np.float32)
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return np.einsum("kd,kd->k", vectors[first], vectors[second])


def nearness(values: Vectors, first: NDArray[np.intp], second: NDArray[np.intp]) -> Vectors:
    return -np.abs(values[first] - values[second]).astype(np.float64)


def encoders_on(seed: int, trained: encoders.GraphEncoder, count: int = 3000) -> dict[str, Any]:
    """How several vectors agree with the target on graphs that no training has seen."""
    rng = np.random.default_rng([2, seed])
    cells = sampling.random_cells(rng, count)
    parts = [cells, sampling.reshuffled(rng, cells), sampling.reshuffled(rng, cells)]
    parts.append(sampling.mutate(rng, cells, rng.integers(1, 9, size=count)))
    everything = CellArrays.concatenate(parts)
    graphs = everything.operations, everything.adjacency
    form = similarity.SIMILARITIES[trained.config.similarity]
    target = partial(similarity.products, form(*graphs, KINDS))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        untrained = encoders.GraphEncoder(trained.config).eval()
    measures: dict[str, Callable[..., Vectors]] = {
        "trained encoder": partial(cosine, encoders.embed(trained, *graphs)),
        "untrained encoder": partial(cosine, encoders.embed(untrained, *graphs)),
        "flat adjacency": partial(cosine, flat(everything)),
        "operation counts": partial(cosine, counts(everything)),
        "edge count": partial(nearness, everything.adjacency.sum(axis=(1, 2))),
    }
    base = np.arange(count)
    others, one, two, mutants = (
        rng.permutation(count),
        base + count,
        base + 2 * count,
        base + 3 * count,
    )

    def agreement(ours: Vectors, wanted: Vectors, kept: NDArray[np.bool_]) -> float | None:
        if np.ptp(ours[kept]) < 1e-6:
            return None
        return float(spearmanr(ours[kept], wanted[kept])[0])

    found: dict[str, Any] = {}
    for name, measure in measures.items():
        found[name] = {}
        for pairs, partner in (("all_pairs", others), ("equal_counts", one), ("mutants", mutants)):
            wanted = target(base, partner)
            different = wanted < 1 - 1e-5  # isomorphic pairs say nothing
            ours = measure(base, partner)
            found[name][pairs] = agreement(ours, wanted, different)
            if name == "trained encoder":
                found[name][f"{pairs}_mse"] = float(((ours - wanted)[different] ** 2).mean())
        wanted = target(base, one) - target(base, two)
        different = np.abs(wanted) > 1e-5
        ours = measure(base, one) - measure(base, two)
        found[name]["equal_counts_one_cell"] = agreement(ours, wanted, different)
    return found


def speed(trained: encoders.GraphEncoder, count: int = 50_000) -> dict[str, float]:
    """Graphs embedded per second of wall and of processor time, two threads."""
    cells = sampling.random_cells(np.random.default_rng(0), count)
    wall, cpu = time.perf_counter(), time.process_time()
    encoders.embed(trained, cells.operations, cells.adjacency, threads=2)
    return {
        "graphs": count,
        "per_second": count / (time.perf_counter() - wall),
        "per_cpu_second": count / (time.process_time() - cpu),
    }


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds of every number."""
    found: dict[str, Any] = {}
    for name, figures in runs[0].items():
        found[name] = {}
        for key in figures:
            values = [run[name][key] for run in runs]
            known = None not in values
            found[name][key] = (
                {"mean": float(np.mean(values)), "sd": float(np.std(values))} if known else None
            )
    return found


def table(found: dict[str, Any], columns: list[str]) -> str:
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, figures in found.items():
        cells = [
            "constant" if figures[column] is None else f"{figures[column]['mean']:.3f}"
            for column in columns
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--part", choices=("all", "forms", "encoder"), default="all")
    parser.add_argument("--encoder", type=Path, default=encoders.SHIPPED)
    chosen = parser.parse_args()
    results = read_json(RESULTS) if RESULTS.is_file() else {}
    results["machine"], results["versions"] = describe_machine(), versions()
    if chosen.part != "encoder":
        runs = [forms_on(seed) for seed in range(chosen.seeds)]
        results["similarities"] = {"seeds": chosen.seeds, "forms": summary(runs)}
    if chosen.part != "forms":
        trained = encoders.load_encoder(chosen.encoder)
        runs = [encoders_on(seed, trained) for seed in range(chosen.seeds)]
        results["encoder"] = {
            "seeds": chosen.seeds,
            "agreement": summary(runs),
            "curve": encoders.load_curve(chosen.encoder),
            "speed": speed(trained),
        }
    RESULTS.parent.mkdir(exist_ok=True)
    write_json(RESULTS, results)
    for part, name in (("similarities", "forms"), ("encoder", "agreement")):
        if part in results:
            found = results[part][name]
            print(table(found, list(next(reversed(found.values())))))
    if "encoder" in results:
        print(results["encoder"]["speed"])


if __name__ == "__main__":
    main()
