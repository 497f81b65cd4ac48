"""Canonical order and key of labelled directed graphs, for many graphs at once.

The order comes from colour refinement (every node's colour is hashed with the colours around it,
as in the Weisfeiler-Lehman test). Nodes that end with the same colour are told apart by trying
them in turn (individualisation and refinement, as in McKay's nauty), so that the order is exact:
two graphs have equal canonical forms exactly when they are isomorphic. Ours; the hash of a colour
only ever decides how soon nodes are told apart, never whether two graphs are equal.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 4
_CHUNK = 1024

Colours = NDArray[np.uint64]


def _mix(value: Colours) -> Colours:
    """Scramble 64-bit words (the finaliser of splitmix64, Steele et al. 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _refine(colours: Colours, forward: NDArray[np.float64], rounds: int) -> Colours:
    """Hash every node's colour with the colours before and after it, `rounds` times.

    Sums of up to 64 colours of 46 bits are exact in float64, so neighbours can be summed by a
    matrix product.

    Args:
        colours: (n, m) uint64.
        forward: (n, m, m) adjacency as float64.
    """
    backward = forward.transpose(0, 2, 1)
    for _ in range(rounds):
        short = (colours >> np.uint64(18)).astype(np.float64)[:, :, None]
        after = np.matmul(forward, short)[:, :, 0].astype(np.uint64)
        before = np.matmul(backward, short)[:, :, 0].astype(np.uint64)
        around = _mix(before + np.uint64(0x9E3779B97F4A7C15)) + np.uint64(3) * _mix(
            after + np.uint64(0xD1B54A32D192ED03)
        )
        colours = _mix(colours * np.uint64(5) + around)
    return colours


def _form(
    operations: NDArray[np.int8], adjacency: NDArray[np.bool_], order: NDArray[np.intp]
) -> bytes:
    """One graph written down in the given order."""
    return operations[order].tobytes() + np.packbits(adjacency[np.ix_(order, order)]).tobytes()


def _twins(adjacency: NDArray[np.bool_], first: int, second: int) -> bool:
    """Whether two nodes have the same neighbours, so that exchanging them changes nothing."""
    return np.array_equal(adjacency[first], adjacency[second]) and np.array_equal(
        adjacency[:, first], adjacency[:, second]
    )


def _untie(
    operations: NDArray[np.int8], adjacency: NDArray[np.bool_], colours: Colours
) -> NDArray[np.intp]:
    """Canonical order of one graph whose colours are not all different.

    Branches over the members of the first class of equal nodes that are no mere twins, and takes
    the order with the smallest written form. Members whose first descent ends in the same form
    are images of one another, so one of them stands for all: that keeps symmetric graphs cheap.
    """
    forward = adjacency.astype(np.float64)[None]

    def tied(colours: Colours) -> list[int]:
        order = np.argsort(colours, kind="stable")
        start = 0
        for end in range(1, len(order) + 1):
            if end == len(order) or colours[order[end]] != colours[order[start]]:
                group = order[start:end]
                if any(not _twins(adjacency, group[0], other) for other in group[1:]):
                    return [int(node) for node in group]
                start = end
        return []

    def individualised(colours: Colours, node: int) -> Colours:
        colours = colours.copy()
        colours[node] = _mix(colours[node : node + 1] + np.uint64(1))[0]
        return _refine(colours[None], forward, _ROUNDS)[0]

    def descend(colours: Colours) -> bytes:
        while group := tied(colours):
            colours = individualised(colours, group[0])
        return _form(operations, adjacency, np.argsort(colours, kind="stable"))

    def best(colours: Colours) -> tuple[bytes, NDArray[np.intp]]:
        group = tied(colours)
        if not group:
            order = np.argsort(colours, kind="stable")
            return _form(operations, adjacency, order), order
        branches: dict[bytes, Colours] = {}
        for node in group:
            branch = individualised(colours, node)
            branches.setdefault(descend(branch), branch)
        return min((best(branch) for branch in branches.values()), key=lambda found: found[0])

    return best(colours)[1]


def orders(operations: NDArray[np.int8], adjacency: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Canonical order of the nodes of every graph.

    Args:
        operations: (n, m) int8 labels; negative where there is no node (such places come last).
        adjacency: (n, m, m) bool.

    Returns:
        (n, m): the node at each canonical place, absent places last.
    """
    found = np.empty(operations.shape, dtype=np.intp)
    for start in range(0, len(operations), _CHUNK):
        part = slice(start, start + _CHUNK)
        found[part] = _orders(operations[part], adjacency[part])
    return found


def _orders(operations: NDArray[np.int8], adjacency: NDArray[np.bool_]) -> NDArray[np.intp]:
    colours = _mix(operations.astype(np.uint64) + np.uint64(2))
    colours = _refine(colours, adjacency.astype(np.float64), _ROUNDS)
    absent = operations < 0
    colours[absent] = np.iinfo(np.uint64).max
    order = np.argsort(colours, axis=1, kind="stable")
    ordered = np.take_along_axis(colours, order, axis=1)
    tie = (ordered[:, 1:] == ordered[:, :-1]) & ~np.take_along_axis(absent, order, axis=1)[:, 1:]
    rows, places = np.nonzero(tie)
    first, second = order[rows, places], order[rows, places + 1]
    same = (adjacency[rows, first] == adjacency[rows, second]).all(axis=1) & (
        adjacency[rows, :, first] == adjacency[rows, :, second]
    ).all(axis=1)
    for row in np.unique(rows[~same]):
        present = int((~absent[row]).sum())
        order[row, :present] = _untie(
            operations[row, :present],
            adjacency[row, :present, :present],
            colours[row, :present],
        )
    return order


def keys(
    operations: NDArray[np.int8], adjacency: NDArray[np.bool_], kind: str
) -> NDArray[np.bytes_]:
    """Canonical key of every graph: 32 hexadecimal digits, (n,) of dtype S32.

    Equal for isomorphic graphs of one `kind` however many absent places pad them, different for
    all others (up to collisions of a 128-bit BLAKE2 hash of the whole canonical form). The
    graphs have at most 52 places.
    """
    prefix = kind.encode() + b":"
    found: list[str] = []
    for start in range(0, len(operations), _CHUNK):
        part = slice(start, start + _CHUNK)
        labels, rows = _written(operations[part], adjacency[part])
        for row, count in enumerate((labels >= 0).sum(axis=1).tolist()):
            form = prefix + labels[row, :count].tobytes() + rows[row, :count].tobytes()
            found.append(hashlib.blake2b(form, digest_size=16).hexdigest())
    return np.array(found, dtype="S32")


def _written(
    operations: NDArray[np.int8], adjacency: NDArray[np.bool_]
) -> tuple[NDArray[np.int8], NDArray[np.uint64]]:
    """Labels (n, m) in canonical order, and every node's successors there as bits (n, m)."""
    order = _orders(operations, adjacency)
    rank = np.argsort(order, axis=1)
    # Sums of different powers of two below 2**53 are exact in float64.
    bits = np.matmul(adjacency.astype(np.float64), np.exp2(rank)[:, :, None])[:, :, 0]
    rows = np.take_along_axis(bits.astype("<u8"), order, axis=1)
    return np.take_along_axis(operations, order, axis=1), rows
