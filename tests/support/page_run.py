"""Runs made by hand, without training; `make` is one with everything that the page shows."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gemkit.architecture import Architecture, skeleton_for
from gemkit.budget import Budget
from gemkit.cell import Cell, write_cell
from gemkit.cost import cost
from gemkit.export.exporter import ModelInfo
from gemkit.export.onnx_builder import build_onnx
from gemkit.records import Baseline, DataInfo, Latency, Measurement, Model, Trial
from gemkit.search.encoder import default_encoder, save_encoder
from gemkit.search.sampling import random_cells
from gemkit.store import Run

SKELETON = skeleton_for((1, 8, 8), 10)
NAMES = tuple(str(digit) for digit in range(10))
_DATA = DataInfo("digits", train=1437, test=360, input_shape=(1, 8, 8), class_names=NAMES)


def chain(nodes: int) -> Cell:
    """A cell of many layers with a few shortcuts."""
    edges = {(node, node + 1) for node in range(nodes)}
    edges |= {(node, node + 5) for node in range(0, nodes - 5, 4)}
    kinds = [("conv1x1", "sep3x3")[node % 3 == 0] for node in range(nodes)]
    return Cell(("input", *kinds), tuple(sorted(edges)))


def trials_of(cells: list[Cell], rng: np.random.Generator, width: int = 8) -> list[Trial]:
    """Trials that are done, of cells at one width."""
    made = []
    for index, cell in enumerate(cells):
        price = cost(Architecture((cell,), SKELETON, width))
        made.append(
            Trial(
                index=index,
                round=index // 4,
                key=cell.key,
                cell=cell,
                width=width,
                macs=price.macs,
                params=price.params,
                peak_memory_bytes=price.peak_memory_bytes,
                seed=index,
                epochs=1,
                state="done",
                accuracy=float(rng.uniform(0.5, 0.99)),
            )
        )
    return made


def model_of(trial: Trial, **more: Any) -> Model:
    """The network of a trial, trained to 95 %."""
    return Model(
        id=trial.id,
        cell=trial.cell,
        width=trial.width,
        macs=trial.macs,
        params=trial.params,
        peak_memory_bytes=trial.peak_memory_bytes,
        accuracy=0.95,
        state="done",
        **more,
    )


def with_trials(path: Path, trials: list[Trial]) -> Run:
    """A run on the digits, open for writing, whose trials have ended."""
    config = {
        "data": "digits",
        "budget": Budget(macs=3_000_000).to_json(),
        "seed": 1,
        "strategy": "random",
    }
    run = Run.create(path, config)
    run.set_setting("skeleton", SKELETON)
    run.set_setting("data", _DATA)
    run.add_trials(trials)
    return run


def measurement(onnx: str, threads: int, batch: int, p50: float) -> Measurement:
    """A measurement as `gemkit bench` stores it."""
    return Measurement(
        model=onnx.split("/")[1],
        onnx=onnx,
        provider="CPUExecutionProvider",
        precision="fp32",
        threads=threads,
        batch=batch,
        latency_ms=Latency(p50, 1.2 * p50, 1.3 * p50, 1.9 * p50),
        throughput=1e3 * batch / p50,
        load_ms=1.0,
        file_bytes=1000,
        machine={"processor": "a processor", "cores": 2},
        versions={"onnxruntime": "1.99"},
        notes=(),
    )


def make(path: Path, seed: int) -> Path:
    """Twelve candidates; networks of 6 and 30 nodes and a baseline, exported untrained."""
    rng = np.random.default_rng(seed)
    arrays = random_cells(rng, 40, 12, "concat").pruned()
    pool = {cell.key: cell for cell in (arrays.cell(index) for index in range(len(arrays)))}
    cells = [chain(6), chain(30)]
    cells += [cell for key, cell in pool.items() if key not in {one.key for one in cells}][:10]
    trials = trials_of(cells, rng)
    with with_trials(path, trials) as run:
        save_encoder(default_encoder(), path / "encoder.safetensors")
        for trial in trials[:2]:
            onnx = f"models/{trial.id}/model.onnx"
            export(trial.cell, path / onnx, trial.id)
            write_cell((path / onnx).with_name("cell.json"), trial.cell)
            p50 = float(rng.uniform(0.1, 0.4))
            measurements = (
                measurement(onnx, 1, 1, p50),
                measurement(onnx, 2, 1, 0.7 * p50),
                measurement(onnx, 1, 8, 4 * p50),
            )
            latency = Latency(p50, 2 * p50, 2 * p50, 3 * p50)
            run.put(model_of(trial, onnx=onnx, latency_ms=latency, measurements=measurements))
        onnx = "baselines/mobilenet_v2/model.onnx"
        export(chain(3), path / onnx, "mobilenet_v2")
        run.put(
            Baseline(
                id="mobilenet_v2",
                macs=900_000,
                params=50_000,
                accuracy=0.9,
                state="done",
                onnx=onnx,
                latency_ms=Latency(0.5, 0.6, 0.7, 0.8),
                measurements=(measurement(onnx, 1, 1, 0.5),),
            )
        )
    (path / "examples").mkdir()
    for index in range(3):
        pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(path / "examples" / f"{index:05d}-{index}.png")
    return path


def export(cell: Cell, path: Path, id: str) -> None:
    """Write a network with random weights, as `gemkit export` would name and describe it."""
    path.parent.mkdir(parents=True)
    model = build_onnx(Architecture((cell,), SKELETON, 8), seed=len(cell.edges))
    info = ModelInfo((1, 8, 8), NAMES, (0.3,), (0.4,), False, False, "fp32", {"id": id})
    for key, value in info.to_metadata().items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    path.write_bytes(model.SerializeToString())
