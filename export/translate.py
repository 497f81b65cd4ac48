"""The graph of `torch.export` as ONNX, for the operators of searched networks and common ones.

PyTorch's own ONNX exporter traces a network three times: for a cell of 30 nodes that takes ten
times as long as `torch.export` alone. Here each operator of the exported program becomes its ONNX
operator directly. What is not known here is refused (`Untranslatable`), and PyTorch's exporter
does it; either way the written file is checked against PyTorch. Source: ours.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx
    import torch
    from torch.export import ExportedProgram


class Untranslatable(Exception):
    """An operator, or a way to use it, that is not known here."""


def translate(program: "ExportedProgram", opset: int, output: str) -> "onnx.ModelProto":
    """The ONNX graph of an exported program with one input, called `image`, and one output.

    Args:
        program: of `torch.export.export`, not decomposed.
        opset: 18 or newer.
        output: the output's name.

    Raises:
        Untranslatable: the program does what is not known here.
    """
    return _Translation(program, opset, output).model()


class _Translation:
    """One translation: tensors by the names of the program's nodes."""

    def __init__(self, program: "ExportedProgram", opset: int, output: str) -> None:
        self.program, self.opset, self.output = program, opset, output
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.names: dict[str, str] = {}
        self.views: set[str] = set()

    def model(self) -> "onnx.ModelProto":
        from onnx import helper

        signature = self.program.graph_signature
        if len(signature.user_inputs) != 1 or len(signature.user_outputs) != 1:
            raise Untranslatable("more than one input or output")
        if signature.buffers_to_mutate or signature.user_inputs_to_mutate:
            raise Untranslatable("the network changes its input or its buffers")
        weights = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        values: Mapping[str, Any] = {**self.program.constants, **self.program.state_dict}
        given = result = None
        for node in self.program.graph.nodes:
            if node.op == "placeholder" and node.name in weights:
                name = weights[node.name]
                self.names[node.name] = self.constant(name, values[name].numpy())
            elif node.op == "placeholder":
                given = node
                self.names[node.name] = "image"
            elif node.op == "call_function":
                self.call(node)
            elif node.op == "output":
                result = node.args[0][0]
            else:
                raise Untranslatable(node.op)
        if given is None or result is None:
            raise Untranslatable("no input or no output")
        self.nodes.append(helper.make_node("Identity", [self.names[result.name]], [self.output]))
        self._without_identity()
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("image", *_type(given.meta["val"]))],
            [helper.make_tensor_value_info(self.output, *_type(result.meta["val"]))],
            list(self.constants.values()),
        )
        made: onnx.ModelProto = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", self.opset)],
            ir_version=8 if self.opset <= 18 else 10,  # onnxruntime 1.14 reads 8
        )
        return made

    def _without_identity(self) -> None:
        """Let the last operator write the output itself."""
        source = self.nodes[-1].input[0]
        writers = [node for node in self.nodes[:-1] if source in node.output]
        readers = [node for node in self.nodes[:-1] if source in node.input]
        if writers and not readers:
            writers[0].output[0] = self.output
            self.nodes.pop()

    def constant(self, name: str, value: NDArray[Any]) -> str:
        from onnx import numpy_helper

        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def call(self, node: "torch.fx.Node") -> None:
        operator = str(node.target)
        if operator.startswith("aten._assert_tensor_metadata"):
            return
        if operator in ("aten.dropout.default", "aten.dropout_.default") and node.args[2] is False:
            self.names[node.name] = self.read(node.args[0])
            self.views.add(node.name)
            return
        write = _OPERATORS.get(operator)
        if write is None:
            raise Untranslatable(operator)
        write(self, node)
        if operator.partition(".")[2].partition(".")[0].endswith("_"):
            # In place: whoever reads the changed tensor from now on reads the result.
            changed: str = node.args[0].name  # type: ignore[union-attr, assignment]
            if changed in self.views or self.names[changed] in (*self.constants, "image"):
                raise Untranslatable("a view, a weight or the input is changed in place")
            self.names[changed] = self.names[node.name]

    def read(self, value: Any) -> str:
        """The name of an operand that is a tensor."""
        if not hasattr(value, "name") or value.name not in self.names:
            raise Untranslatable(f"operand {value!r}")
        return self.names[value.name]

    def write(
        self, node: "torch.fx.Node", operator: str, inputs: Sequence[str], **attributes: Any
    ) -> None:
        from onnx import helper

        self.names[node.name] = node.name
        self.nodes.append(
            helper.make_node(operator, list(inputs), [node.name], node.name, **attributes)
        )


def _type(value: "torch.Tensor") -> tuple[int, list[int | str]]:
    import torch
    from onnx import TensorProto

    kinds = {torch.float32: TensorProto.FLOAT, torch.uint8: TensorProto.UINT8}
    if value.dtype not in kinds:
        raise Untranslatable(str(value.dtype))
    first, *rest = value.shape
    return kinds[value.dtype], [first if isinstance(first, int) else "batch", *map(int, rest)]


def _arguments(node: "torch.fx.Node", *defaults: Any) -> list[Any]:
    """Arguments behind the first, with defaults for those not given."""
    if node.kwargs or len(node.args) - 1 > len(defaults):
        raise Untranslatable(f"{node.target} with {node.kwargs or node.args}")
    given = list(node.args[1:])
    return given + list(defaults[len(given) :])


def _pair(value: Any) -> list[int]:
    found = [value, value] if isinstance(value, int) else list(value)
    if len(found) != 2 or not all(isinstance(one, int) for one in found):
        raise Untranslatable(f"{value!r} is no pair of numbers")
    return found


def _conv(to: _Translation, node: "torch.fx.Node") -> None:
    weight, bias, stride, padding, dilation, groups = _arguments(node, None, None, 1, 0, 1, 1)
    inputs = [to.read(node.args[0]), to.read(weight)]
    if bias is not None:
        inputs.append(to.read(bias))
    to.write(
        node,
        "Conv",
        inputs,
        group=groups,
        kernel_shape=[int(size) for size in weight.meta["val"].shape[2:]],
        pads=_pair(padding) * 2,
        strides=_pair(stride),
        dilations=_pair(dilation),
    )


def _simple(operator: str) -> Callable[[_Translation, Any], None]:
    def write(to: _Translation, node: "torch.fx.Node") -> None:
        if len(node.args) != 1 or node.kwargs:
            raise Untranslatable(f"{node.target} with {node.args}")
        to.write(node, operator, [to.read(node.args[0])])

    return write


def _binary(operator: str) -> Callable[[_Translation, Any], None]:
    def write(to: _Translation, node: "torch.fx.Node") -> None:
        (other,) = _arguments(node, None)
        to.write(node, operator, [to.read(node.args[0]), to.read(other)])

    return write


def _cat(to: _Translation, node: "torch.fx.Node") -> None:
    (axis,) = _arguments(node, 0)
    to.write(node, "Concat", [to.read(one) for one in node.args[0]], axis=axis)  # type: ignore[union-attr]


def _max_pool(to: _Translation, node: "torch.fx.Node") -> None:
    kernel, stride, padding, dilation, ceil = _arguments(node, None, None, 0, 1, False)
    if ceil or _pair(dilation) != [1, 1]:
        raise Untranslatable("this pooling")
    to.write(
        node,
        "MaxPool",
        [to.read(node.args[0])],
        kernel_shape=_pair(kernel),
        strides=_pair(stride or kernel),
        pads=_pair(padding) * 2,
    )


def _average(to: _Translation, node: "torch.fx.Node") -> None:
    if _pair(_arguments(node, None)[0]) != [1, 1]:
        raise Untranslatable("adaptive pooling to more than one value")
    axes = to.constant("axes.height.width", np.array([2, 3], np.int64))
    to.write(node, "ReduceMean", [to.read(node.args[0]), axes], keepdims=1)


def _mean(to: _Translation, node: "torch.fx.Node") -> None:
    axes, keep = _arguments(node, None, False)
    if list(axes) != [2, 3] or node.args[0].meta["val"].dim() != 4:  # type: ignore[union-attr]
        raise Untranslatable("this mean")
    inputs = [to.read(node.args[0]), to.constant("axes.height.width", np.array([2, 3], np.int64))]
    to.write(node, "ReduceMean", inputs, keepdims=int(keep))


def _clip(to: _Translation, node: "torch.fx.Node") -> None:
    low, high = (
        to.constant(f"limit.{float(value)}", np.array(value, np.float32))
        for value in _arguments(node, -1.0, 1.0)
    )
    to.write(node, "Clip", [to.read(node.args[0]), low, high])


def _hard_sigmoid(to: _Translation, node: "torch.fx.Node") -> None:
    _arguments(node)
    to.write(node, "HardSigmoid", [to.read(node.args[0])], alpha=1 / 6, beta=0.5)


def _silu(to: _Translation, node: "torch.fx.Node") -> None:
    from onnx import helper

    _arguments(node)
    source, gate = to.read(node.args[0]), f"{node.name}.gate"
    to.nodes.append(helper.make_node("Sigmoid", [source], [gate], gate))
    to.write(node, "Mul", [source, gate])


def _flatten(to: _Translation, node: "torch.fx.Node") -> None:
    start, end = _arguments(node, 0, -1)
    sizes = node.meta["val"].shape[1:]
    if start != 1 or end != -1 or len(sizes) != 1:
        raise Untranslatable("this flattening")
    shape = to.constant(f"{node.name}.shape", np.array([-1, int(sizes[0])], np.int64))
    to.write(node, "Reshape", [to.read(node.args[0]), shape])
    to.views.add(node.name)


def _linear(to: _Translation, node: "torch.fx.Node") -> None:
    weight, bias = _arguments(node, None, None)
    if node.meta["val"].dim() != 2:
        raise Untranslatable("a linear layer of more than two dimensions")
    inputs = [to.read(node.args[0]), to.read(weight)]
    if bias is not None:
        inputs.append(to.read(bias))
    to.write(node, "Gemm", inputs, transB=1)


def _permute(to: _Translation, node: "torch.fx.Node") -> None:
    to.write(node, "Transpose", [to.read(node.args[0])], perm=list(_arguments(node, None)[0]))
    to.views.add(node.name)


def _cast(to: _Translation, node: "torch.fx.Node") -> None:
    import torch
    from onnx import TensorProto

    if _arguments(node, None) != [torch.float32]:
        raise Untranslatable("this conversion")
    to.write(node, "Cast", [to.read(node.args[0])], to=TensorProto.FLOAT)
    to.views.add(node.name)


def _softmax(to: _Translation, node: "torch.fx.Node") -> None:
    axis, kind = _arguments(node, None, None)
    if kind is not None:
        raise Untranslatable("softmax with a conversion")
    to.write(node, "Softmax", [to.read(node.args[0])], axis=axis)


_OPERATORS: dict[str, Callable[[_Translation, Any], None]] = {
    "aten.conv2d.default": _conv,
    "aten.relu.default": _simple("Relu"),
    "aten.relu_.default": _simple("Relu"),
    "aten.add.Tensor": _binary("Add"),
    "aten.add_.Tensor": _binary("Add"),
    "aten.mul.Tensor": _binary("Mul"),
    "aten.mul_.Tensor": _binary("Mul"),
    "aten.hardswish.default": _simple("HardSwish"),
    "aten.hardswish_.default": _simple("HardSwish"),
    "aten.sigmoid.default": _simple("Sigmoid"),
    "aten.sigmoid_.default": _simple("Sigmoid"),
    "aten.hardsigmoid.default": _hard_sigmoid,
    "aten.hardtanh.default": _clip,
    "aten.hardtanh_.default": _clip,
    "aten.silu.default": _silu,
    "aten.silu_.default": _silu,
    "aten.mean.dim": _mean,
    "aten.cat.default": _cat,
    "aten.max_pool2d.default": _max_pool,
    "aten.adaptive_avg_pool2d.default": _average,
    "aten.flatten.using_ints": _flatten,
    "aten.linear.default": _linear,
    "aten.permute.default": _permute,
    "aten.to.dtype": _cast,
    "aten.softmax.int": _softmax,
}
