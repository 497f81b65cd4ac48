"""Weisfeiler-Lehman subtree features of many labelled directed graphs at once.

Every round gives each node a new label that stands for its old label and the multiset of its
neighbours' old labels; a graph's features are the counts of all its labels (Shervashidze et al.
2011). Labels are shared by all graphs of one call.

A new label is found by hashing, and then checked: all nodes that got one label are compared, label
by label, with the first of them. A collision of hashes is therefore found with certainty, and the
round repeated with another hash.
"""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from gemkit.canonical import mix

Direction = Literal["successors", "predecessors", "both"]
"""Which neighbours a node looks at; "both" keeps them apart."""

Labels = NDArray[np.int32]

_CHUNK = 256
_ATTEMPTS = 16


def refine(
    labels: NDArray[Any],
    adjacency: NDArray[np.bool_],
    rounds: int,
    direction: Direction = "successors",
) -> list[Labels]:
    """Labels of all nodes after 0 to `rounds` rounds of refinement.

    Args:
        labels: (n, m) integer labels, negative where there is no node.
        adjacency: (n, m, m) bool, [b, i, j] an edge i -> j; none at absent places.
        rounds: number of refinements, at least 0.

    Returns:
        rounds + 1 arrays (n, m) of labels 0, 1, ..., -1 where there is no node. Equal numbers in
        one array mean equal labels, whatever graph they are in.
    """
    present = labels >= 0
    numbered = np.full(labels.shape, -1, dtype=np.int32)
    numbered[present] = np.unique(labels[present], return_inverse=True)[1]
    found = [numbered]
    for _ in range(rounds):
        found.append(_refined(found[-1], present, adjacency, direction))
    return found


def _refined(
    labels: Labels, present: NDArray[np.bool_], adjacency: NDArray[np.bool_], direction: Direction
) -> Labels:
    """One round. Few labels are counted; many are hashed, and the result is checked."""
    kinds = int(labels.max(initial=-1)) + 1
    sides = 2 if direction == "both" else 1
    bits = int(labels.shape[1]).bit_length()  # enough for the count of one label
    exact = (sides * kinds * bits) + kinds.bit_length() <= 52
    new = np.full(labels.shape, -1, dtype=np.int32)
    for attempt in range(_ATTEMPTS):
        if exact:  # own label and all counts side by side in one number below 2 ** 52
            codes = np.exp2(np.arange(kinds) * bits)
            signatures = labels.astype(np.uint64)
            for sums in _sums(labels, codes, adjacency, direction):
                signatures = (signatures << np.uint64(kinds * bits)) + sums
        else:
            signatures = mix(labels.astype(np.uint64) + np.uint64(attempt << 32))
            codes = _hash(kinds, attempt).astype(np.float64)
            for sums in _sums(labels, codes, adjacency, direction):
                signatures = mix(signatures * np.uint64(5) + sums)
        first, new[present] = _numbered(signatures[present])
        if exact or _agree(labels, adjacency, direction, new, np.flatnonzero(present)[first]):
            return new
    raise RuntimeError("every hash tried gave one number to different labels")


def _numbered(values: NDArray[np.uint64]) -> tuple[NDArray[np.intp], Labels]:
    """A place of each distinct value, in ascending order, and the number of every value's.

    What `np.unique` gives, at half the time: any place of a value will do.
    """
    order = np.argsort(values)
    ordered = values[order]
    begins = np.append(True, ordered[1:] != ordered[:-1])[: len(values)]
    numbers = np.empty(len(values), dtype=np.int32)
    numbers[order] = np.cumsum(begins) - 1
    return order[begins], numbers


def _sums(
    labels: Labels, codes: NDArray[np.float64], adjacency: NDArray[np.bool_], direction: Direction
) -> Iterator[NDArray[np.uint64]]:
    """For each side looked at, the sum of the neighbours' codes (n, m).

    Codes below 2 ** 46 make sums of up to 64 neighbours exact in float64, so that a matrix
    product can add them.
    """
    values = np.append(codes, 0.0)[labels][:, :, None]  # an absent place (-1) has code 0
    for side in ("successors", "predecessors"):
        if direction not in (side, "both"):
            continue
        sums = np.empty(labels.shape)
        for start in range(0, len(labels), _CHUNK):
            part = slice(start, start + _CHUNK)
            edges = adjacency[part].astype(np.float64)
            if side == "predecessors":
                edges = edges.transpose(0, 2, 1)
            np.matmul(edges, values[part], out=sums[part, :, None])
        yield sums.astype(np.uint64)


def _agree(
    labels: Labels,
    adjacency: NDArray[np.bool_],
    direction: Direction,
    new: Labels,
    first: NDArray[np.intp],
) -> bool:
    """Whether all nodes with one new label have the same old label and neighbours' old labels.

    Args:
        new: the labels to check.
        first: for each new label a node that has it, as flat position.
    """
    flat = new.ravel()
    shared = np.bincount(flat[flat >= 0], minlength=len(first)) > 1
    nodes = np.flatnonzero((flat >= 0) & shared[flat])
    compared = first[flat[nodes]]
    old = labels.ravel()
    if not np.array_equal(old[nodes], old[compared]):
        return False
    numbers = np.cumsum(shared) - 1
    for side in ("successors", "predecessors"):
        if direction in (side, "both"):
            expected = _neighbours(labels, adjacency, side, first[shared])
            for start in range(0, len(nodes), _CHUNK * 128):
                part = nodes[start : start + _CHUNK * 128]
                around = _neighbours(labels, adjacency, side, part)
                if not np.array_equal(around, expected[numbers[flat[part]]]):
                    return False
    return True


def _neighbours(
    labels: Labels, adjacency: NDArray[np.bool_], side: str, nodes: NDArray[np.intp]
) -> Labels:
    """Old labels of each node's neighbours in ascending order, (len(nodes), m), filled with -1."""
    graphs, places = np.divmod(nodes, labels.shape[1])
    edges = adjacency[graphs, places] if side == "successors" else adjacency[graphs, :, places]
    return np.sort(np.where(edges, labels[graphs], np.int32(-1)), axis=1)


def _hash(kinds: int, attempt: int) -> NDArray[np.uint64]:
    """Codes of 46 bits for the labels 0 to kinds - 1, others at each attempt."""
    return mix(np.arange(kinds, dtype=np.uint64) + np.uint64((attempt + 1) << 32)) >> np.uint64(18)


def count(labels: Labels) -> tuple[csr_matrix, NDArray[np.float64]]:
    """Count labels in each graph; `labels` (n, m) of one round, as from `refine`.

    Returns:
        how often each label that occurs in two graphs or more occurs in each graph: sparse
        (n, number of such labels) float32; and the sums (n,) of the squares of all counts, labels
        that occur in no other graph included: each graph's kernel value with itself.
    """
    graphs, places = np.nonzero(labels >= 0)
    kinds = int(labels.max(initial=-1)) + 1
    # Equal (graph, label) pairs become one entry with their number.
    pairs, times = np.unique(graphs * np.int64(kinds) + labels[graphs, places], return_counts=True)
    rows, columns = np.divmod(pairs, max(kinds, 1))
    own = np.bincount(rows, weights=times**2.0, minlength=len(labels))
    shared = np.bincount(columns) > 1
    kept = shared[columns]
    numbers = (np.cumsum(shared) - 1)[columns[kept]]
    counts = csr_matrix(
        (times[kept].astype(np.float32), (rows[kept], numbers)),
        shape=(len(labels), int(shared.sum())),
    )
    return counts, own.astype(np.float64)  # of nothing, bincount counts in integers
