"""How fast the encoder embeds, and how closely it follows its target on new graphs."""

import os
import time

import numpy as np
import torch
from row import Row
from scipy.stats import spearmanr

from gemkit.cell import CellArrays
from gemkit.search import encoder as encoders
from gemkit.search import sampling, similarity

_SEED = 30
_GRAPHS = 40_000
_PAIRS = 3_000


def _speed(encoder: encoders.GraphEncoder) -> Row:
    cells = sampling.random_cells(np.random.default_rng(_SEED), _GRAPHS)
    graphs = cells.operations, cells.adjacency
    threads = min(2, os.cpu_count() or 1)
    best = np.inf
    for _ in range(3):
        started = time.perf_counter()
        encoders.embed(encoder, *graphs, threads=threads)
        best = min(best, time.perf_counter() - started)
    # The usual way: the module called on whole chunks, torch's threads inside each operation.
    part, whole = slice(0, 8_192), []
    with torch.inference_mode():
        for _ in range(2):
            started = time.perf_counter()
            for start in range(0, 8_192, 1_024):
                chunk = slice(start, start + 1_024)
                encoder(torch.from_numpy(graphs[0][chunk]), torch.from_numpy(graphs[1][chunk]))
            whole.append(time.perf_counter() - started)
    return Row(
        f"embedding {_GRAPHS:,} cells of 1 to 30 nodes",
        _GRAPHS / best,
        part.stop / min(whole),
        "cells/s",
        None,
        higher=True,
        note=f"{threads} threads, best of 3; reference: the same module on chunks of 1,024",
    )


def _agreement(encoder: encoders.GraphEncoder) -> list[Row]:
    rng = np.random.default_rng(_SEED + 1)
    cells = sampling.random_cells(rng, _PAIRS)
    mutants = sampling.mutate(rng, cells, rng.integers(1, 9, size=_PAIRS))
    everything = CellArrays.concatenate([cells, sampling.reshuffled(rng, cells), mutants])
    graphs = everything.operations, everything.adjacency
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        untrained = encoders.GraphEncoder(encoder.config).eval()
    target = similarity.SIMILARITIES[encoder.config.similarity](*graphs, encoder.config.labels)
    vectors = []
    for network in (encoder, untrained):
        found = encoders.embed(network, *graphs)
        vectors.append(found / np.linalg.norm(found, axis=1, keepdims=True))
    base = np.arange(_PAIRS)
    pairs = {
        "all pairs (goal 0.98)": rng.permutation(_PAIRS),
        "pairs of equal counts (goal 0.80)": base + _PAIRS,
        "mutants of 1 to 8 edits (goal 0.90)": base + 2 * _PAIRS,
    }
    rows = []
    for name, partner in pairs.items():
        wanted = similarity.products(target, base, partner)
        different = wanted < 1 - 1e-5
        figures = [
            float(
                spearmanr(similarity.products(each, base, partner)[different], wanted[different])[0]
            )
            for each in vectors
        ]
        rows.append(
            Row(
                f"embedding cosine against the WL target, {name}",
                figures[0],
                figures[1],
                "Spearman",
                None,
                higher=True,
                note="reference: untrained encoder; topology only is in docs/embedding.md",
            )
        )
    return rows


def rows() -> list[Row]:
    encoder = encoders.default_encoder()
    return [_speed(encoder), *_agreement(encoder)]
