"""Fine-tuning of teachers: where it begins, what it learns, and that it can be interrupted."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gemkit.fine_tuning import RECIPE, fine_tuned
from gemkit.teachers import Teacher, of_network
from gemkit.views import LargeView, make_bank

SIDE, NAMES = 12, ("dark", "bright")


def teacher(seed: int) -> Teacher:
    """A small network that knows three other classes."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
    )
    return of_network("small", network, (3, SIDE, SIDE), (0.5,) * 3, (0.3,) * 3, (), NAMES)


def pictures(seed: int, count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    levels = rng.integers(0, 90, (count, 20, 20, 3)) + 130 * labels[:, None, None, None]
    return levels.astype(np.uint8), labels


def test_it_begins_with_the_head_on_frozen_features(seed: int) -> None:
    images, labels = pictures(seed)
    before, unmoved = teacher(seed), replace(RECIPE, learning_rate=1e-12, least_steps=4)
    whole = LargeView(images, 0, before)[:]
    features = before.outputs(whole)
    after, head = fine_tuned(before, images, labels, NAMES, recipe=unmoved)
    assert after.names_classes
    np.testing.assert_allclose(after.outputs(whole), head(features), atol=1e-3)


def test_it_learns_the_classes_and_goes_on_after_a_kill(tmp_path: Path, seed: int) -> None:
    images, labels = pictures(seed)
    recipe = replace(RECIPE, least_steps=6)
    after, _ = fine_tuned(teacher(seed), images, labels, NAMES, recipe=recipe)
    seen = LargeView(images, 0, after)[:]
    np.testing.assert_array_equal(after.outputs(seen).argmax(1), labels)
    assert after.digest != teacher(seed).digest

    def stop(now: Any) -> None:
        if now.step == now.steps:
            raise KeyboardInterrupt

    given: dict[str, Any] = {"recipe": recipe, "checkpoint": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        fine_tuned(teacher(seed), images, labels, NAMES, progress=stop, **given)
    again, _ = fine_tuned(teacher(seed), images, labels, NAMES, **given)
    assert again.digest == after.digest


def test_a_large_view_is_what_the_bank_shows_the_teacher(tmp_path: Path, seed: int) -> None:
    images, _ = pictures(seed, 5)
    shown: list[np.ndarray] = []

    def outputs(seen: np.ndarray) -> np.ndarray:
        shown.append(seen)
        return seen.mean((1, 2)).astype(np.float32)

    watching = replace(teacher(seed), outputs=outputs)
    make_bank(tmp_path, watching, [images], (3, 8, 8), views=3)
    view = LargeView(images, 2, watching)
    np.testing.assert_array_equal(view[:], shown[2])
    np.testing.assert_array_equal(view[np.array([3, 1])], shown[2][[3, 1]])
    assert view.shape == np.asarray(view).shape == (5, SIDE, SIDE, 3)
