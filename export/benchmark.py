"""Measurements of ONNX files with onnxruntime, ours or anybody's, side by side.

    benchmark(["runs/first/models/ID/model.onnx", "mobilenet_v3_small"], threads=[1, 2])

The timing itself is in `timing.py`, which also runs on devices. Here names of torchvision networks
become files, files are looked at before they are run, and each measurement gets what programs
read: machine, versions, precision, which provider ran the nodes, memory in a fresh process.
"""

import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from gemkit.baselines import BASELINES, baseline
from gemkit.budget import is_number
from gemkit.errors import UserError
from gemkit.machine import versions
from gemkit.records import Measurement, read

from . import timing
from .exporter import ModelInfo, export_onnx, info_of
from .onnx_file import load_onnx

if TYPE_CHECKING:
    from torch import nn

IMAGENET_SHAPE, IMAGENET_CLASSES = (3, 224, 224), 1000
"""What a network named alone is built for, where no file of gemkit's says something else."""
_OWN_DOMAINS = ("ai.onnx", "com.microsoft", "com.ms")
"""Beginnings of the domains whose operators onnxruntime has."""
_INTEGER = re.compile(r"Quantize|Integer|^QLinear|^QGemm$|^QAttention$")
"""Operators that compute with, or convert, 8-bit numbers."""


def benchmark(
    models: Sequence[Path | str],
    *,
    threads: Sequence[int] = (1,),
    batches: Sequence[int] = (),
    providers: Sequence[str] = ("cpu",),
    sizes: Sequence[int] = (),
    rounds: int = timing.ROUNDS,
    seconds: float = timing.SECONDS,
    memory: bool = True,
    progress: Callable[[float], None] | None = None,
) -> list[Measurement]:
    """Measure ONNX files and networks by name, in interleaved rounds.

    Args:
        models: paths of ONNX files, or names of `gemkit.baselines`, which are exported first
            (untrained: latency does not depend on the weights) for the input and classes of the
            first file of gemkit's among `models`, or for ImageNet's.
        batches: without any each file's own fixed batch, or 1.
        providers: short names such as cpu, cuda.
        sizes: for the dimensions that a file leaves open beside the batch.
        rounds: at least so many; up to three times as many where the figures differ.
        seconds: to run a file at each of a round's visits.
        memory: also take the peak resident memory, each in a fresh process.
        progress: called with the share done.

    Returns:
        One measurement for each model, provider, thread count and batch, in that order.

    Raises:
        UserError: a file, a name, a provider or an option cannot be used.
    """
    if not models:
        raise UserError("name at least one ONNX file or network to measure")
    with tempfile.TemporaryDirectory(prefix="gemkit-bench-") as folder:
        files = _files([str(model) for model in models], Path(folder))
        seen = {name: inspect(path) for name, path in files.items()}
        paths = {str(path): name for name, path in files.items()}
        try:
            found = timing.measure(
                list(paths),
                threads,
                batches,
                providers,
                rounds=rounds,
                seconds=seconds,
                sizes=sizes,
                progress=progress,
            )
            for one in found:
                path = str(one["model"])
                one["nodes"] = timing.node_providers(path, one["provider"], one["batch"], sizes)
                if memory:
                    one |= _fresh_memory(path, one, sizes)
        except timing.MeasureError as error:
            raise UserError(_named(str(error), paths)) from None
        machine = _machine(found)
        known = versions() | timing.versions()
        results = []
        for one in found:
            name = paths[one["model"]]
            one |= {"model": name, **seen[name]}
            one["notes"] = _notes(one)
            one |= {"machine": machine, "versions": known}
            results.append(read(Measurement, one, name))
        return results


def latency_ms(
    paths: Sequence[Path | str],
    rounds: int = timing.ROUNDS,
    seconds: float = 0.05,
) -> list[float]:
    """p50 of each file on the CPU provider, at its own batch or 1: what a latency budget means.

    Raises:
        UserError: a file cannot be run.
    """
    try:
        found = timing.measure([str(path) for path in paths], rounds=rounds, seconds=seconds)
    except timing.MeasureError as error:
        raise UserError(str(error)) from None
    return [float(one["latency_ms"]["p50"]) for one in found]


def _files(models: Sequence[str], folder: Path) -> dict[str, Path]:
    """The file of each model; names of networks are exported to `folder`."""
    named = [model for model in models if not _is_file(model)]
    shape, classes = IMAGENET_SHAPE, IMAGENET_CLASSES
    if named:
        for name in named:
            if name not in BASELINES:
                raise UserError(
                    f"{name!r} is neither an ONNX file nor a network known by name: "
                    f"those are {', '.join(BASELINES)}"
                )
        for model in models:
            info = _info(Path(model)) if model not in named else None
            if info is not None:
                shape, classes = info.input_shape, len(info.class_names)
                break
    files: dict[str, Path] = {}
    for model in models:
        if model in named:
            files[model] = folder / f"{model}.onnx"
            export_untrained(baseline(model, shape, classes), files[model], shape, classes)
        else:
            files[model] = Path(model)
    return files


def _is_file(model: str) -> bool:
    return model.endswith(".onnx") or "/" in model or os.path.exists(model)


def export_untrained(
    network: "nn.Module", path: Path, input_shape: tuple[int, int, int], classes: int
) -> None:
    """Export a network with random weights, called as its file is, to be measured."""
    channels = input_shape[0]
    export_onnx(
        network,
        path,
        input_shape=input_shape,
        class_names=[str(label) for label in range(classes)],
        mean=[0.5] * channels,
        std=[0.25] * channels,
        metadata={"id": path.stem},
    )


def _info(path: Path) -> ModelInfo | None:
    try:
        return info_of(load_onnx(path), str(path))
    except UserError:
        return None


def inspect(path: Path) -> dict[str, Any]:
    """A file's precision and size, and its accuracy where it says that, after making sure that
    onnxruntime can be given it.

    Raises:
        UserError: the file is damaged or needs operators that onnxruntime does not have.
    """
    model = load_onnx(path)
    for node in model.graph.node:
        if node.domain and not node.domain.startswith(_OWN_DOMAINS):
            raise UserError(
                f"{path} needs the custom operator {node.domain}::{node.op_type}, "
                "which onnxruntime does not have"
            )
    try:
        accuracy = info_of(model, str(path)).more.get("accuracy")
    except UserError:
        accuracy = None  # none of gemkit's
    return {
        "precision": precision_of(model),
        "file_bytes": file_bytes(path),
        "accuracy": accuracy if is_number(accuracy) else None,
    }


def file_bytes(path: Path) -> int:
    """Size of a file and of the files beside it that hold its weights."""
    model = onnx.load_model(path, "protobuf", load_external_data=False)
    beside = {
        path.parent / entry.value
        for tensor in _tensors(model.graph)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return sum(file.stat().st_size for file in {path, *beside})


def precision_of(model: onnx.ModelProto) -> str:
    """fp32, fp16, bf16 or int8, by the operators and by most of the weights."""
    for graph in _graphs(model.graph):
        for node in graph.node:
            if _INTEGER.search(node.op_type):
                return "int8"
    kinds = {
        onnx.TensorProto.FLOAT: "fp32",
        onnx.TensorProto.FLOAT16: "fp16",
        onnx.TensorProto.BFLOAT16: "bf16",
    }
    sizes = dict.fromkeys(kinds.values(), 0)
    for tensor in _tensors(model.graph):
        if tensor.data_type in kinds:
            sizes[kinds[tensor.data_type]] += math.prod(tensor.dims)
    if not any(sizes.values()):  # no weights: by what goes in
        for value in model.graph.input:
            kind = value.type.tensor_type.elem_type
            if kind in kinds:
                return kinds[kind]
    return max(sizes, key=sizes.__getitem__)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those inside its nodes, such as the branches of an If."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(inner)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Initializers and tensors held by nodes."""
    for part in _graphs(graph):
        yield from part.initializer
        for node in part.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors


def _fresh_memory(path: str, one: dict[str, Any], sizes: Sequence[int]) -> dict[str, Any]:
    """Peak memory of a process that does nothing but run this file."""
    command = [sys.executable, "-I", timing.__file__, path, "--memory"]
    command += ["--threads", str(one["threads"]), "--batch", str(one["batch"])]
    command += ["--provider", one["provider"], "--size", "x".join(map(str, sizes))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise timing.MeasureError(done.stderr.strip() or f"{path} ended with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _named(sentence: str, paths: dict[str, str]) -> str:
    for path, name in paths.items():
        sentence = sentence.replace(path, name)
    return sentence


def _notes(one: dict[str, Any]) -> list[str]:
    notes = []
    if one["noisy"]:
        latency = one["latency_ms"]
        notes.append(
            f"noisy: p50 lies between {latency['p50_low']:.3g} and {latency['p50_high']:.3g} ms, "
            f"and one call in a hundred takes {latency['p99'] / latency['p50']:.1f} times as long; "
            "close what else runs here and measure again"
        )
    elsewhere = {name: count for name, count in one["nodes"].items() if name != one["provider"]}
    if elsewhere:
        total = sum(one["nodes"].values())
        for name, count in elsewhere.items():
            notes.append(f"{count} of {total} nodes ran on {timing.short_name(name)}")
    return notes


def _machine(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    machine = timing.describe_machine()
    if any(one["provider"] != "CPUExecutionProvider" for one in found):
        import torch

        if torch.cuda.is_available():
            machine["gpu"] = torch.cuda.get_device_name(0)
    return machine
