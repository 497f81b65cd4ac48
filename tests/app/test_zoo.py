"""Ready-made networks: packed, listed, exported, and true to their cards."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from PIL import Image

from gemkit.app import zoo
from gemkit.architecture import Architecture, skeleton_for
from gemkit.budget import Budget
from gemkit.cell import Cell
from gemkit.data import load
from gemkit.errors import UserError
from gemkit.network import build

Command = Callable[..., tuple[int, str, str]]
ABOUT: dict[str, Any] = {
    "name": "gemnet-mini",
    "data": "digits",
    "data_note": "The data is digits.",
    "accuracy": 0.5,
    "accuracy_interval": [0.4, 0.6],
    "test_images": 360,
    "measurements": [],
    "budget": Budget(macs=3_000_000).to_json(),
    "search": {"text": "Not searched."},
    "training": {"text": "not at all"},
    "class_names": [str(number) for number in range(10)],
    "mean": [0.3],
    "std": [0.4],
    "limits": ["It knows nothing."],
    "command": "none",
}


@pytest.fixture
def packed(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zoo of one untrained network."""
    folder = tmp_path / "zoo"
    monkeypatch.setattr(zoo, "FOLDER", folder)
    torch.manual_seed(seed)
    cell = Cell(("input", "conv1x1", "sep3x3"), ((0, 1), (0, 2), (1, 2)))
    zoo.pack(build(Architecture((cell,), skeleton_for((1, 8, 8), 10), 8)), ABOUT)
    return folder


def test_a_packed_network_comes_back(packed: Path) -> None:
    network = zoo.load("zoo:gemnet-mini")
    known = zoo.card("gemnet-mini")
    assert known.params == sum(weight.numel() for weight in network.parameters())
    assert known.weights.bytes == (packed / "gemnet-mini.safetensors").stat().st_size


def test_a_changed_file_is_refused(packed: Path) -> None:
    file = packed / "gemnet-mini.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="not the file that its card describes"):
        zoo.load("gemnet-mini")


def test_too_large_a_network_is_not_packed(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo, "MOST_BYTES", 1000)
    with pytest.raises(UserError, match="less than 1,000"):
        zoo.pack(zoo.load("gemnet-mini"), ABOUT, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_zoo_is_listed(packed: Path, gemkit: Command) -> None:
    code, out, _ = gemkit("zoo", "--json")
    assert code == 0
    assert [card["name"] for card in json.loads(out)] == ["gemnet-mini"]
    assert "gemnet-mini" in gemkit("zoo")[1]


def test_a_card_is_shown(packed: Path, gemkit: Command) -> None:
    code, out, errors = gemkit("show", "zoo:gemnet-mini")
    assert code == 0, errors
    assert "It knows nothing." in out
    assert json.loads(gemkit("show", "zoo:gemnet-mini", "--json")[1])["name"] == "gemnet-mini"


def test_pictures_are_classified(packed: Path, gemkit: Command, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "black.png")
    code, out, errors = gemkit("predict", "zoo:gemnet-mini", str(tmp_path / "black.png"), "--json")
    assert code == 0, errors
    assert len(json.loads(out)) == 1


def test_weights_are_kept_as_they_were_judged(packed: Path, seed: int) -> None:
    torch.manual_seed(seed)
    network = build(zoo.load("gemnet-mini").architecture).eval()
    zoo.pack(network, ABOUT)
    images = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(zoo.load("gemnet-mini")(images), zoo.rounded(network)(images))


def test_a_network_is_exported_with_its_card(
    packed: Path, gemkit: Command, tmp_path: Path, seed: int
) -> None:
    code, out, errors = gemkit("export", "zoo:gemnet-mini", "--out", "small.onnx", "--json")
    assert code == 0, errors
    assert json.loads(out)[0]["onnx"] == "small.onnx"
    images = np.random.default_rng(seed).normal(size=(3, 1, 8, 8)).astype(np.float32)
    session = ort.InferenceSession(tmp_path / "small.onnx", providers=["CPUExecutionProvider"])
    with torch.no_grad():
        wanted = zoo.load("gemnet-mini")(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(session.run(None, {"image": images})[0], wanted, atol=1e-4)
    text = (tmp_path / "small.card.md").read_text(encoding="utf-8")
    assert "50.00 %" in text
    assert "It knows nothing." in text


def test_a_network_is_measured_under_its_name(packed: Path, gemkit: Command) -> None:
    code, out, errors = gemkit("bench", "zoo:gemnet-mini", "--json")
    assert code == 0, errors
    assert [one["model"] for one in json.loads(out)] == ["zoo:gemnet-mini"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("export zoo:none", "it has gemnet-mini"),
        ("bench zoo:none mobilenet_v3_small", "it has gemnet-mini"),
        ("export zoo:gemnet-mini --precision int8", "give --data"),
        ("export zoo:gemnet-mini abc", "no ids"),
        ("export zoo:gemnet-mini --format c --softmax", "take pixels of one image"),
        ("show zoo:none", "it has gemnet-mini"),
        ("show zoo:gemnet-mini abc", "by its card alone"),
        ("predict zoo:none picture.png", "it has gemnet-mini"),
    ],
)
def test_bad_input_is_one_sentence(
    packed: Path, gemkit: Command, words: str, expected: str
) -> None:
    code, out, errors = gemkit(*words.split())
    assert (code, out) == (2, "")
    assert len(errors.splitlines()) == 1
    assert expected in errors


def test_shipped_networks_reach_what_their_cards_say(shared_data: Path) -> None:
    shipped = zoo.cards()
    if not shipped:
        pytest.skip("no networks are shipped")
    dataset = load(f"npz:{shared_data / 'cifar10_jpeg.npz'}")
    names = [f"zoo:{card.name}" for card in shipped]
    with zoo.files(names) as paths:
        for card in shipped:
            assert "JPEG q75 copy" in card.data
            assert card.weights.bytes < 2_000_000
            session = ort.InferenceSession(
                paths[f"zoo:{card.name}"], providers=["CPUExecutionProvider"]
            )
            right = 0
            for start in range(0, len(dataset.y_test), 250):
                part = np.asarray(dataset.x_test[start : start + 250], np.float32) / 255
                part = (part - np.float32(card.mean)) / np.float32(card.std)
                scores = session.run(None, {"image": part.transpose(0, 3, 1, 2)})[0]
                right += int((scores.argmax(1) == dataset.y_test[start : start + 250]).sum())
            # Other processors round otherwise: an image in a thousand may change its class.
            assert abs(right / len(dataset.y_test) - card.accuracy) <= 0.001
