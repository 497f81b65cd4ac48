"""The ONNX graph of an architecture in milliseconds, to measure latency before any training.

The operators, their order and their shapes are those of the file that `export_onnx` delivers, so
onnxruntime makes the same kernels of both (tests compare them after its own optimisations). A
delivered file still comes from `torch.export`, never from here.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gemkit.architecture import Architecture
from gemkit.cell import Cell
from gemkit.operations import BY_NAME

if TYPE_CHECKING:
    import onnx

    from gemkit.network import GEMNet

Array = NDArray[np.float32]

_REPEATED = 509
"""Different weights of a compact graph: a prime, so that rows of weights differ."""


def draft(
    architecture: Architecture,
    network: "GEMNet | None" = None,
    *,
    seed: int = 0,
    batch: int | None = None,
    opset: int = 18,
    compact: bool = False,
) -> "onnx.ModelProto":
    """The graph of an architecture, batch norm folded.

    Args:
        network: gives the weights; without it they are random, of a size that keeps activations
            moderate.
        batch: a fixed batch; dynamic without it.
        opset: 13 or newer.
        compact: repeat a few random weights, so that the file packs to a fraction of its size.

    Returns:
        A model with input `image` (batch, c, h, w) and output `logits`.
    """
    import onnx
    from onnx import TensorProto, helper

    builder = _Builder(np.random.default_rng(seed), _folded(network), opset, compact)
    output = builder.network(architecture)
    size: int | str = batch or "batch"
    graph = helper.make_graph(
        builder.nodes,
        "network",
        [
            helper.make_tensor_value_info(
                "image", TensorProto.FLOAT, [size, *architecture.skeleton.input_shape]
            )
        ],
        [
            helper.make_tensor_value_info(
                output, TensorProto.FLOAT, [size, architecture.skeleton.classes]
            )
        ],
        builder.constants,
    )
    model: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10 if opset > 20 else 8
    )
    return model


def _folded(network: "GEMNet | None") -> dict[str, Array] | None:
    if network is None:
        return None
    from .exporter import fold

    return {name: tensor.numpy() for name, tensor in fold(network).state_dict().items()}


class _Builder:
    """Nodes and constants while they are written; names are those of the network's modules."""

    def __init__(
        self,
        rng: np.random.Generator,
        weights: dict[str, Array] | None,
        opset: int,
        compact: bool,
    ) -> None:
        self.rng, self.weights, self.opset = rng, weights, opset
        self.repeated = rng.standard_normal(_REPEATED, dtype=np.float32) if compact else None
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(operator, list(inputs), [output], output, **attributes))
        return output

    def constant(self, name: str, values: NDArray[Any]) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def weight(self, name: str, shape: Sequence[int]) -> str:
        if self.weights is not None:
            return self.constant(name, self.weights[name])
        fan_in = max(1, int(np.prod(shape[1:]))) if len(shape) > 1 else 25
        if self.repeated is not None:
            values = np.resize(self.repeated, shape)
        else:
            values = self.rng.standard_normal(shape, dtype=np.float32)
        return self.constant(name, values * np.float32((2 / fan_in) ** 0.5))

    def convolution(
        self,
        source: str,
        name: str,
        channels_in: int,
        channels: int,
        size: int = 1,
        stride: int = 1,
        groups: int = 1,
        relu: bool = True,
    ) -> str:
        pad = size // 2
        inputs = [
            source,
            self.weight(f"{name}.weight", (channels, channels_in // groups, size, size)),
            self.weight(f"{name}.bias", (channels,)),
        ]
        out = self.node(
            "Conv",
            inputs,
            f"{name}.conv",
            group=groups,
            kernel_shape=[size, size],
            pads=[pad] * 4,
            strides=[stride, stride],
            dilations=[1, 1],
        )
        return self.node("Relu", [out], f"{name}.relu") if relu else out

    def join(self, tensors: Sequence[str], aggregation: str, name: str) -> str:
        if len(tensors) == 1:
            return tensors[0]
        if aggregation == "concat":
            return self.node("Concat", tensors, name, axis=1)
        total = tensors[0]
        for index, tensor in enumerate(tensors[1:]):
            total = self.node("Add", [total, tensor], f"{name}.{index}")
        return total

    def cell(self, cell: Cell, source: str, name: str, channels_in: int, channels: int) -> str:
        tensors, concat = {0: source}, cell.aggregation == "concat"
        if not concat and channels_in != channels:
            tensors[0] = self.convolution(
                source, f"{name}.entry.0", channels_in, channels, relu=False
            )
        for node in range(1, len(cell.operations)):
            read = cell.predecessors[node]
            here = f"{name}.nodes.{node - 1}"
            out = self.join([tensors[source] for source in read], cell.aggregation, f"{here}.join")
            wide = channels
            if concat:
                wide = sum(channels if source else channels_in for source in read)
            operation = BY_NAME[cell.operations[node]]
            if operation.is_separable:
                out = self.convolution(out, f"{here}.0", wide, wide, operation.kernel, groups=wide)
                tensors[node] = self.convolution(out, f"{here}.3", wide, channels)
            else:
                tensors[node] = self.convolution(out, f"{here}.0", wide, channels)
        leaves = [tensors[leaf] for leaf in cell.leaves]
        out = self.join(leaves, cell.aggregation, f"{name}.leaves")
        wide = channels * len(leaves) if concat else channels
        out = self.convolution(out, f"{name}.output.0", wide, channels, relu=False)
        side = self.convolution(source, f"{name}.projection.0", channels_in, channels, relu=False)
        return self.node(
            "Relu", [self.node("Add", [out, side], f"{name}.added")], f"{name}.activated"
        )

    def network(self, architecture: Architecture) -> str:
        skeleton = architecture.skeleton
        out, channels = "image", skeleton.input_shape[0]
        for index, stride in enumerate(skeleton.stem_strides):
            out = self.convolution(
                out, f"stem.{3 * index}", channels, architecture.width, 3, stride
            )
            channels = architecture.width
        stages = zip(skeleton.stages, architecture.stage_cells, strict=True)
        for index, (stage, cell) in enumerate(stages):
            if index:
                out = self.node(
                    "MaxPool", [out], f"pool.{index}", kernel_shape=[2, 2], strides=[2, 2]
                )
            width = architecture.stage_channels[index]
            for repeat in range(stage.repeats):
                out = self.cell(cell, out, f"stages.{index}.{repeat}", channels, width)
                channels = width
        if self.opset < 18:
            out = self.node("ReduceMean", [out], "pooled", axes=[2, 3], keepdims=1)
        else:
            axes = self.constant("pool.axes", np.array([2, 3], np.int64))
            out = self.node("ReduceMean", [out, axes], "pooled", keepdims=1)
        shape = self.constant("flat.shape", np.array([-1, channels], np.int64))
        out = self.node("Reshape", [out, shape], "flat")
        weight = self.weight("classifier.weight", (skeleton.classes, channels))
        bias = self.weight("classifier.bias", (skeleton.classes,))
        return self.node("Gemm", [out, weight, bias], "logits", transB=1)
