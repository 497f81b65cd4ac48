"""The ONNX graph of an architecture, written from the walk over its layers (ours).

There is one graph: with random weights a search measures its latency and boards get it in a kit;
with trained ones `gemkit.export.exporter` checks and delivers it. Tensors bear the names of the
layers that write them (`gemkit.layers`), weights those of the network's modules.

    build_onnx(architecture)                                   # random weights
    build_onnx(network.architecture, folded_weights(network))  # a trained network's
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from gemkit.architecture import Architecture
from gemkit.layers import IMAGE, Layer, layers

if TYPE_CHECKING:
    from gemkit.network import GEMNet

Array = NDArray[np.float32]
OPSETS = range(13, 24)
"""Versions of ONNX's operator set that can be asked for."""
DEFAULT_OPSET = 13
"""The oldest. The operators of our networks are the same in all of them, and compilers of boards
and old versions of onnxruntime stop at 13 to 17."""
_REPEATED = 509
"""Different weights of a compact graph: a prime, so that rows of weights differ."""


def build_onnx(
    architecture: Architecture,
    weights: Mapping[str, Array] | None = None,
    *,
    normalise: tuple[Sequence[float], Sequence[float]] | None = None,
    softmax: bool = False,
    batch: int | None = None,
    opset: int = DEFAULT_OPSET,
    seed: int = 0,
    compact: bool = False,
) -> onnx.ModelProto:
    """The graph of an architecture, batch norm folded.

    Args:
        weights: see `folded_weights`; without them they are random, of a size that keeps
            activations moderate.
        normalise: mean and standard deviation per channel, of pixels scaled to 0..1: the graph
            then takes uint8 (batch, h, w, c) and normalises them.
        softmax: whether it gives probabilities.
        batch: a fixed batch; dynamic without it.
        opset: one of OPSETS.
        seed: of random weights.
        compact: repeat a few random weights, so that the file packs to a fraction of its size.

    Returns:
        A model with input `image`, float32 (batch, c, h, w) without `normalise`, and output
        `logits` or `probabilities`, (batch, classes).
    """
    network = layers(architecture)
    if weights is None:
        weights = _random_weights(network, np.random.default_rng(seed), compact)
    graph = _Graph(weights, opset)
    channels, height, width = architecture.skeleton.input_shape
    kind, shape = TensorProto.FLOAT, [channels, height, width]
    if normalise is not None:
        kind, shape = TensorProto.UINT8, [height, width, channels]
        graph.normalise(*normalise)
    for layer in network[1:]:
        graph.add(layer)
    output = graph.tensors[network[-1].name]
    if softmax:
        output = graph.node("Softmax", [output], "probabilities", axis=1)
    size: int | str = batch or "batch"
    classes = architecture.skeleton.classes
    model: onnx.ModelProto = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "network",
            [helper.make_tensor_value_info("image", kind, [size, *shape])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, [size, classes])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", opset)],
    )
    set_ir_version(model)
    return model


def set_ir_version(model: onnx.ModelProto) -> None:
    """Give a model the oldest version of the file format that its operator sets allow."""
    model.ir_version = helper.find_min_ir_version_for(model.opset_import, ignore_unknown=True)


def scale_and_shift(mean: Sequence[float], std: Sequence[float]) -> tuple[Array, Array]:
    """(c,) each: pixels * scale + shift are the pixels scaled to 0..1, less mean, by std."""
    deviation = np.asarray(std, np.float64)
    scale, shift = 1 / (255 * deviation), -np.asarray(mean, np.float64) / deviation
    return scale.astype(np.float32), shift.astype(np.float32)


def folded_weights(network: "GEMNet") -> dict[str, Array]:
    """A network's weights and biases by `NAME.weight` and `NAME.bias` (NAME: of the layer).

    Batch norm, which follows every convolution, is folded into it in double precision.
    """
    state = {
        name: tensor.detach().cpu().double().numpy()
        for name, tensor in network.state_dict().items()
    }
    found: dict[str, NDArray[np.float64]] = {}
    for layer in layers(network.architecture):
        if layer.operator == "linear":
            found |= {f"{layer.name}.{kind}": state[f"{layer.name}.{kind}"] for kind in _KINDS}
        elif layer.operator == "convolution":
            prefix, _, place = layer.name.rpartition(".")
            norm = f"{prefix}.{int(place) + 1}"
            deviation = np.sqrt(state[f"{norm}.running_var"] + network.get_submodule(norm).eps)
            scale = state[f"{norm}.weight"] / deviation
            found[f"{layer.name}.weight"] = (
                state[f"{layer.name}.weight"] * scale[:, None, None, None]
            )
            found[f"{layer.name}.bias"] = (
                state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
            )
    return {name: values.astype(np.float32) for name, values in found.items()}


_KINDS = ("weight", "bias")


def _random_weights(
    network: Sequence[Layer], rng: np.random.Generator, compact: bool
) -> dict[str, Array]:
    repeated = rng.standard_normal(_REPEATED, dtype=np.float32) if compact else None

    def drawn(shape: tuple[int, ...], fan_in: int) -> Array:
        scale = np.float32((2 / fan_in) ** 0.5)
        if repeated is not None:
            return np.resize(repeated, shape) * scale
        return rng.standard_normal(shape, dtype=np.float32) * scale

    found = {}
    for layer in network:
        if layer.weights:
            fan_in = layer.weights // layer.channels
            found[f"{layer.name}.weight"] = drawn(layer.weight_shape, fan_in)
            found[f"{layer.name}.bias"] = drawn((layer.channels,), 25)
    return found


class _Graph:
    """Nodes and constants while they are written.

    Attributes:
        tensors: name of the tensor that holds what a layer computes.
    """

    def __init__(self, weights: Mapping[str, Array], opset: int) -> None:
        self.weights, self.opset = weights, opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.tensors = {IMAGE: IMAGE}

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        made = helper.make_node(operator, list(inputs), [output], output, **attributes)
        self.nodes.append(made)
        return output

    def constant(self, name: str, values: NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def normalise(self, mean: Sequence[float], std: Sequence[float]) -> None:
        scale, shift = scale_and_shift(mean, std)
        out = self.node("Transpose", [IMAGE], "image.transposed", perm=[0, 3, 1, 2])
        out = self.node("Cast", [out], "image.float", to=TensorProto.FLOAT)
        for operator, name, values in (("Mul", "scale", scale), ("Add", "shift", shift)):
            factor = self.constant(f"image.{name}", values[:, None, None])
            out = self.node(operator, [out, factor], f"image.{operator.lower()}")
        self.tensors[IMAGE] = out

    def add(self, layer: Layer) -> None:
        """Write a layer, its ReLU included."""
        read = [self.tensors[name] for name in layer.reads]
        name = f"{layer.name}.{layer.operator}" if layer.relu else layer.name
        match layer.operator:
            case "convolution":
                out = self.node(
                    "Conv",
                    [*read, *self._weights(layer)],
                    name,
                    group=layer.groups,
                    kernel_shape=[layer.kernel] * 2,
                    pads=[layer.kernel // 2] * 4,
                    strides=[layer.stride] * 2,
                    dilations=[1, 1],
                )
            case "concat":
                out = self.node("Concat", read, name, axis=1)
            case "sum":
                out = read[0]
                for index, other in enumerate(read[1:], start=2):
                    last = index == len(read)
                    out = self.node("Add", [out, other], name if last else f"{name}.{index}")
            case "max_pool":
                size = {"kernel_shape": [layer.kernel] * 2, "strides": [layer.stride] * 2}
                out = self.node("MaxPool", read, name, **size)
            case "mean":
                if self.opset < 18:  # later versions read the axes as an input
                    out = self.node("ReduceMean", read, name, axes=[2, 3], keepdims=1)
                else:
                    axes = self.constant(f"{name}.axes", np.array([2, 3], np.int64))
                    out = self.node("ReduceMean", [*read, axes], name, keepdims=1)
            case "linear":
                shape = self.constant("flat.shape", np.array([-1, layer.channels_in], np.int64))
                flat = self.node("Reshape", [*read, shape], "flat")
                out = self.node("Gemm", [flat, *self._weights(layer)], "logits", transB=1)
            case "input":
                raise ValueError("a network has one input")
        if layer.relu:
            out = self.node("Relu", [out], layer.name)
        self.tensors[layer.name] = out

    def _weights(self, layer: Layer) -> list[str]:
        names = [f"{layer.name}.{kind}" for kind in _KINDS]
        return [self.constant(name, self.weights[name]) for name in names]
