"""NASGEM's proposal: which cells to evaluate next.

Round 0 evaluates a diverse random sample. Every later round draws very many candidates (random
cells of the whole space, mutants and crossovers of the best), predicts them, and proposes those
with the highest acquisition, spread out by the predictor's own covariance so that a batch does not
ask the same question twice; a few places go to exploration. Source: the paper for the bootstrap
from a predictor over many graphs of the supernet; batch, acquisition and exploration are ours.
"""

from __future__ import annotations

from collections.abc import Callable
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


def upper_bound(mean: FloatArray, std: FloatArray, threshold: FloatArray) -> FloatArray:
    """Mean plus one standard deviation, relative to the threshold."""
    return mean + std - threshold


def greedy(mean: FloatArray, std: FloatArray, threshold: FloatArray) -> FloatArray:
    """The predicted mean alone, relative to the threshold."""
    return mean - threshold


ACQUISITIONS: dict[str, Acquisition] = {
    "ei": expected_improvement,
    "ucb": upper_bound,
    "mean": greedy,
}


@dataclass(frozen=True)
class Nasgem:
    """The proposal of a round; a `Strategy`.

    Attributes:
        predictor: learns from the history (see `predictor`).
        embedding: spreads the first round out; None starts with plain random cells.
        initial: cells evaluated before the predictor is asked.
        random, mutants, crossovers: candidates of each kind in a round.
        parents: how many of the best cells are mutated and crossed.
        explore: share of the trials after the first round that go to the most uncertain of a
            random sample instead of the highest acquisition.
        acquisition: see ACQUISITIONS; any function of the same form may be given.
    """

    predictor: Predictor
    embedding: Embedding | None = None
    initial: int = 10
    random: int = 20_000
    mutants: int = 2_000
    crossovers: int = 1_000
    parents: int = 10
    explore: float = 0.0
    acquisition: str | Acquisition = "ei"
    shortlist: int = 256

    def __call__(
        self, space: Space, history: History, count: int, rng: np.random.Generator
    ) -> Candidates:
        measured = len(history.ranking())
        if len(history) < self.initial or measured < 2:
            return self._diverse(space, history, count, rng)
        assert history.candidates is not None
        fitted = self.predictor(history.candidates, history.values)
        pool = self._pool(space, history, rng)
        if not len(pool):
            return filled(space, history, pool, count, rng)
        prediction = fitted.predict(pool)
        equal = np.full(len(pool), history.best) / pool.scores(np.ones(len(pool)))
        threshold = prediction.scale(equal)
        desirable = self._acquire(prediction.latent, prediction.latent_std, threshold)
        desirable = desirable + np.log(np.maximum(prediction.feasible, 1e-12))
        pool = pool.noted(
            predicted_mean=prediction.mean, predicted_std=prediction.std, acquisition=desirable
        )
        explorers = self._explorers(len(history), count)
        wanted = count - explorers
        chosen = self._batch(fitted, pool, prediction, threshold, wanted, history.pending)
        if explorers:
            sample = rng.permutation(len(pool))[: self.shortlist]
            sample = sample[~np.isin(sample, chosen)]
            doubtful = sample[np.argsort(-prediction.latent_std[sample], kind="stable")]
            chosen = np.concatenate([chosen, doubtful[:explorers]])
        return filled(space, history, pool[chosen], count, rng)

    def _acquire(self, mean: FloatArray, std: FloatArray, threshold: FloatArray) -> FloatArray:
        acquisition = self.acquisition
        if isinstance(acquisition, str):
            acquisition = ACQUISITIONS[acquisition]
        return acquisition(mean, std, threshold)

    def _explorers(self, done: int, count: int) -> int:
        """How many of the next trials explore, the same in all for any size of batch."""
        first, last = done - self.initial, done - self.initial + count
        return int(last * self.explore) - int(first * self.explore)

    def _pool(self, space: Space, history: History, rng: np.random.Generator) -> Candidates:
        """Very many candidates, new and distinct."""
        assert history.candidates is not None
        best = history.candidates[history.ranking()[: self.parents]]
        parts = [space.sample(rng, self.random)]
        if len(parts[0]) < self.random:
            return history.fresh(parts[0])  # That is the whole space.
        if self.mutants:
            parts.append(space.mutate(rng, best, self.mutants))
        if self.crossovers and len(best) > 1:
            parts.append(space.crossover(rng, best, self.crossovers))
        return history.fresh(Candidates.concatenate([part for part in parts if len(part)]))

    def _batch(
        self,
        fitted: Fitted,
        pool: Candidates,
        prediction: Prediction,
        threshold: FloatArray,
        count: int,
        pending: Candidates | None = None,
    ) -> IntArray:
        """The best of the pool one after the other, each seen as known when the next is chosen;
        pending cells are seen as known from the beginning."""
        desirable = pool.notes["acquisition"]
        if count < 1 or (count == 1 and pending is None):
            return np.array([np.argmax(desirable)] * count, dtype=np.int64)
        short = np.argsort(-desirable, kind="stable")[: max(self.shortlist, 4 * count)]
        covariance = _covariance(fitted, pool[short], pending)
        mean, feasible = (
            prediction.latent[short],
            np.log(np.maximum(prediction.feasible[short], 1e-12)),
        )
        taken: list[int] = []
        for _ in range(min(count, len(short))):
            std = np.sqrt(np.maximum(np.diag(covariance), 1e-12))
            desirable = self._acquire(mean, std, threshold[short]) + feasible
            desirable[taken] = -np.inf
            pick = int(np.argmax(desirable))
            taken.append(pick)
            covariance = _knowing(covariance, pick)
        return np.asarray(short[taken], dtype=np.int64)

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
