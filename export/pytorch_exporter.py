"""ONNX graphs of networks that are not searched ones, by PyTorch's own exporter.

It writes operator set 18 whatever is asked for. onnx's version converter brings a graph to a later
set; to an earlier one it refuses every known network (onnx 1.23: no adapter for the way back from
`Add` 14, `Split` 18 and others), so `_lowered` does that for the operators that such networks have.
The written file is checked against PyTorch in either case (`gemkit.export.exporter`).
"""

import copy

import onnx
import torch
from onnx import version_converter
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from gemkit.errors import UserError

from .graph import Graph, Node, read, write
from .onnx_builder import set_ir_version

_WRITTEN = 18
"""The operator set that PyTorch's exporter writes."""


def export_module(
    network: nn.Module, example: torch.Tensor, output: str, *, batch: int | None, opset: int
) -> onnx.ModelProto:
    """The graph of a network, batch norms that follow a convolution folded.

    Args:
        example: an input of batch 2, or of the fixed batch.
        output: name of the output; the input is called `image`.
        batch: a fixed batch; dynamic without it.
        opset: version of the operator set.

    Raises:
        UserError: the network's operators cannot be written in so old a set.
    """
    shapes = None if batch else ({0: torch.export.Dim("batch")},)
    with torch.no_grad():
        written = torch.onnx.export(
            fold(network),
            (example,),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=["image"],
            output_names=[output],
            opset_version=_WRITTEN,
            optimize=True,
            verbose=False,
        )
    assert written is not None
    return with_opset(written.model_proto, opset)


def fold(network: nn.Module) -> nn.Module:
    """A copy for inference whose batch norms are part of the convolutions before them.

    Batch norms that follow their convolution in an `nn.Sequential` are folded here, in double
    precision, which also makes the export twice as fast; others are folded in the ONNX graph.
    """
    folded = copy.deepcopy(network).double().eval()
    for module in list(folded.modules()):
        if not isinstance(module, nn.Sequential):
            continue
        for index in range(len(module) - 1):
            first, second = module[index], module[index + 1]
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                module[index] = fuse_conv_bn_eval(first, second)
                module[index + 1] = nn.Identity()
    for parameter in folded.parameters():
        parameter.requires_grad_(False)  # the exporter would trace a gradient's needs as well
    return folded.float()


def with_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """A model of PyTorch's exporter in another version of the operator set.

    Raises:
        UserError: it has an operator that cannot be written in it.
    """
    if opset > _WRITTEN:
        model = version_converter.convert_version(model, opset)
    elif opset < _WRITTEN:
        model = _lowered(model, opset)
    set_ir_version(model)
    return model


def _lowered(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    graph = read(model)
    lowered = write(
        graph.with_nodes(
            earlier for node in graph.nodes for earlier in _lowered_node(graph, node, opset)
        )
    )
    for imported in lowered.opset_import:
        if imported.domain == "":
            imported.version = opset
    try:
        onnx.checker.check_model(lowered)
    except onnx.checker.ValidationError as error:
        raise UserError(
            f"this network cannot be written in opset {opset}, use {_WRITTEN} or newer: {error}"
        ) from None
    return lowered


def _lowered_node(graph: Graph, node: Node, opset: int) -> list[Node]:
    """A node as an earlier operator set writes it; the checker refuses what stays as it is."""
    inputs, attributes = node.inputs, dict(node.attributes)
    if node.op == "HardSwish" and opset < 14:
        gate = f"{node.output}.gate"
        return [
            Node("HardSigmoid", inputs, (gate,), {"alpha": 1 / 6, "beta": 0.5}),
            Node("Mul", (*inputs, gate), node.outputs),
        ]
    if node.op == "Split":
        attributes.pop("num_outputs", None)  # it has as many as it writes
    if node.op == "Reshape" and opset < 14 and 0 not in graph.constants.get(inputs[1], ()):
        attributes.pop("allowzero", None)
    if node.op.startswith("Reduce") and node.op != "ReduceSum" and len(inputs) > 1:
        attributes["axes"] = graph.constants[inputs[1]].tolist()
        inputs = inputs[:1]
    newer = onnx.defs.get_schema(node.op, _WRITTEN).attributes
    for name in newer.keys() & attributes.keys():
        # What is new since then says nothing where it has its default.
        if attributes[name] == onnx.helper.get_attribute_value(newer[name].default_value):
            del attributes[name]
    return [Node(node.op, inputs, node.outputs, attributes, node.domain)]
