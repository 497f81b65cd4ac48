"""What a search strategy is, and the strategies NASGEM is compared with.

A strategy decides which cells are evaluated next. It is a pure function of the space, of what has
been evaluated so far and of a random generator, so that a killed search resumes identically, and it
runs unchanged on the 30-node space (`cell_space`) and on tabular benchmarks (`tables`).

Every strategy maximises the *score* of a cell: its measured value (accuracy) times its `factor`,
a number known before the cell is evaluated. The space sets the factor, for instance to
(MACs / MACs_ref) ** w (`efficiency_factor`); without one a strategy maximises accuracy alone. The
predictor learns accuracies, never scores: what is known exactly need not be learned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gemkit.errors import UserError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Graphs:
    """Labelled directed acyclic graphs, padded to the same number m of nodes.

    `labels` is int8 (n, m), -1 where a node is absent (absent nodes come last); `adjacency` is bool
    (n, m, m), `adjacency[b, i, j]` being an edge from i to j, i < j.
    """

    labels: NDArray[np.int8]
    adjacency: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> Graphs:
        return Graphs(self.labels[index], self.adjacency[index])

    @staticmethod
    def concatenate(parts: Sequence[Graphs]) -> Graphs:
        """All graphs of all parts, padded to the widest part."""
        nodes = max(part.labels.shape[1] for part in parts)
        widen = [nodes - part.labels.shape[1] for part in parts]
        return Graphs(
            np.concatenate(
                [
                    np.pad(part.labels, ((0, 0), (0, w)), constant_values=-1)
                    for part, w in zip(parts, widen, strict=True)
                ]
            ),
            np.concatenate(
                [
                    np.pad(part.adjacency, ((0, 0), (0, w), (0, w)))
                    for part, w in zip(parts, widen, strict=True)
                ]
            ),
        )


@dataclass(frozen=True)
class Candidates:
    """Cells that a space offers or a strategy proposes; one position in every field is one cell.

    `keys` (n,) are equal exactly for equal cells. `payload` is the space's own handle: an array or
    any object with `len`, indexing by array or mask, and a static `concatenate(parts)`. `factors`
    (n,) turn a value into a score (None: all 1). `notes` are per-cell numbers that a strategy
    leaves behind for the log: `predicted_mean` and `predicted_std` (of the value, not the score)
    and `acquisition`, nan where there was no prediction.
    """

    graphs: Graphs
    keys: NDArray[Any]
    payload: Any
    factors: FloatArray | None = None
    notes: Mapping[str, FloatArray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: Any) -> Candidates:
        """The cells at an index array, slice or mask (a single integer gives a batch of one)."""
        if isinstance(index, int | np.integer):
            index = [int(index)]
        return Candidates(
            self.graphs[index],
            self.keys[index],
            self.payload[index],
            None if self.factors is None else self.factors[index],
            {name: note[index] for name, note in self.notes.items()},
        )

    def scores(self, values: ArrayLike) -> FloatArray:
        """Values (n,) or (n, k) as scores."""
        values = np.asarray(values, dtype=float)
        if self.factors is None:
            return values
        return values * self.factors.reshape(-1, *[1] * (values.ndim - 1))

    def noted(self, **notes: FloatArray) -> Candidates:
        return replace(self, notes={**self.notes, **notes})

    @staticmethod
    def concatenate(parts: Sequence[Candidates]) -> Candidates:
        """All cells of all parts in order. Notes missing in a part become nan."""
        if len(parts) == 1:
            return parts[0]
        payloads = [part.payload for part in parts]
        join = getattr(type(payloads[0]), "concatenate", np.concatenate)
        factors = None
        if any(part.factors is not None for part in parts):
            factors = np.concatenate([part.scores(np.ones(len(part))) for part in parts])
        names = {name for part in parts for name in part.notes}
        return Candidates(
            Graphs.concatenate([part.graphs for part in parts]),
            np.concatenate([part.keys for part in parts]),
            join(payloads),
            factors,
            {
                name: np.concatenate(
                    [part.notes.get(name, np.full(len(part), np.nan)) for part in parts]
                )
                for name in sorted(names)
            },
        )


class Space(Protocol):
    """Where cells come from. All three methods return distinct cells inside the budget.

    They may return fewer than asked for when no more can be found, and may return cells that were
    evaluated before: the strategies drop those. They use no randomness but `rng`.
    """

    def sample(self, rng: np.random.Generator, count: int) -> Candidates:
        """Random cells over the whole range of the space."""
        ...

    def mutate(self, rng: np.random.Generator, parents: Candidates, count: int) -> Candidates:
        """`count` cells in total, each a small change of one of the parents."""
        ...

    def crossover(self, rng: np.random.Generator, parents: Candidates, count: int) -> Candidates:
        """`count` cells in total, each made of two parents."""
        ...


@dataclass(frozen=True)
class History:
    """What has been evaluated, in the order in which it was proposed.

    `values` (n,) are accuracies; nan means that the trial failed. `busy` are keys of cells that
    are not to be proposed again. `pending` are the cells under evaluation, None where there are
    none: not proposed again either, and what is proposed beside them should tell something new. An
    empty history has no candidates at all (`History()`).
    """

    candidates: Candidates | None = None
    values: FloatArray = field(default_factory=lambda: np.empty(0))
    busy: NDArray[Any] | None = None
    pending: Candidates | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def scores(self) -> FloatArray:
        """Scores (n,), nan for failed trials."""
        return np.empty(0) if self.candidates is None else self.candidates.scores(self.values)

    @property
    def best(self) -> float:
        """The best score so far, -inf when nothing has succeeded."""
        scores = self.scores
        return float(np.nanmax(scores)) if np.isfinite(scores).any() else -np.inf

    def ranking(self) -> IntArray:
        """Positions of the successful trials, best score first, earlier first among equals."""
        scores = self.scores
        order = np.argsort(-scores, kind="stable")
        return order[np.isfinite(scores[order])]

    def fresh(self, candidates: Candidates) -> Candidates:
        """Those of the candidates neither evaluated nor busy, without repetitions, in order."""
        seen: set[bytes] = set()
        for known in (self.candidates, self.pending):
            if known is not None:
                seen.update(known.keys.tolist())
        if self.busy is not None:
            seen.update(self.busy.tolist())
        keep = np.empty(len(candidates), dtype=bool)
        for place, key in enumerate(candidates.keys.tolist()):
            keep[place] = key not in seen
            seen.add(key)
        return candidates[keep]


Embedding = Callable[[Graphs], NDArray[Any]]
"""Graphs to vectors (n, d), such as a trained encoder's."""

Strategy = Callable[[Space, History, int, np.random.Generator], Candidates]
"""(space, history, count, rng) -> at most `count` distinct cells not yet evaluated (fewer only when
the space gives no more)."""


def _identity(values: FloatArray) -> FloatArray:
    return values


@dataclass(frozen=True)
class Prediction:
    """Predicted values of n cells.

    `mean` and `std` (n,) are those of a measurement, in the values' unit. `latent` and `latent_std`
    (n,) are mean and deviation, without the noise of measuring, on the predictor's own scale, on
    which they are normal; `scale` maps values onto it and increases; `spread` (n,) is the deviation
    of a measurement there. `feasible` (n,) is the
    probability that the trial does not fail.
    """

    mean: FloatArray
    std: FloatArray
    latent: FloatArray
    latent_std: FloatArray
    feasible: FloatArray
    spread: FloatArray
    scale: Callable[[FloatArray], FloatArray] = _identity


class Fitted(Protocol):
    """A predictor after fitting."""

    def predict(self, candidates: Candidates) -> Prediction: ...

    def covariance(self, candidates: Candidates) -> FloatArray:
        """Covariance (n, n) of the cells' latent values; a batch is spread out with it."""
        ...


Predictor = Callable[[Candidates, FloatArray], Fitted]
"""(cells, values with nan for failures) -> fitted predictor."""


def efficiency_factor(macs: ArrayLike, reference: float, weight: float = -0.07) -> FloatArray:
    """(MACs / reference) ** weight: the part of the efficiency score that is known beforehand.

    Source: ours (the paper names an efficiency score and gives no formula).
    """
    return (np.asarray(macs, dtype=float) / reference) ** weight


def fresh_sample(
    space: Space, history: History, count: int, rng: np.random.Generator, tries: int = 6
) -> Candidates:
    """Up to `count` random cells that are new to the history."""
    found = history.fresh(space.sample(rng, count))
    for _ in range(tries):
        if len(found) >= count:
            break
        more = space.sample(rng, 2 * count + 16)
        found = history.fresh(Candidates.concatenate([found, more]))
    return found[:count]


def filled(
    space: Space, history: History, found: Candidates, count: int, rng: np.random.Generator
) -> Candidates:
    """`found` cut to `count` cells, or filled up to it with random ones."""
    found = history.fresh(found)[:count]
    if len(found) < count:
        extra = fresh_sample(space, history, count, rng)
        found = history.fresh(Candidates.concatenate([found, extra]))[:count]
    return found


def random_search(
    space: Space, history: History, count: int, rng: np.random.Generator
) -> Candidates:
    """Uniformly what the space samples."""
    return fresh_sample(space, history, count, rng)


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


@dataclass(frozen=True)
class _Means:
    """What a strategy can be made from: the arguments of `strategy`, filled in."""

    embedding: Embedding | None
    predictor: Predictor | None
    memo: Any
    roles: bool
    options: Mapping[str, Any]

    def by_embedding(self) -> Predictor:
        """The predictor given, or one on the embedding alone."""
        from . import predictor as predictors

        if self.predictor is not None:
            return self.predictor
        assert self.embedding is not None
        return predictors.embedding_predictor(self.embedding, self.memo)


def _nasgem(means: _Means) -> Strategy:
    from . import nasgem, predictor

    chosen = means.predictor or predictor.nasgem_predictor(means.embedding, means.memo, means.roles)
    return nasgem.Nasgem(predictor=chosen, embedding=means.embedding, **means.options)


def _bo(means: _Means) -> Strategy:
    from . import nasgem, predictor

    chosen = means.predictor or predictor.flat_predictor(means.memo)
    return nasgem.Nasgem(predictor=chosen, embedding=None, **means.options)


def _bo_embedding(means: _Means) -> Strategy:
    from . import nasgem

    chosen = means.by_embedding()
    return nasgem.Nasgem(predictor=chosen, embedding=means.embedding, **means.options)


_TABLE: dict[str, Callable[[_Means], Strategy]] = {
    "nasgem": _nasgem,
    "random": lambda means: random_search,
    "evolution": lambda means: Evolution(predictor=means.predictor, **means.options),
    "evolution+embedding": lambda means: Evolution(predictor=means.by_embedding(), **means.options),
    "local": lambda means: LocalSearch(predictor=means.predictor, **means.options),
    "local+embedding": lambda means: LocalSearch(predictor=means.by_embedding(), **means.options),
    "bo": _bo,
    "bo+embedding": _bo_embedding,
}

STRATEGIES = tuple(_TABLE)
"""Names of all strategies; those that end in "+embedding", and nasgem, need an embedding."""


def strategy(
    name: str,
    embedding: Embedding | None = None,
    *,
    initial: int | None = None,
    predictor: Predictor | None = None,
    memo: Any = None,
    roles: bool = True,
    **options: Any,
) -> Strategy:
    """The strategy of that name (one of STRATEGIES).

    `embedding` is needed by `nasgem` and by every `...+embedding`; `initial` is the number of cells
    before the first decision that uses results (default: each strategy's own); `predictor` replaces
    the one that belongs to the name; `memo` is how cells are described (`predictor.Memo`, for
    tables `TableSpace.memo`); `roles` is whether NASGEM's predictor asks if an operation
    is dead or a wire, which none of the 30-node space is; `options` are fields of `Nasgem`,
    `Evolution` or `LocalSearch`. Raises UserError for an unknown name, ValueError for a missing
    embedding.

    `bo` is Gaussian-process Bayesian optimisation on the flat encoding (adjacency and operations):
    the same proposal as NASGEM's with another predictor.
    """
    from . import predictor as predictors

    if name not in _TABLE:
        raise UserError(f"unknown strategy {name!r}: choose one of {', '.join(STRATEGIES)}")
    if initial is not None:
        options["initial"] = initial
    needs = name == "nasgem" or name.endswith("+embedding")
    if needs and embedding is None and predictor is None:
        raise ValueError(f"strategy {name!r} needs an embedding")
    return _TABLE[name](_Means(embedding, predictor, memo or predictors.compute, roles, options))
