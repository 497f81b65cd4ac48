"""The WL kernel as a target of the encoder, beside GraKeL, in one run.

`similarity.plain` is the target that GraKeL has as well. Both are timed in processor seconds, all
threads together (GraKeL uses one): ours are so short that another process on the machine would
decide a ratio of elapsed times.
"""

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from row import Row

from gemkit.search import similarity

_SEED = 20
_REPEATS = 5


def _graphs(count: int) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
    """Random graphs of 30 nodes and 3 labels, density uniform in 0.05 to 0.5."""
    rng = np.random.default_rng(_SEED)
    labels = rng.integers(0, 3, size=(count, 30)).astype(np.int8)
    density = rng.uniform(0.05, 0.5, size=(count, 1, 1))
    return labels, np.triu(rng.random((count, 30, 30)) < density, 1)


def _grakel_graphs(labels: NDArray[np.int8], adjacency: NDArray[np.bool_]) -> list[Any]:
    from grakel import Graph

    return [
        Graph(
            {i: {int(j): 1.0 for j in np.flatnonzero(row)} for i, row in enumerate(edges)},
            node_labels={i: int(label) for i, label in enumerate(nodes)},
        )
        for nodes, edges in zip(labels, adjacency, strict=True)
    ]


def _kernel(rounds: int) -> Any:
    from grakel import VertexHistogram, WeisfeilerLehman

    return WeisfeilerLehman(n_iter=rounds, base_graph_kernel=VertexHistogram, normalize=True)


def rows() -> list[Row]:
    try:
        import grakel  # noqa: F401
    except ImportError:
        note = "GraKeL is not installed"
        return [Row("WL similarity, 50,000 pairs", None, None, "CPU s", 100, note=note)]
    return [_pairs()]


def _pairs() -> Row:
    count, pairs, sampled = 10_000, 50_000, 600
    labels, adjacency = _graphs(count)
    first, second = np.random.default_rng(_SEED + 1).integers(0, count, size=(2, pairs))
    taken = slice(0, sampled)
    used = np.unique(np.concatenate([first[taken], second[taken]]))
    ready = dict(zip(used.tolist(), _grakel_graphs(labels[used], adjacency[used]), strict=True))
    ours, theirs = [], []
    for repeat in range(_REPEATS):
        started = time.process_time()
        values = similarity.products(similarity.plain(labels, adjacency, 3), first, second)
        ours.append(time.process_time() - started)
        part = np.arange(sampled)[repeat::_REPEATS]
        chosen = [(ready[first[k]], ready[second[k]]) for k in part.tolist()]
        started = time.process_time()
        reference = [_kernel(3).fit_transform(list(pair))[0, 1] for pair in chosen]
        theirs.append((time.process_time() - started) * pairs / len(part))
        np.testing.assert_allclose(values[part], reference, atol=1e-5)
    return Row(
        "WL similarity, 50,000 pairs of 10,000 graphs, depth 3",
        float(np.min(ours)),
        float(np.min(theirs)),
        "CPU s",
        100,
        note=f"best of {_REPEATS}; GraKeL extrapolated from {sampled} pairs; values equal",
    )
