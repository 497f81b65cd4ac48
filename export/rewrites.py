"""Rewrites of a cell network's ONNX graph that keep its outputs (ours).

Every rewrite is a function from a graph to a graph that computes the same up to the rounding of
sums taken in another order. None is good by itself: whether it makes a network faster depends on
the runtime, the widths and the cell, which is why `gemkit.export.optimize` applies only what a
measurement favours. A rewrite that finds nothing to change returns the graph it was given.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from itertools import combinations

import numpy as np

from .graph import Array, Graph, Node

Rewrite = Callable[[Graph], Graph]

_ZERO_STAYS_ZERO = ("Relu", "HardSwish", "Identity", "Cast")
_POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean")


# What kind of node is it?


def is_pointwise(graph: Graph, node: Node) -> bool:
    """Whether a node is a 1x1 convolution over all channels, with constant weights."""
    if node.op != "Conv" or not _has_weights(graph, node):
        return False
    get = node.attributes.get
    return (
        get("group", 1) == 1
        and graph.constants[node.inputs[1]].shape[2:] == (1, 1)
        and set(get("strides", [1])) == {1}
        and not any(get("pads", [0]))
    )


def is_depthwise(graph: Graph, node: Node) -> bool:
    """Whether a node is a convolution of each channel by itself, with constant weights."""
    if node.op != "Conv" or not _has_weights(graph, node):
        return False
    weights = graph.constants[node.inputs[1]]
    return bool(node.attributes.get("group", 1) == len(weights) and weights.shape[1] == 1)


def _has_weights(graph: Graph, node: Node) -> bool:
    return all(name in graph.constants for name in node.inputs[1:] if name)


def _weights(graph: Graph, node: Node) -> tuple[Array, Array]:
    """Weights and bias of a convolution; a missing bias is zero."""
    weights = graph.constants[node.inputs[1]]
    if len(node.inputs) > 2 and node.inputs[2]:
        return weights, graph.constants[node.inputs[2]]
    return weights, np.zeros(len(weights), weights.dtype)


def _bias_name(node: Node) -> str:
    """The name of a convolution's bias; where it has none, of one that it may be given."""
    given = node.inputs[2] if len(node.inputs) > 2 else ""
    return given or f"{node.output}_bias"


def _is_sum(graph: Graph, node: Node) -> bool:
    """Whether a node adds activations of one shape."""
    if node.op not in ("Add", "Sum") or len(node.inputs) < 2:
        return False
    if any(name in graph.constants for name in node.inputs):
        return False
    return len({graph.tensors[name] for name in (*node.inputs, *node.outputs)}) == 1


# Global average pooling


def pool_globally(graph: Graph) -> Graph:
    """Write a mean over both image axes as GlobalAveragePool, which runtimes know best."""
    nodes = []
    for node in graph.nodes:
        if node.op == "ReduceMean" and node.attributes.get("keepdims", 1):
            given = node.attributes.get("axes")
            if given is None and len(node.inputs) > 1:
                given = graph.constants.get(node.inputs[1])
            rank = len(graph.tensors[node.inputs[0]][0])
            if given is not None and rank == 4 and {int(a) % 4 for a in given} == {2, 3}:
                node = Node("GlobalAveragePool", node.inputs[:1], node.outputs)
        nodes.append(node)
    return graph if tuple(nodes) == graph.nodes else graph.with_nodes(nodes)


# Channels padded to a multiple


def pad_channels(graph: Graph, multiple: int) -> Graph:
    """Give every convolution a number of channels that `multiple` divides, the new ones zero.

    onnxruntime computes on blocks of channels: a width that is no multiple of the block costs
    reorderings between layouts, one that is no multiple of four is not computed in blocks at all.
    The zero channels begin at a convolution and end where a linear layer or a convolution reads
    them with zero weights, so nothing outside changes.

    A graph in which padded channels would reach something unknown is returned as it is.
    """
    padder = _Padder(graph, multiple)
    try:
        nodes = [padder.node(node) for node in graph.nodes]
    except _CannotPad:
        return graph
    if not padder.constants:
        return graph
    return graph.with_nodes(nodes, padder.constants)


class _CannotPad(Exception):
    pass


class _Padder:
    """Walks through a graph and knows of each tensor which channels are real.

    Attributes:
        real: for every padded tensor a mask over its channels, False where they were added.
        constants: the new weights.
    """

    def __init__(self, graph: Graph, multiple: int) -> None:
        self.graph, self.multiple = graph, multiple
        self.real: dict[str, Array] = {}
        self.constants: dict[str, Array] = {}

    def node(self, node: Node) -> Node:
        """The node over padded tensors."""
        if node.op == "Conv" and _has_weights(self.graph, node):
            return self._convolution(node)
        if not any(name in self.real for name in node.inputs):
            return node
        if any(name in self.graph.outputs for name in node.outputs) and node.op != "Gemm":
            raise _CannotPad
        if node.op == "Concat" and node.attributes.get("axis") == 1:
            self.real[node.output] = np.concatenate([self._mask(name) for name in node.inputs])
        elif node.op in _ZERO_STAYS_ZERO or (
            node.op in _POOLS
            and self.graph.tensors[node.inputs[0]][0][:2] == self.graph.tensors[node.output][0][:2]
        ):
            self.real[node.output] = self.real[node.inputs[0]]
        elif _is_sum(self.graph, node):
            masks = [self._mask(name) for name in node.inputs]
            if any(not np.array_equal(mask, masks[0]) for mask in masks[1:]):
                raise _CannotPad
            self.real[node.output] = masks[0]
        elif node.op in ("Flatten", "Reshape", "Squeeze"):
            return self._flatten(node)
        elif node.op == "Gemm":
            return self._linear(node)
        else:
            raise _CannotPad
        return node

    def _mask(self, name: str) -> Array:
        if name not in self.real:
            return np.ones(self.graph.channels(name), dtype=bool)
        return self.real[name]

    def _new(self, name: str, value: Array) -> str:
        name = f"{name}_padded"
        self.constants[name] = value
        return name

    def _convolution(self, node: Node) -> Node:
        weights, bias = _weights(self.graph, node)
        reads = self._mask(node.inputs[0])
        groups = node.attributes.get("group", 1)
        if groups == 1:
            channels = -(-len(weights) // self.multiple) * self.multiple
            if node.output in self.graph.outputs:
                channels = len(weights)
            mask = np.arange(channels) < len(weights)
            padded = np.zeros((channels, len(reads), *weights.shape[2:]), weights.dtype)
            padded[np.ix_(mask, reads)] = weights
        elif is_depthwise(self.graph, node):
            if node.output in self.graph.outputs and not reads.all():
                raise _CannotPad
            mask, groups = reads, len(reads)
            padded = np.zeros((len(mask), *weights.shape[1:]), weights.dtype)
            padded[mask] = weights
        elif reads.all():
            return node
        else:
            raise _CannotPad
        if padded.shape == weights.shape:
            return node
        if not mask.all():
            self.real[node.output] = mask
        padded_bias = np.zeros(len(mask), bias.dtype)
        padded_bias[mask] = bias
        return replace(
            node,
            inputs=(
                node.inputs[0],
                self._new(node.inputs[1], padded),
                self._new(_bias_name(node), padded_bias),
            ),
            attributes={**node.attributes, "group": groups},
        )

    def _flatten(self, node: Node) -> Node:
        """(n, c, 1, 1) -> (n, c): padded channels go through."""
        before = self.graph.tensors[node.inputs[0]][0]
        after = self.graph.tensors[node.output][0]
        if after != before[:2] or any(size != 1 for size in before[2:]):
            raise _CannotPad
        self.real[node.output] = self.real[node.inputs[0]]
        return Node("Flatten", node.inputs[:1], node.outputs, {"axis": 1})

    def _linear(self, node: Node) -> Node:
        get = node.attributes.get
        weights = self.graph.constants.get(node.inputs[1])
        if weights is None or node.inputs[0] not in self.real or get("transA", 0):
            raise _CannotPad
        mask = self.real[node.inputs[0]]
        shape = (len(weights), len(mask)) if get("transB", 0) else (len(mask), weights.shape[1])
        padded = np.zeros(shape, weights.dtype)
        padded[(slice(None), mask) if get("transB", 0) else mask] = weights
        return replace(
            node, inputs=(node.inputs[0], self._new(node.inputs[1], padded), *node.inputs[2:])
        )


# Sums


def share_sums(graph: Graph) -> Graph:
    """Compute what several sums have in common once.

    The sums of a cell read subsets of the same tensors. The pair that most sums contain becomes a
    tensor of its own, again and again (Paar's greedy method for linear forms); dense cells then
    need about half of the additions. An operand that a convolution without activation has just
    computed stays last, since a runtime adds it inside that convolution.
    """
    found = sums(graph)
    terms = {
        total: frozenset(name for name in names if not adds_for_free(graph, name))
        for total, names in found.items()
        if len(set(names)) == len(names)
    }
    rank = {name: index for index, name in enumerate((*graph.inputs, *_outputs(graph.nodes)))}
    shared, rest = _share_pairs(terms, rank)
    if not shared:
        return graph
    inner = {name for total in terms for name in _inner_sums(graph, total)}
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.output not in terms:
            if node.output not in inner:
                nodes.append(node)
            continue
        free = [name for name in found[node.output] if name not in terms[node.output]]
        operands = [*sorted(rest[node.output], key=lambda name: rank.get(name, 0)), *free]
        nodes += _chain(operands, node.output)
    nodes += [Node("Add", pair, (name,)) for name, pair in shared.items()]
    return graph.with_nodes(_without_identities(graph, nodes))


def _outputs(nodes: Iterable[Node]) -> Iterable[str]:
    return (name for node in nodes for name in node.outputs)


def adds_for_free(graph: Graph, name: str) -> bool:
    node = graph.producer.get(name)
    return node is not None and node.op == "Conv" and graph.only_reader(name) is not None


def _inner_sums(graph: Graph, total: str) -> list[str]:
    """The sums that only serve one larger sum."""
    found = []
    for name in graph.producer[total].inputs:
        node = graph.producer.get(name)
        if node and _is_sum(graph, node) and graph.only_reader(name):
            found += [name, *_inner_sums(graph, name)]
    return found


def sums(graph: Graph) -> dict[str, list[str]]:
    """All sums with what they add, sums inside sums resolved."""

    def operands(node: Node) -> list[str]:
        found = []
        for name in node.inputs:
            inner = graph.producer.get(name)
            if inner and _is_sum(graph, inner) and graph.only_reader(name):
                found += operands(inner)
            else:
                found.append(name)
        return found

    totals = [node for node in graph.nodes if _is_sum(graph, node)]
    inner = {name for node in totals for name in _inner_sums(graph, node.output)}
    return {node.output: operands(node) for node in totals if node.output not in inner}


def _share_pairs(
    terms: Mapping[str, frozenset[str]], rank: dict[str, int]
) -> tuple[dict[str, tuple[str, str]], dict[str, set[str]]]:
    """Replace the commonest pair by a new name until none is common to two sums.

    Returns:
        The pairs by their new name, in order; what is left of each sum.
    """
    rest = {total: set(names) for total, names in terms.items()}
    shared: dict[str, tuple[str, str]] = {}
    while True:
        count: Counter[tuple[str, str]] = Counter()
        for names in rest.values():
            count.update(combinations(sorted(names, key=lambda name: rank.get(name, 0)), 2))
        common = [pair for pair, times in count.items() if times > 1]
        if not common:
            return shared, rest
        # Of the commonest pairs the one complete first, so that the result is always the same.
        first, second = max(common, key=lambda pair: (count[pair], -rank[pair[1]], -rank[pair[0]]))
        name = f"{first}+{second}"
        if len(name) > 60:
            name = f"shared_sum_{len(shared)}_of_{second.rsplit('+', 1)[-1]}"
        rank[name] = rank[second]
        shared[name] = (first, second)
        for names in rest.values():
            if first in names and second in names:
                names -= {first, second}
                names.add(name)


def _chain(operands: list[str], total: str) -> list[Node]:
    """Additions one after the other; a single operand is passed on."""
    if len(operands) == 1:
        return [Node("Identity", (operands[0],), (total,))]
    nodes = []
    so_far = operands[0]
    for place, name in enumerate(operands[1:], start=2):
        written = total if place == len(operands) else f"{total}_sum{place}"
        nodes.append(Node("Add", (so_far, name), (written,)))
        so_far = written
    return nodes


def _without_identities(graph: Graph, nodes: list[Node]) -> list[Node]:
    """Let readers of an Identity read what it passes on."""
    same = {
        node.output: node.inputs[0]
        for node in nodes
        if node.op == "Identity" and node.output not in graph.outputs
    }

    def origin(name: str) -> str:
        while name in same:
            name = same[name]
        return name

    return [
        replace(node, inputs=tuple(origin(name) for name in node.inputs))
        for node in nodes
        if node.output not in same
    ]


def sums_at_once(graph: Graph) -> Graph:
    """Write sums of more than two operands as one Sum instead of a chain of Adds."""
    large = {total: names for total, names in sums(graph).items() if len(names) > 2}
    if not large:
        return graph
    inner = {name for total in large for name in _inner_sums(graph, total)}
    nodes = []
    for node in graph.nodes:
        if node.output in large:
            free = [name for name in large[node.output] if adds_for_free(graph, name)]
            rest = [name for name in large[node.output] if name not in free]
            if len(rest) > 2:
                partial = f"{node.output}_rest" if free else node.output
                nodes.append(Node("Sum", tuple(rest), (partial,)))
                nodes += _chain([partial, *free], node.output) if free else []
            else:
                nodes += _chain([*rest, *free], node.output)
        elif node.output not in inner:
            nodes.append(node)
    return graph.with_nodes(nodes)


# Concatenations


def split_concats(
    graph: Graph, largest: int = 1_000_000, only: Collection[str] | None = None
) -> Graph:
    """Let 1x1 convolutions read the operands of a concatenation one by one.

    W [a; b] = W_a a + W_b b: the concatenation is not made, and each partial sum is added to the
    one before it (runtimes do that inside the convolution). A depthwise convolution in between is
    split the same way, channel by channel.

    Args:
        largest: concatenations of more operands stay.
        only: outputs of the concatenations that may be split; None for all.
    """
    nodes: list[Node] = []
    constants: dict[str, Array] = {}
    done: set[str] = set()
    for node in graph.nodes:
        if node.output in done:
            continue
        nodes.append(node)
        if node.op != "Concat" or len(node.inputs) > largest or node.output in graph.outputs:
            continue
        if only is not None and node.output not in only:
            continue
        paths = [_channel_path(graph, reader) for reader in graph.readers[node.output]]
        if not _is_channel_concat(node) or not all(paths):
            continue
        nodes.pop()
        sizes = [graph.channels(name) for name in node.inputs]
        for path in paths:
            done.update(step.output for step in path)
            nodes += _split_path(graph, path, node.inputs, sizes, constants)
    return graph.with_nodes(nodes, constants) if done else graph


def _is_channel_concat(node: Node) -> bool:
    return node.op == "Concat" and node.attributes.get("axis") == 1


def _channel_path(graph: Graph, node: Node) -> list[Node]:
    """From the reader of a concatenation on: depthwise convolutions and activations, which
    leave the channels apart, up to the 1x1 convolution that joins them; empty if there is none."""
    path: list[Node] = []
    step: Node | None = node
    while step is not None:
        path.append(step)
        if is_pointwise(graph, step):
            return path
        if not (step.op == "Relu" or is_depthwise(graph, step)):
            return []
        step = graph.only_reader(step.output)
    return []


def _split_path(
    graph: Graph,
    path: list[Node],
    operands: Iterable[str],
    sizes: list[int],
    constants: dict[str, Array],
) -> list[Node]:
    """The path once per operand, the last convolution's parts added up."""
    nodes = []
    start, so_far = 0, ""
    for place, (operand, size) in enumerate(zip(operands, sizes, strict=True), start=1):
        part = slice(start, start + size)
        start += size
        current = operand
        for step in path[:-1]:
            nodes.append(_part(graph, step, current, place, part, constants))
            current = nodes[-1].output
        nodes.append(_part(graph, path[-1], current, place, part, constants))
        if so_far:
            last = place == len(sizes)
            total = path[-1].output if last else f"{path[-1].output}_sum{place}"
            nodes.append(Node("Add", (nodes[-1].output, so_far), (total,)))
        so_far = nodes[-1].output
    return nodes


def _part(
    graph: Graph, node: Node, operand: str, place: int, part: slice, constants: dict[str, Array]
) -> Node:
    """One step of a path for the channels `part`, which come from `operand`."""
    written = (f"{node.output}_part{place}",)
    if node.op != "Conv":
        return replace(node, inputs=(operand,), outputs=written)
    weights, bias = _weights(graph, node)
    names = [f"{node.inputs[1]}_part{place}"]
    attributes = dict(node.attributes)
    if is_depthwise(graph, node):
        names.append(f"{written[0]}_bias")
        constants |= {names[0]: weights[part], names[1]: bias[part]}
        attributes["group"] = part.stop - part.start
    else:
        constants[names[0]] = weights[:, part]
        if place == 1:
            names.append(_bias_name(node))
            constants[names[1]] = bias
    return replace(node, inputs=(operand, *names), outputs=written, attributes=attributes)


def merge_siblings(graph: Graph) -> Graph:
    """Compute 1x1 convolutions of one tensor together when the same concatenations read them.

    Their outputs are laid out side by side by the merged convolution, so nothing is split, and
    the concatenations have fewer operands to copy. The readers' weights are permuted accordingly.
    """
    families: dict[tuple[object, ...], list[Node]] = {}
    for node in graph.nodes:
        if not is_pointwise(graph, node):
            continue
        end = _activated(graph, node)
        readers = graph.readers.get(end.output, [])
        if (
            readers
            and end.output not in graph.outputs
            and all(_is_channel_concat(reader) for reader in readers)
            and all(_is_permutable(graph, reader) for reader in readers)
        ):
            names = tuple(sorted(reader.output for reader in readers))
            if len(set(names)) == len(names):
                families.setdefault((node.inputs[0], end.op, names), []).append(node)
    merged = {nodes[0].output: nodes for nodes in families.values() if len(nodes) > 1}
    if not merged:
        return graph
    return _merge(graph, merged)


def _activated(graph: Graph, node: Node) -> Node:
    """The Relu that alone reads a node, or the node."""
    reader = graph.only_reader(node.output)
    return reader if reader is not None and reader.op == "Relu" else node


def _is_permutable(graph: Graph, concat: Node) -> bool:
    return concat.output not in graph.outputs and all(
        _channel_path(graph, reader) for reader in graph.readers[concat.output]
    )


def _merge(graph: Graph, merged: Mapping[str, list[Node]]) -> Graph:
    constants: dict[str, Array] = {}
    lead: dict[str, str] = {}  # activated output of a sibling -> that of the merged convolution
    rewritten: dict[str, Node | None] = {}
    for first, siblings in merged.items():
        weights, biases = zip(*(_weights(graph, node) for node in siblings), strict=True)
        names = (f"{first}_merged_weight", f"{first}_merged_bias")
        constants |= {names[0]: np.concatenate(weights), names[1]: np.concatenate(biases)}
        for node in siblings:
            end = _activated(graph, node)
            lead[end.output] = _activated(graph, siblings[0]).output
            if node is not siblings[0]:
                rewritten |= {node.output: None, end.output: None}
        rewritten[first] = replace(siblings[0], inputs=(siblings[0].inputs[0], *names))
    for concat in graph.nodes:
        if not _is_channel_concat(concat) or not any(name in lead for name in concat.inputs):
            continue
        # Operands of one merged convolution move to the place of its first.
        operands = list(dict.fromkeys(lead.get(name, name) for name in concat.inputs))
        starts = dict(
            zip(concat.inputs, np.cumsum([0, *map(graph.channels, concat.inputs)]), strict=False)
        )
        order = np.concatenate(
            [
                np.arange(starts[name], starts[name] + graph.channels(name))
                for operand in operands
                for name in _members(operand, lead, concat.inputs)
            ]
        )
        if len(operands) > 1:
            rewritten[concat.output] = replace(concat, inputs=tuple(operands))
        else:
            rewritten[concat.output] = Node("Identity", tuple(operands), concat.outputs)
        for reader in graph.readers[concat.output]:
            for step in _channel_path(graph, reader):
                if step.op == "Conv":
                    rewritten[step.output] = _permuted(graph, step, order, constants)
    nodes = [rewritten.get(node.output, node) for node in graph.nodes]
    return graph.with_nodes(
        _without_identities(graph, [node for node in nodes if node is not None]), constants
    )


def _members(operand: str, lead: Mapping[str, str], names: Iterable[str]) -> list[str]:
    """The operands that `operand` now stands for, in the order of the merged weights."""
    if operand not in lead:
        return [operand]
    present = set(names)
    return [name for name, first in lead.items() if first == operand and name in present]


def _permuted(graph: Graph, node: Node, order: Array, constants: dict[str, Array]) -> Node:
    """A convolution whose input channels come in another order."""
    weights, bias = _weights(graph, node)
    names = (f"{node.output}_permuted_weight", f"{node.output}_permuted_bias")
    if is_depthwise(graph, node):
        constants |= {names[0]: weights[order], names[1]: bias[order]}
    else:
        constants |= {names[0]: weights[:, order], names[1]: bias}
    return replace(node, inputs=(node.inputs[0], *names))
