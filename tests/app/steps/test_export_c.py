"""C projects of a run's files: held against a board's limits, whole in integers."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from gemkit.app.steps.export import check_format
from gemkit.app.steps.export_c import microcontroller_of, projects
from gemkit.budget import Budget
from gemkit.data import Dataset, load
from gemkit.errors import UserError
from gemkit.export import quantize
from gemkit.export.exporter import export_onnx, read_info
from gemkit.export.targets import Target, target
from gemkit.store import Run
from networks import DIGITS, random_cell, random_network

needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc")


@pytest.fixture(autouse=True)
def _without_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "latency_ms", lambda paths: [1.0] * len(paths))


@pytest.fixture
def data() -> Dataset:
    whole = load("digits")
    parts = {"x_train": 60, "y_train": 60, "x_test": 40, "y_test": 40}
    return replace(whole, **{name: getattr(whole, name)[:count] for name, count in parts.items()})


@pytest.fixture
def path(data: Dataset, tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    network = random_network(rng, DIGITS, (random_cell(rng, 3, "sum"),), 8)
    export_onnx(
        network,
        tmp_path / "model.onnx",
        input_shape=(1, 8, 8),
        class_names=data.class_names,
        mean=data.mean,
        std=data.std,
    )
    return tmp_path / "model.onnx"


def board(params: int, processor: str = "a board without a compiler") -> Target:
    limits = Budget(params=params, memory_bytes=100_000, precision="int8")
    return Target("my-board", "a board", limits, processor=processor)


@needs_compiler
def test_a_project_is_held_against_a_boards_limits(path: Path, data: Dataset) -> None:
    source = path.with_name("model.int8.onnx")
    labelled = data.x_train, data.y_train
    quantize.to_int8(path, source, training=labelled, test=(data.x_test, data.y_test))
    assert not read_info(source).more["float_layers"]
    console = Console(record=True, width=200)
    files = [
        {"onnx": str(source), "precision": "int8"},
        {"onnx": str(path.with_name("model.fp16.onnx")), "precision": "fp16"},
    ]
    (made,) = projects(path, files, data, board(1_000_000), console)
    said = console.export_text()
    assert "model.int8-c" in said
    assert "fits the limits of my-board" in said
    assert "not compiled for a board without a compiler" in said
    assert made["verified"]
    assert made["over"] is None
    folder = path.with_name("model.int8-c")
    kept = json.loads((folder / "project.json").read_text())
    assert kept["accuracy"] == made["accuracy"]

    (made,) = projects(path, files[:1], data, board(1_000), console)
    assert "more than the 1 kB allowed" in made["over"]
    assert "does not fit my-board: " in console.export_text()


@needs_compiler
def test_layers_in_floats_are_quantised_anew(
    path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = path.with_name("model.int8.onnx")
    monkeypatch.setattr(quantize, "ENOUGH", -1.0)  # so that layers are left in floats
    choose = quantize.choose

    def some_left(trial: quantize.Attempt, progress: None, whole: bool = False):
        method, left = choose(trial, progress, whole)
        return method, () if whole else left or quantize.candidates_for_float(trial.model)[0]

    monkeypatch.setattr(quantize, "choose", some_left)
    labelled = data.x_train, data.y_train
    quantize.to_int8(path, source, training=labelled, test=(data.x_test, data.y_test))
    assert read_info(source).more["float_layers"]
    files = [{"onnx": str(source), "precision": "int8"}]
    (made,) = projects(path, files, data, board(1_000_000), Console(quiet=True))
    assert made["verified"]
    assert "float" not in (path.with_name("model.int8-c") / "weights.h").read_text()


def test_c_files_have_one_form() -> None:
    check_format("c", "float", False, None)
    check_format("onnx", "uint8", True, 3)
    for form in (("uint8", False, None), ("float", True, None), ("float", False, 1)):
        with pytest.raises(UserError, match="take pixels of one image and give logits"):
            check_format("c", *form)


def test_only_a_microcontroller_gets_c_files(made_run: Path) -> None:
    with Run.open(made_run) as run:
        for name, processor in (
            ("nrf52840", "cortex-m4"),
            ("raspberry-pi-zero-2-w", None),
            ("one-that-is-gone", None),
            (None, None),
        ):
            run.config["target"] = name
            found = microcontroller_of(run)
            assert (found.processor if found else None) == processor
    assert target("esp32-s3").processor == "xtensa-lx7"
