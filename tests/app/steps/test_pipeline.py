"""A whole small run from data to report, whose files are read back by other programs' eyes."""

import json
import re
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from gemkit import pictures
from gemkit.app import cli
from gemkit.app.classifier import Classifier
from gemkit.app.steps import pipeline, predict
from gemkit.app.steps.search import search
from gemkit.app.terminal.progress import console_for
from gemkit.budget import Budget
from gemkit.cell import Cell
from gemkit.cost import count_with_fvcore
from gemkit.data import final_split, load
from gemkit.network import load_network
from gemkit.pictures import read_picture
from gemkit.store import Run

MakeCell = Callable[[np.random.Generator, int, float], Cell]
BUDGET = Budget(macs=200_000, params=10_000, memory_bytes=60_000)
SMALL: dict[str, Any] = {"nodes": 5, "trials": 4, "epochs": 1, "workers": 1, "seed": 3}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A quarter of the digits, as a file of one's own."""
    digits = load("digits")
    path = tmp_path_factory.mktemp("data") / "some.npz"
    np.savez(
        path,
        x_train=digits.x_train[:360],
        y_train=digits.y_train[:360],
        x_test=digits.x_test[:90],
        y_test=digits.y_test[:90],
    )
    return f"npz:{path}"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, data: str) -> Path:
    """One small run for all tests of this file; they must not change it."""
    path = tmp_path_factory.mktemp("runs") / "small"
    pipeline.run(data, BUDGET, out=path, top=1, command="gemkit run ...", **SMALL).close()
    return path


@pytest.mark.parametrize(
    ("recipe", "epochs", "expected"), [(None, None, 3), ("full", None, 9), ("full", 2, 2)]
)
def test_trials_are_longer_before_long_trainings(
    recipe: str | None, epochs: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Begun(Exception):
        pass

    def begun(*_: Any, **given: Any) -> None:
        raise Begun(given["epochs"])

    monkeypatch.setattr(pipeline, "search", begun)
    with pytest.raises(Begun, match=f"^{expected}$"):
        pipeline.run(recipe=recipe, epochs=epochs)


def _content(path: Path) -> dict[str, Any]:
    with Run.open(path) as run:
        return run.content().to_json()


def test_every_model_fits_the_budget_by_independent_counts(run_folder: Path) -> None:
    models = _content(run_folder)["models"]
    assert models
    for model in models:
        network = load_network(run_folder / "models" / model["id"] / "weights.safetensors")
        macs, params = count_with_fvcore(network, (1, 8, 8))
        assert (macs, params) == (model["macs"], model["params"])
        assert macs <= 200_000
        assert params <= 10_000
        assert model["peak_memory_bytes"] <= 60_000
        file = onnx.load(run_folder / model["onnx"])
        assert sum(int(np.prod(tensor.dims)) for tensor in file.graph.initializer) <= 10_000
        assert not any(node.op_type == "BatchNormalization" for node in file.graph.node)


def test_the_onnx_file_classifies_as_its_model_says(run_folder: Path, data: str) -> None:
    images = load(data)
    for model in _content(run_folder)["models"]:
        assert model["parity_max_abs"] <= 1e-4
        session = onnxruntime.InferenceSession(
            str(run_folder / model["onnx"]), providers=["CPUExecutionProvider"]
        )
        name = session.get_inputs()[0].name
        mean, std = np.float32(images.mean), np.float32(images.std)
        inputs = ((images.x_test / np.float32(255) - mean) / std).transpose(0, 3, 1, 2)
        inputs = inputs.astype(np.float32)
        for batch in (1, 3):
            assert session.run(None, {name: inputs[:batch]})[0].shape == (batch, 10)
        predicted = session.run(None, {name: inputs})[0].argmax(axis=1)
        assert float((predicted == images.y_test).mean()) == pytest.approx(model["accuracy"])


def test_the_strongest_known_network_within_the_limits_stands_beside(run_folder: Path) -> None:
    content = _content(run_folder)
    (baseline,) = content["baselines"]
    assert baseline["macs"] <= 200_000
    assert baseline["params"] <= 10_000
    assert baseline["epochs"] == content["models"][0]["epochs"]
    assert baseline["latency_ms"]["p50"] > 0


def test_the_best_on_the_hold_out_is_recommended_and_delivered(
    run_folder: Path, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = _content(run_folder)
    networks = [*content["models"], *content["baselines"]]
    held_out = final_split(load(data))
    # Judged once more by the files.
    reached = {}
    for one in networks:
        classifier = Classifier.open(run_folder / one["onnx"])
        answers = [classifier.classify(image)[0].argmax() for image in held_out.x_validation]
        right = np.array(answers) == held_out.y_validation
        reached[one["id"]] = right.mean()
        assert one["extra"]["holdout"]["images"] == len(right) == 72
        assert one["extra"]["holdout"]["wrong"] == np.flatnonzero(~right).tolist()
    best = content["recommended"]
    assert reached[best] == max(reached.values())
    kind = {"found": "models", "known": "baselines"}[content["recommendation"]["kind"]]
    assert best in [one["id"] for one in content[kind]]
    assert f"Recommended: {best}" in (run_folder / "report.md").read_text()
    succeeds(["show", str(run_folder)])
    said = " ".join(capsys.readouterr().out.split())
    assert f"recommended: {best}" in said
    # A known network is exported as a found one is.
    (known,) = content["baselines"]
    again = tmp_path / "copy"
    shutil.copytree(run_folder, again)
    succeeds(
        ["export", str(again), known["id"], "--precision", "int8", "--out", str(tmp_path / "to")]
    )
    card = (tmp_path / "to" / f"{known['id']}.card.md").read_text()
    assert "a known network, trained and exported by gemkit" in card
    assert (tmp_path / "to" / f"{known['id']}.int8.onnx").is_file()


def succeeds(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 0


def test_measurements_are_stored_and_written(run_folder: Path) -> None:
    for model in _content(run_folder)["models"]:
        latency = model["latency_ms"]
        assert 0 < latency["p50"] <= latency["p90"] <= latency["p95"] <= latency["p99"]
        (one,) = json.loads((run_folder / "models" / model["id"] / "bench.json").read_text())
        assert one["provider"] == "CPUExecutionProvider"
        assert (one["threads"], one["batch"], one["precision"]) == (1, 1, "fp32")
        assert one["file_bytes"] == (run_folder / model["onnx"]).stat().st_size
        assert model["measurements"] == [one]


def test_the_cell_file_is_the_stored_cell(run_folder: Path) -> None:
    for model in _content(run_folder)["models"]:
        written = json.loads((run_folder / "models" / model["id"] / "cell.json").read_text())
        assert written == {"format": 1, **model["cell"]}
        # In the first of the skeletons a network has the id of its cell.
        first = not model["extra"].get("skeleton")
        assert (Cell.from_json(written).id == model["id"]) == first


def test_all_links_and_pictures_of_the_report_exist(run_folder: Path) -> None:
    text = (run_folder / "report.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert any(link.endswith("model.onnx") for link in links)
    assert any(link.endswith("macs.png") for link in links)
    for link in links:
        assert (run_folder / link).is_file(), link
    assert "gemkit run ..." in text
    assert "Seed 3" in text
    assert "/root" not in text


def test_the_html_report_needs_no_other_file(run_folder: Path) -> None:
    text = (run_folder / "report.html").read_text()
    source = (run_folder / "report.md").read_text()
    pictures, links = source.count("!["), source.count("](")
    assert text.count("data:image/png;base64,") == text.count("<img ") == pictures > 0
    assert text.count("<a href=") == links - pictures > 0
    assert "http://" not in text
    assert "https://" not in text


def test_a_finished_run_resumes_without_doing_anything(
    run_folder: Path, data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _content(run_folder)
    words = f"run --data {data} --max-macs 200k --max-params 10k --max-memory 60kB --nodes 5"
    words += f" --trials 4 --epochs 1 --workers 1 --seed 3 --top 1 --resume --out {run_folder}"
    with pytest.raises(SystemExit) as ended:
        cli.main([*words.split(), "--json"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    after = json.loads(out)
    assert after["trials"] == before["trials"]
    for new, old in zip(after["models"], before["models"], strict=True):
        for name in ("id", "accuracy", "onnx", "parity_max_abs", "state", "seconds"):
            assert new[name] == old[name]


def test_the_same_seed_makes_the_same_trials(run_folder: Path, data: str, tmp_path: Path) -> None:
    again = search(data, BUDGET, out=tmp_path / "again", **SMALL)
    with again, Run.open(run_folder) as first:
        for new, old in zip(again.trials(), first.trials(), strict=True):
            assert (new.key, new.width, new.accuracy, new.seed) == (
                old.key,
                old.width,
                old.accuracy,
                old.seed,
            )


def test_pictures_can_be_classified(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model,) = _content(run_folder)["models"]
    pictures = sorted((run_folder / "examples").glob("*.png"))
    with pytest.raises(SystemExit) as ended:
        cli.main(["predict", str(run_folder / model["onnx"]), *map(str, pictures), "--json"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["image"] for entry in found] == [str(path) for path in pictures]
    classifier = Classifier.open(run_folder / model["onnx"])
    for entry, path in zip(found, pictures, strict=True):
        probabilities, _ = classifier.classify(read_picture(path, classifier.info.input_shape))
        assert probabilities.sum() == pytest.approx(1)
        assert entry["classes"][0]["probability"] == pytest.approx(probabilities.max())


def test_pictures_are_held_one_at_a_time(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (model,) = _content(run_folder)["models"]
    alive: weakref.WeakSet[Image.Image] = weakref.WeakSet()
    most = 0
    opened = pictures.open_image

    def counted(source: Path) -> Image.Image:
        nonlocal most
        image = opened(source)
        alive.add(image)
        most = max(most, len(alive))
        return image

    monkeypatch.setattr(pictures, "open_image", counted)
    files = sorted((run_folder / "examples").glob("*.png"))[:1] * 12
    found = predict.predict(run_folder / model["onnx"], files, 1, console_for(stderr=True))
    assert len(found) == 12
    assert most <= 2  # the one before may not have been collected yet


def test_pictures_that_cannot_be_used_do_not_hide_the_others(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (model,) = _content(run_folder)["models"]
    good = sorted((run_folder / "examples").glob("*.png"))[0]
    for name in ("text.png", "empty.png"):
        (tmp_path / name).write_text("words" if name == "text.png" else "")
    named = [tmp_path / "text.png", good, tmp_path / "empty.png"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["predict", str(run_folder / model["onnx"]), *map(str, named), "--json"])
    assert ended.value.code == 2
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert ["error" in entry for entry in found] == [True, False, True]
    for path in (named[0], named[2]):
        assert f"{path} cannot be used" in said.err.replace("\n", " ")
