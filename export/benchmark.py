"""Measurements of ONNX files with onnxruntime, ours or anybody's, side by side.

    benchmark(["runs/first/models/ID/model.onnx", "mobilenet_v3_small"], threads=[1, 2])

The timing itself is in `timing.py`, which also runs on devices. Here names of torchvision networks
become files, files are looked at before they are run, and each measurement gets what programs
read: machine, versions, precision, which provider ran the nodes, memory in a fresh process.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemkit.errors import UserError
from gemkit.machine import versions

from . import timing
from .exporter import ModelInfo, export_onnx, fixed_batch, info_of, load_onnx

if TYPE_CHECKING:
    import onnx

IMAGENET_SHAPE, IMAGENET_CLASSES = (3, 224, 224), 1000
"""What a network named alone is built for, when no file of ours says something else."""
_OWN_DOMAINS = ("ai.onnx", "com.microsoft", "com.ms")
"""Beginnings of the domains whose operators onnxruntime has."""


def benchmark(
    models: Sequence[Path | str],
    *,
    threads: Sequence[int] = (1,),
    batches: Sequence[int] = (1,),
    providers: Sequence[str] = ("cpu",),
    rounds: int = 5,
    seconds: float = 0.3,
    memory: bool = True,
    progress: Callable[[float], None] | None = None,
) -> list[dict[str, Any]]:
    """Measure ONNX files and networks by name, in interleaved rounds.

    Args:
        models: paths of ONNX files, or names of `gemkit.baselines`, which are exported first
            (untrained: latency does not depend on the weights) for the input and classes of the
            first file of ours among `models`, or for ImageNet's.
        providers: short names such as cpu, cuda.
        rounds: at least so many; up to three times as many on a noisy machine.
        seconds: of calls per round and measurement.
        memory: also take the peak resident memory, each in a fresh process.
        progress: is told the share done.

    Returns:
        One measurement for each model, provider, thread count and batch, in that order, with
        the names of the design: `model`, `provider`, `precision`, `threads`, `batch`,
        `latency_ms`, `throughput`, `load_ms`, `file_bytes`, `peak_rss_bytes`, `machine`,
        `versions`; beside them `nodes` (how many each provider ran), `spread` and `rounds`, and
        `notes`, sentences that a reader should know (noise, nodes left to the CPU).

    Raises:
        UserError: a file, a name, a provider or an option cannot be used.
    """
    if not models:
        raise UserError("name at least one ONNX file or network to measure")
    with tempfile.TemporaryDirectory(prefix="gemkit-bench-") as folder:
        files = _files([str(model) for model in models], Path(folder))
        precisions = {name: _looked_at(path) for name, path in files.items()}
        paths = {str(path): name for name, path in files.items()}
        try:
            found = timing.measure(
                list(paths), threads, batches, providers, rounds, seconds, progress
            )
            for one in found:
                path = str(one["model"])
                one["nodes"] = timing.node_providers(path, one["provider"], one["batch"])
                if memory:
                    one |= _fresh_memory(path, one)
        except timing.MeasureError as error:
            raise UserError(_named(str(error), paths)) from None
        machine = _machine(found)
        known = versions() | timing.versions()
        results = []
        for one in found:
            name = paths[one["model"]]
            notes = _notes(one)
            one |= {"model": name, "precision": precisions[name], "notes": notes}
            results.append(one | {"machine": machine, "versions": known})
        return results


def latency_ms(
    paths: Sequence[Path | str], rounds: int = 5, seconds: float = 0.2, threads: int = 1
) -> list[float]:
    """p50 of each file at batch 1 on the CPU provider: what a latency budget means.

    Where the files have a fixed batch, all the same, that is taken.

    Raises:
        UserError: a file cannot be run.
    """
    try:
        batch = fixed_batch(timing.open_session(str(paths[0]), 1, "CPUExecutionProvider")) or 1
        found = timing.measure(
            [str(path) for path in paths], [threads], [batch], ["cpu"], rounds, seconds
        )
    except timing.MeasureError as error:
        raise UserError(str(error)) from None
    return [float(one["latency_ms"]["p50"]) for one in found]


def _files(models: Sequence[str], folder: Path) -> dict[str, Path]:
    """The file of each model; names of networks are exported to `folder`."""
    named = [model for model in models if not _is_file(model)]
    shape, classes = IMAGENET_SHAPE, IMAGENET_CLASSES
    if named:
        from gemkit.baselines import BASELINES

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
            export_untrained(model, files[model], shape, classes)
        else:
            files[model] = Path(model)
    return files


def _is_file(model: str) -> bool:
    return model.endswith(".onnx") or "/" in model or os.path.exists(model)


def export_untrained(
    name: str, path: Path, input_shape: tuple[int, int, int], classes: int
) -> None:
    """Export a network of `gemkit.baselines` with random weights, to measure its latency."""
    from gemkit.baselines import baseline

    channels = input_shape[0]
    export_onnx(
        baseline(name, input_shape, classes),
        path,
        input_shape=input_shape,
        class_names=[str(label) for label in range(classes)],
        mean=[0.5] * channels,
        std=[0.25] * channels,
        metadata={"id": name},
    )


def _info(path: Path) -> ModelInfo | None:
    try:
        return info_of(load_onnx(path), str(path))
    except UserError:
        return None


def _looked_at(path: Path) -> str:
    """A file's precision, after making sure that onnxruntime can be given it.

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
    return precision_of(model)


def precision_of(model: "onnx.ModelProto") -> str:
    """fp32, fp16 or int8, by the operators and the weights."""
    import onnx

    kinds = {node.op_type for node in model.graph.node}
    if kinds & {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger"}:
        return "int8"
    sizes = {onnx.TensorProto.FLOAT: 0, onnx.TensorProto.FLOAT16: 0}
    for tensor in model.graph.initializer:
        if tensor.data_type in sizes:
            sizes[tensor.data_type] += math.prod(tensor.dims)
    half, full = sizes[onnx.TensorProto.FLOAT16], sizes[onnx.TensorProto.FLOAT]
    return "fp16" if half > full else "fp32"


def _fresh_memory(path: str, one: dict[str, Any]) -> dict[str, Any]:
    """Peak memory of a process that does nothing but run this file."""
    command = [sys.executable, "-I", timing.__file__, path, "--memory"]
    command += ["--threads", str(one["threads"]), "--batch", str(one["batch"])]
    command += ["--provider", one["provider"]]
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
        notes.append(
            f"noisy machine: the medians of {one['rounds']} rounds differ by "
            f"{100 * one['spread']:.0f} %; close what else runs here and measure again"
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
