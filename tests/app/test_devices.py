"""Other devices on the command line: a kit, its measurements, a target, a search for it."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from gemkit.app.steps import known
from gemkit.app.steps.search import search
from gemkit.app.steps.train import train
from gemkit.architecture import skeleton_for
from gemkit.budget import Budget
from gemkit.cell import Cell
from gemkit.export.kit import read_measurements
from gemkit.export.latency import LatencyModel, cross_validate
from gemkit.export.targets import save_target, target
from gemkit.store import Run

SAMPLES = 16


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GEMKIT_CONFIG", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "config"


@pytest.fixture
def without_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train no known network beside: that is tested elsewhere and takes its time."""
    monkeypatch.setattr(known, "NAMES", ())


Outcome = tuple[int, str, str]


def good(outcome: Outcome) -> str:
    code, out, errors = outcome
    assert code == 0, errors
    return out


def measured(gemkit: Callable[..., Outcome], folder: Path, seed: int) -> Path:
    """The measurements of a small kit, made in a process without gemkit."""
    good(gemkit(*f"latency kit --out kit.zip --samples {SAMPLES} --seed {seed % 1000}".split()))
    with zipfile.ZipFile("kit.zip") as archive:
        archive.extractall(folder)
    script = folder / "gemkit-kit" / "measure.py"
    code = (
        "import sys, runpy; sys.modules['gemkit'] = sys.modules['onnx'] = None;"
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-I", "-c", code, str(script), "--rounds", "2", "--seconds", "0.01"]
    subprocess.run(command, check=True, capture_output=True)
    return script.with_name("measurements.json")


@pytest.mark.usefixtures("without_baseline")
def test_from_a_kit_to_networks_for_that_device(
    gemkit: Callable[..., Outcome], tmp_path: Path, config: Path, seed: int
) -> None:
    file = measured(gemkit, tmp_path, seed)
    words = ("latency", "fit", str(file), "--name", "my-board", "--max-memory", "1MB", "--json")
    fitted = json.loads(good(gemkit(*words)))
    assert fitted["latency"]["networks"] == SAMPLES
    assert set(fitted["cross_validation"]) == {"within_10_percent", "median_error", "spearman"}
    assert Path(fitted["file"]) == config / "targets" / "my-board.json"
    listed = json.loads(good(gemkit("targets", "--json")))
    assert listed[-1]["name"] == "my-board"
    assert listed[-1]["own"]
    assert listed[-1]["budget"]["memory_bytes"] == 1_000_000
    assert "my-board" in good(gemkit("targets"))
    assert "images of 8x8x1 in 10 classes" in good(gemkit("targets", "my-board"))

    slowest = max(row["latency_ms"]["p50"] for row in json.loads(file.read_text())["measured"])
    options = (
        "--data digits --max-macs 300k --target my-board --trials 2 --epochs 1 --workers 2 "
        "--top 1 --out run"
    )
    words = ("run", *options.split(), "--max-latency", f"{slowest:.4f}ms", "--json", "run.json")
    out = good(gemkit(*words))
    assert "predicted for my-board" in out
    content = json.loads(Path("run.json").read_text())
    assert content["budget"]["memory_bytes"] == 1_000_000
    assert all(trial["latency_ms"]["p50"] <= slowest for trial in content["trials"])
    (model,) = [model for model in content["models"] if model["onnx"]]
    there = model["extra"]["target"]
    assert there["name"] == "my-board"
    assert there["measured"] is False
    assert there["latency_ms"]["p50"] <= there["latency_ms"]["at_most"] <= slowest
    for text in (
        out,
        good(gemkit("show", "run")),
        good(gemkit("show", "run", model["id"])),
        Path("run/report.md").read_text(),
        Path(f"run/models/{model['id']}/card.md").read_text(),
    ):
        assert "on my-board (predicted, not measured" in " ".join(text.split())

    # The run keeps what it predicts with, so it goes on without the target.
    good(gemkit("targets", "my-board", "--remove"))
    code, _, errors = gemkit("run", *options.split(), "--max-latency", "1ms", "--resume")
    assert (code, errors.count("\n")) == (2, 1)
    assert "no target 'my-board'" in errors
    assert good(gemkit("export", "run"))


def test_predicts_one_cell(gemkit: Callable[..., Outcome], tmp_path: Path, seed: int) -> None:
    file = measured(gemkit, tmp_path, seed)
    good(gemkit("latency", "fit", str(file), "--name", "b", "--max-latency", "1s"))
    cell = Cell(("input", "conv1x1", "sep3x3"), ((0, 1), (0, 2), (1, 2)))
    Path("cell.json").write_text(json.dumps(cell.to_json()))
    words = ("latency", "predict", "cell.json", "--target", "b", "--width", "8,32", "--json")
    rows = json.loads(good(gemkit(*words)))
    assert [row["width"] for row in rows] == [8, 32]
    assert all(0 < row["latency_ms"]["p50"] < row["latency_ms"]["at_most"] for row in rows)
    assert not any(row["measured"] for row in rows)

    code, _, errors = gemkit("latency", "predict", "cell.json", "--target", "rp2040")
    assert (code, errors.count("\n")) == (2, 1)
    # Other images than the kit's.
    images = np.random.default_rng(seed).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    np.savez(
        "d.npz",
        x_train=images,
        y_train=np.arange(60) % 3,
        x_test=images[:9],
        y_test=np.arange(9) % 3,
    )
    code, _, errors = gemkit("search", "--data", "npz:d.npz", "--target", "b")
    assert (code, errors.count("\n")) == (2, 1)
    assert "was measured for images of 8x8x1 in 10 classes, not for images of 16x16x3" in errors


def test_a_short_kit_starts_from_the_own_target_that_helps(
    gemkit: Callable[..., Outcome], tmp_path: Path, seed: int
) -> None:
    file = measured(gemkit, tmp_path, seed)
    skeleton, rows, device = read_measurements(file)
    odd = np.random.default_rng(seed).lognormal(0, 2, len(rows))
    factors = {"alike": np.full(len(rows), 3.0), "odd": odd}
    for name, factor in factors.items():
        times = [
            replace(one, latency_ms=one.latency_ms * by)
            for one, by in zip(rows, factor, strict=True)
        ]
        save_target(name, LatencyModel.fit(skeleton, times, device), Budget(), "made up")
    save_target(
        "others", LatencyModel.fit(skeleton_for((3, 16, 16), 2), rows, device), Budget(), ""
    )
    errors = {}
    for name in (None, *factors):
        prior = None if name is None else target(name).latency
        found = cross_validate(LatencyModel.fit(skeleton, rows, device, prior))
        assert found is not None
        errors[name] = found["median_error"]
    best = min(errors, key=lambda name: errors[name])
    fitted = json.loads(good(gemkit("latency", "fit", str(file), "--name", "mine", "--json")))
    taken = fitted["prior"]
    assert fitted["cross_validation"]["median_error"] == pytest.approx(errors[taken])
    # What brings the error down by less than a twentieth is not worth another device's quirks.
    assert taken == best or errors[best] > 0.9 * errors[taken]
    if errors["alike"] < 0.9 * errors[None]:
        assert taken is not None
    said = good(gemkit("latency", "fit", str(file), "--name", "other", "--prior", "odd"))
    assert "starts from what was measured on odd" in said


BAD = [
    ("latency", "kit.*fit|Missing command|Usage"),
    ("latency kit", "--out"),
    ("latency kit --out kit.zip --samples 3", "--samples"),
    ("latency kit --out kit.zip --data none", "unknown data"),
    ("latency kit --out kit.zip --max-macs 10", "MACs budget.*raise"),
    ("latency kit --out kit.zip --max-latency 1ms", "--max-latency.*--max-macs"),
    ("latency kit --out none/there/kit.zip/ --max-macs x", "no count"),
    ("latency kit --out .", "directory|folder"),
    ("latency fit --name x", "MEASUREMENTS"),
    ("latency fit none.json --name x", "none.json"),
    ("latency fit text --name x", "text"),
    ("latency fit list.json --name x", "no measurements of a kit"),
    ("latency fit list.json --name UPPER", "no name for a target"),
    ("latency fit list.json --name rp2040", "comes with gemkit"),
    ("latency fit list.json --name x --prior nowhere", "no target .nowhere."),
    ("latency fit list.json --name x --prior rp2040", "--prior: the latency on rp2040"),
    ("latency fit list.json", "--name"),
    ("latency predict none.json --target rp2040", "none.json"),
    ("latency predict list.json --target rp2040", "list.json|cell"),
    ("latency predict cell.json --target nowhere", "no target 'nowhere'"),
    ("latency predict cell.json --target rp2040 --width 1", "not known|--width"),
    ("targets nowhere", "no target 'nowhere'"),
    ("targets --remove", "--remove"),
    ("targets rp2040 --remove", "comes with gemkit"),
    ("targets list.json", "no target of gemkit"),
]


@pytest.mark.parametrize(("words", "sentence"), BAD)
def test_refused_in_one_sentence(
    gemkit: Callable[..., Outcome], tmp_path: Path, config: Path, words: str, sentence: str
) -> None:
    import re

    Path("text").write_text("no JSON at all")
    Path("list.json").write_text("[1, 2]")
    Path("cell.json").write_text(json.dumps(Cell(("input", "conv1x1"), ((0, 1),)).to_json()))
    before = sorted(tmp_path.rglob("*"))
    code, out, errors = gemkit(*words.split())
    assert code == 2
    assert out == ""
    assert len(errors.splitlines()) == 1
    assert re.search(sentence, errors), errors
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("without_baseline")
def test_export_in_other_forms(gemkit: Callable[..., Outcome], tmp_path: Path, seed: int) -> None:
    """uint8 pixels in, probabilities out, a fixed batch, an opset; for all precisions."""
    budget = Budget(macs=200_000)
    with search("digits", budget, out="run", trials=1, epochs=1, workers=2, nodes=4):
        pass
    train("run", top=1, epochs=1, workers=2)
    words = "export run --precision fp16,int8 --input uint8 --softmax --opset 20 --batch 2"
    value = json.loads(good(gemkit(*words.split(), "--out", "deploy", "--json")))
    (model,) = value
    names = {f"{model['id']}{kind}.onnx" for kind in ("", ".fp16", ".int8")}
    assert {Path(file["onnx"]).name for file in model["files"]} == names
    assert {path.name for path in Path("deploy").glob("*.onnx")} == names
    card = (Path("deploy") / f"{model['id']}.card.md").read_text()
    assert "uint8 (batch, height, width, channels)" in card
    assert "The batch is fixed to 2" in card
    assert "Not measured here" in card
    pixels = np.random.default_rng(seed).integers(0, 256, (2, 8, 8, 1), dtype=np.uint8)
    for name in names:
        session = ort.InferenceSession(Path("deploy") / name)
        (place,) = session.get_inputs()
        assert (place.type, place.shape) == ("tensor(uint8)", [2, 8, 8, 1])
        (found,) = session.run(["probabilities"], {"image": pixels})
        assert found.astype(np.float64).sum(axis=1) == pytest.approx([1, 1], abs=0.02)
    with Run.open("run") as opened:  # its own file is as ever
        (own,) = opened.models()
        session = ort.InferenceSession(opened.path / own.onnx)
        assert session.get_inputs()[0].shape == ["batch", 1, 8, 8]
        assert [path.name for path in (opened.path / own.onnx).parent.glob("*.onnx")] == [
            "model.onnx"
        ]
    for wrong, sentence in (
        ("--opset 12", "opset 12"),
        ("--batch 0", "batch 0"),
        ("--input x", "--input"),
    ):
        code, _, errors = gemkit("export", "run", *wrong.split())
        assert (code, len(errors.splitlines())) == (2, 1)
        assert sentence in errors
