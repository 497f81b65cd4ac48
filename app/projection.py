"""A map of an embedding: its vectors in a plane."""

import numpy as np
from numpy.typing import NDArray


def project(vectors: NDArray[np.floating]) -> tuple[NDArray[np.float64], float]:
    """The first two principal components (n, 2), signs fixed, and their share of the variance."""
    values = np.asarray(vectors, dtype=float)
    values = values - values.mean(axis=0)
    sizes, axes = np.linalg.eigh(values.T @ values)
    first = axes[:, [-1, -2]].T
    first *= np.sign(first[np.arange(2), np.abs(first).argmax(axis=1)])[:, None]
    total = float(sizes.sum())
    return values @ first.T, float(sizes[-2:].sum()) / total if total > 0 else 1.0
