"""Numbers that describe labelled graphs, for the predictor; vectorised over graphs.

What an operation does to the signal is not known beforehand: a table may hold operations that carry
nothing, and others that only pass on what they get. `Roles` is a hypothesis about that, and every
description here is one of the graph that is left under it: operations thought `dead` are removed
together with what becomes useless, those thought to be `wires` are passed over in paths. Which
hypothesis holds is decided by evidence in `predictor`. Source: ours; paths after BANANAS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemkit.canonical import mix

from .interfaces import FloatArray, Graphs, IntArray

PATHS_UP_TO = 10
"""Graphs with more places than this are described by short walks instead of whole paths."""
_DIGIT = 64


@dataclass(frozen=True)
class Roles:
    """Labels whose nodes carry nothing (`dead`) or pass on what they get (`wires`)."""

    dead: frozenset[int] = frozenset()
    wires: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Occurrences:
    """Sparse counts: graph i holds `codes[k]` `numbers[k]` times, k in starts[i]..starts[i + 1]."""

    starts: IntArray
    codes: IntArray
    numbers: IntArray

    @staticmethod
    def tally(size: int, rows: IntArray, codes: IntArray, numbers: IntArray | None) -> Occurrences:
        """Sum up (row, code, number) triples; without numbers each counts once."""
        words, word = np.unique(codes, return_inverse=True)
        pairs, place = np.unique(rows * max(1, len(words)) + word, return_inverse=True)
        numbers = np.bincount(place, numbers, minlength=len(pairs)).astype(np.int64)
        starts = np.searchsorted(pairs, np.arange(size + 1) * max(1, len(words)))
        return Occurrences(starts, words[pairs % max(1, len(words))], numbers)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def rows(self) -> IntArray:
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    @staticmethod
    def concatenate(parts: Sequence[Occurrences]) -> Occurrences:
        sizes = np.concatenate([np.diff(part.starts) for part in parts])
        return Occurrences(
            np.concatenate([[0], np.cumsum(sizes)]),
            np.concatenate([part.codes for part in parts]),
            np.concatenate([part.numbers for part in parts]),
        )

    def take(self, rows: IntArray) -> Occurrences:
        """The graphs at these positions."""
        sizes = np.diff(self.starts)[rows]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        place = np.repeat(self.starts[rows] - starts[:-1], sizes) + np.arange(starts[-1])
        return Occurrences(starts, self.codes[place], self.numbers[place])

    def recoded(self, words: IntArray, replacement: IntArray) -> Occurrences:
        """Occurrences with `words` (sorted, all codes that occur) replaced and summed up."""
        codes = replacement[np.searchsorted(words, self.codes)]
        return Occurrences.tally(len(self), self.rows, codes, self.numbers)

    def dense(self, vocabulary: IntArray) -> FloatArray:
        """Counts (n, len(vocabulary)) of the codes in a sorted vocabulary; others are left out."""
        table = np.zeros((len(self), len(vocabulary)))
        if len(vocabulary):
            place = np.minimum(np.searchsorted(vocabulary, self.codes), len(vocabulary) - 1)
            known = vocabulary[place] == self.codes
            table[self.rows[known], place[known]] = self.numbers[known]
        return table


def sound_nodes(graphs: Graphs, roles: Roles) -> NDArray[np.bool_]:
    """Nodes (n, m) that are present and not dead."""
    return (graphs.labels >= 0) & ~np.isin(graphs.labels, list(roles.dead))


def used_nodes(graphs: Graphs, roles: Roles) -> NDArray[np.bool_]:
    """Nodes (n, m) with a way to one of the graph's sinks past no dead one: what is executed."""
    sound = sound_nodes(graphs, roles)
    used = ~graphs.adjacency.any(axis=2) & sound
    for i in range(graphs.labels.shape[1] - 2, -1, -1):
        used[:, i] |= sound[:, i] & (graphs.adjacency[:, i, i + 1 :] & used[:, i + 1 :]).any(axis=1)
    return used


def live_nodes(graphs: Graphs, roles: Roles) -> NDArray[np.bool_]:
    """Used nodes (n, m) that the first node reaches past no dead one: what carries the signal."""
    sound = sound_nodes(graphs, roles)
    reached = np.zeros(sound.shape, dtype=bool)
    reached[:, 0] = sound[:, 0]
    for j in range(1, sound.shape[1]):
        into = graphs.adjacency[:, :j, j] & reached[:, :j]
        reached[:, j] = sound[:, j] & into.any(axis=1)
    return np.asarray(reached & used_nodes(graphs, roles))


def positions(graphs: Graphs, used: NDArray[np.bool_], labels: int) -> NDArray[np.bool_]:
    """Which label stands at which place, of used nodes (n, m * labels)."""
    found = (graphs.labels[:, :, None] == np.arange(labels)) & used[:, :, None]
    return np.asarray(found.reshape(len(found), -1))


def counts(graphs: Graphs, live: NDArray[np.bool_], labels: int) -> FloatArray:
    """Live nodes of every label (n, labels)."""
    return np.stack([((graphs.labels == c) & live).sum(axis=1) for c in range(labels)], axis=1)


def shape(graphs: Graphs, live: NDArray[np.bool_]) -> FloatArray:
    """Live nodes, live edges, longest and shortest path to a sink, sinks (n, 5)."""
    places = graphs.labels.shape[1]
    edges = graphs.adjacency & live[:, :, None] & live[:, None, :]
    longest = np.where(live[:, :1], 0.0, -np.inf) * np.ones((1, places))
    longest[:, 1:] = -np.inf
    shortest = -longest
    for j in range(1, places):
        into = edges[:, :j, j]
        longest[:, j] = np.where(into, longest[:, :j] + 1, -np.inf).max(axis=1)
        shortest[:, j] = np.where(into, shortest[:, :j] + 1, np.inf).min(axis=1)
    sinks = live & ~edges.any(axis=2)
    deep = np.where(sinks, longest, -np.inf).max(axis=1)
    near = np.where(sinks, shortest, np.inf).min(axis=1)
    return np.stack(
        [
            live.sum(axis=1),
            edges.sum(axis=(1, 2)),
            np.where(np.isfinite(deep), deep, -1.0),
            np.where(np.isfinite(near), near, -1.0),
            sinks.sum(axis=1),
        ],
        axis=1,
    ).astype(float)


def paths(graphs: Graphs, live: NDArray[np.bool_], roles: Roles) -> Occurrences:
    """Label sequences of all live paths from the first node to a sink, wires passed over.

    A sequence's code has its labels plus one as digits to the base 64, first label first. The
    number of paths grows exponentially with the nodes: for at most PATHS_UP_TO places.
    """
    labels, adjacency = graphs.labels.astype(np.int64), graphs.adjacency
    sinks: NDArray[np.bool_] = np.logical_not(adjacency.any(axis=2))
    wire: NDArray[np.bool_] = np.isin(labels, list(roles.wires)).reshape(labels.shape)
    found: list[tuple[IntArray, IntArray]] = []

    def extend(last: int, rows: IntArray, codes: IntArray) -> None:
        ends = sinks[rows, last]
        if ends.any():
            found.append((rows[ends], codes[ends]))
        for j in range(last + 1, labels.shape[1]):
            on = adjacency[rows, last, j] & live[rows, j]
            if on.any():
                further, kept = rows[on], codes[on]
                extended = kept * _DIGIT + labels[further, j] + 1
                extend(j, further, np.where(wire[further, j], kept, extended))

    start = np.flatnonzero(live[:, 0])
    extend(0, start, np.zeros(len(start), dtype=np.int64))
    rows, codes = (
        (np.concatenate(part) for part in zip(*found, strict=True))
        if found
        else (
            np.empty(0, dtype=np.int64),
            np.empty(0, dtype=np.int64),
        )
    )
    return Occurrences.tally(len(graphs), rows, codes, None)


def spell(codes: IntArray, labels: int) -> FloatArray:
    """How often each label occurs in the sequence behind each code (k, labels)."""
    table = np.zeros((len(codes), labels))
    rest = codes.copy()
    while rest.any():
        digit = rest % _DIGIT
        some = np.flatnonzero((digit > 0) & (digit <= labels))
        table[some, digit[some] - 1] += 1.0
        rest = rest // _DIGIT
    return table


def bags(found: Occurrences) -> Occurrences:
    """Paths without the order of their labels: codes are hashes of the multiset."""
    words = np.unique(found.codes)
    table = spell(words, _DIGIT - 1).astype(np.int64)
    key = np.random.default_rng(0).integers(1, 2**40, size=_DIGIT - 1)
    return found.recoded(words, table @ key)


def refinements(graphs: Graphs, live: NDArray[np.bool_]) -> Occurrences:
    """Weisfeiler-Lehman labels of rounds 1 and 2, predecessors and successors apart.

    A code is a hash of the label's meaning, the same in every call (`wl` numbers labels within one
    call and checks for collisions; here a collision would only blur a feature).
    """
    edges = graphs.adjacency & live[:, :, None] & live[:, None, :]
    colours = mix(graphs.labels.astype(np.uint64) + np.uint64(1))
    rows, places = np.nonzero(live)
    found = []
    for round_ in range(2):
        kept = np.where(live, colours, np.uint64(0))
        before = np.where(edges, kept[:, :, None], np.uint64(0)).sum(axis=1, dtype=np.uint64)
        after = np.where(edges, kept[:, None, :], np.uint64(0)).sum(axis=2, dtype=np.uint64)
        mixed = mix(before + np.uint64(2 * round_ + 1)) * np.uint64(3)
        colours = mix(colours * np.uint64(5) + mixed + mix(after))
        found.append(colours[rows, places] >> np.uint64(1))
    codes = np.concatenate(found).astype(np.int64)
    return Occurrences.tally(len(graphs), np.tile(rows, 2), codes, None)


def reduced(graphs: Graphs, roles: Roles) -> Graphs:
    """The graphs left when dead operations are removed, with what becomes useless, and wires
    replaced by edges; without roles the graphs as they are."""
    if not roles.dead and not roles.wires:
        return graphs
    live = live_nodes(graphs, roles)
    edges = graphs.adjacency & live[:, :, None] & live[:, None, :]
    places = edges.shape[1]
    wire = np.isin(graphs.labels, list(roles.wires)) & live
    for j in range(places):
        through = edges[:, :, j : j + 1] & edges[:, j : j + 1, :]
        edges = edges | (through & wire[:, j][:, None, None])
    return compacted(Graphs(graphs.labels, edges), live & ~wire)


def compacted(graphs: Graphs, keep: NDArray[np.bool_]) -> Graphs:
    """The graphs with only the nodes (n, m) in `keep`, absent places last."""
    order = np.argsort(~keep, axis=1, kind="stable")
    labels = np.take_along_axis(np.where(keep, graphs.labels, -1), order, axis=1)
    edges = graphs.adjacency & keep[:, :, None] & keep[:, None, :]
    edges = np.take_along_axis(edges, order[:, :, None], axis=1)
    return Graphs(labels.astype(np.int8), np.take_along_axis(edges, order[:, None, :], axis=2))


def walks(graphs: Graphs, live: NDArray[np.bool_], labels: int) -> FloatArray:
    """Logarithms of the numbers of walks of 2 and 3 live nodes with given labels.

    (n, labels^2 + labels^3); the label of the middle node is followed exactly.
    """
    edges = (graphs.adjacency & live[:, :, None] & live[:, None, :]).astype(np.float32)
    is_label = np.stack([(graphs.labels == c) & live for c in range(labels)], axis=2)
    ones = is_label.astype(np.float32)
    after = edges @ ones  # (n, m, labels): successors of each label
    before = edges.transpose(0, 2, 1) @ ones
    two = ones.transpose(0, 2, 1) @ after
    three = np.stack(
        [before.transpose(0, 2, 1) @ (after * ones[:, :, c : c + 1]) for c in range(labels)], axis=1
    )
    both = [two.reshape(len(two), -1), three.reshape(len(three), -1)]
    return np.asarray(np.log1p(np.concatenate(both, axis=1)), dtype=float)
