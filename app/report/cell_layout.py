"""Where the nodes and lines of a cell's picture stand: a layered drawing, computed here.

Layers follow the longest path from the cell input, from left to right. All edges that leave one
node share one line, which branches off at each reader: a cell of thirty nodes and two hundred
edges is then at most thirty lines wide. The order inside the layers is the best of many barycentre
sweeps by crossings (Sugiyama's method), the heights are a least-squares fit that keeps the order.
Lengths are inches.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from gemkit.cell import Cell

_LAYER_GAP = 0.78
_NODE_GAP = 0.50
_LINE_GAP = 0.16
_SWEEPS = 24
RESIDUAL = -1
"""Owner of the line from the cell input past all nodes to the output."""


@dataclass(frozen=True)
class Segment:
    """One stretch of a line between two neighbouring layers.

    Attributes:
        owner: the node whose output the line carries, or RESIDUAL.
        start, end: (x, y) of its ends.
        from_node, to_node: the node at either end, -1 where the line goes on.
    """

    owner: int
    start: tuple[float, float]
    end: tuple[float, float]
    from_node: int
    to_node: int


@dataclass(frozen=True)
class Layout:
    """A placed cell.

    Attributes:
        positions: (nodes + 2, 2) x and y of the cell input, the nodes and last the output.
        segments: all lines.
        width, height: extent of everything.
    """

    positions: NDArray[np.float64]
    segments: tuple[Segment, ...]
    width: float
    height: float


def _layers(cell: Cell) -> list[int]:
    """Layer of the input, every node and the output: the longest path that leads there."""
    layers = [0] * (len(cell.operations) + 1)
    for node, sources in enumerate(cell.predecessors):
        if node:
            layers[node] = 1 + max((layers[source] for source in sources), default=0)
    layers[-1] = 1 + max(layers)
    return layers


class _Graph:
    """The layered graph with a vertex wherever a line passes a layer."""

    def __init__(self, cell: Cell) -> None:
        self.output = len(cell.operations)
        self.layer = _layers(cell)
        self.edges: list[tuple[int, int, int]] = []
        readers = [list(nodes) for nodes in cell.successors]
        for leaf in cell.leaves:
            readers[leaf].append(self.output)
        for owner, nodes in enumerate(readers):
            self._connect(owner, owner, nodes)
        self._connect(RESIDUAL, 0, [self.output])
        self.by_layer: list[list[int]] = [[] for _ in range(self.layer[self.output] + 1)]
        for vertex, layer in enumerate(self.layer):
            self.by_layer[layer].append(vertex)
        self.before: list[list[int]] = [[] for _ in self.layer]
        self.after: list[list[int]] = [[] for _ in self.layer]
        for _, source, target in self.edges:
            self.after[source].append(target)
            self.before[target].append(source)
        self._ends = np.array([(source, target) for _, source, target in self.edges])
        gaps = np.array(self.layer)[self._ends[:, 0]]
        self._beside = gaps[:, None] == gaps[None, :]

    def _connect(self, owner: int, source: int, readers: list[int]) -> None:
        carrier = {self.layer[source]: source}
        last = max((self.layer[node] for node in readers), default=0)
        for layer in range(self.layer[source] + 1, last):
            carrier[layer] = len(self.layer)
            self.layer.append(layer)
            self.edges.append((owner, carrier[layer - 1], carrier[layer]))
        for node in readers:
            self.edges.append((owner, carrier[self.layer[node] - 1], node))

    def is_node(self, vertex: int) -> bool:
        return vertex <= self.output

    def total_crossings(self, place: list[float]) -> int:
        """Crossings among straight lines between neighbouring layers."""
        left, right = np.array(place)[self._ends].T
        crossed = (left[:, None] < left[None, :]) & (right[:, None] > right[None, :])
        return int(np.count_nonzero(crossed & self._beside))


def _order(graph: _Graph) -> list[list[int]]:
    """The order inside every layer with the fewest crossings among barycentre sweeps."""
    order = [list(layer) for layer in graph.by_layer]
    place = [0.0] * len(graph.layer)
    for layer in order:
        for index, vertex in enumerate(layer):
            place[vertex] = float(index)
    best, fewest = [list(layer) for layer in order], graph.total_crossings(place)
    past: list[list[list[int]]] = []
    for sweep in range(_SWEEPS):
        forward = sweep % 2 == 0
        neighbours = graph.before if forward else graph.after
        for layer in order if forward else reversed(order):
            middle = {
                vertex: sum(place[other] for other in neighbours[vertex]) / len(neighbours[vertex])
                if neighbours[vertex]
                else place[vertex]
                for vertex in layer
            }
            layer.sort(key=middle.__getitem__)
            # Halves, so that layers of different sizes meet in the middle.
            for index, vertex in enumerate(layer):
                place[vertex] = index - (len(layer) - 1) / 2
        crossings = graph.total_crossings(place)
        past.append([list(layer) for layer in order])
        if crossings < fewest:
            best, fewest = past[-1], crossings
        if len(past) > 2 and past[-1] == past[-3]:
            break  # from here on the sweeps repeat themselves
    return best


def _heights(graph: _Graph, order: list[list[int]]) -> NDArray[np.float64]:
    """Heights that keep the order and the gaps and make lines as straight as may be."""
    offsets = []
    for layer in order:
        gaps = [
            _NODE_GAP
            if graph.is_node(above) and graph.is_node(below)
            else (
                _NODE_GAP / 2 + 0.08 if graph.is_node(above) or graph.is_node(below) else _LINE_GAP
            )
            for above, below in itertools.pairwise(layer)
        ]
        offsets.append(np.concatenate([[0.0], np.cumsum(gaps)]))
    # A line that passes through should stay level; nodes give way to it.
    size = len(graph.layer)
    pull = np.zeros((size, size))
    for vertex, (before, after) in enumerate(zip(graph.before, graph.after, strict=True)):
        for other in (*before, *after):
            pull[vertex, other] += 1.0 if graph.is_node(other) else 3.0
    pull /= pull.sum(axis=1, keepdims=True)
    pulls = [pull[layer] for layer in order]
    height = np.zeros(size)
    for layer, offset in zip(order, offsets, strict=True):
        height[layer] = offset - offset[-1] / 2
    for sweep in range(40):
        forward = sweep % 2 == 0
        indices = range(len(order)) if forward else range(len(order) - 1, -1, -1)
        for index in indices:
            wanted = pulls[index] @ height - offsets[index]
            height[order[index]] = isotonic_regression(wanted).x + offsets[index]
    return height


def layout(cell: Cell) -> Layout:
    """Lay out a cell; the same cell is always placed the same way."""
    graph = _Graph(cell)
    order = _order(graph)
    height = _heights(graph, order)
    height -= height.min()
    # y grows upwards in figures; the first in the order stands at the top.
    height = height.max() - height
    positions = np.stack([np.array(graph.layer) * _LAYER_GAP, height], axis=1)

    def point(vertex: int) -> tuple[float, float]:
        return float(positions[vertex, 0]), float(positions[vertex, 1])

    segments = tuple(
        Segment(
            owner,
            point(source),
            point(target),
            source if graph.is_node(source) else -1,
            target if graph.is_node(target) else -1,
        )
        for owner, source, target in graph.edges
    )
    return Layout(
        positions[: graph.output + 1],
        segments,
        float(positions[:, 0].max()),
        float(positions[:, 1].max()),
    )
