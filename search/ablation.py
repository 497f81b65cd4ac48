"""The ablation: search strategies with and without the embedding on tabular benchmarks.

`run` compares strategies over many seeds. It returns what `gemkit ablate --json` writes, and under
"figures" the data of its pictures. What takes long is kept in a results file as it comes (`kept`).

A searcher sees a `TableSpace`, which knows no metric, and the values it has paid for.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr
from sklearn.decomposition import PCA

from gemkit.errors import UserError

from . import tables
from .encoder import (
    EncoderConfig,
    embed,
    load_encoder,
    save_encoder,
    train_encoder,
)
from .features import Roles, reduced
from .interfaces import Candidates, Embedding, FloatArray, Graphs, History, Predictor
from .kept import Kept, Piece, Progress
from .strategies import STRATEGIES, needs_embedding, predictor_of, strategy
from .tables import Queries, Table, TableSpace

DEFAULT_STRATEGIES = ("nasgem", "bo", "bo+embedding", "evolution", "evolution+embedding", "random")
SAMPLES = (20, 50, 100, 200)
"""Numbers of measured cells at which rank correlations are taken."""
_TESTED = 4000
"""Cells on which a predictor is judged, drawn anew for each seed (all, where there are fewer)."""
_MAPPED = 2000


# --- the encoder of a table ---------------------------------------------------------------------


def table_encoder(table: Table, steps: int = 600) -> Any:
    """A `GraphEncoder` for the cells of a table: trained once, without any metric, then kept.

    It learns from 3,000 cells, half of them as they stand, half as they are left under random
    hypotheses about which label is dead and which a wire, since the predictor embeds such graphs.
    """
    for place in _encoder_places(table):
        if place.is_file():
            try:
                encoder = load_encoder(place)
            except UserError:
                continue
            if encoder.config.labels == len(table.label_names):
                return encoder
    graphs = training_graphs(table)
    trained = train_encoder(
        graphs.labels, graphs.adjacency, EncoderConfig(labels=len(table.label_names)), steps=steps
    )
    for place in _encoder_places(table):
        try:
            save_encoder(trained.encoder, place)
            break
        except UserError:
            continue
    return trained.encoder


def training_graphs(table: Table) -> Graphs:
    """What a table's encoder learns from; see `table_encoder`."""
    rng = np.random.default_rng(0)
    count, hypotheses = 3000, 12
    parts = [table.graphs[rng.integers(len(table), size=count // 2)]]
    for _ in range(hypotheses):
        dead, wire = (rng.permutation(np.arange(2, max(4, len(table.label_names))))[:2]).tolist()
        roles = Roles(frozenset({dead}), frozenset({wire}) if rng.random() < 0.5 else frozenset())
        some = table.graphs[rng.integers(len(table), size=count // 2 // hypotheses)]
        left = reduced(some, roles)
        parts.append(left[(left.labels >= 0).sum(axis=1) > 1])
    return Graphs.concatenate([part for part in parts if len(part)])


def _encoder_places(table: Table) -> list[Path]:
    return [place.with_suffix(".encoder.safetensors") for place in tables.cache_places(table.path)]


def table_embedding(table: Table) -> Embedding:
    """The embedding of a table's cells by its own encoder."""
    encoder = table_encoder(table)

    def embedding(graphs: Graphs) -> NDArray[np.float32]:
        # A graph of which nothing is left under a hypothesis still needs one node to embed.
        labels = graphs.labels.copy()
        labels[:, 0] = np.maximum(labels[:, 0], 0)
        return embed(encoder, labels, graphs.adjacency)

    return embedding


# --- searching ----------------------------------------------------------------------------------


def search(
    table: Table,
    space: TableSpace,
    metric: str,
    name: str,
    seed: int,
    queries: int,
    embedding: Embedding | None = None,
    batch: int = 1,
    **options: Any,
) -> tuple[list[int], list[float]]:
    """One search: the rows paid for, in order, and the values they showed.

    The random streams depend on the seed and the number of the query alone. Ends early when the
    table is exhausted. `options` go to `strategies.strategy`.
    """
    ask = Queries(table, metric, seed)
    propose = strategy(name, embedding, memo=space.memo, **options)
    history = History()
    while len(history) < queries:
        rng = np.random.default_rng([seed, len(history)])
        chosen = propose(space, history, min(batch, queries - len(history)), rng)
        if not len(chosen):
            break
        history = extended(history, chosen, ask(chosen))
    return list(ask.paid), history.values.tolist()


def extended(history: History, chosen: Candidates, values: FloatArray) -> History:
    """The history with the newest cells, without what strategies noted about them."""
    chosen = Candidates(chosen.graphs, chosen.keys, chosen.payload, chosen.factors)
    if history.candidates is not None:
        chosen = Candidates.concatenate([history.candidates, chosen])
    return History(chosen, np.concatenate([history.values, values]))


@dataclass(frozen=True)
class Opened:
    """A table with what all searches on it share."""

    table: Table
    space: TableSpace
    embedding: Embedding | None


@cache
def opened(path: str, unique: bool, embedded: bool) -> Opened:
    """A table opened once a process."""
    table = tables.load(Path(path), unique)
    return Opened(table, TableSpace(table), table_embedding(table) if embedded else None)


def _searched(
    path: str, unique: bool, metric: str, name: str, seed: int, queries: int
) -> list[int]:
    """One search, in whatever process; its rows."""
    at = opened(path, unique, needs_embedding(name))
    return search(at.table, at.space, metric, name, seed, queries, at.embedding)[0]


def _correlated(
    path: str, unique: bool, metric: str, name: str, seed: int, samples: int
) -> dict[str, float] | None:
    """Rank correlations of a strategy's predictor, in whatever process."""
    at = opened(path, unique, needs_embedding(name))
    predictor = predictor_of(name, at.embedding, at.space.memo)
    if predictor is None:
        return None
    return correlation(at.table, at.space, metric, predictor, seed, samples)


def correlation(
    table: Table, space: TableSpace, metric: str, predictor: Predictor, seed: int, samples: int
) -> dict[str, float] | None:
    """A predictor fitted to `samples` random cells against cells it has not seen.

    Returns `kendall_tau`, `spearman` and `coverage` (share of values inside the interval that
    should hold 90 % of them), None where the table has too few cells, or no ranks among them.
    """
    values = table.metric(metric)
    rng = np.random.default_rng([seed, 7])
    rows = rng.permutation(np.flatnonzero(np.isfinite(values)))
    if len(rows) < samples + 20:
        return None
    train, test = rows[:samples], rows[samples : samples + _TESTED]
    fitted = predictor(space.candidates(train), values[train])
    prediction = fitted.predict(space.candidates(test))
    found = prediction.scale(values[test])
    if not (np.ptp(values[test]) and np.ptp(prediction.mean)):
        return None
    return {
        "kendall_tau": float(kendalltau(prediction.mean, values[test])[0]),
        "spearman": float(spearmanr(prediction.mean, values[test])[0]),
        "coverage": float(np.mean(np.abs(found - prediction.latent) <= 1.645 * prediction.spread)),
    }


# --- the whole ablation -------------------------------------------------------------------------


def run(
    path: Path,
    metric: str,
    *,
    queries: int = 150,
    seeds: int = 30,
    strategies: Sequence[str] = DEFAULT_STRATEGIES,
    unique: bool = False,
    samples: Sequence[int] = SAMPLES,
    correlation_seeds: int = 10,
    workers: int = 1,
    results: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compare strategies on a table.

    Args:
        path: see `tables.load`.
        metric: what is searched for, larger being better. Where it was measured in several runs,
            a query shows one of them, drawn at random, and a chosen cell is judged by the mean
            test accuracy (the protocol of NAS-Bench-101).
        seeds: searches a strategy, seeds 0, 1, ...
        samples, correlation_seeds: at which numbers of random cells, and how often, the
            strategies' predictors are judged; none for strategies without predictor.
        workers: processes.
        results: JSON file that holds every finished search; those in it are not done again.
        progress: called after each piece.

    Returns:
        {"table", "metric", "reported", "protocol", "cells", "merged", "queries", "seeds", "best",
        "strategies": {NAME: {"best_after", "regret_after", "regret_after_interval",
        "queries_to_best", "median_queries_to_best", "found", "kendall_tau", "spearman",
        "coverage"}}, "figures"}. Keys of the `..._after` and correlation dictionaries are numbers
        as text. A seed that does not find the best cell has null; so has a median that falls on
        such seeds, and a regret while no search has met a cell with a value. "figures" holds
        "curves": {NAME: {"queries": [...], "regret", "low", "high"}} (mean and 95 % bootstrap
        interval after every query), "correlations": {NAME: {"samples", "kendall_tau", "low",
        "high"}} and "map": {"x", "y", "value", "title"} (embedding in two dimensions, coloured by
        the metric), absent when no strategy uses an embedding.

    Raises:
        UserError: as `tables.load`; an unknown metric or strategy; a results file of another run.
    """
    _check_settings(strategies, queries, seeds)
    embedded = any(needs_embedding(name) for name in strategies)
    table = tables.load(Path(path), unique)
    name_of_metric = table.find_varying(metric)
    ask = Queries(table, metric, 0)
    if embedded:
        table_encoder(table)
    settings = {
        "table": Path(path).name,
        "cells": len(table),
        "metric": name_of_metric,
        "queries": queries,
        "unique": unique,
    }
    kept = Kept(results, settings)
    place = (str(path), unique, metric)
    todo = [
        *_searches(place, strategies, seeds, queries),
        *_correlated_samples(place, strategies, correlation_seeds, samples, len(table)),
    ]
    kept.complete(todo, workers, progress)
    report: dict[str, Any] = {
        "table": Path(path).name,
        "metric": name_of_metric,
        "reported": ask.reported_name,
        "protocol": _protocol(ask, name_of_metric),
        "cells": len(table),
        "merged": table.merged,
        "queries": queries,
        "seeds": seeds,
        "best": float(np.nanmax(ask.reported)),
        "strategies": {},
        "figures": {"curves": {}, "correlations": {}},
    }
    for name in strategies:
        searched = [kept.found[f"search/{name}/{seed}"] for seed in range(seeds)]
        one, curve = summary(table, metric, searched, queries)
        correlations = correlations_of(kept, f"correlation/{name}", samples, correlation_seeds)
        one |= mean_correlations(correlations)
        report["strategies"][name] = one
        report["figures"]["curves"][name] = curve
        if correlations:
            report["figures"]["correlations"][name] = _tau_curve(correlations)
    if embedded:
        report["figures"]["map"] = embedding_map(table, metric)
    return report


def _check_settings(strategies: Sequence[str], queries: int, seeds: int) -> None:
    unknown = [name for name in strategies if name not in STRATEGIES]
    if unknown or not strategies:
        given = ", ".join(unknown) or "none"
        raise UserError(f"unknown strategy {given!r}: choose from {', '.join(STRATEGIES)}")
    if queries < 1 or seeds < 1:
        raise UserError(f"queries ({queries}) and seeds ({seeds}) must be at least 1")


def _searches(
    place: tuple[str, bool, str], strategies: Sequence[str], seeds: int, queries: int
) -> Iterator[Piece]:
    """The searches, seed by seed; `place` is path, unique and metric, as `_searched` takes them."""
    for seed in range(seeds):
        for name in strategies:
            yield f"search/{name}/{seed}", _searched, (*place, name, seed, queries)


def _correlated_samples(
    place: tuple[str, bool, str],
    strategies: Sequence[str],
    seeds: int,
    samples: Sequence[int],
    cells: int,
) -> Iterator[Piece]:
    """Each predictor at each number of samples that leaves enough of the table's cells over."""
    for name in strategies:
        if name != "bo" and not needs_embedding(name):
            continue
        for count in samples:
            for seed in range(seeds):
                if count + 20 <= cells:
                    yield (
                        f"correlation/{name}/{count}/{seed}",
                        _correlated,
                        (*place, name, seed, count),
                    )


def _protocol(ask: Queries, metric: str) -> str:
    """What a query shows and how a chosen cell is judged, in words."""
    if metric not in ask.table.runs:
        return "a query reveals the metric; reported is that of the best cell queried"
    return (
        f"a query reveals one of {ask.table.runs[metric].shape[1]} runs, drawn at random; "
        f"reported is the mean {ask.reported_name} of the cell chosen by it"
    )


def correlations_of(
    kept: Kept, name: str, samples: Sequence[int], seeds: int
) -> dict[int, list[dict[str, float]]]:
    """Rank correlations by number of samples, where there are any; `name` begins the pieces'."""
    found = {
        count: [kept.found.get(f"{name}/{count}/{seed}") for seed in range(seeds)]
        for count in samples
    }
    known = {count: [one for one in ones if one is not None] for count, ones in found.items()}
    return {count: ones for count, ones in known.items() if ones}


def mean_correlations(
    correlations: Mapping[int, Sequence[Mapping[str, float]]],
) -> dict[str, dict[str, float]]:
    """Their means over seeds: by kind, then by number of samples as text."""
    return {
        key: {
            str(n): float(np.mean([one[key] for one in ones])) for n, ones in correlations.items()
        }
        for key in ("kendall_tau", "spearman", "coverage")
    }


def _tau_curve(correlations: Mapping[int, Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """Kendall's tau by number of samples, with 95 % intervals."""
    taus = {n: np.array([c["kendall_tau"] for c in cs]) for n, cs in correlations.items()}
    ranges = {n: interval(t[:, None]) for n, t in taus.items()}
    return {
        "samples": list(taus),
        "kendall_tau": [float(t.mean()) for t in taus.values()],
        "low": [float(r[0][0]) for r in ranges.values()],
        "high": [float(r[1][0]) for r in ranges.values()],
    }


def summary(
    table: Table, metric: str, searched: Sequence[Sequence[int]], queries: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A strategy's figures and its regret curve, from the rows of its searches."""
    best = float(np.nanmax(Queries(table, metric, 0).reported))
    reached = np.full((len(searched), queries), np.nan)
    to_best: list[int | None] = []
    for seed, rows_ in enumerate(searched):
        ask = Queries(table, metric, seed)
        rows = np.asarray(rows_, dtype=np.int64)
        values, reported = ask(Candidates(table.graphs[rows], table.keys[rows], rows)), ask.reported
        leader = -1
        for q in range(len(rows)):
            if np.isfinite(values[q]) and (leader < 0 or values[q] > values[leader]):
                leader = q
            reached[seed, q] = reported[rows[leader]] if leader >= 0 else np.nan
        reached[seed, len(rows) :] = reached[seed, len(rows) - 1]
        hits = np.flatnonzero(reported[rows] >= best)
        to_best.append(int(hits[0]) + 1 if len(hits) else None)
    regret = best - reached
    low, high = interval(regret)
    mean = _nanmean(regret)
    tenth = list(range(10, queries + 1, 10)) or [queries]
    median = float(np.median([np.inf if q is None else q for q in to_best]))
    figures = {
        "best_after": {str(q): _known(best - mean[q - 1]) for q in tenth},
        "regret_after": {str(q): _known(mean[q - 1]) for q in tenth},
        "regret_after_interval": {str(q): [_known(low[q - 1]), _known(high[q - 1])] for q in tenth},
        "queries_to_best": to_best,
        "median_queries_to_best": median if np.isfinite(median) else None,
        "median_queries_to_best_interval": _median_interval(to_best),
        "found": sum(q is not None for q in to_best),
    }
    curve = {
        "queries": list(range(1, queries + 1)),
        "regret": [_known(value) for value in mean],
        "low": [_known(value) for value in low],
        "high": [_known(value) for value in high],
    }
    return figures, curve


def _known(value: float) -> float | None:
    """A value as JSON: null where it is nan."""
    return float(value) if np.isfinite(value) else None


def _nanmean(values: FloatArray) -> FloatArray:
    """Mean along the first axis over what is not nan; nan where nothing is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Mean of empty slice")
        return np.asarray(np.nanmean(values, axis=0))


def interval(values: FloatArray, draws: int = 1000) -> tuple[FloatArray, FloatArray]:
    """95 % bootstrap interval of the mean along the first axis; nan where no mean is known."""
    rng = np.random.default_rng(0)
    rows = rng.integers(len(values), size=(draws, len(values)))
    means = np.stack([_nanmean(values[row]) for row in rows])
    known = np.isfinite(means).any(axis=0)
    ends = np.full((2, means.shape[1]), np.nan)
    ends[:, known] = np.nanquantile(means[:, known], (0.025, 0.975), axis=0)
    return ends[0], ends[1]


def _median_interval(to_best: Sequence[int | None]) -> list[float | None]:
    """95 % bootstrap interval of the median, null for ends that fall on seeds without success."""
    values = np.array([np.inf if q is None else q for q in to_best])
    rows = np.random.default_rng(0).integers(len(values), size=(2000, len(values)))
    medians = np.sort(np.median(values[rows], axis=1))
    return [float(m) if np.isfinite(m) else None for m in (medians[50], medians[-51])]


def embedding_map(table: Table, metric: str) -> dict[str, Any]:
    """Two principal components of the embeddings of up to 2,000 cells, and their values."""
    values = table.metric(metric)
    rows = np.random.default_rng(0).permutation(np.flatnonzero(np.isfinite(values)))[:_MAPPED]
    vectors = np.asarray(table_embedding(table)(table.graphs[rows]), dtype=float)
    components = PCA(2, svd_solver="full")
    points = components.fit_transform(vectors)
    share = float(components.explained_variance_ratio_.sum())
    return {
        "x": points[:, 0].tolist(),
        "y": points[:, 1].tolist(),
        "value": values[rows].tolist(),
        "title": f"{len(rows)} cells, two principal components ({share:.0%} of the variance)",
    }
