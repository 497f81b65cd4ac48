"""Accuracy of cells from their embedding and their structure, with uncertainty.

A Gaussian process (`gemkit.regression`) over groups of features. Three things are learned besides
its scales, all by the evidence of what was measured: the scale on which accuracies look normal
(`Warp`), what operations do to the signal (`features.Roles`), and which cells fail at all
(failures never count as accuracy 0). Source: the paper for predicting from the embedding, the
rest ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gemkit import regression
from gemkit.regression import GaussianProcess

from .features import (
    PATHS_UP_TO,
    Occurrences,
    Roles,
    counts,
    live_nodes,
    paths,
    shape,
    spell,
    walks,
)
from .strategies import (
    Candidates,
    Embedding,
    Fitted,
    FloatArray,
    Graphs,
    IntArray,
    Prediction,
    Predictor,
)

GROUPS = ("counts", "shape", "paths", "bags", "walks", "embedding", "flat")
"""Groups of features: live nodes per label; size and depth; label sequences of paths, with and
without their order (small graphs only); short walks (large graphs only); the encoder's vector;
adjacency and labels as they stand."""

ROLE_GAIN = 2.0
"""Evidence (nats) that a hypothesis about an operation's role must bring."""


@dataclass(frozen=True)
class Raw:
    """Descriptions of graphs under one hypothesis, before a vocabulary is chosen."""

    dense: Mapping[str, FloatArray]
    paths: Occurrences | None


def describe(graphs: Graphs, roles: Roles, labels: int, groups: tuple[str, ...]) -> Raw:
    """Everything the groups need from graphs alone (all groups but "embedding")."""
    live = live_nodes(graphs, roles)
    small = graphs.labels.shape[1] <= PATHS_UP_TO
    dense: dict[str, FloatArray] = {}
    if "counts" in groups:
        dense["counts"] = counts(graphs, live, labels)
    if "shape" in groups:
        dense["shape"] = shape(graphs, live)
    if "walks" in groups and not small:
        dense["walks"] = walks(graphs, live, labels)
    if "flat" in groups:
        upper = np.triu_indices(graphs.labels.shape[1], 1)
        one_hot = (graphs.labels[:, :, None] == np.arange(labels)).reshape(len(graphs), -1)
        dense["flat"] = np.concatenate([graphs.adjacency[:, upper[0], upper[1]], one_hot], axis=1)
    found = None
    if small and {"paths", "bags"} & set(groups):
        found = paths(graphs, live, roles, labels)
    return Raw(dense, found)


Describe = Callable[[Candidates, Roles, int, tuple[str, ...]], Raw]
"""`describe` for candidates; a table replaces it by a look-up."""


def describe_candidates(
    candidates: Candidates, roles: Roles, labels: int, groups: tuple[str, ...]
) -> Raw:
    return describe(candidates.graphs, roles, labels, groups)
