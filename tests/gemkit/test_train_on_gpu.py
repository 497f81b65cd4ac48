"""Training on a GPU; skipped where there is none. `experiments/gpu.py` measures its speed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gemkit import train as training
from gemkit.architecture import Architecture, skeleton_for
from gemkit.cell import Cell
from gemkit.data import load
from gemkit.network import GEMNet, build
from gemkit.recipe import Recipe
from gemkit.train import Progress, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

RECIPE = Recipe(epochs=8, batch_size=64, learning_rate=0.1)


def _network(seed: int) -> GEMNet:
    """A cell of thirty nodes of which each reads the cell input and the node two before it."""
    operations = ("input", *("sep3x3" if node % 3 else "conv1x1" for node in range(30)))
    edges = [(source, node) for node in range(1, 31) for source in (0, max(node - 2, 0))]
    cell = Cell(operations, tuple(sorted(set(edges))), "concat")
    torch.manual_seed(seed)
    return build(Architecture((cell,), skeleton_for((1, 8, 8), 10), 8))


def _trained(network: nn.Module, recipe: Recipe, seed: int, device: str = "cuda", **more: object):
    digits = load("digits")
    return train(
        network,
        digits.x_train,
        digits.y_train,
        digits.x_test,
        digits.y_test,
        recipe=recipe,
        mean=digits.mean,
        std=digits.std,
        seed=seed,
        device=device,
        **more,  # type: ignore[arg-type]
    )


def test_a_recorded_step_trains_as_a_plain_one(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[training._Gradients] = []
    original = training._Gradients

    def gradients(*given: Any, record: bool) -> training._Gradients:
        made.append(original(*given, record=record and not made))
        return made[-1]

    monkeypatch.setattr(training, "_Gradients", gradients)
    recorded, plain = (_trained(_network(seed), RECIPE, seed) for _ in range(2))
    assert [one._graph is not None for one in made] == [True, False]
    losses = [np.array([entry["loss"] for entry in one.curve]) for one in (recorded, plain)]
    # bfloat16 sums in another order from run to run.
    np.testing.assert_allclose(*losses, rtol=0.05)
    assert abs(recorded.accuracy - plain.accuracy) < 0.05


def test_a_gpu_learns_as_much_as_a_processor(seed: int) -> None:
    on_gpu, on_cpu = (_trained(_network(seed), RECIPE, seed, device) for device in ("cuda", "cpu"))
    assert on_gpu.accuracy > 0.8
    assert abs(on_gpu.accuracy - on_cpu.accuracy) < 0.08


def test_a_recorded_step_draws_new_random_numbers(seed: int) -> None:
    """Drop-path and dropout must differ from step to step, and follow the epoch's seed."""

    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.classifier(nn.functional.dropout(x.flatten(1), 0.5))
            return out

    network = Dropping().cuda()
    gradients = training._Gradients(network, 0.0, torch.device("cuda"), record=True)
    images = torch.randn(32, 1, 8, 8, device="cuda")
    targets = torch.randint(10, (32,), device="cuda")

    def losses() -> list[float]:
        torch.manual_seed(seed)
        return [gradients(images, targets).item() for _ in range(8)]

    losses()  # some of these are recorded or before the recording
    assert gradients._graph is not None
    first, again = losses(), losses()
    assert len(set(first)) == len(first)
    assert first == again


def test_a_stopped_training_goes_on(seed: int, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(now: Progress) -> None:
        if now.epoch == 3:
            raise Stop

    with pytest.raises(Stop):
        _trained(_network(seed), RECIPE, seed, checkpoint=tmp_path, progress=stop)
    resumed = _trained(_network(seed), RECIPE, seed, checkpoint=tmp_path)
    whole = _trained(_network(seed), RECIPE, seed)
    assert [entry["epoch"] for entry in resumed.curve] == list(range(1, RECIPE.epochs + 1))
    assert resumed.curve[-1]["loss"] == pytest.approx(whole.curve[-1]["loss"], rel=0.1)


@pytest.mark.parametrize("change", [{"mixup": 0.2, "cutmix": 1.0}, {"augment": 0.5}])
def test_every_augmentation_can_be_recorded(seed: int, change: dict[str, float]) -> None:
    trained = _trained(_network(seed), replace(RECIPE, **change), seed)
    assert trained.accuracy > 0.5
