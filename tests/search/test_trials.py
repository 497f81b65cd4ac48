"""A proxy trial: the same wherever it runs; whatever fails is told, never raised."""

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest

from gemkit import data
from gemkit.architecture import Architecture, skeleton_for
from gemkit.cell import Cell
from gemkit.recipe import RECIPES
from gemkit.search import trials
from gemkit.search.trials import ProxyTask, run_trial
from gemkit.workers import Workers

SMALL = Architecture(
    (Cell(("input", "sep3x3", "conv1x1"), ((0, 1), (0, 2), (1, 2))),),
    skeleton_for((1, 8, 8), 10),
    8,
)
TASK = ProxyTask("digits", RECIPES["proxy"], device="cpu")


def test_a_trial_is_the_same_here_and_in_a_worker(seed: int) -> None:
    here = run_trial(TASK, SMALL, seed, 1)
    assert here.error is None
    assert here.accuracy is not None
    assert 0 <= here.accuracy <= 1
    assert here.seconds > 0
    assert run_trial(TASK, SMALL, seed, 1).accuracy == here.accuracy
    there = []
    with Workers.local(1) as workers:
        for one in (seed + 1, seed):
            workers.submit(one, run_trial, TASK, SMALL, one, 1)
            ended = workers.next()
            assert ended is not None
            there.append(ended.value)
    assert there[0].error is None
    assert there[1].accuracy == here.accuracy  # whatever the worker did before


class _Untouchable(data.Dataset):
    """A data set whose test part may not be looked at."""

    seen: ClassVar[list[str]] = []

    def __getattribute__(self, name: str) -> Any:
        if name in ("x_test", "y_test") and "armed" in type(self).seen:
            raise AssertionError(f"the search looked at {name}")
        return super().__getattribute__(name)


def test_the_test_set_is_never_read(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (240, 8, 8, 1)).astype(np.uint8)
    labels = np.arange(240) % 4
    names = tuple("abcd")
    monkeypatch.setattr(_Untouchable, "seen", [])
    dataset = _Untouchable("noise", images, labels, images, labels, names, (0.5,), (0.3,))
    _Untouchable.seen.append("armed")
    with pytest.raises(AssertionError):
        _ = dataset.x_test
    monkeypatch.setattr(trials, "load", lambda spec: dataset)
    task = replace(TASK, data="noise")  # a process reads each data set once
    outcome = run_trial(task, replace(SMALL, skeleton=skeleton_for((1, 8, 8), 4)), seed, 1)
    assert outcome.error is None


def test_a_loss_that_is_not_finite(seed: int) -> None:
    wild = replace(TASK, recipe=replace(TASK.recipe, learning_rate=1e30))
    outcome = run_trial(wild, SMALL, seed, 1)
    assert outcome.failed
    assert outcome.error
    assert "nan" in outcome.error or "inf" in outcome.error


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (MemoryError(), "out of memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            "out of memory",
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 20 MiB"), "out of memory"),
        (ZeroDivisionError("division\nby zero"), "ZeroDivisionError: division by zero"),
    ],
)
def test_a_failure_is_told(
    monkeypatch: pytest.MonkeyPatch, failure: BaseException, reason: str
) -> None:
    def broken(architecture: Architecture) -> None:
        raise failure

    monkeypatch.setattr(trials, "build", broken)
    outcome = run_trial(TASK, SMALL, 0, 1)
    assert outcome.accuracy is None
    assert outcome.error == reason


def test_a_wrong_count_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(SMALL, width=12)
    build = trials.build
    monkeypatch.setattr(trials, "build", lambda architecture: build(other))
    outcome = run_trial(TASK, SMALL, 0, 1)
    assert outcome.failed
    assert "RuntimeError" in str(outcome.error)


def test_data_that_cannot_be_read() -> None:
    outcome = run_trial(replace(TASK, data="npz:/nowhere.npz"), SMALL, 0, 1)
    assert outcome.failed
    assert "/nowhere.npz" in str(outcome.error)
