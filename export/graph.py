"""An ONNX model as plain data, for rewriting: nodes in an execution order, and arrays.

`read` and `write` are inverses of each other up to names inside. Only what a rewrite needs is
kept apart (nodes, constants, shapes); everything else of the model (metadata, operator sets,
inputs, outputs) is carried along unchanged.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from gemkit.errors import UserError

Array = NDArray[Any]


@dataclass(frozen=True)
class Node:
    """One operator: `outputs = op(inputs)`. An omitted optional input is an empty name."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    domain: str = ""

    @property
    def output(self) -> str:
        """The name of the (first) output, which also names the node."""
        return self.outputs[0]


@dataclass(frozen=True)
class Graph:
    """The computation of an ONNX model. Never changed in place.

    Attributes:
        nodes: in an execution order: a tensor is written before it is read.
        constants: weights and other constants by name.
        inputs, outputs: names of the model's own tensors.
        model: the model that it was read from; what nodes and constants lack is taken from it.
        known_tensors: what `tensors` gives where it cannot be inferred from the nodes.
    """

    nodes: tuple[Node, ...]
    constants: Mapping[str, Array]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    model: Any = field(repr=False, compare=False)
    known_tensors: Mapping[str, tuple[tuple[int, ...], int]] | None = field(
        default=None, repr=False, compare=False
    )

    @cached_property
    def producer(self) -> dict[str, Node]:
        """The node that writes a tensor; model inputs and constants have none."""
        return {name: node for node in self.nodes for name in node.outputs}

    @cached_property
    def readers(self) -> dict[str, list[Node]]:
        """The nodes that read a tensor, in order, a node that reads it twice being there twice."""
        found: dict[str, list[Node]] = defaultdict(list)
        for node in self.nodes:
            for name in node.inputs:
                found[name].append(node)
        return dict(found)

    @cached_property
    def tensors(self) -> dict[str, tuple[tuple[int, ...], int]]:
        """Shape at batch 1 and bytes per element of every activation.

        A symbolic dimension counts as 1: only the batch is symbolic in the models meant here.

        Raises:
            UserError: the shape of a tensor cannot be inferred from the model.
        """
        return dict(self.known_tensors or _infer_shapes(write(self)))

    @property
    def opset(self) -> int:
        """Version of the standard operators."""
        return max(
            (item.version for item in self.model.opset_import if item.domain in ("", "ai.onnx")),
            default=0,
        )

    def bytes(self, name: str) -> int:
        """Size of an activation at batch 1."""
        shape, item = self.tensors[name]
        return int(np.prod(shape, dtype=np.int64)) * item

    def channels(self, name: str) -> int:
        """Length of an activation's second dimension."""
        return self.tensors[name][0][1]

    def only_reader(self, name: str) -> Node | None:
        """The node that reads a tensor, when it is one and the model's output does not."""
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def with_nodes(
        self, nodes: Iterable[Node], constants: Mapping[str, Array] | None = None
    ) -> "Graph":
        """The graph with other nodes, brought into an execution order as near as possible to
        the one given; nodes and constants that nothing reads are dropped."""
        merged = {**self.constants, **(constants or {})}
        kept = _reached(sort(nodes, (*self.inputs, *merged)), self.outputs)
        read = {name for node in kept for name in node.inputs} | set(self.outputs)
        return replace(
            self,
            nodes=tuple(kept),
            constants={name: value for name, value in merged.items() if name in read},
        )


def sort(nodes: Iterable[Node], known: Iterable[str]) -> list[Node]:
    """Bring nodes into an execution order, keeping the given order where it is one.

    Args:
        known: tensors that are there from the start.

    Raises:
        ValueError: a tensor is read that nothing writes, or there is a cycle.
    """
    nodes = list(nodes)
    writer = {name: index for index, node in enumerate(nodes) for name in node.outputs}
    there = {"", *known}
    waiting = [len({writer.get(n, -1) for n in node.inputs if n not in there}) for node in nodes]
    followers: dict[int, list[int]] = defaultdict(list)
    for index, node in enumerate(nodes):
        for source in {writer.get(n, -1) for n in node.inputs if n not in there}:
            followers[source].append(index)
    ready = [index for index, count in enumerate(waiting) if not count]
    order: list[Node] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(nodes[index])
        for follower in followers[index]:
            waiting[follower] -= 1
            if not waiting[follower]:
                heapq.heappush(ready, follower)
    if len(order) < len(nodes):
        raise ValueError("the nodes form a cycle or read a tensor that nothing writes")
    return order


def _reached(nodes: list[Node], outputs: Iterable[str]) -> list[Node]:
    needed = set(outputs)
    kept = []
    for node in reversed(nodes):
        if needed.intersection(node.outputs):
            needed.update(node.inputs)
            kept.append(node)
    return kept[::-1]


def read(model: Any) -> Graph:
    """The graph of an `onnx.ModelProto`.

    Raises:
        UserError: the model has operators with graphs inside (loops, conditions) or sparse
            constants, which the rewrites do not understand.
    """
    proto = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.initializer}
    nodes = []
    for item in proto.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in item.attribute}
        if any(a.type in _INNER for a in item.attribute) or proto.sparse_initializer:
            raise UserError(
                f"operator {item.op_type} holds a graph or a sparse constant: "
                "only plain feed-forward models can be optimised"
            )
        if item.op_type == "Constant" and "value" in attributes:
            constants[item.output[0]] = numpy_helper.to_array(attributes["value"])
        else:
            nodes.append(
                Node(item.op_type, tuple(item.input), tuple(item.output), attributes, item.domain)
            )
    inputs = tuple(value.name for value in proto.input if value.name not in constants)
    outputs = tuple(value.name for value in proto.output)
    return Graph(tuple(nodes), constants, inputs, outputs, model)


_INNER = (5, 10, 11, 12)  # AttributeProto types GRAPH, GRAPHS, SPARSE_TENSOR, SPARSE_TENSORS


def write(graph: Graph) -> Any:
    """The `onnx.ModelProto` of a graph, its nodes in the graph's order."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    proto = model.graph
    for part in (proto.node, proto.initializer, proto.value_info):
        del part[:]
    for node in graph.nodes:
        proto.node.append(
            helper.make_node(
                node.op,
                node.inputs,
                node.outputs,
                name=node.output,
                domain=node.domain or None,
                **node.attributes,
            )
        )
    for name, value in graph.constants.items():
        proto.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
    return model


def _infer_shapes(model: Any) -> dict[str, tuple[tuple[int, ...], int]]:
    proto = onnx.shape_inference.infer_shapes(model).graph
    found = {}
    for value in (*proto.input, *proto.output, *proto.value_info):
        tensor = value.type.tensor_type
        shape = tuple(
            size.dim_value if size.HasField("dim_value") else 1 for size in tensor.shape.dim
        )
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        found[value.name] = (shape, np.dtype(kind).itemsize)
    written = {name for node in proto.node for name in node.output if name}
    unknown = sorted(written - found.keys())
    if unknown:
        raise UserError(f"the shape of tensor {unknown[0]!r} cannot be inferred from the model")
    return found
