"""All strategies by name: NASGEM and those that it is compared with.

Random search, regularised evolution and local search stand here, NASGEM's own proposal in `nasgem`.
What a strategy is, and what it maximises, is said in `interfaces`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemkit.errors import UserError

from .interfaces import (
    Candidates,
    Embedding,
    Fitted,
    FloatArray,
    History,
    Predictor,
    Space,
    Strategy,
    filled,
    fresh_sample,
)
from .nasgem import Nasgem
from .predictor import Memo, compute, embedding_predictor, flat_predictor, nasgem_predictor


@dataclass(frozen=True)
class Evolution:
    """Regularised evolution (Real et al. 2019): the oldest die, tournaments choose the parents.

    With a `predictor`, each child is the most promising (upper confidence bound) of `brood`
    mutants of its parent instead of a random one.
    """

    population: int = 30
    tournament: int = 10
    initial: int = 30
    predictor: Predictor | None = None
    brood: int = 20

    def __call__(
        self, space: Space, history: History, count: int, rng: np.random.Generator
    ) -> Candidates:
        alive = np.arange(max(0, len(history) - self.population), len(history))
        scores = history.scores
        alive = alive[np.isfinite(scores[alive])]
        if len(history) < self.initial or not len(alive):
            return fresh_sample(space, history, count, rng)
        assert history.candidates is not None
        fitted = _fit(self.predictor, history)
        children: list[Candidates] = []
        chosen = history
        for _ in range(count):
            entrants = rng.choice(alive, size=min(self.tournament, len(alive)), replace=False)
            parent = history.candidates[[entrants[np.argmax(scores[entrants])]]]
            brood = space.mutate(rng, parent, 1 if fitted is None else self.brood)
            brood = chosen.fresh(brood)
            if not len(brood):
                brood = chosen.fresh(space.mutate(rng, parent, 4 * self.brood))
            if not len(brood):
                continue
            children.append(_most_promising(fitted, brood)[:1])
            chosen = _with_busy(chosen, children[-1].keys)
        found = Candidates.concatenate(children) if children else history.candidates[:0]
        return filled(space, history, found, count, rng)


@dataclass(frozen=True)
class LocalSearch:
    """Hill climbing over the neighbours of the best cell, restarted after `patience` failures.

    The climb is replayed from the history, so there is no state beside it. With a `predictor`,
    neighbours are tried in the order of their upper confidence bound.
    """

    initial: int = 10
    patience: int = 30
    predictor: Predictor | None = None
    neighbours: int = 120

    def __call__(
        self, space: Space, history: History, count: int, rng: np.random.Generator
    ) -> Candidates:
        incumbent, failures = self._climb(history.scores)
        if len(history) < self.initial or incumbent is None or failures >= self.patience:
            return fresh_sample(space, history, count, rng)
        assert history.candidates is not None
        fitted = _fit(self.predictor, history)
        wanted = max(self.neighbours, 4 * count)
        near = history.fresh(space.mutate(rng, history.candidates[[incumbent]], wanted))
        if fitted is None:
            near = near[rng.permutation(len(near))]
        return filled(space, history, _most_promising(fitted, near)[:count], count, rng)

    def _climb(self, scores: FloatArray) -> tuple[int | None, int]:
        """The current incumbent and the number of trials since it was found."""
        incumbent: int | None = None
        failures = 0
        for position, score in enumerate(scores):
            restart = position >= self.initial and failures >= self.patience
            if np.isfinite(score) and (incumbent is None or restart or score > scores[incumbent]):
                incumbent, failures = position, 0
            elif position >= self.initial:
                failures += 1
        return incumbent, failures


def _fit(predictor: Predictor | None, history: History) -> Fitted | None:
    if predictor is None or history.candidates is None:
        return None
    return predictor(history.candidates, history.values)


def _most_promising(fitted: Fitted | None, candidates: Candidates) -> Candidates:
    """The candidates by upper confidence bound of their score, the highest first."""
    if fitted is None or not len(candidates):
        return candidates
    prediction = fitted.predict(candidates)
    bound = candidates.scores(prediction.mean + prediction.std) * prediction.feasible
    noted = candidates.noted(
        predicted_mean=prediction.mean, predicted_std=prediction.std, acquisition=bound
    )
    return noted[np.argsort(-bound, kind="stable")]


def _with_busy(history: History, keys: NDArray[Any]) -> History:
    busy = keys if history.busy is None else np.concatenate([history.busy, keys])
    return replace(history, busy=busy)


_TABLE: dict[str, Callable[..., Strategy]] = {
    "nasgem": Nasgem,
    "random": lambda **_: fresh_sample,
    "evolution": Evolution,
    "evolution+embedding": Evolution,
    "local": LocalSearch,
    "local+embedding": LocalSearch,
    "bo": Nasgem,
    "bo+embedding": Nasgem,
}
"""What makes each strategy from its `predictor` and options."""

STRATEGIES = tuple(_TABLE)
"""Names of all strategies; those that end in "+embedding", and nasgem, need an embedding."""


def needs_embedding(name: str) -> bool:
    """Whether a strategy works on an embedding."""
    return name == "nasgem" or name.endswith("+embedding")


def predictor_of(
    name: str, embedding: Embedding | None, memo: Memo = compute, roles: bool = True
) -> Predictor | None:
    """The predictor that belongs to a strategy's name; None for those without.

    Raises:
        ValueError: it needs an embedding, and there is none.
    """
    if name == "bo":
        return flat_predictor(memo)
    if not needs_embedding(name):
        return None
    if embedding is None:
        raise ValueError(f"strategy {name!r} needs an embedding")
    if name == "nasgem":
        return nasgem_predictor(embedding, memo, roles)
    return embedding_predictor(embedding, memo)


def strategy(
    name: str,
    embedding: Embedding | None = None,
    *,
    predictor: Predictor | None = None,
    memo: Memo = compute,
    roles: bool = True,
    **options: Any,
) -> Strategy:
    """The strategy of that name (one of STRATEGIES).

    `bo` is Gaussian-process Bayesian optimisation on the flat encoding (adjacency and operations):
    the same proposal as NASGEM's with another predictor.

    Args:
        embedding: needed by `nasgem` and by every `...+embedding`.
        predictor: replaces the one that belongs to the name.
        memo: how cells are described (`predictor.Memo`; for tables `TableSpace.memo`).
        roles: whether NASGEM's predictor asks if an operation is dead or a wire, which none of the
            30-node space is.
        options: fields of `Nasgem`, `Evolution` or `LocalSearch`.

    Raises:
        UserError: there is no such name.
        ValueError: an embedding is missing.
    """
    if name not in _TABLE:
        raise UserError(f"unknown strategy {name!r}: choose one of {', '.join(STRATEGIES)}")
    predictor = predictor or predictor_of(name, embedding, memo, roles)
    if _TABLE[name] is Nasgem and needs_embedding(name):
        options["embedding"] = embedding
    return _TABLE[name](predictor=predictor, **options)
