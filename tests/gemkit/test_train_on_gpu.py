"""Training on a GPU; skipped where there is none. `experiments/gpu.py` measures its speed."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

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
    recorded = _trained(_network(seed), RECIPE, seed)
    replays: list[None] = []
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda _: replays.append(None))
    monkeypatch.setattr(training, "_STEPS_BEFORE_RECORDING", 10**9)
    plain = _trained(_network(seed), RECIPE, seed)
    assert not replays
    losses = [np.array([entry["loss"] for entry in one.curve]) for one in (recorded, plain)]
    # bfloat16 sums in another order from run to run.
    np.testing.assert_allclose(*losses, rtol=0.05)
    rates = [[entry["learning_rate"] for entry in one.curve] for one in (recorded, plain)]
    assert rates[0] == rates[1]
    assert abs(recorded.accuracy - plain.accuracy) < 0.05


def test_trainings_side_by_side_are_those_of_one_after_the_other(seed: int) -> None:
    with ThreadPoolExecutor(4) as threads:
        beside = list(threads.map(lambda one: _trained(_network(one), RECIPE, one), range(6)))
    for one, trained in enumerate(beside):
        alone = _trained(_network(one), RECIPE, one)
        assert alone.curve[-1]["loss"] == pytest.approx(trained.curve[-1]["loss"], rel=0.05)
        assert abs(alone.accuracy - trained.accuracy) < 0.05


def test_a_gpu_learns_as_much_as_a_processor(seed: int) -> None:
    on_gpu, on_cpu = (_trained(_network(seed), RECIPE, seed, device) for device in ("cuda", "cpu"))
    assert on_gpu.accuracy > 0.8
    assert abs(on_gpu.accuracy - on_cpu.accuracy) < 0.08


def test_a_recorded_step_draws_new_random_numbers(seed: int) -> None:
    """Dropout must differ from step to step: all shown at once, the network cannot learn more."""

    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = nn.Linear(64, 10)
            self.register_buffer("kept", torch.zeros(64))

        def forward(self, x: Tensor) -> Tensor:
            ones = nn.functional.dropout(torch.ones(64, device=x.device), 0.5, self.training)
            if self.training:
                self.kept += ones / 2
            out: Tensor = self.classifier(x.flatten(1) * ones)
            return out

    network = Dropping()
    steps = len(load("digits").y_train) // 64 * 8
    trained = _trained(network, replace(RECIPE, ema=0.0), seed)
    seen = network.kept.tolist()
    assert 0.3 * steps < min(seen)
    assert max(seen) < 0.7 * steps
    assert trained.epochs == 8


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
