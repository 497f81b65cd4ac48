"""How similar two labelled graphs are: the target that the graph encoder learns.

Each form is a map from graphs to feature vectors of length 1; the similarity of two graphs is the
product of their vectors, 0 to 1. All of them come from Weisfeiler-Lehman refinement (the paper's
guide for its encoder); which form is the default, and that the plain kernel is not, is ours and
measured: `docs/embedding.md`, rebuilt by

    python experiments/embedding.py
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import diags, hstack

from . import wl

Similarity = Callable[[NDArray[np.int8], NDArray[np.bool_], int], Any]
"""(labels (n, m), adjacency (n, m, m), number of kinds of labels) -> unit rows (n, d), dense or
sparse. Vectors of one call can be multiplied with each other; those of the continuous form also
with those of another call."""

_CHUNK = 512


def plain(labels: NDArray[Any], adjacency: NDArray[np.bool_], kinds: int) -> Any:
    """The normalised WL subtree kernel of depth 3 along the edges (Shervashidze et al. 2011).

    What labels that no other graph has add to a graph's length stands in a column of its own.
    """
    parts, square, shared = [], np.zeros(len(labels)), np.zeros(len(labels))
    for refined in wl.refine(labels, adjacency, 3):
        counts, own = wl.count(refined)
        square += own
        shared += np.asarray(counts.multiply(counts).sum(axis=1)).ravel()
        parts.append(counts)
    rest = diags(np.sqrt(np.maximum(square - shared, 0)), dtype=np.float32)
    vectors = hstack([*parts, rest], format="csr")
    vectors.data /= np.repeat(np.sqrt(square), np.diff(vectors.indptr)).astype(np.float32)
    vectors.sort_indices()  # products of rows are several times faster so
    return vectors


def continuous(
    labels: NDArray[Any],
    adjacency: NDArray[np.bool_],
    kinds: int,
    widths: Sequence[tuple[int, float]] = ((1, 0.5), (2, 0.7)),
    frequencies: int = 512,
) -> NDArray[np.float32]:
    """Continuous WL: nodes are compared by a smooth kernel instead of by equal labels.

    A node's vector after t rounds is its label (one-hot) beside the sums of its successors' and of
    its predecessors' vectors after t - 1 rounds, each divided by the root of one more than their
    number. Two nodes at distance d are similar as 1 / (1 + d^2 / (2 width^2)) (the Cauchy kernel:
    steep near 0, so that small differences of topology count, and with a long tail, so that very
    different graphs still differ, where a Gaussian is 0 for half of all pairs). Two graphs
    are as similar as the mean over all pairs of nodes, normalised.

    Ours, after Togninalli et al. 2019 (continuous WL) and Rahimi and Recht 2007: random
    frequencies make the kernel a product of vectors. They are drawn from a fixed seed and are part
    of the definition.

    Args:
        kinds: number of labels of the vocabulary, whether they occur or not.
        widths: (rounds, width of the kernel); their similarities are averaged.
        frequencies: for each entry of `widths`; each gives two components of the result.

    Returns:
        (n, 2 * frequencies * len(widths)) float32, rows of length 1.
    """
    deepest = max(rounds for rounds, _ in widths)
    drawn = []
    for rounds, width in widths:
        rng = np.random.default_rng([rounds, kinds])
        projection = rng.normal(size=(kinds * (2 ** (rounds + 1) - 1), frequencies)) / width
        # A Cauchy kernel is a mixture of Gaussians with exponential precisions.
        projection *= np.sqrt(rng.exponential(size=frequencies))
        drawn.append(projection.astype(np.float32))
    found = np.empty((len(labels), len(widths), 2 * frequencies), dtype=np.float32)
    for start in range(0, len(labels), _CHUNK):
        part = slice(start, start + _CHUNK)
        nodes = _node_vectors(labels[part], adjacency[part], kinds, deepest)
        present = labels[part] >= 0
        begins = np.cumsum(np.append(0, present.sum(axis=1)[:-1]))
        for index, ((rounds, _), frequency) in enumerate(zip(widths, drawn, strict=True)):
            phases = nodes[rounds][present] @ frequency
            waves = np.concatenate([np.cos(phases), np.sin(phases)], axis=1)
            found[part, index] = np.add.reduceat(waves, begins, axis=0)
    found /= np.linalg.norm(found, axis=2, keepdims=True) * np.float32(np.sqrt(len(widths)))
    return found.reshape(len(labels), -1)


SIMILARITIES: Mapping[str, Similarity] = {"continuous": continuous, "plain": plain}
"""All forms by name, the default first."""
DEFAULT = "continuous"


def products(vectors: Any, first: NDArray[np.integer], second: NDArray[np.integer]) -> Any:
    """Similarities (k,) of the pairs (first[k], second[k]) of rows."""
    if isinstance(vectors, np.ndarray):
        return np.einsum("kd,kd->k", vectors[first], vectors[second])
    return np.asarray(vectors[first].multiply(vectors[second]).sum(axis=1)).ravel()


def _node_vectors(
    labels: NDArray[Any], adjacency: NDArray[np.bool_], kinds: int, rounds: int
) -> list[NDArray[np.float32]]:
    """Continuous WL vectors of all nodes after 0 to `rounds` rounds, (n, m, d) each."""
    own = (labels[:, :, None] == np.arange(kinds)).astype(np.float32)
    forward = adjacency.astype(np.float32)
    backward = forward.transpose(0, 2, 1)
    sides = [(side, np.sqrt(1 + side.sum(axis=2, keepdims=True))) for side in (forward, backward)]
    found = [own]
    for _ in range(rounds):
        sums = [np.matmul(side, found[-1]) / scale for side, scale in sides]
        found.append(np.concatenate([own, *sums], axis=2))
    return found
