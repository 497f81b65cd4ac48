"""The space that is searched in earnest: cells of up to 30 nodes, each at the largest width that
fits the budgets.

`CellSpace` draws, mutates and crosses cells (see `sampling`), reduces them to their costs in
closed form, scales each to its largest width, drops those that do not fit even at the smallest,
and drops repetitions by canonical key. What it returns is always inside every budget.
`explore` does this for very many candidates in a stream and keeps only the best.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gemkit.architecture import MIN_WIDTH, Architecture, Skeleton, smallest
from gemkit.budget import Budget
from gemkit.canonical import fingerprints
from gemkit.cell import AGGREGATIONS, MAX_NODES, Cell, CellArrays
from gemkit.cost import CostModel, cost
from gemkit.errors import UserError
from gemkit.machine import usable_cores
from gemkit.widths import VECTOR

from .interfaces import Candidates, Graphs
from .sampling import crossover, mutate, random_cells

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

Latency = Callable[[CellArrays, IntArray], NDArray[Any]]
"""(n cells, widths (n,)) -> milliseconds (n,): what each takes at most."""

_TRIES = 40
_WHOLE_TRY, _WORTH_IT = 4096, 1e-3
"""Drawing ends when so many draws give less than this share of new cells."""
_CHUNK = 4096
_MOST_EDITS = 4


def efficiency_factor(macs: ArrayLike, reference: float, weight: float = -0.07) -> FloatArray:
    """(MACs / reference) ** weight: the part of the efficiency score that is known beforehand.

    Source: ours (the paper names an efficiency score and gives no formula).
    """
    return (np.asarray(macs, dtype=float) / reference) ** weight


@dataclass(frozen=True)
class Scaled:
    """Cells with a width each and what they then cost; arrays (n,).

    `latency_ms` is predicted, None where the space has no latency model.
    """

    cells: CellArrays
    widths: IntArray
    macs: IntArray
    params: IntArray
    peak_memory_bytes: IntArray
    latency_ms: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.widths)

    def __getitem__(self, index: Any) -> Scaled:
        return Scaled(
            self.cells[index],
            self.widths[index],
            self.macs[index],
            self.params[index],
            self.peak_memory_bytes[index],
            None if self.latency_ms is None else self.latency_ms[index],
        )

    @staticmethod
    def concatenate(parts: Sequence[Scaled]) -> Scaled:
        """All cells of all parts in order."""

        def joined(name: str) -> Any:
            return np.concatenate([getattr(part, name) for part in parts])

        latency = None
        if all(part.latency_ms is not None for part in parts):
            latency = joined("latency_ms")
        return Scaled(
            CellArrays.concatenate([part.cells for part in parts]),
            joined("widths"),
            joined("macs"),
            joined("params"),
            joined("peak_memory_bytes"),
            latency,
        )


@dataclass(frozen=True)
class CellSpace:
    """Cells in a skeleton, inside budgets; a `Space`.

    Attributes:
        skeleton: stem, stages and classifier around the cells.
        budget: hard limits; at least one must be set, since it decides the width.
        nodes: the most nodes of a cell, 1 to 30.
        aggregation: how nodes join their inputs, "concat" or "sum".
        latency: predicts milliseconds; needed when the budget limits latency.
        weight: exponent of MACs in the efficiency score accuracy x (MACs / MACs_ref)^weight; the
            reference is the MACs budget (or, without one, the cost of the smallest network).

    Raises:
        UserError: no limit is given, or the number of nodes is out of range.
    """

    skeleton: Skeleton
    budget: Budget
    nodes: int = MAX_NODES
    aggregation: str = "concat"
    latency: Latency | None = None
    weight: float = -0.07

    def __post_init__(self) -> None:
        if not 1 <= self.nodes <= MAX_NODES:
            raise UserError(f"{self.nodes} nodes: a cell has 1 to {MAX_NODES} of them (--nodes)")
        if self.aggregation not in AGGREGATIONS:
            raise UserError(
                f"unknown aggregation {self.aggregation!r}: use one of {', '.join(AGGREGATIONS)}"
            )
        limits = (self.budget.macs, self.budget.params, self.budget.memory_bytes)
        if all(limit is None for limit in limits) and self.budget.latency_ms is None:
            raise UserError(
                "the search needs a limit to scale networks to: give at least one of --max-macs, "
                "--max-params, --max-memory and --max-latency"
            )
        if self.budget.latency_ms is not None and self.latency is None:
            raise ValueError("a latency budget needs a latency model")

    def sample(self, rng: np.random.Generator, count: int) -> Candidates:
        """Random cells over the whole range of sizes and densities.

        Raises:
            UserError: none was found that fits the budgets.
        """
        found = self._gather(
            lambda size: random_cells(rng, size, self.nodes, self.aggregation), count
        )
        if count and not len(found):
            raise self.nothing_fits()
        return found

    def nothing_fits(self) -> UserError:
        """What is said when no cell was found."""
        return UserError(
            f"no sampled cell of up to {self.nodes} nodes fits the budget "
            f"({self.budget.describe()}): allow more, or give fewer --nodes"
        )

    def mutate(self, rng: np.random.Generator, parents: Candidates, count: int) -> Candidates:
        """Mutants of the parents, 1 to 4 edits away (half of them one, a quarter two)."""
        cells: CellArrays = parents.payload.cells

        def draw(size: int) -> CellArrays:
            chosen = rng.integers(len(parents), size=size)
            edits = np.minimum(rng.geometric(0.5, size), _MOST_EDITS)
            return mutate(rng, cells[chosen], edits, self.nodes)

        return self._gather(draw, count, parents.keys)

    def crossover(self, rng: np.random.Generator, parents: Candidates, count: int) -> Candidates:
        """Children of two different parents each."""
        cells: CellArrays = parents.payload.cells

        def draw(size: int) -> CellArrays:
            first = rng.integers(len(parents), size=size)
            other = 1 + rng.integers(max(len(parents) - 1, 1), size=size)
            return crossover(rng, cells[first], cells[(first + other) % len(parents)])

        return self._gather(draw, count, parents.keys)

    def fitting(self, cells: CellArrays) -> Candidates:
        """Those of the cells (pruned) that fit the budgets, each at its largest width."""
        scaled = self.scaled(cells)
        return self.candidates(scaled, scaled.cells.keys())

    def restored(
        self,
        cells: Sequence[Cell],
        widths: Sequence[int],
        latency_ms: Sequence[float] | None = None,
    ) -> Candidates:
        """Stored cells at their stored widths, in their order, with as many places as `sample`'s:
        the flat encoding tells an edge by its place."""
        none = random_cells(np.random.default_rng(0), 0, self.nodes, self.aggregation)
        packed = CellArrays.concatenate([none, CellArrays.from_cells(cells)])
        at = np.array(widths, dtype=np.int64)
        latency = None if latency_ms is None else np.array(latency_ms, dtype=float)
        scaled = self._costed(packed, CostModel.of(packed, self.skeleton), at, latency)
        return self.candidates(scaled, packed.keys())

    def architecture(self, candidates: Candidates, index: int) -> Architecture:
        """One candidate as an architecture."""
        scaled: Scaled = candidates.payload
        return Architecture((scaled.cells.cell(index),), self.skeleton, int(scaled.widths[index]))

    @property
    def exponent(self) -> float:
        """`weight`, but 0 under a latency budget: MACs stand for speed where it has no limit."""
        return 0.0 if self.budget.latency_ms is not None else self.weight

    @cached_property
    def reference_macs(self) -> int:
        """MACs_ref of the efficiency score."""
        return self.budget.macs or cost(smallest(self.skeleton)).macs

    def _gather(
        self,
        draw: Callable[[int], CellArrays],
        count: int,
        known: Iterable[bytes] = (),
    ) -> Candidates:
        """Draw until `count` distinct candidates that are not `known` were found, or in vain."""
        seen = set(np.asarray(list(known), dtype="S32").tolist())
        found = [self.fitting(draw(0))]
        missing, size = count, count + count // 4 + 16
        while missing > 0:
            fresh = _fresh(self.fitting(draw(size)), seen)[:missing]
            found.append(fresh)
            missing -= len(fresh)
            if size >= _WHOLE_TRY and len(fresh) < _WORTH_IT * size:
                break
            # As many as the last yield suggests, within reason.
            wanted = int(1.2 * missing * size / max(len(fresh), 1))
            size = min(max(wanted, 64), max(4 * size, _WHOLE_TRY), 8 * _CHUNK)
        return Candidates.concatenate([part for part in found if len(part)] or found[:1])

    def scaled(self, cells: CellArrays) -> Scaled:
        """As `fitting`, without keys."""
        model = CostModel.of(cells, self.skeleton)
        widths = model.largest_widths(self.budget)
        fits = widths >= MIN_WIDTH
        if self.latency is None:
            return self._costed(cells, model, widths, None)[fits]
        milliseconds = np.full(len(cells), np.inf)
        rows = np.flatnonzero(fits)
        widths[rows], milliseconds[rows] = self._within_latency(cells[rows], widths[rows])
        return self._costed(cells, model, widths, milliseconds)[widths >= MIN_WIDTH]

    def _within_latency(self, cells: CellArrays, widths: IntArray) -> tuple[IntArray, FloatArray]:
        """The largest widths, at most the given ones, whose predicted latency fits (0 where none
        does), and these latencies.

        A processor computes a whole vector of channels faster than a part of one, so a width may
        take longer than the next multiple of 8, but not less than the last one. So the multiples
        of 8 are halved first, then what lies between two of them.
        """
        assert self.latency is not None
        limit = self.budget.latency_ms
        latency = np.asarray(self.latency(cells, widths), dtype=float).copy()
        if limit is None:
            return widths, latency
        widths = widths.copy()
        rows = np.flatnonzero(latency > limit)
        above, inside = widths[rows], np.zeros(len(rows), dtype=np.int64)
        at = np.full(len(rows), np.inf)
        for step in (VECTOR, VECTOR // 2, VECTOR // 4, 1):
            low, high = inside // step, -(-above // step)
            low = np.maximum(low, -(-MIN_WIDTH // step) - 1)
            while len(open_ := np.flatnonzero(high - low > 1)):
                middle = (low[open_] + high[open_]) // 2
                there = np.asarray(self.latency(cells[rows[open_]], middle * step), dtype=float)
                fits = there <= limit
                taken, missed = open_[fits], open_[~fits]
                low[taken], at[taken] = middle[fits], there[fits]
                inside[taken], high[missed] = middle[fits] * step, middle[~fits]
            above = np.minimum(above, high * step)
        widths[rows], latency[rows] = inside, at
        return widths, latency

    def _costed(
        self, cells: CellArrays, model: CostModel, widths: IntArray, latency: FloatArray | None
    ) -> Scaled:
        costs = model.costs(widths, self.budget.precision)
        return Scaled(cells, widths, costs.macs, costs.params, costs.peak_memory_bytes, latency)

    def candidates(self, scaled: Scaled, keys: NDArray[Any]) -> Candidates:
        """Costed cells as candidates under the given keys."""
        return Candidates(
            Graphs(scaled.cells.operations, scaled.cells.adjacency),
            keys,
            scaled,
            efficiency_factor(scaled.macs, self.reference_macs, self.exponent),
        )


def _fresh(candidates: Candidates, seen: set[Any]) -> Candidates:
    """Those whose key is not in `seen`, each key once; `seen` learns them."""
    fresh = []
    for index, key in enumerate(candidates.keys.tolist()):
        if key not in seen:
            seen.add(key)
            fresh.append(index)
    return candidates[np.array(fresh, dtype=np.intp)]


Score = Callable[[Candidates], NDArray[Any]]
"""Candidates -> how desirable each is (n,), for example the acquisition of a prediction."""


def explore(
    space: CellSpace,
    score: Score,
    count: int,
    keep: int,
    rng: np.random.Generator,
    known: Iterable[bytes] = (),
    threads: int | None = None,
) -> Candidates:
    """Draw `count` distinct random candidates and return the best of them.

    Candidates are drawn, costed, scaled, deduplicated and scored in chunks, so that the memory
    needed does not grow with their number but for their fingerprints (about 100 bytes each). Two
    candidates of different fingerprints certainly have different canonical keys, so all `count`
    are distinct. Chunk k has a random stream of its own: the result does not depend on `threads`.

    Args:
        score: called with chunks of candidates, from several threads. Their keys are
            fingerprints; those of the result are canonical keys.
        keep: how many to return at most.
        known: keys that are not wanted (already tried).
        threads: how many work at once (default: one per core).

    Returns:
        The candidates of the highest scores, the highest first, with the score as note "score".
    """
    tried = np.asarray(list(known), dtype="S32")
    spare = keep + len(tried)  # tried cells are told by their key, which only the best get
    seen: set[Any] = set()
    best = space.fitting(random_cells(rng, 0, space.nodes, space.aggregation)).noted(
        score=np.empty(0)
    )
    seed, chunk = int(rng.integers(2**62)), 0
    drawn: deque[Future[Candidates]] = deque()
    scored: deque[Future[Candidates]] = deque()
    threads = threads or usable_cores()

    def draw(number: int) -> Candidates:
        stream = np.random.default_rng([seed, number])
        scaled = space.scaled(random_cells(stream, _CHUNK, space.nodes, space.aggregation))
        cells = scaled.cells
        return space.candidates(scaled, fingerprints(cells.operations, cells.adjacency))

    def judge(candidates: Candidates) -> Candidates:
        scores = np.asarray(score(candidates), dtype=float)
        top = np.argsort(-scores, kind="stable")[:spare]
        return candidates[top].noted(score=scores[top])

    def merge(better: Candidates, one: Candidates) -> Candidates:
        both = Candidates.concatenate([better, one])
        return both[np.argsort(-both.notes["score"], kind="stable")[:spare]]

    missing, in_vain = count, 0
    with ThreadPoolExecutor(threads) as pool:
        while missing and in_vain < _TRIES:
            while len(drawn) <= threads:
                drawn.append(pool.submit(draw, chunk))
                chunk += 1
            fresh = _fresh(drawn.popleft().result(), seen)[:missing]
            in_vain = 0 if len(fresh) else in_vain + 1
            missing -= len(fresh)
            if len(fresh):
                scored.append(pool.submit(judge, fresh))
            while len(scored) > threads:
                best = merge(best, scored.popleft().result())
        for future in drawn:
            future.cancel()
        for result in scored:
            best = merge(best, result.result())
    if count and not len(best):
        raise space.nothing_fits()
    best = replace(best, keys=best.payload.cells.keys())
    return best[~np.isin(best.keys, tried)][:keep]
