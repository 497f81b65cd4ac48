"""Limits are kept by the files that are delivered, each in its precision and form."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from gemkit import recommendation
from gemkit.app.runs import architecture_of
from gemkit.app.steps import convert, export
from gemkit.budget import Budget
from gemkit.cost import cost
from gemkit.data import load
from gemkit.export import quantize
from gemkit.network import save_weights
from gemkit.records import Latency, Measurement, Model
from gemkit.store import Run
from networks import random_network

DATA = replace(
    load("digits"),
    **{
        name: getattr(load("digits"), name)[:60]
        for name in ("x_train", "y_train", "x_test", "y_test")
    },
)


class Times:
    """Milliseconds by the end of a file's name, in place of measurements."""

    def __init__(self) -> None:
        self.of = {"int8.onnx": 2.0, "fp16.onnx": 3.0, ".onnx": 1.0}
        self.console = Console(record=True, width=200)

    def __call__(self, paths: list[Path]) -> list[float]:
        # A file that is checked before it takes its place has another name.
        names = [str(path).replace(".tmp", "") for path in paths]
        return [
            next(
                time for end, time in self.of.items() if end in name.partition(".onnx")[0] + ".onnx"
            )
            for name in names
        ]


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Times:
    found = Times()
    monkeypatch.setattr(quantize, "latency_ms", found)
    monkeypatch.setattr(export, "latency_ms", found)

    def measured(paths: list[str], **options: Any) -> list[Measurement]:
        return [
            Measurement(
                model=path,
                provider="CPUExecutionProvider",
                precision="int8" if "int8" in path else "fp32",
                threads=1,
                batch=1,
                latency_ms=Latency(found([Path(path)])[0]),
                throughput=1.0,
                load_ms=1.0,
                file_bytes=1,
                accuracy=0.5,
            )
            for path in paths
        ]

    monkeypatch.setattr(convert, "benchmark", measured)
    return found


@pytest.fixture
def model(made_run: Path, seed: int) -> Model:
    """A network with weights, that was never exported."""
    with Run.open(made_run, write=True) as run:
        (model,) = run.models()
        architecture = architecture_of(run, model)
        network = random_network(
            np.random.default_rng(seed), architecture.skeleton, architecture.cells, model.width
        )
        save_weights(network, made_run / "models" / model.id / "weights.safetensors")
        model = replace(model, accuracy=None)
        run.put(replace(model, accuracy=_accuracy(network)))
    return model


def _accuracy(network: Any) -> float:
    import torch

    x = torch.from_numpy(DATA.x_test).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        outputs = network((x - DATA.mean[0]) / DATA.std[0])
    return float((outputs.argmax(1).numpy() == DATA.y_test).mean())


def delivered(folder: Path, times: Times, budget: Budget, **options: Any) -> tuple[Model, Any]:
    """What an export under a budget leaves of the model, and the files it names."""
    with Run.open(folder, write=True) as run:
        run.config["budget"] = budget.to_json()
        made = export.export(run, dataset=DATA, console=times.console, **options)
        (model,) = run.models()
    return model, made.files.get(model.id, [])


def memory(folder: Path, precision: str) -> int:
    with Run.open(folder) as run:
        return cost(architecture_of(run, run.models()[0]), precision).peak_memory_bytes


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_memory_is_that_of_the_file_in_the_budgets_precision(
    made_run: Path, model: Model, times: Times, precision: str
) -> None:
    need = memory(made_run, precision)
    found, _ = delivered(made_run, times, Budget(memory_bytes=need - 1, precision=precision))
    assert (found.state, found.onnx) == ("failed", None)
    assert "of activations, more than" in (found.error or "")
    assert not list((made_run / "models" / model.id).glob("*.onnx"))
    with Run.open(made_run, write=True) as run:
        run.put(replace(found, state="done", error=None))
    found, files = delivered(made_run, times, Budget(memory_bytes=need, precision=precision))
    assert (found.state, found.error) == ("done", None)
    (wanted,) = (file for file in files if file["precision"] == precision)
    assert wanted["peak_memory_bytes"] <= need


def test_a_latency_is_that_of_the_file_in_the_budgets_precision(
    made_run: Path, model: Model, times: Times
) -> None:
    budget = Budget(latency_ms=1.5)
    found, files = delivered(made_run, times, budget, precision=("int8",))
    assert found.state == "done"
    assert [file["precision"] for file in files] == [
        "fp32",
        "int8",
    ]  # 2 ms, but no limit of its own
    found, files = delivered(made_run, times, replace(budget, precision="int8"))
    assert (found.state, found.onnx) == ("failed", None)
    assert found.error == "measured 2 ms when it was exported, more than 1.5 ms, in int8"
    assert not list((made_run / "models" / model.id).glob("*.onnx"))


def test_a_network_that_is_too_slow_is_not_delivered(
    made_run: Path, model: Model, times: Times
) -> None:
    found, files = delivered(made_run, times, Budget(latency_ms=0.9))
    assert (found.state, found.onnx, files) == ("failed", None, [])
    assert "not delivered, since it leaves the budget: measured 1 ms" in times.console.export_text()


def test_a_file_of_another_form_is_held_against_the_limits_too(
    made_run: Path, model: Model, times: Times, tmp_path: Path
) -> None:
    budget = Budget(latency_ms=1.5)
    delivered(made_run, times, budget)
    times.of[".onnx"] = 1.6
    found, (file,) = delivered(made_run, times, budget, softmax=True, out=tmp_path / "to")
    assert found.state == "done"  # its own file is another one
    assert file["onnx"] is None
    assert file["over"] == "measured 1.6 ms when it was exported, more than 1.5 ms"
    assert not list((tmp_path / "to").glob("*.onnx"))


def test_the_fastest_file_is_named(
    made_run: Path, model: Model, times: Times, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recommendation, "TOLERATED_LOSS", 1.0)  # the network has learnt nothing
    for int8, best in ((2.0, "fp32"), (0.5, "int8")):
        times.of["int8.onnx"] = int8
        _, files = delivered(made_run, times, Budget(), precision=("int8",))
        assert [file["precision"] for file in files if file["recommended"]] == [best]
    monkeypatch.setattr(recommendation, "TOLERATED_LOSS", -1.0)
    _, files = delivered(made_run, times, Budget(), precision=("int8",))
    assert [file["recommended"] for file in files] == [True, False]
    assert "to use here: model.int8.onnx, 0.5 ms an image" in times.console.export_text()


def test_files_in_onnxruntimes_own_format(
    made_run: Path, model: Model, times: Times, tmp_path: Path
) -> None:
    to = tmp_path / "to"
    _, files = delivered(made_run, times, Budget(), precision=("int8",), format="ort", out=to)
    made = [file for file in files if file.get("format") == "ort"]
    assert [file["precision"] for file in made] == ["fp32", "int8"]
    assert [file["accuracy"] for file in made] == [file["accuracy"] for file in files[:2]]
    for kind in ("", ".int8"):
        assert (to / f"{model.id}{kind}.ort").is_file()
        assert (to / f"{model.id}{kind}.required_operators_and_types.config").is_file()
