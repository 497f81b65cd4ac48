"""Random architectures for the tests of networks and costs."""

from collections.abc import Callable

import numpy as np
import pytest

from gemkit.architecture import Architecture, Skeleton, Stage, skeleton_for
from gemkit.cell import Cell

PRESETS = ((1, 8, 8), (3, 12, 12), (3, 32, 32), (2, 29, 41), (3, 96, 97), (3, 224, 224))


def random_cell(rng: np.random.Generator, nodes: int, aggregation: str) -> Cell:
    """A cell of any density, now and then with nodes that the input does not reach."""
    density = rng.random()
    edges = [
        (source, target)
        for target in range(1, nodes + 1)
        for source in range(target)
        if rng.random() < density
    ]
    operations = ("input", *rng.choice(["conv1x1", "sep3x3"], nodes).tolist())
    if not any(source == 0 for source, _ in edges):
        edges.append((0, int(rng.integers(1, nodes + 1))))
    return Cell(operations, tuple(edges), aggregation)


def random_skeleton(rng: np.random.Generator) -> Skeleton:
    """A preset as often as a skeleton of any stem, widths, repeats and shortcut."""
    classes = int(rng.integers(2, 30))
    if rng.random() < 0.5:
        return skeleton_for(PRESETS[rng.integers(len(PRESETS))], classes)
    factors = rng.choice([0.75, 1, 1, 1.5, 2, 3, 5], size=7).tolist()
    stages = [Stage(factors.pop(), int(rng.integers(1, 4))) for _ in range(rng.integers(1, 5))]
    shape = (int(rng.integers(1, 5)), *rng.integers(32, 60, size=2).tolist())
    return Skeleton(
        shape,
        classes,
        tuple(rng.integers(1, 3, size=2).tolist()),
        tuple(stages),
        tuple(factors[:2]),
        str(rng.choice(["projection", "identity"])),
        bool(rng.random() < 0.5),
    )


def random_architecture(rng: np.random.Generator, nodes: int | None = None) -> Architecture:
    """One cell or one per stage, of 1 to 30 nodes (or `nodes`) and either aggregation."""
    skeleton = random_skeleton(rng)
    count = len(skeleton.stages) if rng.random() < 0.3 else 1
    cells = [
        random_cell(rng, nodes or int(rng.integers(1, 31)), str(rng.choice(["concat", "sum"])))
        for _ in range(count)
    ]
    return Architecture(tuple(cells), skeleton, int(rng.integers(4, 20)))


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def draw_cell(rng: np.random.Generator) -> Callable[[int, str], Cell]:
    return lambda nodes, aggregation: random_cell(rng, nodes, aggregation)


@pytest.fixture
def draw_architecture(rng: np.random.Generator) -> Callable[..., Architecture]:
    return lambda nodes=None: random_architecture(rng, nodes)
