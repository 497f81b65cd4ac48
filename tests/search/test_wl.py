"""WL features against GraKeL and against a plain reading of the definition."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gemkit.search import similarity, wl

Graphs = tuple[NDArray[np.int8], NDArray[np.bool_]]


@st.composite
def graph_batches(draw: st.DrawFn) -> Graphs:
    """Two to twelve directed graphs of 1 to 9 nodes; cycles allowed, absent places last."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, places = draw(st.integers(2, 12)), draw(st.integers(1, 9))
    labels = rng.integers(0, draw(st.integers(1, 4)), size=(count, places)).astype(np.int8)
    adjacency = rng.random((count, places, places)) < draw(st.floats(0, 0.6))
    adjacency &= ~np.eye(places, dtype=bool)
    if draw(st.booleans()):
        adjacency = np.triu(adjacency)
    sizes = rng.integers(1, places + 1, size=count)
    absent = np.arange(places) >= sizes[:, None]
    labels[absent] = -1
    adjacency &= ~absent[:, :, None] & ~absent[:, None, :]
    return labels, adjacency


def random_graphs(seed: int, count: int, places: int = 30) -> Graphs:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, size=(count, places)).astype(np.int8)
    density = rng.uniform(0.05, 0.5, size=(count, 1, 1))
    return labels, np.triu(rng.random((count, places, places)) < density, 1)


def grakel_gram(graphs: Graphs, rounds: int, normalise: bool = False) -> NDArray[Any]:
    grakel = pytest.importorskip("grakel", reason="GraKeL is not installed")
    ready = []
    for labels, adjacency in zip(*graphs, strict=True):
        present = np.flatnonzero(labels >= 0).tolist()
        edges = {node: {int(to): 1.0 for to in np.flatnonzero(adjacency[node])} for node in present}
        ready.append(grakel.Graph(edges, node_labels={node: int(labels[node]) for node in present}))
    if rounds == 0:
        kernel = grakel.VertexHistogram(normalize=normalise)
    else:
        kernel = grakel.WeisfeilerLehman(
            n_iter=rounds, base_graph_kernel=grakel.VertexHistogram, normalize=normalise
        )
    return np.asarray(kernel.fit_transform(ready))


def gram(graphs: Graphs, rounds: int) -> NDArray[Any]:
    """The plain subtree kernel of all pairs, from our counts."""
    counted = [wl.count(labels) for labels in wl.refine(*graphs, rounds)]
    found = sum((counts @ counts.T).toarray().astype(float) for counts, _ in counted)
    np.fill_diagonal(found, sum(own for _, own in counted))
    return np.asarray(found)


@settings(max_examples=60, deadline=None)
@given(graphs=graph_batches(), rounds=st.integers(0, 5))
def test_kernel_values_equal_grakel(graphs: Graphs, rounds: int) -> None:
    np.testing.assert_allclose(gram(graphs, rounds), grakel_gram(graphs, rounds), atol=1e-6)


@pytest.mark.parametrize("rounds", range(6))
def test_thirty_node_graphs_equal_grakel(rounds: int, seed: int) -> None:
    graphs = random_graphs(seed, 40)
    np.testing.assert_allclose(gram(graphs, rounds), grakel_gram(graphs, rounds), atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(graphs=graph_batches())
def test_the_plain_similarity_is_the_normalised_kernel(graphs: Graphs) -> None:
    vectors = similarity.plain(*graphs, 4)
    expected = grakel_gram(graphs, 3, normalise=True)
    np.testing.assert_allclose((vectors @ vectors.T).toarray(), expected, atol=1e-5)
    first, second = np.indices(expected.shape).reshape(2, -1)
    pairs = similarity.products(vectors, first, second)
    np.testing.assert_allclose(pairs.reshape(expected.shape), expected, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(graphs=graph_batches(), rounds=st.integers(0, 4))
def test_labels_follow_the_definition(graphs: Graphs, rounds: int) -> None:
    labels, adjacency = graphs
    meanings: dict[tuple[int, int], Any] = {
        (graph, node): int(labels[graph, node]) for graph, node in np.argwhere(labels >= 0).tolist()
    }
    for refined in wl.refine(labels, adjacency, rounds):
        assert (refined[labels < 0] == -1).all()
        pairs = {(int(refined[place]), meaning) for place, meaning in meanings.items()}
        assert len(pairs) == len({number for number, _ in pairs})
        assert len(pairs) == len({meaning for _, meaning in pairs})

        def around(graph: int, node: int, meanings: dict[tuple[int, int], Any] = meanings) -> Any:
            others = np.flatnonzero(adjacency[graph, node]).tolist()
            return tuple(sorted((meanings[graph, other] for other in others), key=repr))

        meanings = {(g, v): (meaning, around(g, v)) for (g, v), meaning in meanings.items()}


def test_many_neighbours_of_one_label_are_no_other_label() -> None:
    # Of two nodes 0 and 1 alike, one has n neighbours labelled 0, the other one labelled 1.
    for neighbours in range(1, 25):
        labels = np.array([[0, 0, 1, *[0] * neighbours]], dtype=np.int8)
        adjacency = np.zeros((1, labels.size, labels.size), bool)
        adjacency[0, 0, 3:] = adjacency[0, 1, 2] = True
        refined = wl.refine(labels, adjacency, 1)[1][0]
        assert refined[0] != refined[1]
        assert len(np.unique(refined)) == 4


def test_only_labels_of_two_graphs_and_more_are_counted(seed: int) -> None:
    for labels in wl.refine(*random_graphs(seed, 30, 8), 3):
        counts, own = wl.count(labels)
        times = np.stack([(labels == label).sum(axis=1) for label in range(labels.max() + 1)])
        shared = times[(times > 0).sum(axis=1) >= 2]
        assert sorted(counts.toarray().T.tolist()) == sorted(shared.tolist())
        assert np.array_equal(own, (times**2).sum(axis=0))


def test_no_graph_gives_no_labels() -> None:
    (labels,) = wl.refine(np.empty((0, 4), np.int8), np.empty((0, 4, 4), bool), 0)
    counts, own = wl.count(labels)
    assert counts.shape == (0, 0)
    assert own.shape == (0,)
