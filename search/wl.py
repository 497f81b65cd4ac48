"""Weisfeiler-Lehman subtree features of many labelled directed graphs at once.

Every round gives each node a new label that stands for its old label and the multiset of its
successors' old labels; a graph's features are the counts of all its labels (Shervashidze et al.
2011). Labels are shared by all graphs of one call. A new label is found by a hash of 64 bits: among
300,000 nodes two that differ get one label in one of 400 million calls.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from gemkit.canonical import mix

Labels = NDArray[np.int32]

_CHUNK = 256


def refine(labels: NDArray[Any], adjacency: NDArray[np.bool_], rounds: int) -> list[Labels]:
    """Labels of all nodes after 0 to `rounds` rounds of refinement.

    Args:
        labels: (n, m) integer labels, negative where there is no node; m at most 64.
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
        refined = np.full(labels.shape, -1, dtype=np.int32)
        refined[present] = _numbered(_signatures(found[-1], adjacency)[present])
        found.append(refined)
    return found


def _signatures(labels: Labels, adjacency: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """A hash (n, m) of each node's label and the multiset of its successors' labels.

    Every label has two codes, which are added up over the successors. Codes below 2 ** 46 make
    sums of up to 64 exact in float64, so that a matrix product can add them.
    """
    kinds = np.arange(labels.max(initial=-1) + 1, dtype=np.uint64)
    apart = np.array([1 << 32, 2 << 32], dtype=np.uint64)
    codes = mix(kinds[:, None] + apart) >> np.uint64(18)
    values = np.append(codes.astype(np.float64), [[0.0, 0.0]], axis=0)[labels]  # 0 where absent
    sums = np.empty(values.shape)
    for start in range(0, len(labels), _CHUNK):
        part = slice(start, start + _CHUNK)
        np.matmul(adjacency[part].astype(np.float64), values[part], out=sums[part])
    first, second = np.moveaxis(sums.astype(np.uint64), 2, 0)
    own = mix(labels.astype(np.uint64))
    return np.asarray(mix(mix(own * np.uint64(5) + first) + second), dtype=np.uint64)


def _numbered(values: NDArray[np.uint64]) -> Labels:
    """Equal values as equal numbers 0, 1, ...: `np.unique`'s inverse, at half the time."""
    order = np.argsort(values)
    ordered = values[order]
    begins = np.append(True, ordered[1:] != ordered[:-1])[: len(values)]
    numbers = np.empty(len(values), dtype=np.int32)
    numbers[order] = np.cumsum(begins) - 1
    return numbers


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
