"""How well a device's latency is predicted from few measured cells of a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gemkit import regression
from gemkit.errors import UserError

from . import tables
from .ablation import interval, opened
from .interfaces import FloatArray, IntArray
from .kept import Kept, Progress
from .predictor import GraphPredictor, Memo, compute


def latency(
    path: Path,
    name: str,
    *,
    samples: int = 100,
    seeds: int = 30,
    unique: bool = False,
    workers: int = 1,
    results: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Predict a device's latency of all cells of a table from `samples` random ones.

    Returns {"table", "latency", "samples", "seeds", "spearman", "within_10_percent",
    "spearman_interval", "within_10_percent_interval", "coverage", "baselines"}: means over seeds
    and fractions, on the cells not sampled. "baselines" has {NAME: {"spearman",
    "within_10_percent"}} for ridge regression on counts, and on counts and positions, and for a
    Gaussian process on the flat encoding.

    Raises:
        UserError: as `ablation.run`; or the table has too few cells for so many samples.
    """
    table = tables.load(Path(path), unique)
    full = table.find_varying(name)
    usable = int(np.isfinite(table.metrics[full]).sum())
    if not 5 <= samples <= usable - 20:
        raise UserError(f"--samples {samples} must be between 5 and {usable - 20} for {path}")
    kept = Kept(
        results,
        {"table": Path(path).name, "cells": len(table), "metric": full, "samples": samples},
    )
    kept.complete(
        [
            (f"latency/{seed}", _latency, (str(path), unique, name, seed, samples))
            for seed in range(seeds)
        ],
        workers,
        progress,
    )
    found = [kept.found[f"latency/{seed}"] for seed in range(seeds)]

    def over_seeds(model: str, key: str) -> FloatArray:
        return np.array([one[model][key] for one in found])

    report: dict[str, Any] = {
        "table": Path(path).name,
        "latency": full,
        "samples": samples,
        "seeds": seeds,
    }
    for key in ("spearman", "within_10_percent", "coverage"):
        values = over_seeds("ours", key)
        low, high = interval(values[:, None])
        report[key] = float(values.mean())
        report[f"{key}_interval"] = [float(low[0]), float(high[0])]
    report["baselines"] = {
        model: {
            key: float(over_seeds(model, key).mean()) for key in ("spearman", "within_10_percent")
        }
        for model in found[0]
        if model != "ours"
    }
    return report


def latency_predictor(memo: Memo = compute) -> GraphPredictor:
    """The predictor of latencies of labelled graphs: costs of the operations executed add up, at
    each place its own."""
    groups = ("used", "positions")
    return GraphPredictor(groups, None, memo, linear=groups, warp="none")


def _latency(
    path: str, unique: bool, name: str, seed: int, samples: int
) -> dict[str, dict[str, float]]:
    at = opened(path, unique, False)
    values = at.table.metric(name)
    rows = np.random.default_rng([seed, 7]).permutation(np.flatnonzero(np.isfinite(values)))
    train, test = rows[:samples], rows[samples:]

    def judged(predicted: FloatArray) -> dict[str, float]:
        error = np.abs(predicted - values[test]) / np.abs(values[test])
        return {
            "spearman": float(spearmanr(predicted, values[test])[0]),
            "within_10_percent": float(np.mean(error <= 0.1)),
        }

    prediction = latency_predictor(at.space.memo)(
        at.space.candidates(train), values[train]
    ).predict(at.space.candidates(test))
    ours = judged(prediction.mean)
    offset = np.abs(prediction.scale(values[test]) - prediction.latent)
    ours["coverage"] = float(np.mean(offset <= 1.645 * prediction.spread))
    labels = at.table.graphs.labels
    counts = np.stack([(labels == c).sum(axis=1) for c in range(at.space.labels)], axis=1)
    places = (labels[:, :, None] == np.arange(at.space.labels)).reshape(len(labels), -1)
    upper = np.triu_indices(labels.shape[1], 1)
    edges = at.table.graphs.adjacency[:, upper[0], upper[1]]
    positions = np.concatenate([counts, places, edges], axis=1)
    flat = regression.fit(positions[train], values[train], columns={"features": "common"})
    return {
        "ours": ours,
        "ridge on counts": judged(_ridge(counts, values, train, test)),
        "ridge on counts and positions": judged(_ridge(positions, values, train, test)),
        "Gaussian process on the flat encoding": judged(flat.predict(positions[test])[0]),
    }


def _ridge(
    features: NDArray[Any], values: FloatArray, train: IntArray, test: IntArray
) -> FloatArray:
    """Ridge regression, its penalty chosen by leave-one-out error."""
    ridge = make_pipeline(StandardScaler(), RidgeCV(10.0 ** np.arange(-3, 4)))
    ridge.fit(features[train], values[train])
    return np.asarray(ridge.predict(features[test]))
