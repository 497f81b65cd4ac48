"""What a C program of a network does, step by step, read off its ONNX file.

    program = program_of(load_onnx("model.int8.onnx"))

Of an int8 file (QuantizeLinear and DequantizeLinear around operators) it makes operations on
integers: a convolution's sums are multiplied by the ratio of scales, as an integer of 31 bits and a
shift (Jacob et al. 2018), once per output. Zero points of weights are 0, and biases are integers of
the sums' scale. Activations lie with their channels last, which suits processors without wide
vectors. The steps and what is alive in them are the planner's (`gemkit.export.schedule`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from gemkit.cost import Step
from gemkit.errors import UserError

from ..exporter import ModelInfo, info_of
from ..figures import without_conversions
from ..graph import Graph, Node, read
from ..onnx_builder import scale_and_shift
from ..schedule import Unit, buffers, units

Array = NDArray[Any]
OPERATORS = (
    *("Add", "Clip", "Concat", "Conv", "Flatten", "Gemm", "GlobalAveragePool", "Identity"),
    *("MaxPool", "Pad", "ReduceMean", "Relu", "Reshape", "Squeeze"),
)
"""The ONNX operators that can be written as C."""
_WITHOUT_EFFECT = ("Identity", "Flatten", "Reshape", "Squeeze")
_LARGEST = 2**15 - 1
_BEFORE = 16  # bits that an 8-bit number's difference from its zero is shifted up by


@dataclass(frozen=True)
class Tensor:
    """An activation, or a part of the arena for it.

    Attributes:
        buffer: name of the memory that it lies in.
        scale, zero: an 8-bit number q has the value (q - zero) * scale; scale is None for floats.
    """

    height: int
    width: int
    channels: int
    buffer: str
    scale: float | None = None
    zero: int = 0

    @property
    def values(self) -> int:
        """How many numbers it has."""
        return self.height * self.width * self.channels


@dataclass(frozen=True)
class Bounds:
    """What an output is cut to: real numbers, or 8-bit ones in a program of integers."""

    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class Ratio:
    """Real factors as integers (see `ratio_of`)."""

    multiplier: tuple[int, ...]
    shift: tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """How a kernel moves over a map: its size, stride and the rows and columns outside before."""

    height: int = 1
    width: int = 1
    stride: int = 1
    top: int = 0
    left: int = 0


@dataclass(frozen=True)
class Convolution:
    """A convolution or a linear layer.

    Attributes:
        weights: (output channel, row, column, input channel), or (row, column, channel) where it is
            depthwise.
        ratio: of the sums' scales to the output's; None in floats.
    """

    x: str
    y: str
    window: Window
    weights: Array
    bias: Array
    depthwise: bool
    bounds: Bounds
    ratio: Ratio | None


@dataclass(frozen=True)
class Pool:
    """The largest of each window."""

    x: str
    y: str
    window: Window


@dataclass(frozen=True)
class Mean:
    """The mean of each channel. In integers the ratio has the number of pixels in it."""

    x: str
    y: str
    bounds: Bounds
    ratio: Ratio | None


@dataclass(frozen=True)
class Join:
    """Tensors behind one another along the channels; what is left of these is zero.

    Attributes:
        ratios: of each tensor's scale to the output's; None where nothing changes.
    """

    xs: tuple[str, ...]
    y: str
    bounds: Bounds
    ratios: tuple[Ratio | None, ...]


@dataclass(frozen=True)
class Addition:
    """One addition of a sum, of tensors or of additions.

    Attributes:
        scale, zero, bounds: of its result, as a tensor's.
        ratio: two multipliers of one shift.
    """

    a: "str | Addition"
    b: "str | Addition"
    scale: float | None
    zero: int
    bounds: Bounds
    ratio: Ratio | None


@dataclass(frozen=True)
class Sum:
    """A sum of tensors, value by value; the output may take the memory of one of them."""

    addition: Addition
    y: str


Operation = Convolution | Pool | Mean | Join | Sum


@dataclass(frozen=True)
class Program:
    """A network as operations.

    Attributes:
        info: what the file says about itself.
        tensors: by name.
        operations: in order.
        steps: what is read and written, in numbers of the activations, for the planner; the first
            writes the input.
        input, output: names of tensors.
        normalise: in floats a factor and a summand per channel, (2, channels); in integers the
            8-bit number of every pixel value, (channels, 256).
    """

    info: ModelInfo
    tensors: dict[str, Tensor]
    operations: tuple[Operation, ...]
    steps: tuple[Step, ...]
    input: str
    output: str
    normalise: Array

    @property
    def integer(self) -> bool:
        """Whether it computes in integers."""
        return self.info.precision == "int8"

    @property
    def constant_bytes(self) -> int:
        """Of weights, biases and, in integers, of each channel's multiplier and shift."""
        total = 0
        for one in self.operations:
            if isinstance(one, Convolution):
                weight, channel = (1, 9) if self.integer else (4, 4)
                total += weight * one.weights.size + channel * one.bias.size
        return total


def program_of(model: onnx.ModelProto, name: str = "the file") -> Program:
    """Make a program of an ONNX file of gemkit's.

    Args:
        name: of the file, for sentences about it.

    Raises:
        UserError: it takes or gives something else than normalised images and logits, is neither
            fp32 nor int8 throughout, or has an operator that cannot be written as C.
    """
    info = info_of(model, name)
    if info.preprocessing or info.softmax:
        raise UserError(
            f"{name} normalises pixels or gives probabilities itself: C files are made of files "
            "that take normalised images and give logits"
        )
    if info.precision not in ("fp32", "int8"):
        raise UserError(f"{name} is {info.precision}: C files are made of fp32 and int8 files")
    return _Reader(model, info, name).program()


def ratio_of(factors: Sequence[float], *, before: int = 0, together: bool = False) -> Ratio:
    """Factors as integers, correctly rounded to 31 bits: multiplier / 2^(shift - before).

    Args:
        before: bits that numbers are shifted up by before they are multiplied; the shift is then 33
            or more.
        together: with one shift, that of the largest.

    Raises:
        UserError: a factor is too large for that.
    """
    multipliers, shifts = [], []
    for factor in factors:
        exponent = math.frexp(max(factors) if together else factor)[1]
        shift = min(62, 31 - exponent + before)
        if shift < (33 if before else 1):
            raise UserError(f"scales of activations differ by a factor of {factor:.0e}: too much")
        # Rounding up may need one bit more.
        multipliers.append(min(round(math.ldexp(factor, shift - before)), 2**31 - 1))
        shifts.append(shift)
    return Ratio(tuple(multipliers), tuple(shifts))


class _Reader:
    def __init__(self, model: onnx.ModelProto, info: ModelInfo, name: str) -> None:
        self.name, self.info = name, info
        self.whole = read(model)
        self.integer = info.precision == "int8"
        self.scales = {
            node.output if node.op == "QuantizeLinear" else node.inputs[0]: (
                self._constant(node.inputs[1]),
                self._constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1, np.uint8),
            )
            for node in self.whole.nodes
            if node.op in ("QuantizeLinear", "DequantizeLinear")
            and node.inputs[0] not in self.whole.constants
        }
        self.weight_scales = {
            node.output: self._constant(node.inputs[1])
            for node in self.whole.nodes
            if node.op == "DequantizeLinear" and node.inputs[0] in self.whole.constants
        }
        self.graph = self._inner(without_conversions(self.whole))
        self.tensors: dict[str, Tensor] = {}

    def _inner(self, graph: Graph) -> Graph:
        """The graph between the conversion of the input and that of the output."""
        if not self.integer:
            return graph
        first, last = graph.nodes[0], graph.nodes[-1]
        ends = first.op, last.op
        if ends != ("QuantizeLinear", "DequantizeLinear"):
            raise self._floats(graph.outputs[0])
        return replace(
            graph,
            nodes=graph.nodes[1:-1],
            inputs=(first.output,),
            outputs=(last.inputs[0],),
        )

    def _floats(self, tensor: str) -> UserError:
        return UserError(
            f"{self.name} computes some layers in floats ({tensor}): C files of integers are "
            "made of files whose layers are all in 8 bits"
        )

    def _constant(self, name: str) -> Array:
        if name not in self.whole.constants:
            raise UserError(f"{self.name}: {name} is computed, not a constant")
        return self.whole.constants[name]

    def program(self) -> Program:
        for node in self.graph.nodes:
            if node.op not in OPERATORS:
                quantised = node.op in ("QuantizeLinear", "DequantizeLinear")
                raise self._floats(node.output) if quantised else self._unknown(node.op)
        order = units(self.graph)
        steps, places = buffers(order, self.graph)
        names = [*self.graph.inputs, *(unit.writes[0][0] for unit in order)]
        for name in names:
            self.tensors[name] = self._tensor(name, places[name])
        item = self.graph.tensors[self.graph.outputs[0]][1] if not self.integer else 1
        counted = [
            Step(step.reads, tuple((name, size // item) for name, size in step.writes))
            for step in steps
        ]
        return Program(
            self.info,
            self.tensors,
            tuple(self._operation(unit) for unit in order),
            tuple(counted),
            self.graph.inputs[0],
            self.graph.outputs[0],
            self._normalise(),
        )

    def _unknown(self, what: str) -> UserError:
        return UserError(
            f"{self.name} has the operator {what}, which cannot be written as C: known are "
            f"{', '.join(OPERATORS)}"
        )

    def _tensor(self, name: str, buffer: str) -> Tensor:
        shape = self.graph.tensors[name][0]
        if shape[0] != 1:
            raise UserError(f"{self.name} takes {shape[0]} images at once: C files take one")
        channels, height, width = (*shape[1:], 1, 1)[:3]
        if max(channels, height, width) > _LARGEST:
            raise UserError(f"{self.name}: {name} is larger than {_LARGEST} in one direction")
        if not self.integer:
            return Tensor(height, width, channels, buffer)
        if name not in self.scales:
            raise self._floats(name)
        scale, zero = self.scales[name]
        if zero.dtype != np.uint8:
            raise UserError(f"{self.name} has activations of {zero.dtype}; C files need uint8")
        return Tensor(height, width, channels, buffer, float(scale.item()), int(zero.item()))

    def _normalise(self) -> Array:
        scale, shift = scale_and_shift(self.info.mean, self.info.std)
        if not self.integer:
            return np.stack([scale, shift])
        first = self.tensors[self.graph.inputs[0]]
        values = np.arange(256, dtype=np.uint8) * scale[:, None] + shift[:, None]
        numbers = np.rint(values / np.float32(first.scale or 1)) + first.zero
        return np.asarray(np.clip(numbers, 0, 255), dtype=np.uint8)

    def _operation(self, unit: Unit) -> Operation:
        first = unit.nodes[0]
        y = unit.writes[0][0]
        if first.op == "Add":
            sums = {node.output: node for node in unit.nodes if node.op == "Add"}
            after = [node for node in unit.nodes if node.op != "Add"]
            root = after[0].inputs[0] if after else y
            return Sum(self._addition(sums[root], sums, self._bounds(y, after), y), y)
        x = unit.reads[0]
        bounds = self._bounds(y, unit.nodes)
        match first.op:
            case "Conv":
                return self._convolution(first, x, y, bounds)
            case "Gemm":
                return self._linear(first, x, y, bounds)
            case "MaxPool":
                if bounds != self._bounds(y, ()) or self._rescaled(x, y) is not None:
                    raise self._unknown("MaxPool with bounds or another scale")
                return Pool(x, y, self._window(first, first.attributes["kernel_shape"]))
            case "ReduceMean" | "GlobalAveragePool":
                axes = first.attributes.get("axes")
                if axes is None and len(first.inputs) > 1:
                    axes = self._constant(first.inputs[1]).tolist()
                if first.op == "ReduceMean" and sorted(a % 4 for a in axes or ()) != [2, 3]:
                    raise self._unknown(f"ReduceMean over {axes}")
                here = self.tensors[x]
                return Mean(x, y, bounds, self._ratio(x, y, 0, here.height * here.width))
            case "Concat":
                if first.attributes["axis"] not in (1, 1 - len(self.graph.tensors[y][0])):
                    raise self._unknown("Concat along another axis than the channels")
                ratios = tuple(self._rescaled(name, y) for name in first.inputs)
                return Join(tuple(first.inputs), y, bounds, ratios)
            case "Pad":
                return self._padding(first, x, y, bounds)
            case "Relu" | "Clip":
                return Join((x,), y, bounds, (self._ratio(x, y) if self.integer else None,))
        return Join((x,), y, bounds, (self._rescaled(x, y),))

    def _bounds(self, y: str, nodes: Sequence[Node]) -> Bounds:
        """What the nodes cut to that work in place on the result, and an 8-bit number's limits."""
        low, high = -math.inf, math.inf
        for node in nodes:
            if node.op == "Relu":
                low = max(low, 0.0)
            elif node.op == "Clip":
                ends = [self._constant(name).item() for name in node.inputs[1:] if name]
                if len(node.inputs) != 3 or len(ends) != 2:
                    raise self._unknown("Clip with one bound")
                low, high = max(low, ends[0]), min(high, ends[1])
            elif node.op in _WITHOUT_EFFECT:
                shape = self.graph.tensors[node.output][0]
                source = self.graph.tensors[node.inputs[0]][0]
                if shape[:2] != source[:2]:
                    raise self._unknown(f"{node.op} from {source} to {shape}")
        if not self.integer:
            return Bounds(low, high)
        scale, zero = self.scales[y][0].item(), int(self.scales[y][1].item())
        ends = [np.clip(np.rint(np.clip(e / scale, -999, 999)) + zero, 0, 255) for e in (low, high)]
        return Bounds(int(ends[0]), int(ends[1]))

    def _ratio(self, x: str, y: str, before: int = _BEFORE, divisor: int = 1) -> Ratio | None:
        if not self.integer:
            return None
        here, there = self.tensors[x].scale, self.tensors[y].scale
        assert here is not None
        assert there is not None
        return ratio_of([here / there / divisor], before=before)

    def _rescaled(self, x: str, y: str) -> Ratio | None:
        """The ratio of two tensors' scales; None where their numbers mean the same."""
        here, there = self.tensors[x], self.tensors[y]
        if (here.scale, here.zero) == (there.scale, there.zero):
            return None
        return self._ratio(x, y)

    def _addition(
        self, node: Node, sums: dict[str, Node], bounds: Bounds, scaled_as: str
    ) -> Addition:
        parts: list[str | Addition] = []
        for name in node.inputs:
            if name in sums:
                parts.append(self._addition(sums[name], sums, self._bounds(name, ()), name))
            elif name in self.tensors:
                if self.tensors[name].values != math.prod(self.graph.tensors[node.output][0]):
                    raise self._unknown("Add of tensors of different shapes")
                parts.append(name)
            else:
                raise self._unknown("Add of a constant")
        a, b = parts
        if not self.integer:
            return Addition(a, b, None, 0, bounds, None)
        scale, zero = self.scales[scaled_as][0].item(), int(self.scales[scaled_as][1].item())
        factors = []
        for part in parts:
            of = part.scale if isinstance(part, Addition) else self.tensors[part].scale
            assert of is not None
            factors.append(of / scale)
        ratio = ratio_of(factors, before=_BEFORE, together=True)
        return Addition(a, b, scale, zero, bounds, ratio)

    def _window(self, node: Node, size: Sequence[int]) -> Window:
        attributes = node.attributes
        strides = list(attributes.get("strides", [1, 1]))
        dilated = any(value != 1 for value in attributes.get("dilations", [1]))
        auto = attributes.get("auto_pad", b"NOTSET") != b"NOTSET"
        if len(size) != 2 or strides[0] != strides[-1] or dilated or auto:
            raise self._unknown(f"{node.op} with dilation, unequal strides or automatic padding")
        top, left = list(attributes.get("pads", [0] * 4))[:2]
        return Window(size[0], size[1], strides[0], top, left)

    def _convolution(self, node: Node, x: str, y: str, bounds: Bounds) -> Convolution:
        weights = self._weights(node.inputs[1])
        groups = node.attributes.get("group", 1)
        channels = self.tensors[x].channels
        depthwise = groups > 1
        if depthwise and not groups == channels == len(weights):
            raise self._unknown("Conv in groups that are not depthwise")
        window = self._window(node, weights.shape[2:])
        placed = weights[:, 0].transpose(1, 2, 0) if depthwise else weights.transpose(0, 2, 3, 1)
        return self._with_bias(node, x, y, window, placed, depthwise, bounds)

    def _linear(self, node: Node, x: str, y: str, bounds: Bounds) -> Convolution:
        attributes = node.attributes
        plain = attributes.get("alpha", 1) == attributes.get("beta", 1) == 1
        if not plain or attributes.get("transA") or self.tensors[x].height > 1:
            raise self._unknown("Gemm with factors or of a map that is not flat")
        weights = self._weights(node.inputs[1])
        if not attributes.get("transB"):
            weights = weights.T
        return self._with_bias(node, x, y, Window(), weights[:, None, None, :], False, bounds)

    def _weights(self, name: str) -> Array:
        if name not in self.graph.constants:
            raise UserError(f"{self.name}: the weights {name} are computed, not constants")
        weights = self.graph.constants[name]
        wanted = np.int8 if self.integer else np.float32
        if weights.dtype != wanted:
            raise self._floats(name)
        return weights

    def _with_bias(
        self,
        node: Node,
        x: str,
        y: str,
        window: Window,
        weights: Array,
        depthwise: bool,
        bounds: Bounds,
    ) -> Convolution:
        count = self.tensors[y].channels
        given = node.inputs[2] if len(node.inputs) > 2 else ""
        bias = self.graph.constants[given] if given else np.zeros(count, np.float32)
        ratio = None
        if self.integer:
            here, there = self.tensors[x].scale, self.tensors[y].scale
            assert here is not None
            assert there is not None
            scales = here * np.broadcast_to(
                self.weight_scales[node.inputs[1]].astype(np.float64).ravel(), count
            )
            if given:
                of_bias = self.weight_scales[given].astype(np.float64).ravel()
                bias = np.rint(bias * (of_bias / scales))
            bias = bias.astype(np.int64)
            if np.abs(bias).max(initial=0) >= 2**31:
                raise UserError(f"{self.name}: a bias of {node.output} leaves 32 bits")
            ratio = ratio_of((scales / there).tolist())
        return Convolution(x, y, window, weights, bias, depthwise, bounds, ratio)

    def _padding(self, node: Node, x: str, y: str, bounds: Bounds) -> Join:
        pads = self._constant(node.inputs[1]).tolist() if len(node.inputs) > 1 else None
        zero = self.tensors[x].zero if self.integer else 0
        given = node.inputs[2] if len(node.inputs) > 2 else ""
        value = self._constant(given).item() if given else zero
        channels = pads is not None and len(pads) == 8 and not any(pads[:5]) and not any(pads[6:])
        if not channels or value != zero:
            raise self._unknown("Pad other than with zeros behind the channels")
        return Join((x,), y, bounds, (self._rescaled(x, y),))
