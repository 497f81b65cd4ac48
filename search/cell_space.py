"""The space that is searched in earnest: cells of up to 30 nodes in one of a few skeletons, each at
the largest width that fits the budgets.

`CellSpace` draws, mutates and crosses cells (see `sampling`), gives each a skeleton, reduces them
to their costs in closed form, scales each to its largest width, drops those that do not fit even
at the smallest, and drops repetitions by key: the cell's canonical key in the first skeleton, and
that key changed by the skeleton in the others. What it returns is always inside every budget.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gemkit.architecture import MIN_WIDTH, Architecture, Skeleton, smallest
from gemkit.budget import Budget
from gemkit.cell import AGGREGATIONS, MAX_NODES, Cell, CellArrays
from gemkit.cost import CostModel, cost
from gemkit.errors import UserError
from gemkit.widths import VECTOR

from .hand_made import hand_made
from .interfaces import Candidates, Graphs
from .sampling import crossover, mutate, random_cells

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

Pairs = tuple[CellArrays, IntArray]
"""Cells, and the place of each one's skeleton (n,)."""

Latency = Callable[[CellArrays, IntArray], NDArray[Any]]
"""(n cells, widths (n,)) -> milliseconds (n,): what each takes at most."""

_ZERO, _A = np.uint8(ord("0")), np.uint8(ord("a"))

_WHOLE_TRY, _WORTH_IT = 4096, 1e-3
"""Drawing ends when so many draws give less than this share of new cells."""
_CHUNK = 4096
_MOST_EDITS = 4
_OTHER_SKELETON = 0.25
"""Share of mutants that change their skeleton, where there are several."""


def efficiency_factor(macs: ArrayLike, reference: float, weight: float = -0.07) -> FloatArray:
    """(MACs / reference) ** weight: the part of the efficiency score that is known beforehand.

    Source: ours (the paper names an efficiency score and gives no formula).
    """
    return (np.asarray(macs, dtype=float) / reference) ** weight


@dataclass(frozen=True)
class Scaled:
    """Cells with a skeleton and a width each and what they then cost; arrays (n,).

    `skeletons` are places in the space's `skeletons`; `latency_ms` is predicted, None where the
    space has no latency model.
    """

    cells: CellArrays
    skeletons: IntArray
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
            self.skeletons[index],
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
            joined("skeletons"),
            joined("widths"),
            joined("macs"),
            joined("params"),
            joined("peak_memory_bytes"),
            latency,
        )


@dataclass(frozen=True)
class CellSpace:
    """Cells in skeletons, inside budgets; a `Space`.

    Attributes:
        skeleton: stem, stages and classifier around the cells.
        budget: hard limits; at least one must be set, since it decides the width.
        nodes: the most nodes of a cell, 1 to 30.
        aggregation: how nodes join their inputs, "concat" or "sum".
        latency: predicts milliseconds; needed when the budget limits latency.
        weight: exponent of MACs in the efficiency score accuracy x (MACs / MACs_ref)^weight; the
            reference is the MACs budget (or, without one, the cost of the smallest network).
        alternatives: further skeletons, for images of the same shape; a latency model knows only
            one, so beside it there are none.

    Raises:
        UserError: no limit is given, or the number of nodes is out of range.
    """

    skeleton: Skeleton
    budget: Budget
    nodes: int = MAX_NODES
    aggregation: str = "concat"
    latency: Latency | None = None
    weight: float = -0.07
    alternatives: tuple[Skeleton, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.nodes <= MAX_NODES:
            raise UserError(f"{self.nodes} nodes: a cell has 1 to {MAX_NODES} of them")
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
        if self.alternatives and self.latency is not None:
            raise ValueError("a latency model is one of a single skeleton")

    @property
    def skeletons(self) -> tuple[Skeleton, ...]:
        """All skeletons, the first in front."""
        return (self.skeleton, *self.alternatives)

    def sample(self, rng: np.random.Generator, count: int) -> Candidates:
        """Random cells over the whole range of sizes and densities.

        Raises:
            UserError: none was found that fits the budgets.
        """
        found = self._gather(lambda size: self.draw(rng, size), count)
        if count and not len(found):
            raise UserError(
                f"no sampled cell of up to {self.nodes} nodes fits the budget "
                f"({self.budget.describe()}): allow more, or fewer nodes"
            )
        return found

    def draw(self, rng: np.random.Generator, count: int) -> Pairs:
        """Random cells, each in a random skeleton."""
        cells = random_cells(rng, count, self.nodes, self.aggregation)
        if not self.alternatives:
            return cells, np.zeros(count, dtype=np.int64)
        return cells, rng.integers(len(self.skeletons), size=count)

    def hand_made(self) -> Candidates:
        """The cells that a person would write down, in one skeleton each, as far as they fit."""
        cells = list(hand_made(self.aggregation, self.nodes).values())
        return self.fitting(
            CellArrays.from_cells(cells), np.arange(len(cells)) % len(self.skeletons)
        )

    def mutate(self, rng: np.random.Generator, parents: Candidates, count: int) -> Candidates:
        """Mutants of the parents, 1 to 4 edits away (half of them one, a quarter two).

        Where there are several skeletons, to take another one is the first edit of a quarter.
        """
        scaled: Scaled = parents.payload

        def draw(size: int) -> Pairs:
            chosen = rng.integers(len(parents), size=size)
            edits = np.minimum(rng.geometric(0.5, size), _MOST_EDITS)
            skeletons = scaled.skeletons[chosen]
            if self.alternatives:
                moved = rng.random(size) < _OTHER_SKELETON
                further = rng.integers(1, len(self.skeletons), size=size)
                edits = edits - moved
                skeletons = (skeletons + further * moved) % len(self.skeletons)
            return mutate(rng, scaled.cells[chosen], edits, self.nodes), skeletons

        return self._gather(draw, count, parents.keys)

    def crossover(self, rng: np.random.Generator, parents: Candidates, count: int) -> Candidates:
        """Children of two different parents each, in the skeleton of the first."""
        scaled: Scaled = parents.payload
        cells = scaled.cells

        def draw(size: int) -> Pairs:
            first = rng.integers(len(parents), size=size)
            other = 1 + rng.integers(max(len(parents) - 1, 1), size=size)
            children = crossover(rng, cells[first], cells[(first + other) % len(parents)])
            return children, scaled.skeletons[first]

        return self._gather(draw, count, parents.keys)

    def fitting(self, cells: CellArrays, skeletons: IntArray | None = None) -> Candidates:
        """Those of the cells (pruned) that fit the budgets, each at its largest width.

        Args:
            skeletons: places in `skeletons`; the first for all by default.
        """
        scaled = self.scaled(cells, skeletons)
        return self.candidates(scaled, self.keys(scaled))

    def keys(self, scaled: Scaled) -> NDArray[np.bytes_]:
        """Canonical keys: equal exactly for isomorphic cells in the same skeleton."""
        keys = scaled.cells.keys()
        if not self.alternatives:
            return keys
        digits = np.frombuffer(np.ascontiguousarray(keys).tobytes(), np.uint8).reshape(-1, 32)
        values = np.where(digits >= _A, digits - _A + 10, digits - _ZERO)
        values = values ^ self._masks[scaled.skeletons]
        changed = np.where(values > 9, values + _A - 10, values + _ZERO).astype(np.uint8)
        return np.frombuffer(changed.tobytes(), dtype="S32")

    @cached_property
    def _masks(self) -> NDArray[np.uint8]:
        """What each skeleton does to the 32 digits of a key: nothing, for the first."""
        rows = [np.zeros(32, np.uint8)]
        for skeleton in self.alternatives:
            text = json.dumps(skeleton.to_json(), sort_keys=True)
            digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
            octets = np.frombuffer(digest, np.uint8)
            rows.append(np.stack([octets >> 4, octets & 15], 1).reshape(-1))
        return np.stack(rows)

    def restored(
        self,
        cells: Sequence[Cell],
        widths: Sequence[int],
        latency_ms: Sequence[float] | None = None,
        skeletons: Sequence[int] | None = None,
    ) -> Candidates:
        """Stored cells at their stored widths, in their order, with as many places as `sample`'s:
        the flat encoding has a place for each edge."""
        none = random_cells(np.random.default_rng(0), 0, self.nodes, self.aggregation)
        packed = CellArrays.concatenate([none, CellArrays.from_cells(cells)])
        at = np.array(widths, dtype=np.int64)
        latency = None if latency_ms is None else np.array(latency_ms, dtype=float)
        places = np.zeros(len(at), np.int64) if skeletons is None else np.array(skeletons, np.int64)

        def costed(rows: IntArray, model: CostModel, place: int) -> Scaled:
            times = None if latency is None else latency[rows]
            return self._costed(packed[rows], place, model, at[rows], times)

        scaled = self._by_skeleton(packed, places, costed)
        return self.candidates(scaled, self.keys(scaled))

    def architecture(self, candidates: Candidates, index: int) -> Architecture:
        """One candidate as an architecture."""
        scaled: Scaled = candidates.payload
        skeleton = self.skeletons[int(scaled.skeletons[index])]
        return Architecture((scaled.cells.cell(index),), skeleton, int(scaled.widths[index]))

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
        draw: Callable[[int], Pairs],
        count: int,
        known: Iterable[bytes] = (),
    ) -> Candidates:
        """Draw until `count` distinct candidates that are not `known` were found, or in vain."""
        seen = set(np.asarray(list(known), dtype="S32").tolist())
        found = [self.fitting(*draw(0))]
        missing, size = count, count + count // 4 + 16
        while missing > 0:
            fresh = _fresh(self.fitting(*draw(size)), seen)[:missing]
            found.append(fresh)
            missing -= len(fresh)
            if size >= _WHOLE_TRY and len(fresh) < _WORTH_IT * size:
                break
            # As many as the last yield suggests, within reason.
            wanted = int(1.2 * missing * size / max(len(fresh), 1))
            size = min(max(wanted, 64), max(4 * size, _WHOLE_TRY), 8 * _CHUNK)
        return Candidates.concatenate([part for part in found if len(part)] or found[:1])

    def scaled(self, cells: CellArrays, skeletons: IntArray | None = None) -> Scaled:
        """As `fitting`, without keys."""
        places = np.zeros(len(cells), dtype=np.int64) if skeletons is None else skeletons

        def largest(rows: IntArray, model: CostModel, place: int) -> Scaled:
            found = cells if len(rows) == len(cells) else cells[rows]
            widths = model.largest_widths(self.budget)
            milliseconds = None
            if self.latency is not None:
                milliseconds = np.full(len(found), np.inf)
                fits = np.flatnonzero(widths >= MIN_WIDTH)
                widths[fits], milliseconds[fits] = self._within_latency(found[fits], widths[fits])
            return self._costed(found, place, model, widths, milliseconds)

        scaled = self._by_skeleton(cells, places, largest)
        return scaled[scaled.widths >= MIN_WIDTH]

    def _by_skeleton(
        self,
        cells: CellArrays,
        places: IntArray,
        make: Callable[[IntArray, CostModel, int], Scaled],
    ) -> Scaled:
        """What is made of the cells of each skeleton, in the cells' order."""
        parts, order = [], []
        for place, skeleton in enumerate(self.skeletons):
            rows = np.flatnonzero(places == place)
            if len(rows) or (place == 0 and not len(cells)):
                here = cells if len(rows) == len(cells) else cells[rows]
                parts.append(make(rows, CostModel.of(here, skeleton), place))
                order.append(rows)
        if len(parts) == 1:
            return parts[0]
        return Scaled.concatenate(parts)[np.argsort(np.concatenate(order))]

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
        self,
        cells: CellArrays,
        place: int,
        model: CostModel,
        widths: IntArray,
        latency: FloatArray | None,
    ) -> Scaled:
        costs = model.costs(widths, self.budget.precision)
        places = np.full(len(widths), place, dtype=np.int64)
        found = costs.macs, costs.params, costs.peak_memory_bytes
        return Scaled(cells, places, widths, *found, latency)

    def candidates(self, scaled: Scaled, keys: NDArray[Any]) -> Candidates:
        """Costed cells as candidates under the given keys."""
        return Candidates(
            Graphs(scaled.cells.operations, scaled.cells.adjacency),
            keys,
            scaled,
            efficiency_factor(scaled.macs, self.reference_macs, self.exponent),
            context=self._context(scaled) if self.alternatives else None,
        )

    def _context(self, scaled: Scaled) -> FloatArray:
        """Of each network: logarithms of the first stage's channels and pixels and of the nodes
        in a row, over all cells; (n, 3)."""
        found = np.zeros((len(scaled), 3))
        depth = _depth(scaled.cells)
        for place, skeleton in enumerate(self.skeletons):
            rows = scaled.skeletons == place
            widths = scaled.widths[rows] * skeleton.stages[0].width_factor
            height, width = skeleton.resolutions[0]
            cells = sum(stage.repeats for stage in skeleton.stages)
            found[rows, 0] = np.log2(widths)
            found[rows, 1] = np.log2(height * width)
            found[rows, 2] = np.log2(cells * depth[rows])
        return found


def _depth(cells: CellArrays) -> IntArray:
    """Nodes on the longest path of each cell (n,)."""
    places = cells.operations.shape[1]
    depth = np.zeros((len(cells), places), dtype=np.int64)
    for node in range(1, places):
        before = np.where(cells.adjacency[:, :node, node], depth[:, :node], -1)
        depth[:, node] = before.max(axis=1) + 1
    return np.asarray(depth.max(axis=1))


def _fresh(candidates: Candidates, seen: set[Any]) -> Candidates:
    """Those whose key is not in `seen`, each key once; `seen` learns them."""
    fresh = []
    for index, key in enumerate(candidates.keys.tolist()):
        if key not in seen:
            seen.add(key)
            fresh.append(index)
    return candidates[np.array(fresh, dtype=np.intp)]
