"""Converted files of a network that has learnt something, read back with onnxruntime."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F

from gemkit.baselines import baseline
from gemkit.budget import Budget
from gemkit.data import Dataset, load
from gemkit.errors import UserError
from gemkit.export import quantize
from gemkit.export.benchmark import export_untrained
from gemkit.export.exporter import export_onnx, read_info
from gemkit.export.quantize import Converted, to_fp16, to_int8
from networks import DIGITS, random_cell, random_network

Trained = tuple[Path, Dataset]


@pytest.fixture(scope="module", params=["concat", "sum"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A small network that reads digits well, as an fp32 file."""
    data = load("digits")
    rng = np.random.default_rng(request.config.getoption("--seed"))
    network = random_network(rng, DIGITS, (random_cell(rng, 5, request.param),), 8).train()
    optimiser = torch.optim.AdamW(network.parameters(), 4e-3)
    x = torch.from_numpy(data.x_train).permute(0, 3, 1, 2).float() / 255
    x = (x - data.mean[0]) / data.std[0]
    y = torch.from_numpy(data.y_train)
    for _ in range(20):
        for part in torch.randperm(len(x)).split(64):
            optimiser.zero_grad()
            F.cross_entropy(network(x[part]), y[part]).backward()
            optimiser.step()
    path = tmp_path_factory.mktemp("fp32") / "model.onnx"
    exported = export_onnx(
        network.eval(),
        path,
        input_shape=(1, 8, 8),
        class_names=data.class_names,
        mean=data.mean,
        std=data.std,
        test=(data.x_test, data.y_test),
        preprocessing=request.param == "sum",
    )
    assert exported.accuracy > 0.85
    return path, data


def accuracy(path: Path, data: Dataset) -> float:
    info = read_info(path)
    x = data.x_test
    if not info.preprocessing:
        x = ((x / 255 - info.mean) / info.std).transpose(0, 3, 1, 2).astype(np.float32)
    outputs = ort.InferenceSession(path).run(None, {"image": x})[0]
    return float((outputs.argmax(1) == data.y_test).mean())


def points_lost(found: Converted) -> float:
    return 100 * (found.reference_accuracy - found.accuracy)


def check(found: Converted, source: Path, data: Dataset) -> onnx.ModelProto:
    model = onnx.load(found.path)
    assert read_info(found.path).precision == found.precision
    assert read_info(found.path).more["id"] == read_info(source).more["id"]
    assert found.accuracy == pytest.approx(accuracy(found.path, data))
    assert found.reference_accuracy == pytest.approx(accuracy(source, data))
    assert found.file_bytes == found.path.stat().st_size
    assert (found.speedup < 1) == any("slower than fp32" in note for note in found.notes)
    assert (points_lost(found) > 1) == any("loses" in note for note in found.notes)
    assert found.to_json()["precision"] == found.precision
    return model


def test_fp16(trained: Trained, tmp_path: Path) -> None:
    source, data = trained
    found = to_fp16(source, tmp_path / "half.onnx", test=(data.x_test, data.y_test))
    model = check(found, source, data)
    assert abs(points_lost(found)) <= 1
    assert found.file_bytes < found.reference_bytes
    weights = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4]
    assert {tensor.data_type for tensor in weights} == {onnx.TensorProto.FLOAT16}


def test_int8(trained: Trained, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source, data = trained
    capfd.readouterr()
    shares: list[float] = []
    found = to_int8(
        source,
        tmp_path / "model.int8.onnx",
        training=(data.x_train, data.y_train),
        test=(data.x_test, data.y_test),
        progress=shares.append,
    )
    assert capfd.readouterr() == ("", "")
    assert shares[-1] == 1
    model = check(found, source, data)
    assert points_lost(found) <= 2
    assert found.method in ("min-max", "99.99 %", "99.9 %")
    # Weights of convolutions are 8-bit, one scale per output channel.
    sizes = {tensor.name: tensor for tensor in model.graph.initializer}
    producer = {node.output[0]: node for node in model.graph.node}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    quantised = 0
    for node in convolutions:
        made = producer.get(node.input[1])
        if node.name in found.float_layers:
            assert made is None  # the weights are the file's own, as they were
            continue
        assert made is not None
        assert made.op_type == "DequantizeLinear"
        weight, scale = sizes[made.input[0]], sizes[made.input[1]]
        assert weight.data_type == onnx.TensorProto.INT8
        assert list(scale.dims) == [weight.dims[0]]
        quantised += 1
    assert quantised > 0
    assert not [note for note in found.notes if "\n" in note]


def test_ranges_come_from_the_training_images_alone(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, data = trained
    seen = []
    real = quantize.tensor_ranges
    monkeypatch.setattr(
        quantize, "tensor_ranges", lambda model, inputs: seen.append(inputs) or real(model, inputs)
    )
    to_int8(
        source,
        tmp_path / "int8.onnx",
        training=(data.x_train[:90], data.y_train[:90]),
        test=(data.x_test, data.y_test),
    )
    known = {image.tobytes() for image in read_info(source).normalise(data.x_train[:90])}
    assert len(seen[0]) == 45
    assert all(image.tobytes() in known for image in seen[0])


def test_ranges_against_numpy(trained: Trained) -> None:
    source, data = trained
    model = quantize.prepared(onnx.load(source))
    inputs = read_info(source).normalise(data.x_train[:32])
    found = quantize.tensor_ranges(model, inputs)
    last = model.graph.output[0].name
    outputs = ort.InferenceSession(source).run([last], {"image": inputs})[0]
    assert found["min-max"][last] == pytest.approx((outputs.min(), outputs.max()), rel=1e-4)
    low, high = np.quantile(outputs, [0.0005, 0.9995])
    assert found["99.9 %"][last] == pytest.approx((low, high), rel=1e-4)


def test_layers_stay_in_float_when_accuracy_needs_it(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A judge that only likes one of the sets gets it, and the fewest layers that are enough."""
    source, _ = trained
    model = quantize.prepared(onnx.load(source))
    sets = quantize.candidates_for_float(model)
    trial = quantize.Attempt(model, {}, np.zeros(0), np.zeros(0))
    monkeypatch.setattr(quantize.Attempt, "outputs", lambda self, model: None)
    for liked in sets:
        monkeypatch.setattr(
            quantize.Attempt,
            "loss",
            lambda self, method, left, wanted, liked=liked: (
                0.0 if left == liked else 0.1,
                1.0 if method == "99.9 %" else 2.0,
            ),
        )
        assert quantize.choose(trial, None) == ("99.9 %", liked)


def floats_between(path: Path) -> list[str]:
    """Conversions to 8 bits and back between what computes in float."""
    model = onnx.load(path)
    writer = {name: node for node in model.graph.node for name in node.output}

    def is_8_bits(node: onnx.NodeProto | None) -> bool:
        if node is None:
            return False
        parts = [writer.get(name) for name in node.input]
        reads = [part for part in parts if part is not None and part.input[0] in writer]
        readers = [one for one in model.graph.node if node.output[0] in one.input]
        return (
            bool(reads)
            and all(part.op_type == "DequantizeLinear" for part in reads)
            and all(one.op_type == "QuantizeLinear" for one in readers)
        )

    idle = []
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear" or node.input[0] not in writer:
            continue
        after = [one for one in model.graph.node if node.output[0] in one.input]
        last = [one for pair in after for one in model.graph.node if pair.output[0] in one.input]
        if not is_8_bits(writer[node.input[0]]) and not all(map(is_8_bits, last)):
            idle.append(node.output[0])
    return idle


@pytest.mark.parametrize("left", ["none", "some"])
def test_no_pair_only_converts(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    source, data = trained
    if left == "some":
        sets = quantize.candidates_for_float
        monkeypatch.setattr(
            quantize, "choose", lambda trial, *rest: ("min-max", max(sets(trial.model), key=len))
        )
    part = data.x_train[:60], data.y_train[:60]
    made = to_int8(source, tmp_path / "int8.onnx", training=part, test=part, whole=left == "none")
    assert bool(made.float_layers) == (left == "some")
    assert floats_between(made.path) == []
    if left == "none":  # what goes in and what comes out
        kernels = quantize.optimised_operators(made.path)
        assert (kernels["QuantizeLinear"], kernels["DequantizeLinear"]) == (1, 1)


def test_a_known_network_is_padded_in_8_bits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = tmp_path / "resnet8.onnx"
    export_untrained(baseline("resnet8", (1, 8, 8), 10), source, (1, 8, 8), 10)
    data = load("digits")
    part = data.x_train[:60], data.y_train[:60]
    made = to_int8(source, tmp_path / "int8.onnx", training=part, test=part, whole=True)
    kernels = quantize.optimised_operators(made.path)
    assert (kernels["QuantizeLinear"], kernels["DequantizeLinear"]) == (1, 1)
    assert kernels["Pad"] == 2
    x = read_info(source).normalise(part[0])
    wanted, found = (
        ort.InferenceSession(path).run(None, {"image": x})[0] for path in (source, made.path)
    )
    assert np.abs(found - wanted).max() < 0.15 * np.abs(wanted).max()


def test_no_layer_is_left_in_float_that_would_leave_the_limits(trained: Trained) -> None:
    """A judge that likes layers in float, and a limit of memory that only 8 bits keep."""
    source, data = trained
    whole = quantize.prepared(onnx.load(source))
    x = read_info(source).normalise(data.x_train[:60])
    ranges = quantize.tensor_ranges(whole, x)
    trial = quantize.Attempt(whole, ranges, x, data.y_train[:60])
    sets = quantize.candidates_for_float(whole)
    assert all(trial.fits("min-max", left) for left in sets)
    tight = replace(trial, limits=Budget(memory_bytes=1_500, precision="int8"))
    assert not any(tight.fits("min-max", left) for left in sets)
    assert quantize.choose(tight, None)[1] == ()


def test_unusable_input(trained: Trained, tmp_path: Path) -> None:
    source, data = trained
    target = tmp_path / "out.onnx"
    test = (data.x_test, data.y_test)
    with pytest.raises(UserError, match="the calibration images are uint8 of shape"):
        to_int8(source, target, training=(data.x_train[:, :5], data.y_train), test=test)
    with pytest.raises(UserError, match="there are no calibration images"):
        to_int8(source, target, training=(data.x_train[:0], data.y_train[:0]), test=test)
    with pytest.raises(UserError, match="the test images are float64"):
        to_fp16(source, target, test=(data.x_test / 255, data.y_test))
    assert not list(tmp_path.iterdir())
    to_fp16(source, target, test=test)
    with pytest.raises(UserError, match="is fp16 already: give the fp32 file"):
        to_int8(target, tmp_path / "x.onnx", training=test, test=test)
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(UserError, match="no whole ONNX file"):
        to_fp16(tmp_path / "text.onnx", tmp_path / "x.onnx", test=test)
