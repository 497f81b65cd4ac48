"""Latency and peak memory of the networks of a comparison, measured side by side."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import nn

from gemkit.batches import Normalisation
from gemkit.data import Dataset
from gemkit.errors import UserError
from gemkit.export import graph, schedule
from gemkit.export.benchmark import benchmark
from gemkit.export.exporter import export_onnx
from gemkit.export.onnx_file import load_onnx
from gemkit.store import Run

from .. import formatting
from ..terminal.progress import bar
from .compare_entrants import Entrant
from .networks import Job, restored

_STATISTICS_OF = 64


def measure(run: Run, entrants: Sequence[Entrant], dataset: Dataset, console: Console) -> None:
    """Latency and peak memory of each network's ONNX file, all in one session.

    All are measured again when one was not, so that their latencies were taken side by side. A
    network whose trainings were taken over is written untrained: as fast, and as large.
    """
    stored = run.compared()
    ended = {one.id for one in stored if one.accuracy is not None}
    trained = {
        entrant.name: job
        for entrant in entrants
        for job in reversed(entrant.jobs)
        if job.name in ended
    }
    if set(trained) <= {one.network for one in stored if one.measurements}:
        return
    console.print(
        f"exporting {formatting.number(len(trained), 'ONNX file')}, then measuring them side "
        "by side"
    )
    paths: dict[str, Path] = {}
    with bar(console, "measuring", 100) as advance:
        for name, job in trained.items():
            paths[name] = run.path / "onnx" / f"{name}.onnx"
            try:
                export_onnx(
                    restored(job, dataset) if job.weights.is_file() else _untrained(job, dataset),
                    paths[name],
                    input_shape=dataset.input_shape,
                    class_names=dataset.class_names,
                    mean=dataset.mean,
                    std=dataset.std,
                    images=dataset.x_test[:17],
                    metadata={"id": job.name, "data": dataset.name},
                    seed=run.seed,
                )
            except (UserError, RuntimeError) as error:  # its accuracy is worth knowing all the same
                del paths[name]
                console.print(f"  {name} is not measured: {error}")
            advance(completed=50 * len(paths) // len(trained))
        if not paths:
            return
        found = benchmark(
            list(paths.values()),
            memory=False,
            progress=lambda share: advance(completed=50 + int(50 * share)),
        )
    measured = dict(zip(paths, found, strict=True))
    for one in stored:
        if one.network not in measured:
            continue
        if one.id != trained[one.network].name:  # no longer this network's figures
            run.put(replace(one, onnx=None, latency_ms=None, measurements=()))
            continue
        path = paths[one.network]
        onnx = str(path.relative_to(run.path))
        measurement = replace(measured[one.network], model=one.network, id=one.id, onnx=onnx)
        run.put(
            replace(
                one,
                onnx=onnx,
                latency_ms=measurement.latency_ms,
                peak_memory_bytes=schedule.peak(graph.read(load_onnx(path))),
                measurements=(measurement,),
            )
        )


def _untrained(job: Job, dataset: Dataset) -> nn.Module:
    """A network with random weights and the batch statistics of a few images, without which values
    grow from layer to layer until fp32 cannot carry them."""
    network = job.build(dataset)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    normalise = Normalisation(
        dataset.mean, dataset.std, torch.device("cpu"), torch.contiguous_format
    )
    with torch.no_grad():
        network.train()(normalise(torch.from_numpy(np.array(dataset.x_train[:_STATISTICS_OF]))))
    return network.eval()
