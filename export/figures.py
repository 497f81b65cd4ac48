"""What one ONNX file costs, read off the file itself: its own figures, not those of its source.

    figures = count(model)                     # multiply-accumulates, weights, peak memory
    describe(model, figures, accuracy=0.93)    # into its metadata

Rewriting pads channels and merges convolutions, 8 bits make activations smaller, and each has an
accuracy of its own. So every file that is made of another is counted and described anew.
"""

import json
import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from gemkit.budget import Budget, format_bytes, format_count, format_latency

from . import schedule
from .graph import Graph, Node, read

_CONVOLUTIONS = ("Conv", "FusedConv")
_PRODUCTS = ("Gemm", "MatMul")
_PREFIX = "gemkit."


@dataclass(frozen=True)
class Figures:
    """What a file costs for one image.

    Attributes:
        macs: multiply-accumulates of its convolutions and matrix products.
        weights: numbers in the weights and biases of these; what several of them share counts
            for each.
        peak_memory_bytes: peak activation memory by the definition of `gemkit.cost`, with the
            element sizes of the file; quantised activations take one byte.
    """

    macs: int
    weights: int
    peak_memory_bytes: int

    def over(self, budget: Budget, precision: str, latency_ms: float | None = None) -> str:
        """Which limits a file leaves, as a part of a sentence; empty where it keeps all.

        A budget's memory and latency refer to files of its own precision.

        Args:
            latency_ms: of the file, where that was measured on the device that is meant.
        """
        found = []
        if budget.macs is not None and self.macs > budget.macs:
            found.append(f"{format_count(self.macs)} MACs, more than {format_count(budget.macs)}")
        if budget.params is not None and self.weights > budget.params:
            found.append(
                f"{format_count(self.weights)} weights, more than {format_count(budget.params)}"
            )
        if precision != budget.precision:
            return "; ".join(found)
        limit = budget.memory_bytes
        if limit is not None and self.peak_memory_bytes > limit:
            found.append(
                f"{format_bytes(self.peak_memory_bytes)} of activations, more than "
                f"{format_bytes(limit)}"
            )
        allowed = budget.latency_ms
        if allowed is not None and latency_ms is not None and latency_ms > allowed:
            found.append(
                f"measured {format_latency(latency_ms)} when it was exported, more than "
                f"{format_latency(allowed)}"
            )
        return "; ".join(found)

    def to_json(self) -> dict[str, int]:
        """Under the names that programs read."""
        return asdict(self)


def count(model: Any, accumulate: bool = False) -> Figures:
    """Count a model: an `onnx.ModelProto` with one input whose first dimension is the batch.

    Args:
        accumulate: whether convolutions may add their result to another tensor themselves.

    Raises:
        UserError: the model is none of plain operators, or shapes in it are not known.
    """
    graph = read(model)
    batch = max(1, model.graph.input[0].type.tensor_type.shape.dim[0].dim_value)
    plain = without_conversions(graph)
    return Figures(
        macs=sum(_macs(graph, node) for node in graph.nodes) // batch,
        weights=sum(_weights(graph, node) for node in graph.nodes),
        peak_memory_bytes=schedule.peak(plain, accumulate) // batch,
    )


def describe(model: Any, figures: Figures, **more: Any) -> None:
    """Put figures, and what else is known of the file, into a model's metadata."""
    known = {entry.key: entry for entry in model.metadata_props}
    for name, value in {**figures.to_json(), **more}.items():
        entry = known.get(_PREFIX + name) or model.metadata_props.add()
        entry.key, entry.value = _PREFIX + name, json.dumps(value)


def _shape(graph: Graph, name: str) -> tuple[int, ...]:
    constant = graph.constants.get(name)
    return tuple(constant.shape) if constant is not None else graph.tensors[name][0]


def _macs(graph: Graph, node: Node) -> int:
    if node.op in _CONVOLUTIONS:
        weight = _shape(graph, node.inputs[1])
        return math.prod(_shape(graph, node.output)) * math.prod(weight[1:])
    if node.op in _PRODUCTS:
        first = _shape(graph, node.inputs[0])
        inner = first[0] if node.attributes.get("transA") else first[-1]
        return math.prod(_shape(graph, node.output)) * inner
    return 0


def _weights(graph: Graph, node: Node) -> int:
    """Numbers in a node's constants, also in those that are kept in 8 or 16 bits."""
    if node.op not in (*_CONVOLUTIONS, *_PRODUCTS):
        return 0
    total = 0
    for name in node.inputs[1:]:
        while name in graph.producer and graph.producer[name].op in ("DequantizeLinear", "Cast"):
            name = graph.producer[name].inputs[0]
        if name in graph.constants:
            total += int(graph.constants[name].size)
    return total


def without_conversions(graph: Graph) -> Graph:
    """The graph as processors run it that compute in 8 bits: the pairs of quantisation and its
    inverse are no tensors of their own, and what they bracket has the size of its type.

    A tensor bears the name of its 8-bit form then, a weight still that of its float form.
    """
    if not any(node.op == "QuantizeLinear" for node in graph.nodes):
        return graph
    renamed: dict[str, str] = {}
    constants = dict(graph.constants)
    nodes: list[Node] = []

    def now(name: str) -> str:
        while name in renamed:
            name = renamed[name]
        return name

    for node in graph.nodes:
        source = node.inputs[0] if node.inputs else ""
        if node.op == "DequantizeLinear" and source in constants:
            constants[node.output] = constants[source]
        elif node.op == "DequantizeLinear" and node.output not in graph.outputs:
            renamed[node.output] = source
        elif node.op == "QuantizeLinear" and _ends(graph, node):
            place = next(i for i, made in enumerate(nodes) if now(source) in made.outputs)
            made = nodes[place]
            outputs = tuple(node.output if o == now(source) else o for o in made.outputs)
            nodes[place] = replace(made, outputs=outputs)
        else:
            nodes.append(replace(node, inputs=tuple(map(now, node.inputs))))
    nodes = [replace(node, inputs=tuple(map(now, node.inputs))) for node in nodes]
    return replace(
        graph, nodes=tuple(nodes), constants=constants, known_tensors=dict(graph.tensors)
    )


def _ends(graph: Graph, node: Node) -> bool:
    """Whether a quantisation is all that reads what it converts, which a node here has made."""
    name = node.inputs[0]
    return name in graph.producer and graph.only_reader(name) is node
