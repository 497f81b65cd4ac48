"""Fine-tuning: a teacher that was trained on other pictures is trained further on the user's.

A classifier on frozen features (`gemkit.teachers.fit_head`) is where it starts; then the second
half of the layers moves, a little (Kumar et al. 2022, "Fine-tuning can distort pretrained
features"). The first half stays as it is: what it looks for is the same in all photographs, and as
it has most of the pixels, a step takes little more than half the time.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn

from gemkit.errors import UserError
from gemkit.pictures import Images
from gemkit.recipe import Recipe
from gemkit.splits import Labels
from gemkit.teachers import Head, Teacher, fit_head, of_network
from gemkit.train import Progress, TrainingFailed, train
from gemkit.views import VIEWS, LargeView, Lessons, outputs_of

RECIPE = Recipe(epochs=2, learning_rate=0.02, crop=0.0, flip=False, least_steps=500)
_FROZEN = 0.5  # share of the layers


def fine_tuned(
    teacher: Teacher,
    images: Images,
    labels: Labels,
    class_names: Sequence[str],
    *,
    recipe: Recipe = RECIPE,
    device: str = "cpu",
    checkpoint: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> tuple[Teacher, Head]:
    """A teacher that gives features, trained to name the user's classes.

    Args:
        images: (n, side, side, c) uint8, larger than the teacher takes them where there are such.
        labels: (n,), every class among them.
        checkpoint: folder with the state of an interrupted training.

    Returns:
        the trained teacher, and the head that it began with.

    Raises:
        UserError: a class has no image, or the training failed.
    """
    assert teacher.network is not None
    plain = outputs_of(teacher, images)
    head = fit_head([plain], labels, len(class_names))
    last = nn.Linear(plain.shape[1], len(class_names))
    with torch.no_grad():
        last.weight.copy_(torch.from_numpy((head.weights / head.scale[:, None]).T))
        last.bias.copy_(torch.from_numpy(head(np.zeros_like(plain[0]))))
    _freeze(teacher.network)
    network = nn.Sequential(teacher.network, nn.Flatten(), last)
    recipe = recipe.lengthened(len(labels))
    shares = np.eye(len(class_names), dtype=np.float16)[labels]
    # Beside the whole image others than a bank's, which the teacher is asked about later.
    others = range(VIEWS, VIEWS + recipe.epochs)
    views = tuple(cast(Images, LargeView(images, view, teacher)) for view in (0, *others))
    few = np.arange(min(len(labels), 2))  # the loop wants some images to judge by
    try:
        train(
            network,
            views[0],
            labels,
            views[0][few],
            labels[few],
            recipe=recipe,
            mean=teacher.mean,
            std=teacher.std,
            seed=0,
            device=device,
            progress=progress,
            checkpoint=checkpoint,
            lessons=Lessons(views, np.broadcast_to(shares, (len(views), *shares.shape))),
        )
    except TrainingFailed as failure:
        raise UserError(f"teacher {teacher.name} cannot be fine-tuned: {failure}") from None
    shape = (teacher.channels, teacher.side, teacher.side)
    tuned = of_network(
        teacher.name, network, shape, teacher.mean, teacher.std, class_names, class_names,
        device, teacher.note,
    )  # fmt: skip
    return replace(tuned, macs=teacher.macs, params=teacher.params), head


def _freeze(network: nn.Module) -> None:
    """Let the weights of the first layers stay as they are."""
    owners = [one for one in network.modules() if [*one.parameters(recurse=False)]]
    layers = np.cumsum([isinstance(one, nn.Conv2d | nn.Linear) for one in owners])
    for module, number in zip(owners, layers, strict=True):
        for weight in module.parameters(recurse=False):
            weight.requires_grad_(bool(number > _FROZEN * layers[-1]))
