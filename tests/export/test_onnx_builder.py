"""The written graph beside PyTorch, at every operator set, and as onnxruntime sees it."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from gemkit.architecture import Architecture, Skeleton, Stage
from gemkit.cost import cost
from gemkit.export import quantize
from gemkit.export.exporter import export_onnx, run_batched
from gemkit.export.onnx_builder import OPSETS, build_onnx, folded_weights
from gemkit.export.schedule import peak_of_file
from gemkit.network import GEMNet
from networks import DIGITS, random_cell, random_images, random_network

TINY = Skeleton((1, 8, 8), 10, (1,), (Stage(1),))
SKELETONS = [
    DIGITS,
    Skeleton((3, 15, 12), 4, (2, 1), (Stage(1, 2), Stage(3))),
    Skeleton((2, 6, 9), 3, (1,), (Stage(2),)),
    Skeleton((1, 7, 7), 3, (1, 2), (Stage(1.5, 3),), (0.5, 1), shortcut="identity"),
]
HOW = {"class_names": tuple("abcdefghij"), "mean": [0.3], "std": [0.4], "input_shape": (1, 8, 8)}
IR_VERSIONS = {13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}
"""As ONNX's documentation (docs/Versioning.md) lists them."""


def by_pytorch(network: GEMNet, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return network(torch.from_numpy(x)).numpy()


def kernels(model: onnx.ModelProto, folder: Path) -> tuple[Counter, list]:
    """What onnxruntime makes of a model with all its optimisations: operators and shapes."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    ort.InferenceSession(model.SerializeToString(), options)
    optimised = onnx.load(folder / "optimised.onnx")
    shapes = sorted(tuple(t.dims) for t in optimised.graph.initializer if len(t.dims) == 4)
    return Counter(node.op_type for node in optimised.graph.node), shapes


def test_equals_the_network(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for skeleton in SKELETONS:
        for _ in range(3):
            per_stage = tuple(random_cell(rng) for _ in skeleton.stages)
            network = random_network(rng, skeleton, per_stage if rng.random() < 0.5 else None)
            model = build_onnx(network.architecture, folded_weights(network))
            onnx.checker.check_model(model, full_check=True)
            session = ort.InferenceSession(model.SerializeToString())
            for batch in (1, 5):
                x = rng.standard_normal((batch, *skeleton.input_shape), dtype=np.float32)
                found = session.run(["logits"], {"image": x})[0]
                assert np.abs(found - by_pytorch(network, x)).max() < 1e-4


def test_every_opset_gives_the_same_kernels_and_numbers(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for aggregation in ("concat", "sum"):
        network = random_network(rng, DIGITS, (random_cell(rng, 6, aggregation),))
        weights = folded_weights(network)
        x = rng.integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)
        wanted = None
        for opset in OPSETS:
            how = {"normalise": ([0.3], [0.4]), "softmax": True, "opset": opset}
            model = build_onnx(network.architecture, weights, **how)
            assert (model.opset_import[0].version, model.ir_version) == (opset, IR_VERSIONS[opset])
            onnx.checker.check_model(model, full_check=True)
            session = ort.InferenceSession(model.SerializeToString())
            found = session.run(["probabilities"], {"image": x})[0], kernels(model, tmp_path)
            wanted = wanted or found
            assert np.array_equal(found[0], wanted[0])
            assert found[1] == wanted[1]


@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_is_delivered_in_every_precision(
    opset: int, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "latency_ms", lambda paths: [1.0] * len(paths))
    rng = np.random.default_rng(seed)
    network = random_network(rng, TINY, (random_cell(rng, 4),), width=4)
    images = random_images(rng, 60)
    x = (images.transpose(0, 3, 1, 2) / 255 - 0.3).astype(np.float32) / np.float32(0.4)
    logits = by_pytorch(network, x)
    data = images, logits.argmax(1)
    path = tmp_path / "m.onnx"
    export_onnx(network, path, **HOW, images=images, opset=opset)
    quantize.to_fp16(path, tmp_path / "m.fp16.onnx", test=data)
    quantize.to_int8(path, tmp_path / "m.int8.onnx", training=data, test=data)
    for name, allowed in (("m", 1e-4), ("m.fp16", 0.05), ("m.int8", 0.5)):
        model = onnx.load(tmp_path / f"{name}.onnx")
        (imported,) = [one for one in model.opset_import if one.domain == ""]
        assert (imported.version, model.ir_version) == (opset, IR_VERSIONS[opset]), name
        found = run_batched(ort.InferenceSession(tmp_path / f"{name}.onnx"), x)
        assert np.abs(found - logits).max() <= allowed * max(1.0, np.abs(logits).max()), name


def test_what_is_measured_in_a_search_is_what_is_delivered(tmp_path: Path, seed: int) -> None:
    """But for the weights and what the file says about itself."""
    rng = np.random.default_rng(seed)
    network = random_network(rng)
    path = tmp_path / "delivered.onnx"
    export_onnx(network, path, **HOW)
    delivered, untrained = onnx.load(path), build_onnx(network.architecture)
    assert list(delivered.graph.node) == list(untrained.graph.node)
    assert [(t.name, t.dims) for t in delivered.graph.initializer] == [
        (t.name, t.dims) for t in untrained.graph.initializer
    ]
    assert delivered.opset_import == untrained.opset_import
    assert peak_of_file(path) == cost(network.architecture).peak_memory_bytes


def test_random_weights_keep_activations_finite(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for aggregation in ("concat", "sum"):
        cell = random_cell(rng, 30, aggregation)
        model = build_onnx(Architecture((cell,), SKELETONS[1], 8))
        session = ort.InferenceSession(model.SerializeToString())
        x = rng.standard_normal((1, 3, 15, 12), dtype=np.float32)
        assert np.isfinite(session.run(None, {"image": x})[0]).all()
