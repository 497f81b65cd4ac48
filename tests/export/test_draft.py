"""The quick graph against PyTorch, and against the delivered file as onnxruntime sees it."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch

from gemkit.architecture import Architecture, Skeleton, Stage
from gemkit.export.draft import draft
from gemkit.export.exporter import export_onnx
from networks import DIGITS, random_cell, random_network

SKELETONS = [
    DIGITS,
    Skeleton((3, 15, 12), 4, (2, 1), (Stage(1, 2), Stage(3))),
    Skeleton((2, 6, 9), 3, (1,), (Stage(2),)),
]


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
        for _ in range(2):
            network = random_network(rng, skeleton)
            model = draft(network.architecture, network)
            onnx.checker.check_model(model, full_check=True)
            session = ort.InferenceSession(model.SerializeToString())
            for batch in (1, 5):
                x = rng.standard_normal((batch, *skeleton.input_shape), dtype=np.float32)
                with torch.no_grad():
                    wanted = network(torch.from_numpy(x)).numpy()
                assert np.abs(session.run(None, {"image": x})[0] - wanted).max() < 1e-4


def test_has_the_kernels_of_the_delivered_file(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for aggregation in ("concat", "sum"):
        cell = random_cell(rng, 6, aggregation)
        network = random_network(rng, DIGITS, (cell,), width=int(rng.integers(4, 17)))
        path = tmp_path / "delivered.onnx"
        how = {"class_names": list("abcdefghij"), "mean": [0.0], "std": [1.0]}
        export_onnx(network, path, input_shape=(1, 8, 8), **how)
        quick = draft(network.architecture)
        assert kernels(onnx.load(path), tmp_path) == kernels(quick, tmp_path)


def test_random_weights_keep_activations_finite(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for aggregation in ("concat", "sum"):
        cell = random_cell(rng, 30, aggregation)
        model = draft(Architecture((cell,), SKELETONS[1], 8))
        session = ort.InferenceSession(model.SerializeToString())
        x = rng.standard_normal((1, 3, 15, 12), dtype=np.float32)
        assert np.isfinite(session.run(None, {"image": x})[0]).all()
