"""What a predictor gets to see, for experiments/ablation.py: rank correlations by encoding.

One of the encodings is a predictor whose gradient reaches the encoder, with the WL term kept as a
regulariser or not. It is not NASGEM's for what it costs: a fit takes seconds instead of hundredths
of one. Source: ours (the paper trains its encoder beforehand).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from gemkit.regression import Warp
from gemkit.search import ablation, tables
from gemkit.search.ablation import Opened
from gemkit.search.encoder import EncoderConfig, GraphEncoder, embed
from gemkit.search.interfaces import Candidates, FloatArray, Graphs, Predictor
from gemkit.search.kept import Kept, Progress
from gemkit.search.predictor import STRUCTURE, FittedPredictor, GraphPredictor
from gemkit.search.similarity import SIMILARITIES


@dataclass(frozen=True)
class FineTuned:
    """Trains a copy of an encoder on the measured cells, then fits a process to its embeddings.

    Attributes:
        encoder: trained on a WL similarity beforehand; left as it is.
        graphs: unlabelled graphs on which the WL term is kept.
        weight: of the WL term, relative to the error of the predicted values; 0 drops it.
        steps, rate: of AdamW.
    """

    encoder: GraphEncoder
    graphs: Graphs
    weight: float = 1.0
    steps: int = 150
    rate: float = 1e-3
    groups: tuple[str, ...] = ("embedding",)

    def __call__(self, candidates: Candidates, values: FloatArray) -> FittedPredictor:
        """Fit to values (n,), nan where a trial failed."""
        done = np.flatnonzero(np.isfinite(values))
        encoder = self._trained(candidates.graphs[done], values[done])

        def embedding(graphs: Graphs) -> NDArray[np.float32]:
            return embed(encoder, graphs.labels, graphs.adjacency)

        return GraphPredictor(self.groups, embedding, roles=False)(candidates, values)

    def _trained(self, graphs: Graphs, values: FloatArray) -> GraphEncoder:
        scores = Warp.of(values, "left", 0.3)(values)
        scores = (scores - scores.mean()) / (scores.std() or 1.0)
        encoder = copy.deepcopy(self.encoder)
        config = encoder.config
        target = SIMILARITIES[config.similarity](
            self.graphs.labels, self.graphs.adjacency, config.labels
        )
        rng = np.random.default_rng(0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            head = nn.Sequential(nn.Linear(config.dimension, 32), nn.ReLU(), nn.Linear(32, 1))
        parameters = [*encoder.parameters(), *head.parameters()]
        optimiser = torch.optim.AdamW(parameters, lr=self.rate, weight_decay=1e-2)
        labels, adjacency = torch.from_numpy(graphs.labels), torch.from_numpy(graphs.adjacency)
        wanted = torch.from_numpy(scores.astype(np.float32))
        encoder.train()
        for _ in range(self.steps):
            vectors = nn.functional.normalize(encoder(labels, adjacency))
            loss = nn.functional.mse_loss(head(vectors)[:, 0], wanted)
            if self.weight:
                rows = rng.integers(len(self.graphs), size=64)
                some = self.graphs[rows]
                found = nn.functional.normalize(
                    encoder(torch.from_numpy(some.labels), torch.from_numpy(some.adjacency))
                )
                similar = target[rows] @ target[rows].T
                similar = similar if isinstance(similar, np.ndarray) else similar.toarray()
                wrong = (found @ found.T - torch.from_numpy(similar)) ** 2
                loss = loss + self.weight * wrong.mean() / max(float(similar.var()), 1e-6)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
        encoder.eval()
        return encoder


def encodings(
    path: Path,
    metric: str,
    *,
    samples: Sequence[int],
    seeds: int,
    workers: int,
    results: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Rank correlation of predictors that see different descriptions of the same cells.

    Returns {"table", "metric", "seeds", "encodings": {NAME: {"kendall_tau", "spearman",
    "coverage"}}}, each by number of samples. Names: see ENCODINGS.
    """
    table = tables.load(path)
    full = table.find_varying(metric)
    ablation.table_encoder(table)
    kept = Kept(results, {"table": path.name, "cells": len(table), "metric": full, "unique": False})
    todo = [
        (
            f"encoding/{name}/{count}/{seed}",
            _encoded,
            (str(path), metric, name, seed, count),
        )
        for name in ENCODINGS
        for count in samples
        for seed in range(seeds)
        if count + 20 <= len(table)
    ]
    kept.complete(todo, workers, progress)
    report: dict[str, Any] = {"table": path.name, "metric": full, "seeds": seeds}
    report["encodings"] = {}
    for name in ENCODINGS:
        known = ablation.correlations_of(kept, f"encoding/{name}", samples, seeds)
        report["encodings"][name] = ablation.mean_correlations(known)
    return report


def _encoded(path: str, metric: str, name: str, seed: int, samples: int) -> dict[str, float] | None:
    at = ablation.opened(path, False, True)
    return ablation.correlation(at.table, at.space, metric, ENCODINGS[name](at), seed, samples)


def _groups(*groups: str, roles: bool = False) -> Callable[[Opened], Predictor]:
    return lambda at: GraphPredictor(groups, at.embedding, at.space.memo, roles=roles)


def _untrained(at: Opened) -> Predictor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = GraphEncoder(EncoderConfig(labels=len(at.table.label_names)))

    def embedding(graphs: Graphs) -> NDArray[np.float32]:
        return embed(encoder, graphs.labels, graphs.adjacency)

    return GraphPredictor(("embedding",), embedding, roles=False)


def _fine_tuned(weight: float) -> Callable[[Opened], Predictor]:
    def make(at: Opened) -> Predictor:
        return FineTuned(
            ablation.table_encoder(at.table), ablation.training_graphs(at.table), weight
        )

    return make


ENCODINGS: dict[str, Callable[[Opened], Predictor]] = {
    "flat adjacency": _groups("flat"),
    "counts": _groups("counts"),
    "paths": _groups("paths"),
    "WL features": _groups("wl"),
    "untrained encoder": _untrained,
    "encoder": _groups("embedding"),
    "encoder, roles learned": _groups("embedding", roles=True),
    "encoder fine-tuned": _fine_tuned(0.0),
    "encoder fine-tuned, WL term kept": _fine_tuned(1.0),
    "structure": _groups(*STRUCTURE),
    "structure, roles learned": _groups(*STRUCTURE, roles=True),
    "structure and encoder, roles learned": _groups(*STRUCTURE, "embedding", roles=True),
    "structure and WL features, roles learned": _groups(*STRUCTURE, "wl", roles=True),
}
"""What a predictor sees; the last but one is NASGEM's. "structure" are the groups of STRUCTURE."""
