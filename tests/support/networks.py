"""Random cells, networks and images."""

import networkx as nx
import numpy as np
import torch

from gemkit.architecture import Architecture, Skeleton, skeleton_for
from gemkit.cell import AGGREGATIONS, OPERATIONS, Cell, CellArrays
from gemkit.network import GEMNet, build

DIGITS = skeleton_for((1, 8, 8), 10)


def random_cell(
    rng: np.random.Generator,
    nodes: int | None = None,
    aggregation: str | None = None,
    density: float | None = None,
) -> Cell:
    """A cell whose input reaches all its nodes: 1 to 12 of them, or the number given."""
    nodes = nodes or int(rng.integers(1, 13))
    operations = ("input", *(str(rng.choice(OPERATIONS[1:])) for _ in range(nodes)))
    density = density or rng.uniform(0.1, 0.5)
    edges = [
        (source, target)
        for target in range(1, nodes + 1)
        for source in range(target)
        if rng.random() < density
    ]
    edges += [(0, node) for node in set(range(1, nodes + 1)) - {target for _, target in edges}]
    return Cell(operations, tuple(edges), aggregation or str(rng.choice(AGGREGATIONS)))


def graph_of(cell: Cell) -> nx.DiGraph:
    """A cell as a graph whose nodes have the attribute `operation`."""
    graph = nx.DiGraph(cell.edges)
    graph.add_nodes_from(
        (node, {"operation": operation}) for node, operation in enumerate(cell.operations)
    )
    return graph


def pools(seed: int) -> list[CellArrays]:
    """Forty random cells for each way to join inputs."""
    rng = np.random.default_rng(seed)
    return [
        CellArrays.from_cells([random_cell(rng, aggregation=aggregation) for _ in range(40)])
        for aggregation in ("concat", "sum")
    ]


def random_network(
    rng: np.random.Generator,
    skeleton: Skeleton = DIGITS,
    cells: tuple[Cell, ...] | None = None,
    width: int | None = None,
) -> GEMNet:
    """A network whose batch norms have seen data, so that its outputs are of moderate size."""
    torch.manual_seed(int(rng.integers(2**31)))
    width = width or int(rng.integers(4, 14))
    network = build(Architecture(cells or (random_cell(rng),), skeleton, width))
    with torch.no_grad():
        for _ in range(20):
            network(torch.randn(16, *skeleton.input_shape))
    for name, tensor in network.named_parameters():
        if name.endswith("bias"):  # as training leaves them, not all zero
            torch.nn.init.normal_(tensor, std=0.3)
    return network.eval()


def random_images(rng: np.random.Generator, count: int, skeleton: Skeleton = DIGITS) -> np.ndarray:
    channels, height, width = skeleton.input_shape
    return rng.integers(0, 256, (count, height, width, channels), dtype=np.uint8)
