"""Random cells, mutants and children of cells, many at a time.

A candidate is a sub-graph of the complete DAG over the cell input and up to 30 nodes (paper). How
candidates are drawn is ours: every node of a cell keeps at least one predecessor, which is the same
as being reached from the cell input, so whatever these functions return needs no pruning.

All randomness comes from the generator handed in: the same generator, cells and arguments give the
same result.
"""

import numpy as np
from numpy.typing import NDArray

from gemkit.cell import ABSENT, MAX_NODES, OPERATIONS, CellArrays

IntArray = NDArray[np.int64]

EDITS = ("flip operation", "add edge", "remove edge", "add node", "remove node")
"""What one edit of `mutate` can be."""

_CHUNK = 4096
_KINDS = len(OPERATIONS) - 1
_FLIP, _ADD_EDGE, _REMOVE_EDGE, _ADD_NODE, _REMOVE_NODE = range(len(EDITS))


def random_cells(
    rng: np.random.Generator,
    count: int,
    nodes: int = MAX_NODES,
    aggregation: str = "concat",
    smallest: int = 1,
) -> CellArrays:
    """Draw cells over the whole range of sizes and densities.

    Per cell, independently: the number of nodes is uniform in `smallest`..`nodes`; the density p is
    the square of a uniform number in 0..1 (median 1/4, a fifth of the cells below 0.05: sparse
    cells are where topologies differ most); the shares of the operations are uniform among all
    that sum to 1. Each pair i < j is then an edge with probability p, each node has an operation
    with the probability of its share. A node left without predecessor gets one, uniform among all
    before it (so p = 0 is a random recursive tree).

    Args:
        count: number of cells; repetitions among small ones are likely.
        nodes: the most nodes with an operation, 1 to 30.

    Returns:
        `count` pruned cells, nodes + 1 places.
    """
    if not 1 <= smallest <= nodes <= MAX_NODES:
        raise ValueError(f"sizes must satisfy 1 <= {smallest} <= {nodes} <= {MAX_NODES}")
    places = nodes + 1
    operations = np.empty((count, places), dtype=np.int8)
    adjacency = np.zeros((count, places, places), dtype=bool)
    for start in range(0, count, _CHUNK):
        part = slice(start, min(count, start + _CHUNK))
        _fill(rng, operations[part], adjacency[part], smallest)
    return CellArrays(operations, adjacency, aggregation)


def _fill(
    rng: np.random.Generator,
    operations: NDArray[np.int8],
    adjacency: NDArray[np.bool_],
    smallest: int,
) -> None:
    count, places = operations.shape
    sizes = rng.integers(smallest, places, size=(count, 1))
    density, cuts = rng.random((count, 1)) ** 2, rng.random((count, _KINDS - 1))
    present = np.arange(places) <= sizes
    draws = rng.random((count, places))
    codes = np.ones((count, places), np.int8)
    for cut in cuts.T:
        codes += draws < cut[:, None]
    operations[:] = np.where(present, codes, ABSENT)
    operations[:, 0] = 0
    # 16 random bits decide about an edge; an absent target has threshold 0, so no edge.
    thresholds = np.where(present, density * 65536, 0).astype(np.uint16)
    words = rng.integers(0, 2**64, size=-(-count * places * places // 4), dtype=np.uint64)
    pairs = words.view(np.uint16)[: count * places * places].reshape(adjacency.shape)
    np.less(pairs, thresholds[:, None, :], out=adjacency)
    adjacency &= np.triu(np.ones((places, places), dtype=bool), 1)
    orphan = present & ~adjacency.any(axis=1)
    orphan[:, 0] = False
    rows, targets = np.nonzero(orphan)
    adjacency[rows, _below(rng, targets), targets] = True


def mutate(
    rng: np.random.Generator,
    cells: CellArrays,
    edits: int | IntArray = 1,
    nodes: int = MAX_NODES,
) -> CellArrays:
    """Change every cell by a stated number of edits.

    One edit is one of `EDITS`, uniform among those possible for the cell:

    - flip operation: one node gets another operation;
    - add edge: one pair i < j without edge gets one;
    - remove edge: one edge goes whose target has another predecessor;
    - add node: a node of random operation enters at a random place of the order, with one
      predecessor and, unless it is last, one successor;
    - remove node: one node goes with its edges; each of its successors has another predecessor.

    No edit undoes another of the same call: an operation is flipped once, a pair is changed once,
    a node that was added is neither flipped nor removed nor are its edges. With labelled
    nodes, the edit distance between cell and mutant is therefore exactly `edits`; when isomorphism
    may exchange nodes it can be smaller.

    Args:
        cells: pruned cells.
        edits: number of edits, one for all or (n,) one each, at least 0. Cells too small to bear
            so many (one node, two or three edits) bear as many as possible.
        nodes: no mutant grows beyond this many nodes (larger parents keep their size).

    Returns:
        The mutants in the order of their parents, pruned.
    """
    count = len(cells)
    places = max(nodes + 1, cells.operations.shape[1])
    left = np.broadcast_to(np.asarray(edits, dtype=np.int64), (count,))
    if count and left.min() < 0:
        raise ValueError("the number of edits must not be negative")
    operations = np.full((count, places), ABSENT, dtype=np.int8)
    operations[:, : cells.operations.shape[1]] = cells.operations
    adjacency = np.zeros((count, places, places), dtype=bool)
    for start in range(0, count, _CHUNK):
        part = slice(start, start + _CHUNK)
        mutants = _Mutants(operations[part].T, cells.adjacency[part], nodes)
        for done in range(int(left[part].max())):
            mutants.edit(rng, np.flatnonzero(left[part] > done))
        operations[part], adjacency[part] = mutants.operations.T, _unpack(mutants.edges)
    return CellArrays(operations, adjacency, cells.aggregation)


_BIT = np.uint32(1) << np.arange(32, dtype=np.uint32)
_BELOW = _BIT - np.uint32(1)
"""At k: a word with the k lowest bits set."""


class _Mutants:
    """Cells under mutation: places along the first axis, cells along the second.

    A node's edges are the bits of one word (bit j of edges[i]: edge i -> j), so that one operation
    on words serves 32 pairs.
    """

    def __init__(
        self, operations: NDArray[np.int8], adjacency: NDArray[np.bool_], nodes: int
    ) -> None:
        self.operations, self.nodes = operations.copy(), nodes
        self.edges = _pack(adjacency, len(operations))
        self.fixed_nodes = np.zeros(operations.shape, dtype=bool)  # not to be touched again
        self.fixed_nodes[0] = True
        self.fixed_pairs = np.zeros(operations.shape, dtype=np.uint32)

    def edit(self, rng: np.random.Generator, at: NDArray[np.intp]) -> None:
        """One edit in each of the cells at `at`."""
        edges, fixed = self.edges[:, at], self.fixed_pairs[:, at]
        present = self.operations[:, at] != ABSENT
        sizes = present.sum(axis=0) - 1
        free_nodes = present & ~self.fixed_nodes[:, at]
        # Bits of the targets that have a predecessor, and two at least.
        once, twice = np.zeros_like(edges[0]), np.zeros_like(edges[0])
        for word in edges:
            twice |= once & word
            once |= word
        place = np.arange(len(edges))[:, None]
        later = np.where(present, _BELOW[sizes + 1] & ~_BELOW[place + 1], np.uint32(0))
        addable = later & ~edges & ~fixed
        removable = edges & twice & ~fixed
        # A node may go when all its edges are free to go and each successor can do without it.
        touched = fixed & edges
        into = np.bitwise_or.reduce(touched, axis=0) & _BIT[place] > 0
        bound = (edges & ~twice > 0) | (touched > 0) | into
        droppable = free_nodes & ~bound & (sizes > 1)
        possible = np.stack(
            [
                free_nodes.any(axis=0),
                addable.any(axis=0),
                removable.any(axis=0),
                sizes < self.nodes,
                droppable.any(axis=0),
            ]
        )
        kinds = _choose(rng, possible)

        chosen = kinds == _FLIP
        nodes, cells = _choose(rng, free_nodes[:, chosen]), at[chosen]
        # Of two operations the other one needs no drawing.
        others = np.full(len(cells), _KINDS - 1)
        shift = 1 + _below(rng, others) if _KINDS > 2 else 1
        self.operations[nodes, cells] = (self.operations[nodes, cells] - 1 + shift) % _KINDS + 1
        self.fixed_nodes[nodes, cells] = True

        for kind, pairs in ((_ADD_EDGE, addable), (_REMOVE_EDGE, removable)):
            chosen = kinds == kind
            sources, targets = _choose_bit(rng, pairs[:, chosen])
            self.edges[sources, at[chosen]] ^= _BIT[targets]
            self.fixed_pairs[sources, at[chosen]] |= _BIT[targets]

        chosen = kinds == _ADD_NODE
        self._add_nodes(rng, at[chosen], sizes[chosen])
        chosen = kinds == _REMOVE_NODE
        self._remove_nodes(at[chosen], _choose(rng, droppable[:, chosen]))

    def _add_nodes(
        self, rng: np.random.Generator, cells: NDArray[np.intp], sizes: IntArray
    ) -> None:
        nodes = 1 + _below(rng, sizes + 1)  # the place of the new node, 1 to size + 1
        low = _BELOW[nodes]
        for words in (self.edges, self.fixed_pairs):
            moved = words[:, cells]
            words[:, cells] = (moved & low) | (moved & ~low) << np.uint32(1)
        place = np.arange(len(self.edges))[:, None]
        self._reorder(cells, place - (place > nodes))
        self.operations[nodes, cells] = 1 + _below(rng, np.full(len(cells), _KINDS))
        self.fixed_nodes[nodes, cells] = True
        self.fixed_pairs[:, cells] |= _BIT[nodes]
        self.fixed_pairs[nodes, cells] = ~np.uint32(0)
        self.edges[_below(rng, nodes), cells] |= _BIT[nodes]
        successors = nodes + 1 + _below(rng, np.maximum(sizes + 1 - nodes, 1))
        self.edges[nodes, cells] = np.where(nodes <= sizes, _BIT[successors % 32], np.uint32(0))

    def _remove_nodes(self, cells: NDArray[np.intp], nodes: NDArray[np.intp]) -> None:
        low = _BELOW[nodes]
        for words in (self.edges, self.fixed_pairs):
            moved = words[:, cells]
            words[:, cells] = (moved & low) | (moved >> np.uint32(1)) & ~low
        place = np.arange(len(self.edges))[:, None]
        last = len(self.edges) - 1
        self._reorder(cells, np.minimum(place + (place >= nodes), last))
        self.operations[last, cells] = ABSENT
        self.fixed_nodes[last, cells] = False
        self.edges[last, cells] = 0
        self.fixed_pairs[last, cells] = 0

    def _reorder(self, cells: NDArray[np.intp], order: NDArray[np.intp]) -> None:
        """Put into place p of each cell what stood at place order[p]."""
        for array in (self.edges, self.fixed_pairs, self.operations, self.fixed_nodes):
            array[:, cells] = np.take_along_axis(array[:, cells], order, axis=0)


def _pack(adjacency: NDArray[np.bool_], places: int) -> NDArray[np.uint32]:
    """Adjacency (n, m, m) as words (places, n)."""
    packed = np.packbits(adjacency, axis=2, bitorder="little")
    padded = np.zeros((len(adjacency), places, 4), dtype=np.uint8)
    padded[:, : packed.shape[1], : packed.shape[2]] = packed
    return np.ascontiguousarray(padded.view("<u4")[:, :, 0].T.astype(np.uint32))


def _unpack(words: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """The adjacency (n, places, places) that `_pack` packed."""
    octets = np.ascontiguousarray(words.T.astype("<u4"))[:, :, None].view(np.uint8)
    return np.unpackbits(octets, axis=2, count=len(words), bitorder="little").view(bool)


def _below(rng: np.random.Generator, limits: NDArray[np.integer]) -> NDArray[np.intp]:
    """Uniform integers in 0..limit-1."""
    return (rng.random(len(limits)) * limits).astype(np.intp)


def _choose(rng: np.random.Generator, mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """In each column of (k, n) a uniform one of the true places; -1 where there is none."""
    ranks = np.cumsum(mask, axis=0, dtype=np.int8)
    wanted = _below(rng, ranks[-1])
    return np.where(ranks[-1] > 0, np.argmax(ranks > wanted, axis=0), -1)


def _choose_bit(
    rng: np.random.Generator, words: NDArray[np.uint32]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """In each column of (places, n) a uniform one of the bits that are set: (place, bit)."""
    ranks = np.cumsum(np.bitwise_count(words), axis=0, dtype=np.int16)
    wanted = _below(rng, ranks[-1])
    rows = np.argmax(ranks > wanted, axis=0)
    chosen = words[rows, np.arange(words.shape[1])]
    return rows, _choose(rng, chosen & _BIT[:, None] > 0)


def crossover(rng: np.random.Generator, first: CellArrays, second: CellArrays) -> CellArrays:
    """One child of each pair of cells.

    A child has the second parent's size. Its nodes up to a random place come from the first parent
    and the later ones from the second, each with its operation and its predecessors' places; the
    random place leaves at least one node to each parent where their sizes allow it.

    Args:
        first, second: as many cells each, pruned.

    Returns:
        The children in order, pruned, with as many places as the wider of the two.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} cells cannot be crossed with {len(second)}")
    both = CellArrays.concatenate([first, second])
    one, two = both[: len(first)], both[len(first) :]
    sizes = [(cells.operations != ABSENT).sum(axis=1) - 1 for cells in (one, two)]
    last = 1 + _below(rng, np.maximum(np.minimum(sizes[0], sizes[1] - 1), 1))
    from_first = np.arange(both.operations.shape[1]) <= last[:, None]
    return CellArrays(
        np.where(from_first, one.operations, two.operations),
        np.where(from_first[:, None, :], one.adjacency, two.adjacency),
        first.aggregation,
    )


def reshuffled(rng: np.random.Generator, cells: CellArrays) -> CellArrays:
    """For every cell a random one with as many nodes, edges and nodes of each operation.

    Operations are permuted; every node draws one predecessor and the remaining edges are uniform
    among the remaining pairs. Such pairs differ in topology alone, which is what shows whether a
    similarity or an embedding sees more than counts.

    Args:
        cells: pruned cells.
    """
    operations = np.empty_like(cells.operations)
    adjacency = np.empty_like(cells.adjacency)
    for start in range(0, len(cells), _CHUNK):
        part = slice(start, start + _CHUNK)
        given, count = cells.operations[part], len(cells.operations[part])
        places = given.shape[1]
        present = given != ABSENT
        order = np.where(present, rng.random(given.shape), 2.0)
        order[:, 0] = -1.0
        operations[part] = np.take_along_axis(given, np.argsort(order, axis=1), axis=1)
        pairs = present[:, None, :] & np.triu(np.ones((places, places), dtype=bool), 1)
        draws = np.where(pairs, rng.random(pairs.shape), -1.0)
        rows, targets = np.nonzero(present[:, 1:])
        draws[rows, _below(rng, targets + 1), targets + 1] = 2.0
        draws = draws.reshape(count, -1)
        edges = cells.adjacency[part].sum(axis=(1, 2))
        least = np.sort(draws, axis=1)[np.arange(count), draws.shape[1] - edges]
        adjacency[part] = (draws >= least[:, None]).reshape(pairs.shape)
    return CellArrays(operations, adjacency, cells.aggregation)
