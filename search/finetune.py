"""The predictor whose gradient reaches the encoder, with the WL term kept as a regulariser or not.

Measured in the ablation against the frozen encoder (`ablation.ENCODINGS`), and not NASGEM's default
for what it costs: a fit takes seconds instead of hundredths of one. Source: ours (the paper trains
its encoder beforehand).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from gemkit.regression import Warp

from .encoder import GraphEncoder, embed
from .interfaces import Candidates, FloatArray, Graphs
from .predictor import FittedPredictor, GraphPredictor
from .similarity import SIMILARITIES


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
