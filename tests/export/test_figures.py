"""Every kind of file carries its own figures: in its metadata, its card and what is returned."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from gemkit.architecture import Architecture, skeleton_for
from gemkit.budget import Budget, format_count
from gemkit.cell import Cell
from gemkit.cost import cost
from gemkit.export import optimize, quantize
from gemkit.export.card import write_card
from gemkit.export.exporter import export_onnx
from gemkit.export.figures import Figures
from gemkit.export.schedule import peak_of_file
from gemkit.network import build

SHAPE, NAMES = (3, 12, 12), ("a", "b", "c", "d")
MEAN, STD = (0.5, 0.4, 0.3), (0.3, 0.25, 0.2)


@dataclass(frozen=True)
class Source:
    """A network with random weights, and images that it is judged on."""

    architecture: Architecture
    network: torch.nn.Module
    images: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]


@pytest.fixture
def source(seed: int) -> Source:
    rng = np.random.default_rng(seed)
    cell = Cell(
        ("input", "sep3x3", "conv1x1", "conv1x1", "sep3x3"),
        ((0, 1), (0, 2), (0, 3), (1, 4), (2, 4), (3, 4)),
    )
    architecture = Architecture((cell,), skeleton_for(SHAPE, len(NAMES)), 12)
    torch.manual_seed(seed)
    images = rng.integers(0, 256, (60, 12, 12, 3), dtype=np.uint8)
    return Source(architecture, build(architecture), images, rng.integers(0, 4, 60))


def written(source: Source, path: Path, **form: Any) -> Any:
    """The fp32 file, in whatever form."""
    return export_onnx(
        source.network,
        path,
        input_shape=SHAPE,
        class_names=NAMES,
        mean=MEAN,
        std=STD,
        images=source.images,
        test=(source.images, source.labels),
        metadata={"accuracy": 0.5},  # as PyTorch has it: the file's own takes its place
        **form,
    )


def converted(kind: str) -> Callable[[Source, Path], Any]:
    def make(source: Source, path: Path) -> Any:
        plain = path.with_name("plain.onnx")
        written(source, plain)
        test = (source.images, source.labels)
        if kind == "fp16":
            return quantize.to_fp16(plain, path, test=test)
        return quantize.to_int8(plain, path, training=test, test=test)

    return make


def padded(source: Source, path: Path) -> Any:
    """A rewritten file: twelve channels padded to sixteen, said to be faster."""
    plain = path.with_name("plain.onnx")
    written(source, plain)

    def measure(files: Any) -> list[float]:  # more multiply-accumulates, less time
        return [1e9 / Counted(file).macs for file in files]

    test = (source.images, source.labels)
    return optimize.optimize_file(plain, path, test=test, measure=measure)


KINDS: dict[str, Callable[[Source, Path], Any]] = {
    "fp32": written,
    "uint8, probabilities, fixed batch": lambda source, path: written(
        source, path, preprocessing=True, softmax=True, batch=4
    ),
    "fp16": converted("fp16"),
    "int8": converted("int8"),
    "rewritten": padded,
}


class Counted:
    """A file counted by running it: the shapes that onnxruntime gives to all its tensors."""

    def __init__(self, path: Path) -> None:
        model = onnx.load(path)
        dims = model.graph.input[0].type.tensor_type.shape.dim
        batch = dims[0].dim_value or 1
        shape = [batch, *(dim.dim_value for dim in dims[1:])]
        kind = np.uint8 if model.graph.input[0].type.tensor_type.elem_type == 2 else np.float32
        layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
        names = {name for node in layers for name in (*node.input, *node.output) if name}
        stored = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
        computed = sorted(names - stored.keys() - {model.graph.input[0].name})
        known = {one.name for one in model.graph.output}
        for name in computed:
            if name not in known:
                model.graph.output.append(onnx.ValueInfoProto(name=name))
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        found = session.run(computed, {model.graph.input[0].name: np.zeros(shape, kind)})
        shapes = {name: value.shape for name, value in stored.items()}
        shapes |= {name: value.shape for name, value in zip(computed, found, strict=True)}
        shapes[model.graph.input[0].name] = tuple(shape)
        self.macs = self.weights = 0
        for node in layers:
            out, weight = shapes[node.output[0]], shapes[node.input[1]]
            inner = math.prod(weight[1:]) if node.op_type == "Conv" else math.prod(weight) // out[1]
            self.macs += math.prod(out) * inner // batch
            self.weights += sum(math.prod(shapes[name]) for name in node.input[1:])


def accuracy(path: Path, source: Source) -> float:
    """By onnxruntime and a few lines of NumPy."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    wanted = session.get_inputs()[0]
    images = source.images
    if wanted.type == "tensor(float)":
        scaled = (images / 255 - np.array(MEAN)) / np.array(STD)
        images = scaled.transpose(0, 3, 1, 2).astype(np.float32)
    step = wanted.shape[0] if isinstance(wanted.shape[0], int) else len(images)
    scores = [
        session.run(None, {wanted.name: images[start : start + step]})[0]
        for start in range(0, len(images), step)
    ]
    return float((np.concatenate(scores).argmax(1) == source.labels).mean())


def metadata(path: Path) -> dict[str, Any]:
    props = onnx.load(path).metadata_props
    return {one.key.removeprefix("gemkit."): json.loads(one.value) for one in props}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_says_what_it_costs_and_reaches_itself(
    kind: str, source: Source, tmp_path: Path
) -> None:
    path = tmp_path / "file.onnx"
    made = KINDS[kind](source, path)
    counted, own = Counted(path), metadata(path)
    assert (own["macs"], own["weights"]) == (counted.macs, counted.weights)
    assert (made.figures.macs, made.figures.weights) == (counted.macs, counted.weights)
    right = accuracy(path, source)
    # An image on the border between two classes may fall to either.
    assert own["accuracy"] == made.accuracy == pytest.approx(right, abs=1 / 60 + 1e-9)
    precision = own["precision"]
    spent = cost(source.architecture, precision)
    if kind == "rewritten":
        assert own["macs"] > spent.macs
        assert own["params"] > spent.params
        assert own["peak_memory_bytes"] == peak_of_file(path) > spent.peak_memory_bytes
    else:
        assert own["macs"] == spent.macs
        assert own["params"] == spent.params
        assert own["peak_memory_bytes"] == spent.peak_memory_bytes

    write_card(tmp_path / "card.md", path, data="noise")
    (row,) = [line for line in (tmp_path / "card.md").read_text().splitlines() if "`file." in line]
    assert f"| {precision} | {100 * own['accuracy']:.2f} % | {format_count(own['macs'])} |" in row


def test_a_rewrite_that_leaves_a_limit_is_not_applied(source: Source, tmp_path: Path) -> None:
    plain = tmp_path / "plain.onnx"
    written(source, plain)
    spent = cost(source.architecture)

    def measure(files: Any) -> list[float]:
        return [1e9 / Counted(file).macs for file in files]

    def optimized(**limits: int) -> Figures:
        budget = Budget(**limits)
        model, report = optimize.optimize(onnx.load(plain), limits=budget, measure=measure)
        if limits:
            notes = [item.note for item in report.tried if not item.applied]
            assert any(note.startswith("leaves the budget") for note in notes)
        path = tmp_path / "optimized.onnx"
        onnx.save(model, path)
        counted = Counted(path)
        return Figures(counted.macs, counted.weights, peak_of_file(path))

    free = optimized()
    assert free.macs > spent.macs
    assert free.peak_memory_bytes > spent.peak_memory_bytes
    assert optimized(macs=spent.macs).macs <= spent.macs
    assert optimized(params=spent.params).weights <= spent.params
    limit = spent.peak_memory_bytes
    assert optimized(memory_bytes=limit).peak_memory_bytes <= limit
