"""A training step of a thirty-node network beside a plain PyTorch loop on the CPU."""

import statistics
import time

import numpy as np
import torch
from row import Row

from gemkit.architecture import Architecture, skeleton_for
from gemkit.cell import Cell
from gemkit.network import build
from gemkit.recipe import Recipe
from gemkit.train import train

ROUNDS, STEPS = 5, 4
CASES = (  # image shape, width, batch size
    ((1, 8, 8), {"concat": 10, "sum": 22}, 32),
    ((3, 32, 32), {"concat": 10, "sum": 22}, 32),
)


def _cell(rng: np.random.Generator, aggregation: str) -> Cell:
    """Thirty nodes, an edge in four pairs, half of the operations separable."""
    edges = [(i, j) for j in range(1, 31) for i in range(j) if rng.random() < 0.25]
    edges += [(0, j) for j in range(1, 31) if not any(target == j for _, target in edges)]
    operations = ("input", *rng.choice(["conv1x1", "sep3x3"], 30).tolist())
    return Cell(operations, tuple(edges), aggregation)


def _plain_loop(network: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, batch: int) -> None:
    """What a tutorial shows: fp32, contiguous, no augmentation, no averaged weights."""
    optimiser = torch.optim.SGD(
        network.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    network.train()
    for images, labels in zip(x.split(batch), y.split(batch), strict=True):
        loss = torch.nn.functional.cross_entropy(network(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if not torch.isfinite(loss):
            raise RuntimeError("the plain loop diverged")


def _beside_plain_loop(
    rng: np.random.Generator, shape: tuple[int, int, int], width: int, batch: int, kind: str
) -> Row:
    architecture = Architecture((_cell(rng, kind),), skeleton_for(shape, 10), width)
    count = batch * STEPS
    pixels = rng.integers(0, 256, (count, *shape[1:], shape[0]), dtype=np.uint8)
    labels = rng.integers(0, 10, count)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float() / 255
    y = torch.from_numpy(labels)
    recipe = Recipe(epochs=1, batch_size=batch, learning_rate=0.05)
    ours, plain = [], []
    for _ in range(ROUNDS):
        # Both start from a network of their own; its first pass pays for what is set up once.
        network = build(architecture)
        result = train(
            network, pixels, labels, pixels[:2], labels[:2], recipe=recipe,
            mean=(0.5,) * shape[0], std=(0.25,) * shape[0], seed=0, device="cpu",
        )  # fmt: skip
        ours.append(count / result.seconds)
        network = build(architecture)
        began = time.perf_counter()
        _plain_loop(network, x, y, batch)
        plain.append(count / (time.perf_counter() - began))
    return Row(
        f"training a 30-node network, {shape[1]} px, {kind}",
        statistics.median(ours),
        statistics.median(plain),
        "images/s",
        1.5,
        higher=True,
        note=f"batch {batch}, {torch.get_num_threads()} threads, {ROUNDS} rounds of {STEPS} "
        "steps; ours with augmentation and averaged weights, plain: fp32, contiguous",
    )


def rows() -> list[Row]:
    """Side by side, in turns, for both image sizes and both aggregations."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    return [
        _beside_plain_loop(rng, shape, widths[kind], batch, kind)
        for shape, widths, batch in CASES
        for kind in ("concat", "sum")
    ]
