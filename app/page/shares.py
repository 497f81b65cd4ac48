"""Which part of a network costs how much: multiply-accumulates by node, and measured time.

Counts are those of `gemkit.cost`, taken apart: over all parts they sum to its total. Times come
from onnxruntime's own profile of the exported file, whose convolutions bear the names of the
nodes that they came from.
"""

import json
import re
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gemkit.architecture import Architecture
from gemkit.errors import UserError
from gemkit.export import exporter, timing
from gemkit.export.onnx_file import load_onnx
from gemkit.layers import layers

if TYPE_CHECKING:
    import onnx

_NODE = re.compile(r"stages\.\d+\.\d+\.nodes\.(\d+)\.")
_STAGE = re.compile(r"stages\.(\d+)\.")


@dataclass(frozen=True)
class Shares:
    """A network taken apart.

    Attributes:
        nodes: multiply-accumulates of each node over all places where the cell stands; entry 0
            is what brings the cell input to the cell's width ("sum" only).
        output: those of all cells' output convolutions and projections.
        parts: name and multiply-accumulates of stem, stages and classifier, in order.
        shapes: (channels, height, width) of a node's output in each stage.
    """

    nodes: tuple[int, ...]
    output: int
    parts: tuple[tuple[str, int], ...]
    shapes: tuple[tuple[int, int, int], ...]

    @property
    def total(self) -> int:
        """Multiply-accumulates of the whole network."""
        return sum(macs for _, macs in self.parts)


def shares(architecture: Architecture) -> Shares:
    """Take a network apart."""
    skeleton = architecture.skeleton
    nodes = [0] * max(len(cell.operations) for cell in architecture.cells)
    output = 0
    parts: Counter[str] = Counter()
    names = []
    shapes = []
    stages = zip(skeleton.stages, skeleton.resolutions, architecture.stage_channels, strict=True)
    for index, (stage, (height, across), wide) in enumerate(stages, start=1):
        shapes.append((wide, height, across))
        cells = "cell" if stage.repeats == 1 else "cells"
        names.append(f"stage {index}: {stage.repeats} {cells} at {height} x {across}, {wide} wide")
    for layer in layers(architecture):
        if layer.stage is None:
            parts["classifier" if layer.operator == "linear" else "stem"] += layer.macs
            continue
        parts[names[layer.stage]] += layer.macs
        if layer.node is None:
            output += layer.macs
        else:
            nodes[layer.node] += layer.macs
    return Shares(tuple(nodes), output, tuple(parts.items()), tuple(shapes))


@dataclass(frozen=True)
class Times:
    """Shares of the time that onnxruntime spent, fractions that sum to at most one.

    Attributes:
        nodes: by node of the cell (entry 0 is none), over all places where the cell stands.
        output: the cells' output convolutions and projections.
        other: everything else: joining, pooling, activations, stem, classifier.
    """

    nodes: tuple[float, ...]
    output: float
    other: float


def measure_shares(path: Path, calls: int = 60) -> Times:
    """Profile an exported network at batch 1 on one thread; takes a fraction of a second.

    Raises:
        UserError: the file is missing or damaged.
    """
    model = load_onnx(path)
    owners = _owners(model)
    count = max((int(owner) for owner in owners.values() if owner.isdigit()), default=0)
    info = exporter.info_of(model, str(path))
    image = np.zeros((1, *info.input_shape), np.float32)
    spent: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="gemkit-profile-") as folder:
        try:
            session = timing.open_session(path, profile=str(Path(folder) / "profile"))
        except timing.MeasureError as error:
            raise UserError(str(error)) from None
        for _ in range(calls):
            exporter.run(session, image)
        events = json.loads(Path(session.end_profiling()).read_text())
    for event in events:
        name = event.get("name", "")
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            spent[_owner(name.removesuffix("_kernel_time"), owners)] += event["dur"]
    total = sum(spent.values()) or 1
    return Times(
        tuple(spent[str(node)] / total for node in range(count + 1)),
        spent["output"] / total,
        spent["other"] / total,
    )


def _owners(model: "onnx.ModelProto") -> dict[str, str]:
    """Which node of the cell, or "output", each node of the graph belongs to, by any name.

    onnxruntime names what it merges after the last node or after its output. What joins the
    inputs of a node belongs to that node.
    """
    owners: dict[str, str] = {}
    of_tensor: dict[str, str] = {}
    for node in model.graph.node:
        weight = node.input[1] if node.op_type == "Conv" else ""
        if found := _NODE.search(weight):
            owner = str(int(found.group(1)) + 1)
        elif _STAGE.search(weight):
            owner = "output"
        elif node.op_type == "Relu" and of_tensor.get(node.input[0], "output") != "output":
            owner = of_tensor[node.input[0]]
        else:
            continue
        of_tensor[node.output[0]] = owner
        owners |= dict.fromkeys((node.name, node.output[0]), owner)
    for node in model.graph.node:
        if node.name in owners and node.op_type == "Conv":
            of_tensor[node.input[0]] = owners[node.name]
    for node in model.graph.node:
        if node.op_type in ("Concat", "Add", "Sum") and node.output[0] in of_tensor:
            owners.setdefault(node.name, of_tensor[node.output[0]])
    return owners


def _owner(name: str, owners: dict[str, str]) -> str:
    """Whose time an event is; onnxruntime appends words to the names of nodes it rewrites."""
    while name:
        if name in owners:
            return owners[name]
        name = name.rpartition("_")[0]
    return "other"
