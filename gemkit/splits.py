"""Which images are drawn for what: evenly from all classes, and always the same ones."""

import math

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]

SPLIT_SEED = 0
_TEST_SHARE = 0.2


def stratified(
    labels: Labels, count: int, rng: np.random.Generator, kept: int = 1, least: int = 0
) -> NDArray[np.intp]:
    """Ascending places of `count` labels, drawn from every class in proportion to its size.

    Args:
        kept: members that every class keeps at least, though fewer than `count` are drawn then.
        least: members drawn from every class that has so many, at the cost of the largest ones.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    exact = sizes * (count / len(labels))
    quota = np.floor(exact).astype(np.int64)
    for place in np.argsort(quota - exact, kind="stable")[: count - quota.sum()]:
        quota[place] += 1
    quota = np.minimum(quota, np.maximum(sizes - kept, 0))
    few = np.minimum(least, np.maximum(sizes - kept, 0))
    for place in np.flatnonzero(quota < few):
        while quota[place] < few[place]:
            richest = int(np.argmax(quota - few))
            if quota[richest] <= few[richest]:
                break
            quota[richest] -= 1
            quota[place] += 1
    chosen = [
        rng.permutation(np.flatnonzero(labels == label))[:share]
        for label, share in zip(classes, quota, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def test_part(labels: Labels) -> NDArray[np.bool_]:
    """Which images a fixed stratified split keeps for the test (one in five)."""
    rng = np.random.default_rng(SPLIT_SEED)
    test = np.zeros(len(labels), dtype=bool)
    test[stratified(labels, math.ceil(len(labels) * _TEST_SHARE), rng)] = True
    return test
