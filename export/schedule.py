"""The order in which a graph's nodes run, and the peak of activation memory that follows from it.

The definition of memory is that of `gemkit.cost`: a tensor lives from the step that writes it to
the last that reads it; what works in place writes no new tensor. `best_order` finds the order of
least peak among all, or says how far from it the one found can be. Its search over the sets of
steps already done follows the idea of dynamic programming with memory budgets (SERENITY, Ahn et
al. 2020); the dominance rule and the best-first order, which makes the bound, are ours.
"""

import heapq
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from gemkit.cost import Step, peak_memory

from .graph import Graph, Node, read
from .onnx_file import load_onnx

_FIRST_SHARE = 0.8  # of the time left, for a part's search; the later parts are easier
_BEAM = 2000  # sets of units followed at a step, times the number of units
_IN_PLACE = (
    *("Relu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid", "BatchNormalization"),
    *("Identity", "Flatten", "Reshape", "Squeeze", "Softmax"),
)


@dataclass(frozen=True)
class Unit:
    """Nodes that run as one step: an operator and what works in place on its result.

    Attributes:
        nodes: in order; what one of them hands to the next is read by nothing else.
        reads: the activations read from outside.
        writes: name and bytes of what is written for others.
        over: those of `reads` whose memory the result may take when nothing else needs them.
    """

    nodes: tuple[Node, ...]
    reads: tuple[str, ...]
    writes: tuple[tuple[str, int], ...]
    over: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all that is written."""
        return sum(size for _, size in self.writes)


def units(graph: Graph, accumulate: bool = False) -> list[Unit]:
    """Group a graph's nodes into steps, in the graph's order.

    A sum of several tensors, written as additions one inside the other, is one step.

    Args:
        accumulate: a convolution whose result is only added to another tensor adds it there
            itself, as fused convolutions of onnxruntime do; and additions are steps one by one.
    """
    joined: dict[str, str] = {}  # output of a node -> output of the node it runs together with
    for node in graph.nodes:
        for name in _joins(graph, node, accumulate):
            joined[name] = node.output

    def last(name: str) -> str:
        while name in joined:
            name = joined[name]
        return name

    groups: dict[str, list[Node]] = defaultdict(list)
    for node in graph.nodes:
        groups[last(node.output)].append(node)
    return [_unit(graph, groups[node.output]) for node in graph.nodes if node.output not in joined]


def _activations(graph: Graph, node: Node) -> list[str]:
    return [name for name in node.inputs if name and name not in graph.constants]


def _joins(graph: Graph, node: Node, accumulate: bool) -> list[str]:
    """Which of the tensors that a node reads are computed in the same step."""
    alone = [
        name
        for name in _activations(graph, node)
        if name in graph.producer and graph.only_reader(name) is node
    ]
    if node.op in _IN_PLACE:
        return alone[:1]
    if node.op in ("Add", "Sum"):
        if not accumulate:
            return [name for name in alone if graph.producer[name].op in ("Add", "Sum")]
        place = {other.output: index for index, other in enumerate(graph.nodes)}
        convolutions = [name for name in alone if graph.producer[name].op == "Conv"]
        return sorted(convolutions, key=place.__getitem__)[-1:]
    return []


def _unit(graph: Graph, nodes: list[Node]) -> Unit:
    inside = {name for node in nodes for name in node.outputs}
    reads = [n for node in nodes for n in _activations(graph, node) if n not in inside]
    first = nodes[0]
    over: list[str] = []
    for node in nodes:
        if node.op in ("Add", "Sum", "Mul") or (node is first and node.op in _IN_PLACE):
            over += [name for name in _activations(graph, node) if name not in inside]
    writes = tuple((name, graph.bytes(name)) for name in nodes[-1].outputs if name)
    return Unit(tuple(nodes), tuple(dict.fromkeys(reads)), writes, tuple(dict.fromkeys(over)))


def steps(order: Sequence[Unit], graph: Graph) -> list[Step]:
    """The order as steps over buffers, for `gemkit.cost.peak_memory`."""
    return buffers(order, graph)[0]


def buffers(order: Sequence[Unit], graph: Graph) -> tuple[list[Step], dict[str, str]]:
    """The order as steps over buffers, the first of which writes the inputs and the last of which
    reads the outputs; and by tensor the buffer that it lies in."""
    last = {name: index for index, unit in enumerate(order) for name in unit.reads}
    buffer = {name: name for name in graph.inputs}
    found = [Step((), tuple((name, graph.bytes(name)) for name in graph.inputs))]
    kept = set(graph.outputs)
    for index, unit in enumerate(order):
        reads = tuple(buffer[name] for name in unit.reads)
        taken = [
            name
            for name in unit.over
            if last[name] == index
            and name not in kept
            and graph.bytes(name) >= unit.size
            and len(unit.writes) == 1
        ]
        if taken:
            buffer[unit.writes[0][0]] = buffer[taken[0]]
            found.append(Step(reads))
        else:
            buffer.update((name, name) for name, _ in unit.writes)
            found.append(Step(reads, unit.writes))
    # A buffer that ends as the model's output is read there once more.
    found.append(Step(tuple(buffer[name] for name in graph.outputs)))
    return found, buffer


def peak(graph: Graph, accumulate: bool = False) -> int:
    """Peak activation memory of a graph in its own order, in bytes at batch 1."""
    return peak_memory(steps(units(graph, accumulate), graph))


def peak_of_file(path: Path | str) -> int:
    """Peak activation memory of any ONNX file with one dynamic or fixed batch, in its own order.

    For a searched network's file that is what `gemkit.cost.cost` says.

    Raises:
        UserError: the file is no ONNX, or sizes in it are not known.
    """
    return peak(read(load_onnx(path)))


def in_order(graph: Graph, order: Iterable[Unit]) -> Graph:
    """The graph with its nodes in the order of the units."""
    return replace(graph, nodes=tuple(node for unit in order for node in unit.nodes))


@dataclass(frozen=True)
class Order:
    """An execution order and what is known of it.

    Attributes:
        units: in order.
        peak: peak activation memory in bytes.
        bound: no order of these units needs less; equal to `peak` when that is the least.
    """

    units: tuple[Unit, ...]
    peak: int
    bound: int


def best_order(graph: Graph, seconds: float = 10.0, accumulate: bool = False) -> Order:
    """The order of least peak memory, proven or, after `seconds`, with a bound.

    Where every order must pass through one step, the parts before and after are ordered apart.
    """
    problem = Problem(units(graph, accumulate), graph)
    given = peak_memory(steps(problem.units, graph))
    pieces = problem.parts()
    # No part need be better than the best that another can do, so the hardest is ordered first.
    floor = max(problem.least(part) for _, part in pieces)
    guesses = [problem.guess(done, part, floor) for done, part in pieces]
    orders = [order for order, _ in guesses]
    high, end = floor, time.perf_counter() + seconds
    hard = sorted(range(len(pieces)), key=lambda index: guesses[index][1], reverse=True)
    for index in hard:
        if guesses[index][1] <= high:
            continue
        now = time.perf_counter()
        share = _FIRST_SHARE * (end - now)
        orders[index], found, bound = problem.search(
            *pieces[index], *guesses[index], floor, now + share
        )
        floor, high = max(floor, bound), max(high, found)
    best = Order(tuple(problem.units[index] for order in orders for index in order), high, floor)
    if best.peak > given:
        return Order(tuple(problem.units), given, best.bound)
    return best


@dataclass(frozen=True)
class Part:
    """Steps between two after which only what they write is alive (in our networks: a cell).

    Attributes:
        name: the tensor that the last step writes.
        units: the steps.
        before: bytes alive before the part.
        peak: most bytes alive in it.
    """

    name: str
    units: tuple[Unit, ...]
    before: int
    peak: int


def parts(graph: Graph, accumulate: bool = False) -> list[Part]:
    """A graph's parts in its own order, cut where one tensor alone is alive."""
    problem = Problem(units(graph, accumulate), graph)
    found: list[Part] = []
    own: list[Unit] = []
    before = highest = problem.live(0)
    for done, part in problem.parts():
        live = problem.live(done)
        for index in part:
            during, live = problem.run(index, done, live)
            highest = max(highest, during)
            done |= 1 << index
            own.append(problem.units[index])
        last = own[-1]
        if live == last.size or last.writes[0][0] in graph.outputs:
            found.append(Part(last.writes[0][0], tuple(own), before, highest))
            own, before, highest = [], live, live
    return found


def cut(needs: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Cut steps after each one that comes before or after every other in all orders.

    Args:
        needs: per step the mask of those that it needs; the steps are in an execution order.

    Returns:
        Per part the mask of all steps before it, and its steps.
    """
    count = len(needs)
    before, after = [0] * count, [0] * count
    for index in range(count):
        for other in range(index):
            if needs[index] >> other & 1:
                before[index] |= before[other] | 1 << other
    for index in reversed(range(count)):
        for other in range(index + 1, count):
            if needs[other] >> index & 1:
                after[index] |= after[other] | 1 << other
    sets = sorted(
        (
            before[index] | 1 << index
            for index in range(count)
            if (before[index] | after[index]).bit_count() == count - 1
        ),
        key=int.bit_count,
    )
    if not sets or sets[-1].bit_count() < count:
        sets.append((1 << count) - 1)
    return [
        (previous, [index for index in range(count) if (current & ~previous) >> index & 1])
        for previous, current in pairwise([0, *sets])
    ]


class Problem:
    """Units and tensors as bit masks: a state of the search is the set of units done."""

    def __init__(self, order: list[Unit], graph: Graph) -> None:
        self.units = order
        writer = {name: index for index, unit in enumerate(order) for name, _ in unit.writes}
        readers: dict[str, int] = defaultdict(int)
        for index, unit in enumerate(order):
            for name in unit.reads:
                readers[name] |= 1 << index
        kept = set(graph.outputs)
        size = graph.bytes
        self.needs = [
            sum({1 << writer[name] for name in unit.reads if name in writer}) for unit in order
        ]
        self.size = [unit.size for unit in order]
        # What each unit reads: mask of the tensor's readers, bytes, whether it may be overwritten.
        self.reads = [
            [
                (
                    readers[name],
                    size(name),
                    name in unit.over and len(unit.writes) == 1 and size(name) >= unit.size,
                )
                for name in unit.reads
                if name not in kept
            ]
            for unit in order
        ]
        # Outputs that nothing reads and that are none of the model's are gone at once.
        self.lost = [
            sum(s for name, s in unit.writes if not readers[name] and name not in kept)
            for unit in order
        ]
        self.start = sum(size(name) for name in graph.inputs)
        self.tensors = [
            (1 << writer[name] if name in writer else 0, readers[name], size(name), name in kept)
            for name in {*graph.inputs, *writer}
        ]

    def live(self, done: int) -> int:
        """Bytes alive between two steps, when the units in `done` have run."""
        return sum(
            size
            for writer, readers, size, kept in self.tensors
            if writer & done == writer and (kept or readers & ~done)
        )

    def run(self, unit: int, done: int, live: int) -> tuple[int, int]:
        """Bytes during a unit's step and after it."""
        bit, size = 1 << unit, self.size[unit]
        gone, during = self.lost[unit], live + size
        for readers, bytes_, over in self.reads[unit]:
            if readers & ~done == bit:
                gone += bytes_
                if over:
                    during = live
        return during, live + size - gone

    def parts(self) -> list[tuple[int, list[int]]]:
        """The units, cut where every order must pass through one (see `cut`)."""
        return cut(self.needs)

    def least(self, part: Sequence[int]) -> int:
        """A bound on the peak: each unit needs what it reads and writes."""
        most = 0
        for unit in part:
            reads = sum(bytes_ for _, bytes_, _ in self.reads[unit])
            free = any(over for *_, over in self.reads[unit])
            most = max(most, reads + (0 if free else self.size[unit]))
        return most

    def search(
        self, done: int, part: Sequence[int], guess: list[int], high: int, floor: int, end: float
    ) -> tuple[list[int], int, int]:
        """Order a part's units: best first over the sets of units done.

        Args:
            done: mask of the units before the part.
            guess, high: an order and its peak.
            floor: a peak below this is of no use.
            end: when to stop, by `time.perf_counter`.

        Returns:
            The order, its peak, a bound on the peak of any order.
        """
        goal = done
        for unit in part:
            goal |= 1 << unit
        start, live, head = self._free_moves(done, part, self.live(done), floor)
        waiting = [(floor, -start.bit_count(), start)]
        known: dict[int, tuple[int, int, int, list[int]]] = {start: (floor, live, -1, head)}
        closed: set[int] = set()
        low = floor
        while waiting:
            peak_so_far, _, state = heapq.heappop(waiting)
            if state in closed:
                continue
            closed.add(state)
            low = peak_so_far
            if low >= high:
                return guess, high, high
            if state == goal:
                return self._path(known, state), low, low
            if time.perf_counter() > end:
                return guess, high, low
            live = known[state][1]
            for unit in part:
                if state >> unit & 1 or self.needs[unit] & ~state:
                    continue
                during, after = self.run(unit, state, live)
                new_peak = max(peak_so_far, during)
                if new_peak >= high:
                    continue
                following, left, moves = self._free_moves(state | 1 << unit, part, after, new_peak)
                if following not in known or known[following][0] > new_peak:
                    known[following] = (new_peak, left, state, [unit, *moves])
                    heapq.heappush(waiting, (new_peak, -following.bit_count(), following))
        return guess, high, high

    def _free_moves(
        self, state: int, part: Sequence[int], live: int, limit: int
    ) -> tuple[int, int, list[int]]:
        """Run what costs nothing: a step within the limit that leaves no more alive than before
        can always come first, since it leaves every later step no more than it had."""
        moves = []
        changed = True
        while changed:
            changed = False
            for unit in part:
                if state >> unit & 1 or self.needs[unit] & ~state:
                    continue
                during, after = self.run(unit, state, live)
                if after <= live and during <= limit:
                    state, live, changed = state | 1 << unit, after, True
                    moves.append(unit)
        return state, live, moves

    def guess(self, done: int, part: Sequence[int], floor: int) -> tuple[list[int], int]:
        """A good order: the given one, or one found by following the best few sets of units at
        every step, fewer in large parts."""
        state, live, high = done, self.live(done), floor
        for unit in part:
            during, live = self.run(unit, state, live)
            state, high = state | 1 << unit, max(high, during)
        order, found = self.beam(done, part, floor, max(1, _BEAM // len(part)))
        return (order, found) if found < high else (list(part), high)

    def beam(self, done: int, part: Sequence[int], floor: int, width: int) -> tuple[list[int], int]:
        front: dict[int, tuple[int, int, list[int]]] = {done: (floor, self.live(done), [])}
        for _ in part:
            following: dict[int, tuple[int, int, list[int]]] = {}
            for state, (high, live, order) in front.items():
                for unit in part:
                    if state >> unit & 1 or self.needs[unit] & ~state:
                        continue
                    during, after = self.run(unit, state, live)
                    new = (max(high, during), after, [*order, unit])
                    key = state | 1 << unit
                    if key not in following or new[:2] < following[key][:2]:
                        following[key] = new
            best = sorted(following.items(), key=lambda item: item[1][:2])[:width]
            front = dict(best)
        ((high, _, order),) = [min(front.values(), key=lambda value: value[0])]
        return order, high

    @staticmethod
    def _path(known: dict[int, tuple[int, int, int, list[int]]], state: int) -> list[int]:
        parts = []
        while state >= 0 and state in known:
            _, _, state, moves = known[state]
            parts.append(moves)
        return [unit for moves in reversed(parts) for unit in moves]
