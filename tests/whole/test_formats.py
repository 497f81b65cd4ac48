"""Files of every format that was ever written open, and newer ones are refused with a sentence.

`format-1/` was written by gemkit 0.1.0 and is never made anew: a run of three trials, what a kit
measured, a target, and the state of a training stopped after one of three epochs. `format-2/` is a
run whose database is of format 2, which knows a hold-out and keeps its pictures. A new format gets
a folder of its own beside them.
"""

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from gemkit.app import cli
from gemkit.app.report import report
from gemkit.cell import read_cell
from gemkit.data import load
from gemkit.errors import UserError
from gemkit.export import exporter
from gemkit.export.kit import read_measurements
from gemkit.export.latency import load_model, save_model
from gemkit.export.targets import read_target
from gemkit.network import load_network, load_weights
from gemkit.recipe import RECIPES
from gemkit.search.encoder import load_encoder
from gemkit.store import Run
from gemkit.train import Progress, train

FORMAT_1, FORMAT_2 = (Path(__file__).parent / f"format-{number}" for number in (1, 2))
MODEL = "run/models/080e649773"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A copy of the files of format 1."""
    return Path(shutil.copytree(FORMAT_1, tmp_path / "files"))


def resumed(files: Path) -> list[int]:
    """Go on with the stored training: the epochs that were left to do."""
    torch.set_num_threads(1)
    digits, seen = load("digits"), []

    def tell(now: Progress) -> None:
        seen.append(now.epoch)

    train(
        load_network(files / MODEL / "weights.safetensors"),
        digits.x_train[:64],
        digits.y_train[:64],
        digits.x_test[:32],
        digits.y_test[:32],
        recipe=RECIPES["standard"].changed(3, None),
        mean=digits.mean,
        std=digits.std,
        seed=0,
        device="cpu",
        progress=tell,
        checkpoint=files / "state",
    )
    return sorted(set(seen))


def opened(folder: Path) -> None:
    with Run.open(folder) as run:
        run.trials()


READERS: dict[str, Callable[[Path], Any]] = {
    "run/config.json": lambda path: opened(path.parent),
    "run/encoder.safetensors": load_encoder,
    f"{MODEL}/cell.json": read_cell,
    f"{MODEL}/weights.safetensors": load_network,
    "measurements.json": read_measurements,
    "target.json": read_target,
    "latency.json": load_model,
    "state/epoch-1.json": lambda path: resumed(path.parents[1]),
}
"""Every file that says its format by itself, and what reads it."""


def test_files_of_format_1_are_as_they_were(files: Path) -> None:
    with Run.open(files / "run") as run:
        trials, models = run.trials(), run.models()
        assert [round(trial.accuracy or 0, 4) for trial in trials] == [0.2869, 0.2869, 0.3148]
        assert [round(model.accuracy or 0, 4) for model in models] == [0.2583]
        assert read_cell(files / MODEL / "cell.json") == trials[2].cell
    weights = files / MODEL / "weights.safetensors"
    network = load_network(weights)
    load_weights(network, weights)
    onnx = files / MODEL / "model.onnx"
    digits = load("digits")
    assert exporter.read_info(onnx).input_shape == (1, 8, 8)
    accuracy = exporter.accuracy_of(onnx, digits.x_test, digits.y_test)
    assert accuracy == pytest.approx(models[0].accuracy, abs=1e-6)
    mean, std = np.float32(digits.mean), np.float32(digits.std)
    images = torch.from_numpy((digits.x_test[:64] / np.float32(255) - mean) / std)
    with torch.no_grad():
        said = network.eval()(images.permute(0, 3, 1, 2).float()).argmax(1).numpy()
    assert (said == digits.y_test[:64]).mean() == pytest.approx(accuracy, abs=0.15)
    load_encoder(files / "run/encoder.safetensors")
    _, measured, _ = read_measurements(files / "measurements.json")
    target = read_target(files / "target.json")
    assert target.latency is not None
    assert len(measured) == len(target.latency.measured) == 12


def test_a_comparison_of_format_1_has_its_trainings_for_readers_and_writers(tmp_path: Path) -> None:
    """Format 1 kept them among the baselines, told apart by the "@" in their names."""
    path = Path(shutil.copytree(FORMAT_1 / "run", tmp_path / "run"))
    with closing(sqlite3.connect(path / "search.db")) as database, database:
        for id, accuracy in (("mobilenet_v2", 0.5), ("found@3", 0.75), ("mobilenet_v2@3", 0.625)):
            database.execute(
                "INSERT INTO baselines (id, state, accuracy, seed, extra) "
                "VALUES (?, 'done', ?, 3, ?)",
                (id, accuracy, '{"images_per_second": 10.5}'),
            )
    for write in (False, True, False):
        with Run.open(path, write=write) as run:
            assert [(one.id, one.accuracy) for one in run.baselines()] == [("mobilenet_v2", 0.5)]
            assert [
                (one.id, one.network, one.accuracy, one.seed, one.images_per_second)
                for one in run.compared()
            ] == [
                ("found@3", "found", 0.75, 3, 10.5),
                ("mobilenet_v2@3", "mobilenet_v2", 0.625, 3, 10.5),
            ]
            assert len(run.trials()) == 3


def test_a_training_of_format_1_goes_on(files: Path) -> None:
    assert resumed(files) == [2, 3]


def test_the_commands_take_a_run_of_format_1(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(files)
    for words in ("show run --json", "export run --out again", "latency predict CELL --target T"):
        words = words.replace("CELL", f"{MODEL}/cell.json").replace(" T", " target.json")
        with pytest.raises(SystemExit) as ended:
            cli.main(words.split())
        assert not ended.value.code, (words, capsys.readouterr().err)
    capsys.readouterr()
    assert list(Path("again").rglob("*.onnx"))


def test_a_run_of_format_2_is_shown_reported_and_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(FORMAT_2 / "run", "run")
    best = "9c86102a1b"

    def gemkit(*words: str) -> str:
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        out, err = capsys.readouterr()
        assert not ended.value.code, err
        return out

    known = json.loads(gemkit("show", "run", "--json"))
    assert known["recommended"] == best
    assert known["recommendation"]["rival"] == "resnet8"
    reached = {one["id"]: round(one["accuracy"], 4) for one in known["trials"]}
    assert reached == {"17f37839bd": 0.5049, "80e0469c6b": 0.4984, best: 0.6149}
    assert [round(known[kind][0]["accuracy"], 4) for kind in ("models", "baselines")] == [
        0.7139,
        0.4306,
    ]
    with Run.open("run") as run:
        text = report.write(run).read_text()
    assert f"recommended: {best}, found by the search: 68.00 %".capitalize() in text
    assert "resnet8" in text
    gemkit("export", "run", "--out", "again", "--softmax")
    digits = load("digits")
    accuracy = exporter.accuracy_of(Path(f"again/{best}.onnx"), digits.x_test, digits.y_test)
    assert round(accuracy, 4) == 0.7139


def changed(path: Path, version: int) -> None:
    """Write another format into a file, and leave the rest of it as it is."""
    if path.suffix == ".json":
        path.write_text(json.dumps(json.loads(path.read_text()) | {"format": version}))
        return
    with safe_open(path, framework="np") as file:
        metadata = dict(file.metadata())
    (name,) = [name for name in metadata if name.startswith("gemkit")]
    metadata[name] = json.dumps(json.loads(metadata[name]) | {"format": version})
    save_file(load_file(path), path, metadata)


@pytest.mark.parametrize("name", READERS)
def test_a_newer_format_is_refused_with_a_sentence(files: Path, name: str) -> None:
    latency = read_target(files / "target.json").latency
    assert latency is not None
    save_model(latency, files / "latency.json")
    changed(files / name, 99)
    with pytest.raises(UserError, match=r"newer gemkit \(format 99, this one reads \d+\): update"):
        READERS[name](files / name)


def test_a_newer_database_is_refused_with_a_sentence(files: Path) -> None:
    with closing(sqlite3.connect(files / "run/search.db")) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(UserError, match="newer gemkit"):
        opened(files / "run")


def test_every_file_that_is_written_says_what_wrote_it(files: Path) -> None:
    """In all files of this version: a format, or the versions of gemkit and its packages."""
    for path in files.rglob("*"):
        if path.suffix == ".json":
            value = json.loads(path.read_text())
            for one in value if isinstance(value, list) else [value]:
                assert isinstance(one.get("format"), int) or "gemkit" in one["versions"], path
        elif path.suffix == ".safetensors" and path.parent.name != "state":
            with safe_open(path, framework="np") as file:
                about = json.loads(
                    next(value for name, value in file.metadata().items() if "gemkit" in name)
                )
            assert isinstance(about["format"], int), path
        elif path.suffix == ".onnx":
            assert exporter.read_info(path).more["version"]
