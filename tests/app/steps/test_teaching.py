"""Training with a teacher, from photographs to a report; what it refuses."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from gemkit import fine_tuning
from gemkit.app.report import report
from gemkit.app.steps import pipeline
from gemkit.app.steps.search import search
from gemkit.app.steps.teaching import find
from gemkit.app.steps.train import train
from gemkit.app.terminal.progress import console_for
from gemkit.budget import Budget
from gemkit.data import held_out, load
from gemkit.errors import UserError
from gemkit.records import TEACHER_SETTING, TeacherInfo
from gemkit.store import Run
from gemkit.views import read_lessons

BUDGET = Budget(macs=300_000)
SMALL: dict[str, Any] = {"nodes": 3, "trials": 1, "epochs": 1, "workers": 1}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blue, green and red pictures of 24 pixels, and some without labels."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for place, name in enumerate(("blue", "green", "red")):
        for number in range(30):
            pixels = rng.integers(0, 90, (24, 24, 3))
            pixels[..., 2 - place] += 120
            part = "train" if number < 20 else "test" if number < 25 else "more"
            path = folder / part / (name if part != "more" else ".") / f"{name}{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that says which channel is the strongest, and names the classes in another order."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ("n", 3, 24, 24))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("n", 3))],
        [numpy_helper.from_array(np.eye(3, dtype=np.float32) * 20, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    about = {"class_names": '["red", "green", "blue"]', "mean": "[0, 0, 0]", "std": "[1, 1, 1]"}
    helper.set_model_props(model, {f"gemkit.{name}": value for name, value in about.items()})
    path = tmp_path_factory.mktemp("teacher") / "strongest.onnx"
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="module")
def searched(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose search is done; tests work on copies."""
    path = tmp_path_factory.mktemp("runs") / "searched"
    search(f"imagefolder:{photos}@16", BUDGET, out=path, **SMALL).close()
    return path


@pytest.fixture
def run(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run to train in, with a data folder of its own."""
    monkeypatch.setenv("GEMKIT_DATA", str(tmp_path / "data"))
    return Path(shutil.copytree(searched, tmp_path / "run"))


def test_training_with_a_teacher(
    photos: Path,
    teacher: Path,
    run: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    options: dict[str, Any] = {"top": 1, "epochs": 1, "workers": 1, "console": console_for()}
    train(run, teacher=str(teacher), unlabelled=photos / "more", **options)
    assert "15 pictures of" in capfd.readouterr().out
    dataset, lessons = load(f"imagefolder:{photos}@16"), read_lessons(run / "teacher")
    labels = np.delete(dataset.y_train, held_out(dataset))
    assert len(lessons) == len(labels) + 15
    np.testing.assert_array_equal(lessons.shares[0, : len(labels)].argmax(1), labels)
    with Run.open(run, write=True) as opened:
        info = opened.setting(TEACHER_SETTING, TeacherInfo)
        assert info is not None
        assert (info.name, info.accuracy, info.side) == (str(teacher), 1.0, 24)
        assert info.images == len(lessons)
        assert opened.models()[0].recipe["recipe"] == "taught"
        assert "strongest.onnx (teacher) | – | 100.00 %" in report.write(opened).read_text()
    assert train(run, **options)  # nothing is repeated
    assert "sees" not in capfd.readouterr().out
    with pytest.raises(UserError, match="has the teacher"):
        train(run, teacher="resnet18", **options)


def test_a_teacher_that_disagrees_is_told(
    run: Path,
    teacher: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """One that takes red for blue and never names red."""
    model = onnx.load(str(teacher))
    wrong = np.float32([[0, 0, 9], [0, 0, 9], [0, 9, 0]])
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(wrong, "weight"))
    onnx.save(model, str(tmp_path / "wrong.onnx"))
    name = str(tmp_path / "wrong.onnx")
    train(run, teacher=name, top=1, epochs=1, workers=1, console=console_for())
    said = " ".join(capfd.readouterr().out.split())
    assert "never names red" in said
    assert "of the training labels alone" in said


def test_a_teacher_of_no_finite_outputs(run: Path, teacher: Path, tmp_path: Path) -> None:
    model = onnx.load(str(teacher))
    model.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.full((3, 3), np.nan, np.float32), "weight")
    )
    onnx.save(model, str(tmp_path / "nan.onnx"))
    with pytest.raises(UserError, match="not finite"):
        train(run, teacher=str(tmp_path / "nan.onnx"), top=1, epochs=1, workers=1)


def test_a_teacher_of_other_classes_learns_them_first(
    photos: Path,
    run: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fine_tuning, "RECIPE", replace(fine_tuning.RECIPE, least_steps=12))
    options: dict[str, Any] = {"top": 1, "epochs": 1, "workers": 1, "console": console_for()}
    train(run, teacher="zoo:gemnet-tiny", **options)
    assert "learns your classes" in capfd.readouterr().out
    dataset, lessons = load(f"imagefolder:{photos}@16"), read_lessons(run / "teacher")
    labels = np.delete(dataset.y_train, held_out(dataset))
    np.testing.assert_array_equal(lessons.shares[0].argmax(1), labels)
    with Run.open(run) as opened:
        info = opened.setting(TEACHER_SETTING, TeacherInfo)
        assert info is not None
        assert (info.accuracy, info.side) == (1.0, 32)
        assert info.head.startswith(f"fine-tuned on {len(labels)} images")
    assert sorted(path.name for path in (run / "teacher").iterdir()) == ["bank.json", "shares.npy"]


def test_a_trained_network_as_a_teacher(photos: Path, run: Path) -> None:
    """By its classes where they are those of the data, else by its features."""
    (model,) = train(run, top=1, epochs=1, workers=1)
    folder = str(run / "models" / model.id)
    assert find(folder, load(f"imagefolder:{photos}@16")).names_classes
    assert not find(folder, load("digits")).names_classes
    assert not find("zoo:gemnet-tiny", load("digits")).names_classes


def test_pictures_without_labels_need_a_teacher(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="need a --teacher"):
        pipeline.run("digits", BUDGET, out=tmp_path / "run", unlabelled=photos / "more", **SMALL)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [({"teacher": "resnet51"}, "unknown teacher"), ({"unlabelled": "none"}, "is no folder")],
)
def test_what_is_wrong_is_said_before_the_search(
    photos: Path, teacher: Path, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    given = {"teacher": str(teacher), **SMALL, **options}
    with pytest.raises(UserError, match=said):
        pipeline.run(f"imagefolder:{photos}@16", BUDGET, out=tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()
