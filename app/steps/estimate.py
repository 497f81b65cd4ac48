"""How long a search or a training is going to take, from a few training steps on this machine."""

import contextlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from gemkit.data import Dataset
from gemkit.network import build
from gemkit.recipe import RECIPES, Recipe
from gemkit.search.cell_space import CellSpace
from gemkit.search.loop import Plan
from gemkit.train import TrainingFailed, train

from .. import formatting

UNKNOWN_ON_GPU = (
    "how long depends on the GPU, which takes up to half a minute before each network's start"
)


def on_gpu(device: str) -> bool:
    """Whether networks are trained on a GPU.

    No time is foreseen there: the first steps of a network take longer than many a training.
    """
    return device != "cpu" and torch.cuda.is_available()


def seconds_per_image(network: nn.Module, dataset: Dataset, recipe: Recipe, device: str) -> float:
    """What a training step takes here for each image with one thread, from a few steps."""
    images = 2 * recipe.batch_size
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        spent = [
            train(
                network,
                dataset.x_train[:images],
                dataset.y_train[:images],
                dataset.x_test[:1],
                dataset.y_test[:1],
                recipe=recipe.changed(1),
                mean=dataset.mean,
                std=dataset.std,
                seed=0,
                device=device,
            ).images_per_second
            for _ in range(2)  # the first one warms up
        ]
    finally:
        torch.set_num_threads(threads)
    return 1 / spent[-1]


def side_by_side(seconds: Sequence[float], workers: int) -> str:
    """About how long trainings take that last so long each, as a part of a sentence."""
    return f"about {formatting.duration(max(sum(seconds) / workers, *seconds))}"


def search(
    space: CellSpace,
    dataset: Dataset,
    images: int,
    plan: Plan,
    trials: int,
    workers: int,
    device: str,
) -> str:
    """What a search is going to do and about how long that takes, as a sentence.

    Args:
        images: that a trial is trained on in an epoch.
        trials: those still to be made.
    """
    longer = f", the best {plan.promoted} of them longer" if plan.promoted else ""
    on = f"on {formatting.number(workers, 'worker')}{longer}"
    what = f"search: {formatting.number(trials, 'trial')}"
    if on_gpu(device):
        return f"{what} {on}; {UNKNOWN_ON_GPU}"
    epoch = images * _seconds_per_image(space, dataset, device)
    trial = plan.epochs * epoch
    total = (trial * trials + plan.promoted_epochs * plan.promoted * epoch) / workers
    return f"{what} of about {formatting.duration(trial)} {on}: about {formatting.duration(total)}"


def _seconds_per_image(space: CellSpace, dataset: Dataset, device: str) -> float:
    """Mean over three sampled networks."""
    found = space.sample(np.random.default_rng(0), 3)
    spent: list[float] = []
    for index in range(len(found)):
        network = build(space.architecture(found, index))
        with contextlib.suppress(TrainingFailed):
            spent.append(seconds_per_image(network, dataset, RECIPES["proxy"], device))
    return float(np.mean(spent)) if spent else 0.0
