"""Sampling, mutation and crossover against an independent reading of what they promise."""

from itertools import combinations

import numpy as np
import pytest

from gemkit.cell import Cell, CellArrays
from gemkit.operations import TABLE
from gemkit.search import sampling


def same(first: CellArrays, second: CellArrays) -> bool:
    return np.array_equal(first.operations, second.operations) and np.array_equal(
        first.adjacency, second.adjacency
    )


def check_valid(cells: CellArrays, nodes: int) -> None:
    for index in range(len(cells)):
        cell = cells.cell(index)  # the constructor refuses what is no cell
        assert cell.is_pruned
        assert 1 <= cell.nodes <= nodes
    absent = cells.operations < 0
    assert not (cells.adjacency & absent[:, :, None]).any()
    assert not (cells.adjacency & absent[:, None, :]).any()


def edit_distance(one: Cell, two: Cell) -> int:
    """Fewest edits between two cells whose common nodes keep their order, by trying all ways."""
    best = 10**6
    edges = [set(cell.edges) for cell in (one, two)]
    for common in range(min(one.nodes, two.nodes) + 1):
        for first in combinations(range(1, one.nodes + 1), common):
            for second in combinations(range(1, two.nodes + 1), common):
                a, b = (0, *first), (0, *second)
                cost = one.nodes + two.nodes - 2 * common
                cost += sum(
                    one.operations[i] != two.operations[j] for i, j in zip(a, b, strict=True)
                )
                cost += sum(
                    ((a[i], a[j]) in edges[0]) != ((b[i], b[j]) in edges[1])
                    for i, j in combinations(range(common + 1), 2)
                )
                best = min(best, cost)
    return best


@pytest.mark.parametrize("nodes", [1, 2, 7, 30])
def test_random_cells_are_valid_and_cover_the_range(nodes: int, seed: int) -> None:
    cells = sampling.random_cells(np.random.default_rng(seed), 600, nodes, "sum")
    assert len(cells) == 600
    assert cells.operations.shape == (600, nodes + 1)
    assert cells.aggregation == "sum"
    check_valid(cells, nodes)
    sizes = (cells.operations >= 0).sum(axis=1) - 1
    assert set(sizes) == set(range(1, nodes + 1))
    if nodes == 30:
        large = cells[sizes > 20]
        density = large.adjacency.sum(axis=(1, 2)) / (
            sizes[sizes > 20] * (sizes[sizes > 20] + 1) / 2
        )
        assert density.min() < 0.12
        assert density.max() > 0.8
        share = (large.operations == 2).sum(axis=1) / sizes[sizes > 20]
        assert share.min() < 0.2
        assert share.max() > 0.8


def test_no_cell_of_three_nodes_is_out_of_reach(seed: int) -> None:
    # Each node has any operation and, as predecessors, a non-empty set of the nodes before it.
    every = len(TABLE) ** 3 * 1 * 3 * 7
    cells = sampling.random_cells(np.random.default_rng(seed), 240 * every, 3, smallest=3)
    distinct = {cells.cell(index) for index in range(len(cells))}
    assert len(distinct) == every


def test_everything_is_reproducible(seed: int) -> None:
    def draw(seed: int) -> list[CellArrays]:
        rng = np.random.default_rng(seed)
        cells = sampling.random_cells(rng, 5_000, 12)
        mutants = sampling.mutate(rng, cells, rng.integers(0, 5, size=len(cells)))
        return [cells, mutants, sampling.crossover(rng, cells, mutants)]

    for first, second, other in zip(draw(seed), draw(seed), draw(seed + 1), strict=True):
        assert same(first, second)
        assert not same(first, other)


def test_one_edit_is_one_edit_apart(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cells = sampling.random_cells(rng, 400, 30)
    mutants = sampling.mutate(rng, cells, 1)
    check_valid(mutants, 30)
    seen = set()
    for index in range(len(cells)):
        parent, mutant = cells.cell(index), mutants.cell(index)
        if mutant.nodes == parent.nodes:
            changed = set(parent.edges) ^ set(mutant.edges)
            pairs = zip(parent.operations, mutant.operations, strict=True)
            flips = sum(one != two for one, two in pairs)
            assert len(changed) + flips == 1
            seen.add("flip" if flips else len(mutant.edges) - len(parent.edges))
        else:
            small, large = sorted((parent, mutant), key=lambda cell: cell.nodes)
            assert large.nodes == small.nodes + 1
            assert any(without(large, node) == small for node in range(1, large.nodes + 1))
            seen.add("shrunk" if small is mutant else "grown")
    assert seen == {"flip", 1, -1, "shrunk", "grown"}


def without(cell: Cell, node: int) -> Cell | None:
    rest = [other for other in range(cell.nodes + 1) if other != node]
    edges = [
        (rest.index(source), rest.index(target))
        for source, target in cell.edges
        if node not in (source, target)
    ]
    if not any(source == 0 for source, _ in edges):
        return None
    return Cell(tuple(cell.operations[other] for other in rest), tuple(edges))


def test_edit_distance_is_as_stated(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cells = sampling.random_cells(rng, 120, 5)
    edits = rng.integers(0, 5, size=len(cells))
    mutants = sampling.mutate(rng, cells, edits, nodes=6)
    check_valid(mutants, 6)
    distances = [edit_distance(cells.cell(i), mutants.cell(i)) for i in range(len(cells))]
    # Another order-preserving matching of the nodes may do with fewer edits, none needs more.
    assert (np.array(distances) <= edits).all()
    assert (np.array(distances)[edits <= 1] == edits[edits <= 1]).all()
    assert (np.array(distances) == edits).mean() > 0.5


def test_mutants_stay_within_the_nodes_allowed_and_parents_stay_as_they_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cells = sampling.random_cells(rng, 300, 4)
    before = CellArrays(cells.operations.copy(), cells.adjacency.copy())
    mutants = sampling.mutate(rng, cells, 20, nodes=4)
    check_valid(mutants, 4)
    assert same(cells, before)
    with pytest.raises(ValueError, match="negative"):
        sampling.mutate(rng, cells, -1)


def test_children_take_each_node_from_one_parent(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = sampling.random_cells(rng, 300, 9), sampling.random_cells(rng, 300, 30)
    children = sampling.crossover(rng, first, second)
    check_valid(children, 30)
    mixed = 0
    for index in range(len(children)):
        one, two, child = (cells.cell(index) for cells in (first, second, children))
        assert child.nodes == two.nodes

        def gene(cell: Cell, node: int) -> tuple[str, tuple[int, ...]] | None:
            if node > cell.nodes:
                return None
            return cell.operations[node], cell.predecessors[node]

        genes = [gene(child, node) for node in range(1, child.nodes + 1)]
        assert any(
            genes == [gene(one if node <= cut else two, node) for node in range(1, child.nodes + 1)]
            for cut in range(1, child.nodes + 1)
        )
        mixed += child not in (one, two)
    assert mixed > 100
    with pytest.raises(ValueError, match="crossed"):
        sampling.crossover(rng, first[:1], second)
