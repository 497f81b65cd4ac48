"""Canonical order and key of labelled directed graphs, for many graphs at once.

The order comes from colour refinement (every node's colour is hashed with the colours around it,
as in the Weisfeiler-Lehman test). Nodes that end with the same colour are distinguished by trying
them in turn (individualisation and refinement, as in McKay's nauty), so that the order is exact:
two graphs have equal canonical forms exactly when they are isomorphic. Ours; the hash of a colour
only ever decides how soon nodes are distinguished, never whether two graphs are equal.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 4
_MORE_ROUNDS = 32
"""Fixed, since the key must not depend on the number of absent places."""
_CHUNK = 1024
_LAST = np.uint64(np.iinfo(np.uint64).max)
"""Colour of absent places."""

Colours = NDArray[np.uint64]


def mix(value: Colours) -> Colours:
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
        around = mix(before + np.uint64(0x9E3779B97F4A7C15)) + np.uint64(3) * mix(
            after + np.uint64(0xD1B54A32D192ED03)
        )
        colours = mix(colours * np.uint64(5) + around)
    return colours


def _coloured(
    colours: Colours,
    operations: NDArray[np.int8],
    adjacency: NDArray[np.bool_],
    rounds: int = _ROUNDS,
) -> Colours:
    """Refine, and give absent places the last colour."""
    colours = _refine(colours, adjacency.astype(np.float64), rounds)
    colours[operations < 0] = _LAST
    return colours


def _first_ties(
    colours: Colours, adjacency: NDArray[np.bool_]
) -> tuple[NDArray[np.intp], Colours, NDArray[np.bool_]]:
    """Order by colour (n, m), and the first colour that nodes share which are no mere twins.

    Twins have the same neighbours, so that exchanging them changes nothing.

    Returns:
        The order; that colour (n,); whether there is one (n,).
    """
    order = np.argsort(colours, axis=1, kind="stable")
    ordered = np.take_along_axis(colours, order, axis=1)
    rows, places = np.nonzero((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != _LAST))
    first, second = order[rows, places], order[rows, places + 1]
    twins = (adjacency[rows, first] == adjacency[rows, second]).all(axis=1) & (
        adjacency[rows, :, first] == adjacency[rows, :, second]
    ).all(axis=1)
    tied, at = np.unique(rows[~twins], return_index=True)
    shared = np.full(len(order), _LAST)
    shared[tied] = ordered[tied, places[~twins][at]]
    return order, shared, shared != _LAST


def _individualised(
    colours: Colours,
    nodes: NDArray[np.intp],
    operations: NDArray[np.int8],
    adjacency: NDArray[np.bool_],
) -> Colours:
    """Give one node of every graph a colour of its own and refine."""
    colours, at = colours.copy(), np.arange(len(nodes))
    colours[at, nodes] = mix(colours[at, nodes] + np.uint64(1))
    return _coloured(colours, operations, adjacency)


def _descended(
    colours: Colours, operations: NDArray[np.int8], adjacency: NDArray[np.bool_]
) -> NDArray[np.intp]:
    """The orders (n, m) from giving one of the tied nodes a colour of its own, again and again."""
    order, shared, tied = _first_ties(colours, adjacency)
    rows = np.flatnonzero(tied)
    while len(rows):
        here, graphs = operations[rows], adjacency[rows]
        nodes = np.argmax(colours[rows] == shared[rows, None], axis=1)
        refined = _individualised(colours[rows], nodes, here, graphs)
        colours[rows] = refined
        order[rows], shared[rows], tied = _first_ties(refined, graphs)
        rows = rows[tied]
    return order


def _untie(
    operations: NDArray[np.int8], adjacency: NDArray[np.bool_], colours: Colours
) -> NDArray[np.intp]:
    """Canonical orders (n, m) of graphs whose colours are not all different.

    Branches over the members of the first class of equal nodes that are no mere twins, and takes
    the order with the smallest written form. Branches whose first descent ends in the same form
    are images of one another, so one of them stands for all: that keeps symmetric graphs cheap.
    All graphs take their steps together.
    """
    found: dict[int, tuple[bytes, NDArray[np.intp]]] = {}
    graph = np.arange(len(operations))
    _, shared, _ = _first_ties(colours, adjacency)
    while len(graph):
        branch, node = np.nonzero(colours == shared[:, None])
        graph = graph[branch]
        here, edges = operations[graph], adjacency[graph]
        colours = _individualised(colours[branch], node, here, edges)
        order, shared, tied = _first_ties(colours, edges)
        descended = _descended(colours.copy(), here, edges)
        labels, bits = _written(here, edges, descended)
        kept: dict[tuple[int, bytes], int] = {}
        for row, owner in enumerate(graph.tolist()):
            form = labels[row].tobytes() + bits[row].tobytes()
            kept.setdefault((owner, form), row)
            if not tied[row] and (owner not in found or form < found[owner][0]):
                found[owner] = form, order[row]
        rows = np.array([row for row in kept.values() if tied[row]], dtype=np.intp)
        graph, colours, shared = graph[rows], colours[rows], shared[rows]
    return np.array([found[owner][1] for owner in range(len(operations))])


def _orders(operations: NDArray[np.int8], adjacency: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The node at each canonical place (n, m), absent places last."""
    colours = mix(operations.astype(np.uint64) + np.uint64(2))
    colours = _coloured(colours, operations, adjacency)
    order, _, tied = _first_ties(colours, adjacency)
    rows = np.flatnonzero(tied)
    if len(rows):
        # Long thin graphs only need more rounds; what stays tied after them is symmetric.
        here, edges = operations[rows], adjacency[rows]
        colours = _coloured(colours[rows], here, edges, rounds=_MORE_ROUNDS)
        order[rows], _, tied = _first_ties(colours, edges)
        if tied.any():
            order[rows[tied]] = _untie(here[tied], edges[tied], colours[tied])
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
        order = _orders(operations[part], adjacency[part])
        labels, rows = _written(operations[part], adjacency[part], order)
        for row, count in enumerate((labels >= 0).sum(axis=1).tolist()):
            form = prefix + labels[row, :count].tobytes() + rows[row, :count].tobytes()
            found.append(hashlib.blake2b(form, digest_size=16).hexdigest())
    return np.array(found, dtype="S32")


def _written(
    operations: NDArray[np.int8], adjacency: NDArray[np.bool_], order: NDArray[np.intp]
) -> tuple[NDArray[np.int8], NDArray[np.uint64]]:
    """Labels (n, m) in an order, and every node's successors in that order as bits (n, m)."""
    rank = np.argsort(order, axis=1)
    # Sums of different powers of two below 2**53 are exact in float64.
    bits = np.matmul(adjacency.astype(np.float64), np.exp2(rank)[:, :, None])[:, :, 0]
    rows = np.take_along_axis(bits.astype("<u8"), order, axis=1)
    return np.take_along_axis(operations, order, axis=1), rows
