"""`gemkit train` through the command line: what it writes, and what it refuses."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gemkit.app import cli
from gemkit.app.report import report
from gemkit.app.steps import estimate, final_training, train
from gemkit.architecture import Architecture, skeleton_for
from gemkit.data import final_split, load
from gemkit.errors import UserError
from gemkit.export import latency
from gemkit.network import load_network
from gemkit.records import HoldOut
from gemkit.store import Run
from gemkit.train import logits
from gemkit.workers import Workers
from networks import random_cell


@pytest.fixture
def few(tmp_path: Path) -> str:
    """Some digits as a file of one's own."""
    digits = load("digits")
    path = tmp_path / "few.npz"
    np.savez(
        path,
        x_train=digits.x_train[:200],
        y_train=digits.y_train[:200],
        x_test=digits.x_test[:60],
        y_test=digits.y_test[:60],
    )
    return f"npz:{path}"


@pytest.fixture
def fresh(untrained_run: Path) -> Path:
    """A run whose search has ended."""
    with Run.open(untrained_run, write=True) as run:
        run.set_setting("ranking", [run.trials()[0].id])
    return untrained_run


def test_what_is_seen_of_a_training(
    fresh: Path, few: str, gemkit: Callable[..., tuple[int, str, str]]
) -> None:
    words = ["train", str(fresh), "--data", few, "--epochs", "2", "--top", "1", "--workers", "1"]
    code, _, _ = gemkit(*words, "--batch-size", "16", "--tensorboard")
    assert code == 0
    with Run.open(fresh) as run:
        model = run.models()[0]
        assert run.setting("recipe", dict[str, Any], {})["batch_size"] == 16
        drawn = report.draw(run)
        report.write(run)
    folder = fresh / "models" / model.id
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert {"loss", "learning_rate", "images_per_second", "test accuracy"} <= set(
        events.Tags()["scalars"]
    )
    steps = [event.step for event in events.Scalars("loss")]
    assert steps[-1] == 2 * (160 // 16)  # a fifth of so few images judges the network
    losses = [entry.loss for entry in model.curve]
    assert events.Scalars("loss")[-1].value == pytest.approx(losses[-1])
    assert events.Scalars("test accuracy")[-1].value == pytest.approx(model.accuracy)

    # The matrix is that of the saved network, looked at independently.
    data = load(few)
    network = load_network(folder / "weights.safetensors")
    outputs = logits(network, data.x_test, data.mean, data.std, "cpu")
    expected = np.zeros((10, 10), dtype=int)
    for label, guess in zip(data.y_test, outputs.argmax(1), strict=True):
        expected[label, guess] += 1
    assert np.array_equal(model.confusion, expected)
    assert np.trace(expected) / 60 == pytest.approx(model.accuracy)
    judging = final_split(data)
    outputs_there = logits(network, judging.x_validation, data.mean, data.std, "cpu")
    wrong = np.flatnonzero(outputs_there.argmax(1) != judging.y_validation).tolist()
    loss = F.cross_entropy(torch.tensor(outputs_there), torch.tensor(judging.y_validation))
    assert model.holdout == HoldOut(
        1 - len(wrong) / 40, 40, tuple(wrong), pytest.approx(float(loss), rel=1e-5)
    )
    for one in model.mistakes:
        share = torch.tensor(outputs[one.index]).softmax(0)
        assert data.y_test[one.index] == one.label != one.predicted == int(share.argmax())
        assert one.probability == pytest.approx(float(share.max()), rel=1e-4)
    for name in ("curves", "confusion", "mistakes"):
        assert drawn[name] in (fresh / "report.md").read_text()


def test_the_most_confident_mistakes_come_first(seed: int) -> None:
    digits = load("digits")
    outputs = np.random.default_rng(seed).normal(size=(360, 10)).astype(np.float32)
    _, mistakes = final_training.mistakes(outputs, digits)
    sure = [one.probability for one in mistakes]
    assert len(sure) == 12
    assert sure == sorted(sure, reverse=True)


def _npz(folder: Path, **changes: Any) -> str:
    content = {
        "x_train": np.zeros((40, 8, 8), np.uint8),
        "y_train": np.arange(40) % 10,
        "x_test": np.zeros((20, 8, 8), np.uint8),
        "y_test": np.arange(20) % 10,
    } | changes
    np.savez(folder / "bad.npz", **content)
    return f"npz:{folder / 'bad.npz'}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": np.arange(40) % 7, "y_test": np.arange(20) % 7}, "7 classes of (1, 8, 8)"),
        ({"y_train": np.arange(40) % 9 + np.arange(40) % 9 // 3}, "has no training images"),
        ({"x_train": np.zeros((40, 2, 2), np.uint8), "x_test": np.zeros((20, 2, 2), np.uint8)},
         "10 classes of (1, 2, 2) images, but"),
    ],
)  # fmt: skip
def test_data_that_does_not_suit_the_run_is_refused(
    changes: dict[str, Any],
    message: str,
    fresh: Path,
    tmp_path: Path,
    gemkit: Callable[..., tuple[int, str, str]],
) -> None:
    code, _, err = gemkit("train", str(fresh), "--data", _npz(tmp_path, **changes))
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_networks_of_a_run_are_trained_on_one_data_set_and_each_card_says_how(
    fresh: Path, few: str, gemkit: Callable[..., tuple[int, str, str]]
) -> None:
    assert gemkit("train", str(fresh), "--epochs", "1", "--data", few, "--workers", "1")[0] == 0
    code, _, err = gemkit("train", str(fresh), "--top", "2", "--epochs", "1")
    assert code == 0, err  # goes on with the same data
    code, _, err = gemkit("train", str(fresh), "--data", "digits", "--top", "3")
    assert code == 2
    assert "was trained on npz:" in err
    assert gemkit("train", str(fresh), "--epochs", "2", "--batch-size", "50", "--top", "3")[0] == 0
    with Run.open(fresh) as run:
        told = [(one.epochs, one.recipe["batch_size"]) for one in run.models()]
    assert (1, 32) in told
    assert (2, 50) in told


def test_the_longest_training_begins_first(
    fresh: Path,
    few: str,
    gemkit: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        estimate,
        "seconds_per_image",
        lambda network, *_: float(sum(weight.numel() for weight in network.parameters())),
    )
    words = ["--epochs", "1", "--data", few, "--workers", "1", "--top", "2"]
    code, out, err = gemkit("train", str(fresh), *words)
    assert code == 0, err
    with Run.open(fresh) as run:
        params = {one.id: one.params for one in (*run.models(), *run.baselines())}
    ended = re.findall(r"^  (\w+): [\d.]+ %", out, re.MULTILINE)
    assert len(ended) == 3
    assert ended == sorted(ended, key=lambda one: -params[one])


def test_a_training_whose_process_dies_has_failed(
    fresh: Path,
    few: str,
    gemkit: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Dying(ThreadPoolExecutor):
        def submit(self, *_: Any, **__: Any) -> Future[Any]:  # type: ignore[override]
            ended: Future[Any] = Future()
            ended.set_exception(BrokenExecutor("a process died"))
            return ended

    dying = classmethod(lambda cls, count: cls(lambda: Dying(count), count))
    monkeypatch.setattr(Workers, "local", dying)
    code, out, err = gemkit("train", str(fresh), "--epochs", "1", "--data", few, "--workers", "2")
    assert code == 0, err
    assert (out + err).count("failed: its process died (killed, or out of memory)") == 3
    with Run.open(fresh) as run:
        states = [one.state for one in (*run.models(), *run.baselines())]
        assert states.count("failed") == 3  # two found networks and a known one


def test_what_was_trained_is_not_lost_where_its_result_cannot_be_stored(
    fresh: Path,
    few: str,
    gemkit: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["train", str(fresh), "--epochs", "2", "--data", few, "--workers", "1"]
    real = train.put

    def full(run: Run, job: Any, **values: Any) -> None:
        if values["state"] == "done":
            raise UserError("the disk is full")
        real(run, job, **values)

    monkeypatch.setattr(train, "put", full)
    assert gemkit(*words)[0] == 2
    kept = list(fresh.glob("*/*/checkpoint"))
    assert kept
    monkeypatch.setattr(train, "put", real)
    assert gemkit(*words)[0] == 0
    assert not list(fresh.glob("*/*/checkpoint"))


def test_images_smaller_than_the_stride_are_refused(
    tmp_path: Path, gemkit: Callable[..., tuple[int, str, str]]
) -> None:
    data = _npz(
        tmp_path, x_train=np.zeros((40, 1, 1), np.uint8), x_test=np.zeros((20, 1, 1), np.uint8)
    )
    for command in ("search", "compare"):
        words = [command, "--data", data, "--max-macs", "1M", "--out", str(tmp_path / "out")]
        code, _, err = gemkit(*words)
        assert code == 2
        assert "1x1" in err
        assert not (tmp_path / "out").exists()


def test_too_little_memory_names_a_batch_that_may_fit(
    fresh: Path,
    few: str,
    gemkit: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forward = torch.nn.functional.cross_entropy

    def short(outputs: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        if len(outputs) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(outputs, *rest, **named)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", short)
    words = ["train", str(fresh), "--data", few, "--epochs", "1", "--top", "1", "--workers", "1"]
    code, _, err = gemkit(*words)
    assert code == 2
    assert "use a batch size of 16" in err
    code, _, err = gemkit(*words, "--batch-size", "16")
    assert "use a batch size of 8" in err
    assert gemkit(*words, "--batch-size", "8")[0] == 0


def test_a_truncated_checkpoint_gives_way_to_the_one_before(
    fresh: Path,
    few: str,
    gemkit: Callable[..., tuple[int, str, str]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["train", str(fresh), "--data", few, "--epochs", "5", "--top", "1", "--workers", "1"]

    class Killed(Exception):
        pass

    real = final_training.train_one

    def killed(job: Any, dataset: Any, settings: Any, report: Any) -> Any:
        def stop(name: str, share: float) -> None:
            if share > 0.7:
                raise Killed

        return real(job, dataset, settings, stop)

    monkeypatch.setattr(final_training, "train_one", killed)
    with pytest.raises(Killed):
        cli.main(words)
    monkeypatch.setattr(final_training, "train_one", real)
    path = next(fresh.glob("*/*/checkpoint/epoch-3.safetensors"))
    path.write_bytes(path.read_bytes()[:1000])
    assert gemkit(*words)[0] == 0
    assert "epoch-3.safetensors is damaged or cut short: the state before it is used" in caplog.text
    with Run.open(fresh) as run:
        for one in (*run.models(), *run.baselines()):
            assert [entry.epoch for entry in one.curve] == [1, 2, 3, 4, 5]


def test_weights_of_another_cell_are_refused(
    fresh: Path, few: str, gemkit: Callable[..., tuple[int, str, str]]
) -> None:
    words = ["train", str(fresh), "--data", few, "--epochs", "1", "--workers", "1"]
    assert gemkit(*words, "--top", "2")[0] == 0
    with Run.open(fresh) as run:
        first, second = (fresh / "models" / m.id / "weights.safetensors" for m in run.models())
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    code, _, err = gemkit("export", str(fresh))
    assert code == 2
    assert "holds weights of cell" in err
    first.write_bytes(content[:500])
    code, _, err = gemkit("export", str(fresh))
    assert code == 2
    assert "damaged or was cut short" in err


def test_event_files_need_their_package(
    fresh: Path, gemkit: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = gemkit("train", str(fresh), "--tensorboard")
    assert code == 2
    assert "pip install tensorboard" in err


def test_torchrun_trains_in_two_processes(fresh: Path, few: str) -> None:
    words = ["train", str(fresh), "--data", few, "--epochs", "2", "--top", "1"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
            *("--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"),
            *("-m", "gemkit.app", *words),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("next: gemkit export") == 1  # the second process says nothing
    with Run.open(fresh) as run:
        model = run.models()[0]
    assert model.state == "done"
    data = load(few)
    network = load_network(fresh / "models" / model.id / "weights.safetensors")
    outputs = logits(network, data.x_test, data.mean, data.std, "cpu")
    assert (outputs.argmax(1) == data.y_test).mean() == model.accuracy


def test_a_network_that_is_too_slow_is_narrowed(
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    monkeypatch.setattr(
        latency, "measure_here", lambda networks, **_: [0.01 * one.width for one in networks]
    )
    rng = np.random.default_rng(seed)
    cell = random_cell(rng, 10, "concat", 0.3)
    wide = Architecture((cell,), skeleton_for((1, 8, 8), 10), int(rng.integers(20, 60)))
    limit = 0.01 * int(rng.integers(5, 20))
    fitting, milliseconds = train.narrowed(wide, limit)
    assert fitting is not None
    assert milliseconds == 0.01 * fitting.width <= 0.97 * limit < 0.01 * (fitting.width + 1)
    assert train.narrowed(wide, 1.0)[0] == wide
    # Half as fast off the multiples of 8, as processors are: the last one inside is found.
    monkeypatch.setattr(
        latency,
        "measure_here",
        lambda networks, **_: [0.01 * one.width * (1 + (one.width % 8 > 0)) for one in networks],
    )
    fitting, _ = train.narrowed(replace(wide, width=60), 0.5)
    assert fitting is not None
    assert fitting.width == 48
    monkeypatch.setattr(
        latency, "measure_here", lambda networks, **_: [0.01 * one.width for one in networks]
    )
    assert train.narrowed(wide, 0.001)[0] is None


def test_examples_of_a_class_with_a_long_name_are_kept(tmp_path: Path) -> None:
    digits = load("digits")
    long = replace(digits, class_names=tuple(f"{n}" * 250 for n in range(10)))
    train.keep_examples(tmp_path, long)
    assert len(list((tmp_path / "examples").iterdir())) == 8
