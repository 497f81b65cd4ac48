"""What the parts of a search hand to each other, and the interfaces they meet.

A *space* offers cells (`cell_space`, or a table of `tables`). A *strategy* decides which of them
are evaluated next. It is a pure function of the space, of what has been evaluated so far and of a
random generator, so that a killed search resumes identically, and it runs unchanged on both kinds
of space. A *predictor* learns from what was evaluated; an *embedding* turns graphs into vectors.

Every strategy maximises the *score* of a cell: its measured value (accuracy) times its `factor`,
a number known before the cell is evaluated. The space sets the factor, for instance to
(MACs / MACs_ref) ** w (`cell_space.efficiency_factor`); without one a strategy maximises accuracy
alone. The predictor learns accuracies, never scores: what is known exactly need not be learned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gemkit.architecture import Architecture

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
    and `acquisition`, nan where there was no prediction. `context` (n, k) are numbers of the
    networks around the cells, for predictors; None where all cells have the same.
    """

    graphs: Graphs
    keys: NDArray[Any]
    payload: Any
    factors: FloatArray | None = None
    notes: Mapping[str, FloatArray] = field(default_factory=dict)
    context: FloatArray | None = None

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
            None if self.context is None else self.context[index],
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
        contexts = [part.context for part in parts if part.context is not None]
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
            np.concatenate(contexts) if len(contexts) == len(parts) else None,
        )


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: with an accuracy (a fraction) or with the reason why it failed.

    `seconds` is what it took, nan where nobody knows.
    """

    accuracy: float | None
    error: str | None
    seconds: float

    @property
    def failed(self) -> bool:
        return self.accuracy is None


Evaluate = Callable[[Architecture, int, int], Outcome]
"""(architecture, seed, epochs) -> outcome; `trials.run_trial` with its task filled in."""


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
    none: not proposed again either, and what is proposed beside them should add information. An
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


def fresh_sample(
    space: Space, history: History, count: int, rng: np.random.Generator
) -> Candidates:
    """Up to `count` random cells that are new to the history."""
    found = history.fresh(space.sample(rng, count))
    for _ in range(6):
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
