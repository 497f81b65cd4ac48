"""Partial sums, each taken up as early or as late as saves most memory (ours).

A node of a cell that joins k tensors need not wait for all of them: an accumulator can take up
each tensor when that is computed, so that the tensor dies early; or wait, as long as the tensors
are needed anyway. At any moment either a tensor or the accumulators of all its future readers
must be alive. `accumulate` splits the joins of a graph into partial sums and searches for the
order of the nodes, and for the moment when each accumulator opens, with the least peak.

The peaks here are those of `gemkit.export.schedule` with `accumulate=True`: a convolution adds
its result to an accumulator without a tensor in between.
"""

import math
import random
from collections import defaultdict
from dataclasses import dataclass

from .graph import Graph, Node
from .rewrites import adds_for_free, is_depthwise, split_concats, sums
from .schedule import Unit, parts

TRIES = 3000
"""Plans looked at per part of a network; fewer where a plan has more than _STEPS steps."""
_STEPS = 200
_HEAT = 0.05  # in tensors of the largest size


def accumulate(graph: Graph, tries: int | None = None, seed: int = 0) -> Graph:
    """The graph with its joins as partial sums, in an order, where that lowers the peak.

    The parts of the network (cells) that need most are rewritten first, until one that needs no
    more than those already rewritten is left as it is.

    Args:
        tries: plans looked at per part, fewer where they are long; TRIES without it.
        seed: of the random search.
    """
    best = graph
    reached = 0
    for part in sorted(parts(graph, accumulate=True), key=lambda part: part.peak, reverse=True):
        if part.peak <= reached:
            break
        concats = [node.output for unit in part.units for node in unit.nodes if node.op == "Concat"]
        split = split_concats(best, only=concats)
        found = _Search(split, part.name).run(tries or TRIES, reached, random.Random(seed))
        if found.peak < part.peak:
            best = found.graph
        reached = max(reached, min(found.peak, part.peak))
    return best


@dataclass(frozen=True)
class _Found:
    peak: int
    graph: Graph


@dataclass(frozen=True)
class _Share:
    """What a join takes up in one piece.

    Attributes:
        reads: number of the tensor.
        path: nodes between the tensor and the sum; the last is a convolution. None: the tensor
            itself is added.
        between: bytes of the tensor that the path writes in between, 0 for none.
    """

    reads: int
    path: tuple[Node, ...]
    between: int


@dataclass(frozen=True)
class _Item:
    """A step of a part, or a join, which is many steps.

    Attributes:
        units: the steps.
        reads: numbers of the tensors read; of a join in the order of `shares`.
        over: those that the result may take the memory of.
        writes: number of the tensor written.
        shares: of a join; empty for a step.
        total: of a join, the name of its sum.
    """

    units: tuple[Unit, ...]
    reads: tuple[int, ...]
    over: tuple[int, ...]
    writes: int
    shares: tuple[_Share, ...] = ()
    total: str = ""


class _Search:
    """The part of a graph whose last step writes the tensor `name`, as numbers.

    A plan is an order of the items and, for each join, the item before which it opens: from then
    on it takes up every tensor as soon as that is there.
    """

    def __init__(self, graph: Graph, name: str) -> None:
        self.graph = graph
        self.parts = parts(graph, accumulate=True)
        self.index = next(i for i, part in enumerate(self.parts) if part.name == name)
        self.number: dict[str, int] = {}
        self.size: list[int] = []
        self.items = self._items(self.parts[self.index].units)
        writer = {item.writes: index for index, item in enumerate(self.items)}
        self.needs = [{writer[t] for t in item.reads if t in writer} for item in self.items]
        self.followers: list[set[int]] = [set() for _ in self.items]
        for index, needs in enumerate(self.needs):
            for other in needs:
                self.followers[other].add(index)
        self.joins = [index for index, item in enumerate(self.items) if item.shares]
        self.takers: dict[int, list[tuple[int, int]]] = defaultdict(list)
        self.readers = [0] * len(self.size)
        for index, item in enumerate(self.items):
            for place, tensor in enumerate(item.reads):
                self.readers[tensor] += 1
                if item.shares:
                    self.takers[tensor].append((index, place))
        after = [unit for part in self.parts[self.index + 1 :] for unit in part.units]
        for later in (*graph.outputs, *(read for unit in after for read in unit.reads)):
            if later in self.number:
                self.readers[self.number[later]] += 1
        self.start = self.parts[self.index].before
        self.unit = max(self.size)
        self.given = [number not in writer for number in range(len(self.size))]

    def _tensor(self, name: str) -> int:
        if name not in self.number:
            self.number[name] = len(self.size)
            self.size.append(self.graph.bytes(name))
        return self.number[name]

    def _items(self, order: tuple[Unit, ...]) -> list[_Item]:
        """Steps, those that belong to one sum put together."""
        graph = self.graph
        inside = {node.output for unit in order for node in unit.nodes}
        paths: dict[str, list[tuple[str, tuple[Node, ...]]]] = {}
        owner: dict[str, str] = {}  # output of a node -> the sum that it serves
        for total, operands in sums(graph).items():
            if total not in inside:
                continue
            paths[total] = [self._path(name) for name in operands]
            owner[total] = total
            owner.update((node.output, total) for _, path in paths[total] for node in path)
            owner.update((name, total) for name in _between(graph, total, operands))
        steps: dict[str, list[Unit]] = defaultdict(list)
        for unit in order:
            sum_served = next((owner[n.output] for n in unit.nodes if n.output in owner), "")
            steps[sum_served or unit.nodes[-1].output].append(unit)
        items = []
        for key, own in steps.items():
            written = self._tensor(own[-1].writes[0][0])
            if key in paths:
                shares = tuple(self._share(*share) for share in paths[key])
                reads = tuple(share.reads for share in shares)
                items.append((own, _Item(tuple(own), reads, (), written, shares, key)))
            else:
                reads = tuple(self._tensor(name) for name in own[0].reads)
                over = tuple(self._tensor(name) for name in own[0].over)
                items.append((own, _Item(tuple(own), reads, over, written)))
        place = {id(unit): index for index, unit in enumerate(order)}
        return [item for _, item in sorted(items, key=lambda pair: place[id(pair[0][-1])])]

    def _path(self, operand: str) -> tuple[str, tuple[Node, ...]]:
        """The tensor that an operand of a sum comes from, and the nodes on the way."""
        graph = self.graph
        if not adds_for_free(graph, operand):
            return operand, ()
        path = [graph.producer[operand]]
        while True:
            before = path[0].inputs[0]
            steps = [graph.producer.get(before)]
            if steps[0] is not None and steps[0].op == "Relu":
                steps.insert(0, graph.producer.get(steps[0].inputs[0]))
            depthwise = steps[0]
            if (
                depthwise is None
                or not is_depthwise(graph, depthwise)
                or any(s is None or graph.only_reader(s.output) is None for s in steps)
            ):
                return before, tuple(path)
            path[:0] = [step for step in steps if step is not None]

    def _share(self, tensor: str, path: tuple[Node, ...]) -> _Share:
        between = max((self.graph.bytes(node.output) for node in path[:-1]), default=0)
        return _Share(self._tensor(tensor), path, between)

    def run(self, tries: int, enough: int, rng: random.Random) -> _Found:
        """Search by small changes of a plan (simulated annealing on a smooth maximum).

        Args:
            enough: a lower peak is of no use.
        """
        order = list(range(len(self.items)))
        # To begin with, no accumulator opens early before one moment, all of them then.
        plans = [
            (order, {join: min(join, moment) for join in self.joins})
            for moment in range(len(order) + 1)
        ]
        now = best = min((_Run(self, *plan) for plan in plans), key=lambda run: run.energy)
        tries = max(1, min(tries, tries * _STEPS // len(now.events)))
        for left in range(tries, 0, -1):
            if best.peak <= enough:
                break
            new = _Run(self, *self._changed(now.order, now.opens, rng))
            heat = _HEAT * left / tries
            if new.energy <= now.energy or rng.random() < math.exp(
                (now.energy - new.energy) / heat
            ):
                now = new
                if (now.peak, now.energy) < (best.peak, best.energy):
                    best = now
        return _Found(best.peak, self._emit(best))

    def _changed(
        self, order: list[int], opens: dict[int, int], rng: random.Random
    ) -> tuple[list[int], dict[int, int]]:
        if self.joins and rng.random() < 0.6:
            join = rng.choice(self.joins)
            latest = order.index(join)
            return order, {**opens, join: order[rng.randrange(latest + 1)]}
        index = rng.randrange(len(order))
        item = order[index]
        first = last = index
        while first > 0 and order[first - 1] not in self.needs[item]:
            first -= 1
        while last + 1 < len(order) and order[last + 1] not in self.followers[item]:
            last += 1
        rest = order[:index] + order[index + 1 :]
        place = rng.randint(first, last)
        return [*rest[:place], item, *rest[place:]], opens

    def _emit(self, run: "_Run") -> Graph:
        """The graph with this part's nodes as planned."""
        nodes = [node for part in self.parts[: self.index] for u in part.units for node in u.nodes]
        so_far: dict[int, str] = {}
        count: dict[int, int] = defaultdict(int)
        for item_index, place in run.events:
            item = self.items[item_index]
            if not item.shares:
                nodes += [node for unit in item.units for node in unit.nodes]
                continue
            share = item.shares[place]
            nodes += share.path
            name = share.path[-1].output if share.path else self._name(share.reads)
            count[item_index] += 1
            last = count[item_index] == len(item.shares)
            if item_index in so_far:
                total = item.total if last else f"{item.total}_take{count[item_index]}"
                nodes.append(Node("Add", (name, so_far[item_index]), (total,)))
                name = total
            so_far[item_index] = name
            if last:
                final = [node.output for node in item.units[-1].nodes]
                nodes += item.units[-1].nodes[final.index(item.total) + 1 :]
        nodes += [
            node for part in self.parts[self.index + 1 :] for u in part.units for node in u.nodes
        ]
        return self.graph.with_nodes(nodes)

    def _name(self, number: int) -> str:
        return next(name for name, other in self.number.items() if other == number)


def _between(graph: Graph, total: str, operands: list[str]) -> list[str]:
    """Outputs of the additions between a sum and its operands."""
    found, waiting = [], [total]
    while waiting:
        for name in graph.producer[waiting.pop()].inputs:
            if name not in operands:
                found.append(name)
                waiting.append(name)
    return found


class _Run:
    """One plan carried out: `events` are (item, share) in order, share -1 for a plain step."""

    def __init__(self, search: _Search, order: list[int], opens: dict[int, int]) -> None:
        self.search, self.order, self.opens = search, order, opens
        self.live = search.start
        self.needs = [self.live]
        self.left = search.readers.copy()
        self.there = search.given.copy()
        self.opened: set[int] = set()
        self.holds: dict[int, int] = {}  # join -> its first tensor, not yet added to another
        self.allocated: set[int] = set()
        self.events: list[tuple[int, int]] = []
        place = {item: index for index, item in enumerate(order)}
        opening: dict[int, list[int]] = defaultdict(list)
        for join, before in opens.items():
            opening[min(place[before], place[join])].append(join)
        for index, item in enumerate(order):
            for join in opening[index]:
                self.opened.add(join)
                for share, tensor in enumerate(search.items[join].reads):
                    if self.there[tensor]:
                        self._take(join, share)
            if not search.items[item].shares:
                self._step(item)
            written = search.items[item].writes
            self.there[written] = True
            for join, share in search.takers[written]:
                if join in self.opened:
                    self._take(join, share)
        self.peak = max(self.needs)
        unit = search.unit
        self.energy = self.peak / unit + 0.5 * math.log(
            sum(math.exp(2 * (need - self.peak) / unit) for need in self.needs)
        )

    def _during(self, more: int) -> None:
        self.needs.append(self.live + more)

    def _read(self, tensor: int) -> None:
        self.left[tensor] -= 1
        if not self.left[tensor]:
            self.live -= self.search.size[tensor]

    def _step(self, index: int) -> None:
        item, size = self.search.items[index], self.search.size
        new = size[item.writes]
        free = any(self.left[t] == 1 and size[t] >= new for t in item.over)
        self._during(0 if free else new)
        self.live += new
        for tensor in item.reads:
            self._read(tensor)
        self.events.append((index, -1))

    def _take(self, join: int, place: int) -> None:
        item, size = self.search.items[join], self.search.size
        share = item.shares[place]
        new = 0 if join in self.allocated else size[item.writes]
        self.events.append((join, place))
        if not share.path and join not in self.allocated and join not in self.holds:
            self.holds[join] = share.reads
            return
        if share.between:
            self._during(share.between)
            self.live += share.between
            self._read(share.reads)
        others = [self.holds.pop(join)] if join in self.holds else []
        added = [*others] if share.path else [*others, share.reads]
        free = any(self.left[t] == 1 and size[t] >= new for t in added)
        self._during(0 if free else new)
        self.live += new
        self.allocated.add(join)
        for tensor in others:
            self._read(tensor)
        if share.between:
            self.live -= share.between
        else:
            self._read(share.reads)
