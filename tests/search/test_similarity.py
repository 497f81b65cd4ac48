"""The forms of similarity: what each must be, against direct readings of their definitions."""

import numpy as np
import pytest

from gemkit.cell import CellArrays
from gemkit.search import sampling, similarity


def all_products(form: str, cells: CellArrays) -> np.ndarray:
    vectors = similarity.SIMILARITIES[form](cells.operations, cells.adjacency, 3)
    first, second = np.indices((len(cells), len(cells))).reshape(2, -1)
    return similarity.products(vectors, first, second).reshape(len(cells), -1)


def renumbered(rng: np.random.Generator, cells: CellArrays) -> CellArrays:
    """Graphs with their nodes in another order (edges may go backwards)."""
    keys = np.where(cells.operations >= 0, rng.random(cells.operations.shape), 2.0)
    order = np.argsort(keys, axis=1)
    rows = np.arange(len(cells))[:, None, None]
    return CellArrays(
        np.take_along_axis(cells.operations, order, axis=1),
        cells.adjacency[rows, order[:, :, None], order[:, None, :]],
    )


@pytest.mark.parametrize("form", similarity.SIMILARITIES)
def test_a_form_is_a_similarity_of_unordered_graphs(form: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cells = sampling.random_cells(rng, 40)
    both = CellArrays.concatenate([cells, renumbered(rng, cells)])
    values = all_products(form, both)
    np.testing.assert_allclose(values, values.T, atol=1e-5)
    np.testing.assert_allclose(np.diag(values), 1, atol=1e-5)
    np.testing.assert_allclose(np.diag(values[:40, 40:]), 1, atol=1e-4)
    assert values.max() < 1 + 1e-5
    assert np.linalg.eigvalsh(values.astype(float)).min() > -1e-3


@pytest.mark.parametrize("form", similarity.SIMILARITIES)
def test_more_edits_make_less_similar(form: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cells = sampling.random_cells(rng, 150, smallest=10)
    mutants = [sampling.mutate(rng, cells, edits) for edits in (1, 4, 16)]
    everything = CellArrays.concatenate([cells, *mutants])
    vectors = similarity.SIMILARITIES[form](everything.operations, everything.adjacency, 3)
    means = [
        similarity.products(vectors, np.arange(150), np.arange(150) + 150 * part).mean()
        for part in range(4)
    ]
    assert means == sorted(means, reverse=True)


def test_the_continuous_form_approaches_its_kernel(seed: int) -> None:
    cells = sampling.random_cells(np.random.default_rng(seed), 12, 10)
    vectors = similarity.continuous(cells.operations, cells.adjacency, 3, ((1, 0.7),), 20_000)
    nodes = []
    for index in range(len(cells)):
        cell = cells.cell(index)
        own = np.eye(3)[cells.operations[index, : cell.nodes + 1]]
        sides = [
            np.array([own[list(side)].sum(axis=0) / np.sqrt(1 + len(side)) for side in sides])
            for sides in (cell.successors, cell.predecessors)
        ]
        nodes.append(np.concatenate([own, *sides], axis=1))

    def kernel(one: np.ndarray, two: np.ndarray) -> float:
        distances = ((one[:, None] - two) ** 2).sum(axis=2) / (2 * 0.7**2)
        return float((1 / (1 + distances)).mean())

    exact = np.array([[kernel(one, two) for two in nodes] for one in nodes])
    own = np.sqrt(np.diag(exact))
    np.testing.assert_allclose(vectors @ vectors.T, exact / own / own[:, None], atol=0.04)


def test_the_continuous_form_sees_topology_where_counts_are_equal(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cells = sampling.random_cells(rng, 150, smallest=15)
    everything = CellArrays.concatenate([cells, sampling.reshuffled(rng, cells)])
    spread = {}
    for form in ("continuous", "plain"):
        vectors = similarity.SIMILARITIES[form](everything.operations, everything.adjacency, 3)
        values = similarity.products(vectors, np.arange(150), np.arange(150) + 150)
        spread[form] = values.std()
    assert spread["continuous"] > spread["plain"]
