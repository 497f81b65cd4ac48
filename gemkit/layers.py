"""The layers of a network: which there are, what each reads, and its shape.

This walk is the one place, beside the PyTorch modules of `gemkit.network`, that says which layers
an architecture has. Costs, execution steps, the ONNX graph and the shares that the page shows are
made from it; what reckons with arrays of cells (`gemkit.cost.CostModel`,
`gemkit.export.latency_features`) is checked against it.
"""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal

from gemkit.architecture import Architecture
from gemkit.cell import Cell
from gemkit.operations import BY_NAME

IMAGE = "image"
"""Name of the first layer, the network's input."""
Operator = Literal["input", "convolution", "concat", "sum", "max_pool", "mean", "linear"]
"""What a layer computes: `mean` is the global average pooling, `linear` the classifier."""


@dataclass(frozen=True)
class Layer:
    """One layer and the one tensor that it writes.

    A convolution's batch norm and a ReLU belong to the layer before them, and a convolution of
    kernel k is padded by k // 2.

    Attributes:
        name: also of its tensor; that of a convolution or linear layer is the name of its module in
            `gemkit.network.GEMNet`.
        operator: what it computes.
        reads: names of the layers that it reads, in order.
        channels_in: of all that it reads; of a sum those of each.
        channels, height, width: of what it writes.
        kernel, stride, groups: of a convolution or pooling.
        relu: whether a ReLU follows.
        stage: number of its stage; None outside the cells.
        node: of the cell's node that it serves, 0 for what brings the cell input to the cell's
            width; None for a cell's output and outside the cells.
    """

    name: str
    operator: Operator
    reads: tuple[str, ...]
    channels_in: int
    channels: int
    height: int
    width: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    relu: bool = False
    stage: int | None = None
    node: int | None = None

    @property
    def values(self) -> int:
        """Values that it writes at batch 1."""
        return self.channels * self.height * self.width

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of its weight, empty where it has none."""
        if self.operator == "convolution":
            return self.channels, self.channels_in // self.groups, self.kernel, self.kernel
        return (self.channels, self.channels_in) if self.operator == "linear" else ()

    @property
    def weights(self) -> int:
        """Numbers in its weight."""
        return math.prod(self.weight_shape) if self.weight_shape else 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates at batch 1."""
        return self.weights * self.height * self.width

    @property
    def params(self) -> int:
        """Trainable parameters: a convolution has no bias but a batch norm with two a channel."""
        biases = {"convolution": 2, "linear": 1}.get(self.operator, 0)
        return self.weights + biases * self.channels


_Layers = Generator[Layer, None, Layer]
"""Yields layers in the order they run and returns the last."""


def layers(architecture: Architecture) -> tuple[Layer, ...]:
    """The layers of a network in the default order of execution, the image first.

    In a cell that is the order of the nodes' indices; an entry comes before them, the projection of
    the cell input, if there is one, after the leaves' convolution.
    """
    return tuple(_network(architecture))


def _network(architecture: Architecture) -> _Layers:
    skeleton = architecture.skeleton
    channels = skeleton.input_shape[0]
    x = Layer(IMAGE, "input", (), channels, *skeleton.input_shape)
    yield x
    stem = zip(skeleton.stem_strides, architecture.stem_channels, strict=True)
    for index, (stride, wide) in enumerate(stem):
        x = _convolution(f"stem.{3 * index}", x, wide, 3, stride=stride)
        yield x
    stages = zip(
        skeleton.stages, architecture.stage_cells, architecture.stage_channels, strict=True
    )
    for number, (stage, cell, wide) in enumerate(stages):
        if number:
            size = x.height // 2, x.width // 2
            x = Layer(
                f"pool.{number}", "max_pool", (x.name,), x.channels, x.channels, *size, 2, stride=2
            )
            yield x
        for repeat in range(stage.repeats):
            name = f"stages.{number}.{repeat}"
            plain = skeleton.is_plain(number, repeat)
            identity = plain and skeleton.shortcut == "identity"
            x = yield from _cell(cell, x, name, wide, number, plain, identity)
    x = Layer("pooled", "mean", (x.name,), x.channels, x.channels, 1, 1)
    yield x
    x = Layer("classifier", "linear", (x.name,), x.channels, skeleton.classes, 1, 1)
    yield x
    return x


def _cell(
    cell: Cell,
    cell_input: Layer,
    name: str,
    channels: int,
    stage: int,
    plain: bool,
    identity: bool,
) -> _Layers:
    tensors = {0: cell_input}
    if cell.aggregation == "sum" and not plain:
        tensors[0] = _convolution(
            f"{name}.entry.0", cell_input, channels, relu=False, stage=stage, node=0
        )
        yield tensors[0]
    for node in range(1, len(cell.operations)):
        here = f"{name}.nodes.{node - 1}"
        x = yield from _joined(cell, tensors, cell.predecessors[node], f"{here}.join", stage, node)
        for index, convolution in enumerate(BY_NAME[cell.operations[node]].convolutions):
            x = _convolution(
                f"{here}.{3 * index}",
                x,
                x.channels if convolution.is_depthwise else channels,
                convolution.kernel,
                groups=x.channels if convolution.is_depthwise else 1,
                stage=stage,
                node=node,
            )
            yield x
        tensors[node] = x
    x = yield from _joined(cell, tensors, cell.leaves, f"{name}.join", stage)
    x = _convolution(f"{name}.output.0", x, channels, relu=False, stage=stage)
    yield x
    side = cell_input
    if not identity:
        side = _convolution(f"{name}.projection.0", cell_input, channels, relu=False, stage=stage)
        yield side
    x = _sum((x, side), f"{name}.sum", relu=True, stage=stage)
    yield x
    return x


def _joined(
    cell: Cell,
    tensors: dict[int, Layer],
    read: Sequence[int],
    name: str,
    stage: int,
    node: int | None = None,
) -> _Layers:
    """What joins some nodes of a cell: nothing where it is one."""
    parts = [tensors[source] for source in read]
    if len(parts) == 1:
        return parts[0]
    if cell.aggregation == "sum":
        x = _sum(parts, name, stage=stage, node=node)
    else:
        total = sum(part.channels for part in parts)
        names = tuple(part.name for part in parts)
        size = parts[0].height, parts[0].width
        x = Layer(name, "concat", names, total, total, *size, stage=stage, node=node)
    yield x
    return x


def _sum(
    parts: Sequence[Layer],
    name: str,
    *,
    relu: bool = False,
    stage: int | None = None,
    node: int | None = None,
) -> Layer:
    one = parts[0]
    names = tuple(part.name for part in parts)
    shape = one.channels, one.channels, one.height, one.width
    return Layer(name, "sum", names, *shape, relu=relu, stage=stage, node=node)


def _convolution(
    name: str,
    source: Layer,
    channels: int,
    kernel: int = 1,
    *,
    stride: int = 1,
    groups: int = 1,
    relu: bool = True,
    stage: int | None = None,
    node: int | None = None,
) -> Layer:
    return Layer(
        name,
        "convolution",
        (source.name,),
        source.channels,
        channels,
        (source.height - 1) // stride + 1,
        (source.width - 1) // stride + 1,
        kernel,
        stride,
        groups,
        relu,
        stage,
        node,
    )
