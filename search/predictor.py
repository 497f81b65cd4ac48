"""Accuracy of cells from their embedding and their structure, with uncertainty.

A Gaussian process (`gemkit.regression`) over groups of features. Three things are learned besides
its scales, all by the evidence of what was measured: the scale on which accuracies look normal
(`Warp`), what operations do to the signal (`features.Roles`), and which cells fail at all
(failures never count as accuracy 0). Source: the paper for predicting from the embedding, the
rest ours.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemkit import regression
from gemkit.regression import GaussianProcess

from .features import (
    PATHS_UP_TO,
    Occurrences,
    Roles,
    bags,
    counts,
    live_nodes,
    paths,
    positions,
    reduced,
    refinements,
    shape,
    spell,
    used_nodes,
    walks,
)
from .interfaces import Candidates, Embedding, FloatArray, Graphs, IntArray, Prediction

STRUCTURE = ("counts", "paths", "bags", "walks")
CONTEXT = "context"
GROUPS = (*STRUCTURE, "shape", "embedding", "flat", "wl", "used", "positions", CONTEXT)
"""Groups of features: live nodes per label; label sequences of paths, with and without their order
(small graphs only); short walks (large graphs only); size and depth; the encoder's vector;
adjacency and labels as they stand; Weisfeiler-Lehman features; used nodes per label, and which
label stands where (both for costs, to which reached or not is all the same); the candidates'
`context`, wherever they have one."""


@dataclass(frozen=True)
class Raw:
    """Descriptions of n graphs under one hypothesis about roles: tables with a row a graph, and
    counts, of which the measured cells decide which become columns."""

    dense: Mapping[str, NDArray[Any]]
    sparse: Mapping[str, Occurrences]

    def take(self, rows: IntArray) -> Raw:
        return Raw(
            {name: table[rows] for name, table in self.dense.items()},
            {name: found.take(rows) for name, found in self.sparse.items()},
        )

    @staticmethod
    def concatenate(parts: Sequence[Raw]) -> Raw:
        return Raw(
            {name: np.concatenate([part.dense[name] for part in parts]) for name in parts[0].dense},
            {
                name: Occurrences.concatenate([part.sparse[name] for part in parts])
                for name in parts[0].sparse
            },
        )


Memo = Callable[[Candidates, Hashable, Callable[[Graphs], Raw]], Raw]
"""(cells, what is computed, how) -> descriptions of the cells. A table computes them for all its
rows once and looks them up; a space too large for that computes them each time (`compute`)."""


def compute(candidates: Candidates, key: Hashable, how: Callable[[Graphs], Raw]) -> Raw:
    """The memo that remembers nothing."""
    return how(candidates.graphs)


def describe(
    graphs: Graphs,
    roles: Roles,
    labels: int,
    groups: tuple[str, ...],
    embedding: Embedding | None = None,
) -> Raw:
    """All that the groups need, from graphs with labels below `labels`."""
    live = live_nodes(graphs, roles)
    small = graphs.labels.shape[1] <= PATHS_UP_TO
    dense: dict[str, NDArray[Any]] = {}
    if "counts" in groups:
        dense["counts"] = counts(graphs, live, labels)
    if "shape" in groups:
        dense["shape"] = shape(graphs, live)
    if {"used", "positions"} & set(groups):
        used = used_nodes(graphs, roles)
        if "used" in groups:
            dense["used"] = counts(graphs, used, labels)
        if "positions" in groups:
            dense["positions"] = positions(graphs, used, labels)
    if "walks" in groups and not small:
        dense["walks"] = walks(graphs, live, labels)
    if "flat" in groups:
        upper = np.triu_indices(graphs.labels.shape[1], 1)
        one_hot = (graphs.labels[:, :, None] == np.arange(labels)).reshape(len(graphs), -1)
        dense["flat"] = np.concatenate([graphs.adjacency[:, upper[0], upper[1]], one_hot], axis=1)
    if "embedding" in groups and embedding is not None:
        dense["embedding"] = _embedded(reduced(graphs, roles), embedding)
    sparse: dict[str, Occurrences] = {}
    if "wl" in groups:
        sparse["wl"] = refinements(graphs, live)
    if small and {"paths", "bags"} & set(groups):
        found = paths(graphs, live, roles)
        if "paths" in groups:
            sparse["paths"] = found
        if "bags" in groups:
            sparse["bags"] = bags(found)
    return Raw(dense, sparse)


def _embedded(graphs: Graphs, embedding: Embedding) -> NDArray[Any]:
    """Vectors of graphs; zeros for those of which no node is left."""
    there = (graphs.labels >= 0).any(axis=1)
    if there.all():
        return embedding(graphs)
    found = embedding(graphs[there])
    vectors = np.zeros((len(graphs), found.shape[1]), dtype=found.dtype)
    vectors[there] = found
    return vectors


@dataclass(frozen=True)
class _Vocabulary:
    """Which of the counted things are columns: those that occur in measured cells."""

    codes: Mapping[str, IntArray]
    labels: int

    @staticmethod
    def of(raw: Raw, labels: int) -> _Vocabulary:
        return _Vocabulary({n: np.unique(found.codes) for n, found in raw.sparse.items()}, labels)

    def features(self, raw: Raw) -> dict[str, NDArray[Any]]:
        counted = {name: raw.sparse[name].dense(codes) for name, codes in self.codes.items()}
        return {**raw.dense, **counted}

    def traits(self) -> dict[str, FloatArray]:
        """What the weight of a column may depend on: its label; a path's labels and length."""
        traits = {"counts": np.eye(self.labels), "used": np.eye(self.labels)}
        if "paths" in self.codes:
            table = spell(self.codes["paths"], self.labels)
            lengths = np.minimum(table.sum(axis=1), _LENGTHS - 1)
            traits["paths"] = np.concatenate(
                [table, lengths[:, None] == np.arange(_LENGTHS)], axis=1
            )
        return traits


_LENGTHS = 6
_COLUMNS = {name: "common" for name in GROUPS if name not in ("shape", CONTEXT)}


@dataclass(frozen=True)
class FittedPredictor:
    """A predictor after fitting; see `GraphPredictor`."""

    settings: GraphPredictor
    process: GaussianProcess
    roles: Roles
    vocabulary: _Vocabulary
    survival: GaussianProcess | None

    def predict(self, candidates: Candidates) -> Prediction:
        features = self._features(candidates)
        latent, latent_std = self.process.latent(features)
        noise = self.process.noise * self.process.target_scale**2
        spread = np.sqrt(latent_std**2 + noise) * _caution(len(self.process.weights))
        mean, std = self.process.in_units(latent, spread)
        feasible = np.ones(len(candidates))
        if self.survival is not None:
            feasible = np.clip(self.survival.predict(features)[0], 0.01, 1.0)
        return Prediction(mean, std, latent, latent_std, feasible, spread, self.process.warp)

    def covariance(self, candidates: Candidates) -> FloatArray:
        return self.process.covariance(self._features(candidates))

    def _features(self, candidates: Candidates) -> dict[str, NDArray[Any]]:
        raw = self.settings.raw(candidates, self.roles, self.vocabulary.labels, remember=True)
        return self.vocabulary.features(raw)


@dataclass(frozen=True)
class GraphPredictor:
    """A Gaussian process on groups of features of graphs; a `Predictor`.

    Roles and the scales to start from are learned anew at certain numbers of trials only
    (`_stage`), and from those first trials alone, so that a resumed search finds the same ones.

    Attributes:
        groups: see GROUPS; those that do not apply to a graph's size are left out.
        embedding: needed by the group "embedding".
        memo: see `Memo`.
        roles: whether to learn operations' roles.
        linear, warp: see `gemkit.regression.fit`.
        role_gain: evidence (nats) that a hypothesis about an operation must bring.
    """

    groups: tuple[str, ...] = (*STRUCTURE, "embedding")
    embedding: Embedding | None = None
    memo: Memo = compute
    roles: bool = True
    linear: tuple[str, ...] = ()
    warp: str | tuple[str, float] = ("left", 0.3)
    role_gain: float = 2.0
    iterations: int = 60
    learned: dict[bytes, Any] = field(default_factory=dict, compare=False, repr=False)

    def __call__(self, candidates: Candidates, values: FloatArray) -> FittedPredictor:
        """Fit to measured values (n,), nan where a trial failed. At least two must be finite."""
        values = np.asarray(values, dtype=float)
        done = np.flatnonzero(np.isfinite(values))
        if len(done) < 2:
            raise ValueError("a predictor needs at least two successful trials")
        labels = int(candidates.graphs.labels.max()) + 1
        staged = _stage(len(done))
        early = done[:staged]
        roles, start = self._learned(candidates[early], values[early], labels)
        process, vocabulary = self._fit(
            candidates[done],
            values[done],
            labels,
            roles,
            start,
            self.iterations // 4 if staged < len(done) or start is not None else self.iterations,
        )
        survival = None
        if len(done) < len(values):
            raw = self.raw(candidates, roles, labels)
            survival = regression.fit(
                vocabulary.features(raw),
                np.isfinite(values).astype(float),
                columns=_COLUMNS,
                traits=vocabulary.traits(),
            )
        return FittedPredictor(self, process, roles, vocabulary, survival)

    def raw(self, candidates: Candidates, roles: Roles, labels: int, remember: bool = False) -> Raw:
        def how(graphs: Graphs) -> Raw:
            return describe(graphs, roles, labels, self.groups, self.embedding)

        key = (roles, labels, self.groups)
        raw = (self.memo if remember else compute)(candidates, key, how)
        if candidates.context is None:
            return raw
        return Raw({**raw.dense, CONTEXT: candidates.context}, raw.sparse)

    def _fit(
        self,
        candidates: Candidates,
        values: FloatArray,
        labels: int,
        roles: Roles,
        start: FloatArray | None,
        iterations: int,
    ) -> tuple[GaussianProcess, _Vocabulary]:
        raw = self.raw(candidates, roles, labels)
        vocabulary = _Vocabulary.of(raw, labels)
        process = regression.fit(
            vocabulary.features(raw),
            values,
            columns=_COLUMNS,
            traits=vocabulary.traits(),
            linear=self.linear,
            warp=self.warp,
            start=start,
            iterations=iterations,
        )
        return process, vocabulary

    def _learned(
        self, candidates: Candidates, values: FloatArray, labels: int
    ) -> tuple[Roles, FloatArray]:
        """Roles and scales for these trials, remembered."""
        key = np.ascontiguousarray(candidates.keys).tobytes() + values.tobytes()
        if key not in self.learned:
            if len(self.learned) > 8:
                self.learned.clear()
            self.learned[key] = self._learn(candidates, values, labels)
        found: tuple[Roles, FloatArray] = self.learned[key]
        return found

    def _learn(
        self, candidates: Candidates, values: FloatArray, labels: int
    ) -> tuple[Roles, FloatArray]:
        def fitted(roles: Roles, start: FloatArray | None, iterations: int) -> GaussianProcess:
            return self._fit(candidates, values, labels, roles, start, iterations)[0]

        roles = Roles()
        best = fitted(roles, None, self.iterations)
        while self.roles:
            trials = [
                (fitted(other, best.parameters, self.iterations // 4), other)
                for other in _neighbours(roles, candidates.graphs)
            ]
            if not trials:
                break
            process, other = max(trials, key=lambda pair: pair[0].evidence)
            if process.evidence < best.evidence + self.role_gain:
                break
            roles, best = other, fitted(other, process.parameters, self.iterations // 2)
        return roles, best.parameters


def _caution(measured: int) -> float:
    """How much wider an interval is than the process says, which takes its scales as known: the
    ratio of Student's t with a tenth of the measurements as degrees of freedom to the normal, at
    90 %. Chosen on ep12_cifar10_val; the search itself uses the narrower deviation."""
    from scipy.special import stdtrit

    return float(stdtrit(max(2.0, measured / 10), 0.95)) / 1.6448536


def _stage(done: int) -> int:
    """How many of the first trials roles and starting scales are learned from."""
    step = 10 if done < 50 else 25 if done < 150 else 50
    return done - done % step if done >= step else done


def _neighbours(roles: Roles, graphs: Graphs) -> list[Roles]:
    """Hypotheses that say otherwise about one label. The first node's label has no other role,
    nor has a label that only stands at the end."""
    labels = graphs.labels
    inner = (labels >= 0) & graphs.adjacency.any(axis=2)
    inner[:, 0] = False
    found = []
    for label in sorted(set(labels[inner].tolist()) - set(labels[:, 0].tolist())):
        for dead, wire in ((False, False), (True, False), (False, True)):
            other = Roles(
                roles.dead - {label} | ({label} if dead else set()),
                roles.wires - {label} | ({label} if wire else set()),
            )
            if other != roles:
                found.append(other)
    return found


def nasgem_predictor(
    embedding: Embedding | None, memo: Memo = compute, roles: bool = True
) -> GraphPredictor:
    """NASGEM's predictor: structure and embedding, or structure alone without an embedding."""
    groups = (*STRUCTURE, "embedding") if embedding is not None else STRUCTURE
    return GraphPredictor(groups, embedding, memo, roles)


def embedding_predictor(embedding: Embedding, memo: Memo = compute) -> GraphPredictor:
    """The embedding alone, for other strategies `+embedding`."""
    return GraphPredictor(("embedding",), embedding, memo, roles=False)


def flat_predictor(memo: Memo = compute) -> GraphPredictor:
    """Adjacency and labels as they stand: the encoding of plain Bayesian optimisation."""
    return GraphPredictor(("flat",), None, memo, roles=False)
