"""The written files are opened with onnxruntime and compared with PyTorch by our own arithmetic."""

import json
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from gemkit.architecture import Skeleton, Stage
from gemkit.cost import cost
from gemkit.errors import UserError
from gemkit.export import exporter
from gemkit.export.exporter import accuracy_of, export_onnx, read_info, run_batched
from networks import DIGITS, random_cell, random_images, random_network

NAMES = tuple("abcdefghij")
HOW = {"class_names": NAMES, "mean": [0.3], "std": [0.4], "input_shape": (1, 8, 8)}


def by_hand(network: nn.Module, images: np.ndarray, mean: list[float], std: list[float]):
    pixels = torch.from_numpy(images).double() / 255
    pixels = (pixels - torch.tensor(mean)) / torch.tensor(std)
    with torch.no_grad():
        return network(pixels.permute(0, 3, 1, 2).float()).numpy()


def test_any_cell_runs_at_any_batch(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    skeletons = [
        DIGITS,
        Skeleton((3, 13, 18), 5, (2,), (Stage(1, 2), Stage(3))),
        Skeleton((2, 9, 7), 3, (1, 1), (Stage(2),)),
    ]
    for index, skeleton in enumerate(skeletons):
        per_stage = tuple(random_cell(rng, aggregation="sum") for _ in skeleton.stages)
        network = random_network(rng, skeleton, per_stage if index else None)
        channels = skeleton.input_shape[0]
        mean, std = [0.4] * channels, [0.2] * channels
        images = random_images(rng, 40, skeleton)
        path = tmp_path / f"{index}.onnx"
        exported = export_onnx(
            network,
            path,
            input_shape=skeleton.input_shape,
            class_names=NAMES[: skeleton.classes],
            mean=mean,
            std=std,
            images=images,
        )
        session = ort.InferenceSession(path)
        values = read_info(path).normalise(images)
        for batch in (1, 3, 17, 40):
            found = session.run(["logits"], {"image": values[:batch]})[0]
            wanted = by_hand(network, images[:batch], mean, std)
            assert np.abs(found - wanted).max() <= 1e-4
        assert 0 < exported.parity_max_abs <= 1e-4
        # Every weight is in the file; batch norm has left one number per channel.
        channels_normed = sum(
            module.num_features
            for module in network.modules()
            if isinstance(module, nn.BatchNorm2d)
        )
        spent = cost(network.architecture)
        assert exported.figures.weights == spent.params - channels_normed
        operators = {node.op_type for node in onnx.load(path).graph.node}
        assert "BatchNormalization" not in operators
        assert network.training is False
        assert read_info(path).more["macs"] == spent.macs


def test_preprocessing_and_softmax_inside(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    network, images = random_network(rng), random_images(rng, 60)
    labels = rng.integers(0, 10, 60)
    path = tmp_path / "model.onnx"
    exported = export_onnx(
        network,
        path,
        **HOW,
        images=images,
        test=(images, labels),
        preprocessing=True,
        softmax=True,
        metadata={"accuracy": 0.5, "budget": {"macs": 3}},
    )
    session = ort.InferenceSession(path)
    found = session.run(["probabilities"], {"image": images})[0]
    logits = by_hand(network, images, HOW["mean"], HOW["std"])
    wanted = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert np.abs(found - wanted).max() < 1e-5
    assert (
        exported.accuracy
        == (logits.argmax(1) == labels).mean()
        == accuracy_of(path, images, labels)
    )
    kept = session.get_modelmeta().custom_metadata_map
    assert json.loads(kept["gemkit.class_names"]) == list(NAMES)
    assert json.loads(kept["gemkit.budget"]) == {"macs": 3}
    assert json.loads(kept["gemkit.architecture"]) == network.architecture.to_json()
    assert str(Path.cwd()).encode() not in path.read_bytes()  # no traces of this machine


def test_a_file_of_a_fixed_batch_takes_any_number_of_images(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    network, images = random_network(rng), random_images(rng, 5)
    path = tmp_path / "model.onnx"
    export_onnx(network, path, **HOW, batch=2, opset=21)
    model = onnx.load(path)
    assert model.opset_import[0].version == 21
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2
    wanted = by_hand(network, images, HOW["mean"], HOW["std"])
    inputs = read_info(path).normalise(images)
    found = run_batched(ort.InferenceSession(path), inputs)  # five images, by two
    assert np.abs(found - wanted).max() < 1e-4


def test_foreign_network(tmp_path: Path, seed: int) -> None:
    """Batch norms that stand apart from their convolutions are folded in the ONNX graph."""
    torch.manual_seed(seed)

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 6, 3, padding=1, bias=False)
            self.bn = nn.BatchNorm2d(6)
            self.skip = nn.Conv2d(1, 6, 1)
            self.fc = nn.Linear(6, 10)
            self.drop = nn.Dropout(0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.relu(self.bn(self.conv(x))) + self.skip(x)
            return self.fc(self.drop(y.mean((2, 3))))

    network = Residual()
    network(torch.randn(64, 1, 8, 8))
    path = tmp_path / "model.onnx"
    exported = export_onnx(network, path, **HOW)
    assert network.training
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(path).graph.node}
    assert exported.figures.weights == 6 * 9 + 6 + 6 + 6 + 70
    images = random_images(np.random.default_rng(seed), 4)
    values = read_info(path).normalise(images)
    found = ort.InferenceSession(path).run(None, {"image": values})[0]
    assert np.abs(found - by_hand(network.eval(), images, [0.3], [0.4])).max() < 1e-4


@pytest.mark.parametrize(
    ("broken", "error", "sentence"),
    [
        ("parity", UserError, "differs from PyTorch"),
        ("checker", RuntimeError, "onnx's checker refuses"),
        ("weights", RuntimeError, "holds .* weights, the network has"),
    ],
)
def test_failed_check_leaves_no_file(
    tmp_path: Path,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
    broken: str,
    error: type[Exception],
    sentence: str,
) -> None:
    network = random_network(np.random.default_rng(seed), width=4)
    real = exporter.build_onnx

    def damaged(*arguments, **options):
        model = real(*arguments, **options)
        first = {node.op_type: node for node in reversed(model.graph.node)}
        if broken == "parity":
            weights = next(t for t in model.graph.initializer if t.name == first["Gemm"].input[1])
            values = onnx.numpy_helper.to_array(weights) + np.float32(0.01)
            weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
        elif broken == "checker":
            first["Relu"].op_type = "NoSuchOperator"
        else:
            del first["Conv"].input[2]
        return model

    monkeypatch.setattr(exporter, "build_onnx", damaged)
    with pytest.raises(error, match=sentence):
        export_onnx(network, tmp_path / "model.onnx", **HOW)
    assert list(tmp_path.iterdir()) == []


def test_is_quiet(tmp_path: Path, seed: int, capfd: pytest.CaptureFixture[str]) -> None:
    network = random_network(np.random.default_rng(seed), width=4)
    capfd.readouterr()
    export_onnx(network, tmp_path / "model.onnx", **HOW)
    assert capfd.readouterr() == ("", "")


def test_unusable_input_is_one_sentence(tmp_path: Path, seed: int) -> None:
    network = random_network(np.random.default_rng(seed), width=4)
    path = tmp_path / "model.onnx"
    with pytest.raises(UserError, match="opset 7 is not supported: use 13 to"):
        export_onnx(network, path, **HOW, opset=7)
    with pytest.raises(UserError, match="batch 0"):
        export_onnx(network, path, **HOW, batch=0)
    next(network.parameters()).data[0] = np.nan
    with pytest.raises(UserError, match="no numbers"):
        export_onnx(network, path, **HOW)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        export_onnx(
            random_network(np.random.default_rng(seed)), tmp_path / "file" / "m.onnx", **HOW
        )
    assert not path.exists()


def test_unreadable_files(tmp_path: Path, seed: int) -> None:
    with pytest.raises(UserError, match="there is no file"):
        read_info(tmp_path / "none.onnx")
    for content in (b"", b"hello", os.urandom(500)):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(UserError, match="no whole ONNX file"):
            read_info(tmp_path / "bad.onnx")
    helper = onnx.helper
    value = helper.make_tensor_value_info("x", 1, [1])
    foreign = helper.make_model(
        helper.make_graph([helper.make_node("Relu", ["x"], ["x2"])], "g", [value], [])
    )
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(UserError, match="was not written by gemkit"):
        read_info(tmp_path / "foreign.onnx")
