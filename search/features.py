"""Numbers that describe labelled graphs, for the predictor; vectorised over graphs.

What an operation does to the signal is not known beforehand: a table may hold operations that carry
nothing, and others that only pass on what they get. `Roles` is a hypothesis about that, and every
description here is one of the graph that is left under it: operations thought `dead` are removed
together with what becomes useless, those thought to be `wires` are passed over in paths. Which
hypothesis holds is decided by evidence in `predictor`. Source: ours; paths after BANANAS.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .strategies import FloatArray, Graphs, IntArray

PATHS_UP_TO = 10
"""Graphs with more places than this are described by short walks instead of whole paths."""
WALK_LENGTH = 3


@dataclass(frozen=True)
class Roles:
    """Labels whose nodes carry nothing (`dead`) or pass on what they get (`wires`)."""

    dead: frozenset[int] = frozenset()
    wires: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Occurrences:
    """Sparse counts: graph `rows[i]` holds the thing `codes[i]` `counts[i]` times."""

    size: int
    rows: IntArray
    codes: IntArray
    counts: IntArray

    def dense(self, vocabulary: IntArray) -> FloatArray:
        """Counts (size, len(vocabulary)) of the codes in a sorted vocabulary; others are left."""
        table = np.zeros((self.size, len(vocabulary)))
        if len(vocabulary):
            place = np.minimum(np.searchsorted(vocabulary, self.codes), len(vocabulary) - 1)
            known = vocabulary[place] == self.codes
            table[self.rows[known], place[known]] = self.counts[known]
        return table


def live_nodes(graphs: Graphs, roles: Roles) -> NDArray[np.bool_]:
    """Nodes (n, m) on a way from the first node to one of the graph's sinks, without dead ones."""
    labels, adjacency = graphs.labels, graphs.adjacency
    places = labels.shape[1]
    sound = labels >= 0
    sinks = sound & ~adjacency.any(axis=2)
    for label in roles.dead:
        sound = sound & (labels != label)
    reached = np.zeros(labels.shape, dtype=bool)
    reached[:, 0] = sound[:, 0]
    for j in range(1, places):
        reached[:, j] = sound[:, j] & (adjacency[:, :j, j] & reached[:, :j]).any(axis=1)
    useful = sinks & sound
    for i in range(places - 2, -1, -1):
        useful[:, i] |= sound[:, i] & (adjacency[:, i, i + 1 :] & useful[:, i + 1 :]).any(axis=1)
    return reached & useful


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


def paths(graphs: Graphs, live: NDArray[np.bool_], roles: Roles, labels: int) -> Occurrences:
    """Label sequences of all live paths from the first node to a sink, wires passed over.

    A sequence's code has its labels plus one as digits to the base labels + 1, first label first.
    The number of paths grows exponentially with the nodes: meant for at most PATHS_UP_TO of them.
    """
    wide = labels + 1
    sinks = ~graphs.adjacency.any(axis=2)
    found: list[tuple[IntArray, IntArray]] = []

    def extend(last: int, rows: IntArray, codes: IntArray) -> None:
        ends = sinks[rows, last]
        if ends.any():
            found.append((rows[ends], codes[ends]))
        for j in range(last + 1, graphs.labels.shape[1]):
            on = graphs.adjacency[rows, last, j] & live[rows, j]
            if on.any():
                further, label = rows[on], graphs.labels[rows[on], j].astype(np.int64)
                kept = codes[on]
                if roles.wires:
                    passed = np.isin(label, list(roles.wires))
                    kept = np.where(passed, kept, kept * wide + label + 1)
                else:
                    kept = kept * wide + label + 1
                extend(j, further, kept)

    start = np.flatnonzero(live[:, 0])
    extend(0, start, np.zeros(len(start), dtype=np.int64))
    return _tally(len(graphs), found)


def _tally(size: int, found: list[tuple[IntArray, IntArray]]) -> Occurrences:
    if not found:
        none = np.empty(0, dtype=np.int64)
        return Occurrences(size, none, none, none)
    rows = np.concatenate([part[0] for part in found])
    codes = np.concatenate([part[1] for part in found])
    words, word = np.unique(codes, return_inverse=True)
    pairs, number = np.unique(rows * len(words) + word, return_counts=True)
    return Occurrences(size, pairs // len(words), words[pairs % len(words)], number)


def spell(codes: IntArray, labels: int, ordered: bool = False) -> tuple[FloatArray, IntArray]:
    """How often each label occurs in each code (k, labels), and the code without its order."""
    wide = labels + 1
    rest = codes.copy()
    table = np.zeros((len(codes), labels))
    while rest.any():
        digit = rest % wide
        some = np.flatnonzero(digit)
        np.add.at(table, (some, digit[some] - 1), 1.0)
        rest //= wide
    bag = np.zeros(len(codes), dtype=np.int64)
    for label in range(labels):
        bag = bag * 64 + table[:, label].astype(np.int64)
    return table, bag


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
    return np.log1p(
        np.concatenate([two.reshape(len(two), -1), three.reshape(len(three), -1)], axis=1)
    ).astype(float)
