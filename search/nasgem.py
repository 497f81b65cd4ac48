"""NASGEM's proposal: which cells to evaluate next.

Round 0 evaluates a diverse random sample. Every later round draws very many candidates (random
cells of the whole space, mutants and crossovers of the best), predicts them, and proposes those
with the highest acquisition, spread out by the predictor's own covariance so that a batch does not
ask the same question twice. Source: the paper for the bootstrap from a predictor over many graphs
of the supernet; batch and acquisition are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .interfaces import (
    Candidates,
    Embedding,
    Fitted,
    FloatArray,
    Graphs,
    History,
    IntArray,
    Prediction,
    Predictor,
    Space,
    filled,
    fresh_sample,
)

Acquisition = Callable[[FloatArray, FloatArray, FloatArray], FloatArray]
"""(mean, std, threshold), each (n,) on the predictor's scale -> how desirable each cell is. The
threshold is the value with which a cell would equal the best score so far."""


def expected_improvement(mean: FloatArray, std: FloatArray, threshold: FloatArray) -> FloatArray:
    """Logarithm of the expected improvement, which keeps its order where the value underflows."""
    from scipy.special import erfcx, ndtr

    z = (mean - threshold) / np.maximum(std, 1e-12)
    density = -0.5 * z**2 - 0.5 * np.log(2 * np.pi)
    # phi(z) + z Phi(z), written with the scaled complementary error function for negative z.
    tail = np.sqrt(np.pi / 2) * erfcx(np.maximum(-z, 0.0) / np.sqrt(2))
    low = np.maximum(1.0 + np.minimum(z, 0.0) * tail, 1.0 / (2.0 + z**2) / 2.0)
    high = np.exp(density) + np.maximum(z, 0.0) * ndtr(np.maximum(z, 0.0))
    log = np.where(z < 0, density + np.log(low), np.log(np.maximum(high, 1e-300)))
    return np.asarray(np.log(np.maximum(std, 1e-12)) + log)


PART = 20_000
"""Candidates that are drawn and judged together: what is in memory at a time."""


@dataclass(frozen=True)
class Nasgem:
    """The proposal of a round; a `Strategy`.

    Attributes:
        predictor: learns from the history (see `predictor`).
        embedding: spreads the first round out; None starts with plain random cells.
        initial: cells evaluated before the predictor is asked.
        random, mutants, crossovers: candidates of each kind in a round. Random ones may be
            millions: they are judged in parts, of which only the best are kept.
        parents: how many of the best cells are mutated and crossed.
        acquisition: how desirable a cell is.
        shortlist: candidates among which a batch is chosen.
    """

    predictor: Predictor
    embedding: Embedding | None = None
    initial: int = 10
    random: int = 20_000
    mutants: int = 2_000
    crossovers: int = 1_000
    parents: int = 10
    acquisition: Acquisition = expected_improvement
    shortlist: int = 256

    def __call__(
        self, space: Space, history: History, count: int, rng: np.random.Generator
    ) -> Candidates:
        measured = len(history.ranking())
        if len(history) < self.initial or measured < 2:
            return self._diverse(space, history, count, rng)
        assert history.candidates is not None
        fitted = self.predictor(history.candidates, history.values)
        keep = max(self.shortlist, 4 * count)
        best = history.candidates[:0]
        for part in _ahead(self._parts(space, history, rng)):
            fresh = history.fresh(part)
            if len(fresh):
                joined = Candidates.concatenate([best, self._judged(fitted, history, fresh)])
                # No cell is there more than twice.
                order = np.argsort(-joined.notes["acquisition"], kind="stable")[: 2 * keep]
                best = history.fresh(joined[order])[:keep]
        chosen = self._batch(fitted, history, best, count)
        return filled(space, history, best[chosen], count, rng)

    def _parts(
        self, space: Space, history: History, rng: np.random.Generator
    ) -> Iterator[Candidates]:
        """Very many candidates, some of them perhaps known or repeated."""
        for start in range(0, self.random, PART):
            wanted = min(PART, self.random - start)
            drawn = space.sample(rng, wanted)
            yield drawn
            if len(drawn) < wanted:
                return  # That is the whole space.
        assert history.candidates is not None
        parents = history.candidates[history.ranking()[: self.parents]]
        if self.mutants:
            yield space.mutate(rng, parents, self.mutants)
        if self.crossovers and len(parents) > 1:
            yield space.crossover(rng, parents, self.crossovers)

    def _judged(self, fitted: Fitted, history: History, candidates: Candidates) -> Candidates:
        """The candidates with what is predicted of them and how desirable each is."""
        prediction = fitted.predict(candidates)
        desirable = self._desirable(prediction, prediction.latent_std, history, candidates)
        return candidates.noted(
            predicted_mean=prediction.mean, predicted_std=prediction.std, acquisition=desirable
        )

    def _desirable(
        self, prediction: Prediction, std: FloatArray, history: History, candidates: Candidates
    ) -> FloatArray:
        """Acquisition (n,) at a deviation, times the chance that the trial does not fail."""
        equal = np.full(len(candidates), history.best) / candidates.scores(np.ones(len(candidates)))
        value = self.acquisition(prediction.latent, std, prediction.scale(equal))
        return value + np.log(np.maximum(prediction.feasible, 1e-12))

    def _batch(
        self, fitted: Fitted, history: History, candidates: Candidates, count: int
    ) -> IntArray:
        """The best of the candidates one after the other, each seen as known when the next is
        chosen; pending cells are seen as known from the beginning."""
        count = min(count, len(candidates))
        if count < 1 or (count == 1 and history.pending is None):
            return np.arange(count)
        prediction = fitted.predict(candidates)
        covariance = _covariance(fitted, candidates, history.pending)
        taken: list[int] = []
        for _ in range(count):
            std = np.sqrt(np.maximum(np.diag(covariance), 1e-12))
            desirable = self._desirable(prediction, std, history, candidates)
            desirable[taken] = -np.inf
            taken.append(int(np.argmax(desirable)))
            covariance = _knowing(covariance, taken[-1])
        return np.array(taken, dtype=np.int64)

    def _diverse(
        self, space: Space, history: History, count: int, rng: np.random.Generator
    ) -> Candidates:
        """Random cells far from each other and from those already evaluated (k-means++)."""
        if self.embedding is None:
            return fresh_sample(space, history, count, rng)
        offered = fresh_sample(space, history, max(30 * count, 300), rng)
        if len(offered) <= count:
            return offered
        vectors = np.asarray(self.embedding(offered.graphs), dtype=float)
        known = [part.graphs for part in (history.candidates, history.pending) if part is not None]
        seen = self.embedding(Graphs.concatenate(known)) if known else None
        return offered[spread(vectors, count, rng, seen)]


def _ahead(parts: Iterator[Candidates]) -> Iterator[Candidates]:
    """The parts, each drawn while the one before is looked at."""
    with ThreadPoolExecutor(1) as drawing:
        following = drawing.submit(next, parts, None)
        while (part := following.result()) is not None:
            following = drawing.submit(next, parts, None)
            yield part


def _covariance(fitted: Fitted, cells: Candidates, pending: Candidates | None) -> FloatArray:
    """Covariance of the cells once the pending ones are known."""
    if pending is None:
        return fitted.covariance(cells)
    covariance = fitted.covariance(Candidates.concatenate([pending, cells]))
    for place in range(len(pending)):
        covariance = _knowing(covariance, place)
    return covariance[len(pending) :, len(pending) :]


def _knowing(covariance: FloatArray, place: int) -> FloatArray:
    """What is left of a covariance when the value at one place becomes known."""
    column = covariance[:, place]
    return np.asarray(
        covariance - np.outer(column, column) / (covariance[place, place] + 1e-9), dtype=float
    )


def spread(
    vectors: NDArray[np.float64],
    count: int,
    rng: np.random.Generator,
    seen: NDArray[np.float64] | None = None,
) -> IntArray:
    """Positions of `count` rows, each drawn with probability proportional to its squared distance
    from the nearest row chosen before or in `seen` (k-means++ seeding, Arthur 2007)."""
    nearest = np.full(len(vectors), np.inf)
    for row in [] if seen is None else np.asarray(seen, dtype=float):
        nearest = np.minimum(nearest, ((vectors - row) ** 2).sum(axis=1))
    chosen: list[int] = []
    for _ in range(min(count, len(vectors))):
        weight = np.ones(len(vectors)) if np.isinf(nearest).all() else nearest.copy()
        weight[chosen] = 0.0
        if weight.sum() <= 0:
            weight = np.ones(len(vectors))
            weight[chosen] = 0.0
        chosen.append(int(rng.choice(len(vectors), p=weight / weight.sum())))
        nearest = np.minimum(nearest, ((vectors - vectors[chosen[-1]]) ** 2).sum(axis=1))
    return np.array(chosen, dtype=np.int64)
