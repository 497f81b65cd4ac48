"""What an architecture costs: MACs, parameters and peak activation memory.

**MACs** are the multiply-accumulates of convolutions and linear layers at batch 1, as fvcore
counts them. fvcore also counts batch norm and pooling; these are left out, since export folds
batch norm away. **Params** are the trainable parameters, batch norm's included.

**Peak activation memory** (`peak_memory`) is the largest sum of all live activation tensors over
the steps of an execution order, at batch 1. The network's input and output are included, weights
are not. Of a searched network (`execution_steps`), in the order of `gemkit.layers.layers`:

- A tensor lives from the step that writes it to the last step that reads it; what no step reads
  is an output and stays. A convolution's input and output therefore live together.
- Batch norm and ReLU work in place and are no steps of their own; nor is flattening.
- A concatenation of two or more tensors is a step that writes a new tensor; a single input is
  read directly.
- A sum of two or more tensors is one step. It is accumulated in the first of them that no later
  step reads; where all are still needed, in one new tensor. The cell's last sum, of leaves and
  projected cell input, is accumulated in the former.
- The order is that of the node index; in a cell of sums `entry` comes first; then the leaves'
  convolution, then the projection of the cell input.

`cost` walks over the layers of one network (`gemkit.layers`). For arrays of cells there is a closed
form: at a given skeleton MACs and params are quadratic polynomials in the stages' channels, and
memory is the largest of a few sums of them. So each cell is reduced to a few numbers once
(`CostModel`), from which costs at any width follow without a loop over cells. None falls as the
width grows, so the largest width within a budget is found by halving.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gemkit.architecture import MAX_WIDTH, MIN_WIDTH, Architecture, Skeleton, smallest
from gemkit.budget import PRECISIONS, Budget, format_bytes, format_count, format_latency
from gemkit.cell import ABSENT, CellArrays
from gemkit.errors import UserError
from gemkit.layers import Layer, layers
from gemkit.operations import KERNELS, codes_of

if TYPE_CHECKING:
    from torch import nn

IntArray = NDArray[np.int64]

_AREAS = [kernel**2 for kernel in KERNELS]
"""Weights of a depthwise convolution per channel, by kernel."""
CHUNK = 4096
"""Cells reduced at a time: their arrays stay in the processor's cache."""
_WORD = 32
"""Bits that hold a set of nodes: room for the cell input and MAX_NODES more."""
_NEVER = -(1 << 14)
"""Stands for a step that a cell does not have: no step of another kind needs less memory."""


@dataclass(frozen=True)
class Cost:
    """Cost of one architecture: counts, and bytes at batch 1."""

    macs: int
    params: int
    peak_memory_bytes: int


@dataclass(frozen=True)
class Costs:
    """Costs of many architectures: int64 arrays (n,)."""

    macs: IntArray
    params: IntArray
    peak_memory_bytes: IntArray


# ---- Peak memory over an execution order


@dataclass(frozen=True)
class Step:
    """One step of an execution order.

    Attributes:
        reads: names of the tensors that it reads. What it changes in place stands here only.
        writes: name and bytes of each new tensor. A network input is written by a first step that
            reads nothing.
    """

    reads: tuple[str, ...]
    writes: tuple[tuple[str, int], ...] = ()


def peak_memory(steps: Iterable[Step]) -> int:
    """Largest sum of live tensors over the steps, in bytes.

    A tensor lives from the step that writes it to the last one that reads it; one that is never
    read after its writing is an output of the network and lives to the end.

    Raises:
        ValueError: a step reads what no earlier step wrote, or a name is written twice.
    """
    order = list(steps)
    last = {name: position for position, step in enumerate(order) for name in step.reads}
    alive: dict[str, int] = {}
    written: set[str] = set()
    peak = total = 0
    for position, step in enumerate(order):
        for name in step.reads:
            if name not in alive:
                raise ValueError(f"step {position} reads {name!r} before it is written")
        for name, size in step.writes:
            if name in written:
                raise ValueError(f"step {position} writes {name!r} a second time")
            written.add(name)
            alive[name] = size
            total += size
        peak = max(peak, total)
        for name in set(step.reads):
            if last[name] == position:
                total -= alive.pop(name)
    return peak


def execution_steps(architecture: Architecture, precision: str = "fp32") -> list[Step]:
    """The default execution order of a network at batch 1 (see the module's text).

    Args:
        precision: element type of all activations.
    """
    return _steps(layers(architecture), PRECISIONS[precision])


def _steps(network: Sequence[Layer], element: int) -> list[Step]:
    last = {name: position for position, layer in enumerate(network) for name in layer.reads}
    memory: dict[str, str] = {}  # whose memory a layer's values stand in
    steps = []
    for position, layer in enumerate(network):
        reads = tuple(memory[name] for name in layer.reads)
        free = [name for name in layer.reads if last[name] == position]
        if layer.operator == "sum" and free:
            memory[layer.name] = memory[free[0]]
            steps.append(Step(reads))
        else:
            memory[layer.name] = layer.name
            steps.append(Step(reads, ((layer.name, layer.values * element),)))
    return steps


# ---- Closed form


@dataclass(frozen=True)
class _Counts:
    """What a cell's costs depend on, for many cells: int64 arrays (n,).

    With "sum" every node has exactly one w-channel input, whatever it reads.

    Attributes:
        nodes: number of nodes.
        edges, input_edges: w- and c-channel inputs of all nodes (c: the cell input's channels).
        separable_edges, separable_input_edges: the same of the separable nodes alone.
        depthwise_edges, depthwise_input_edges: these times the area of the node's kernel.
        leaves: w-channel inputs of the output convolution.
        live: by the number of c-channel tensors alive at a step (1, 2, 3, the cell input is
            always one), the largest number of w-channel tensors beside them.
        live_with_entry: as the first of `live`, where c != w and the cell input has an `entry`
            ("sum" only).
    """

    nodes: IntArray
    edges: IntArray
    input_edges: IntArray
    separable_edges: IntArray
    separable_input_edges: IntArray
    depthwise_edges: IntArray
    depthwise_input_edges: IntArray
    leaves: IntArray
    live: tuple[IntArray, IntArray, IntArray]
    live_with_entry: IntArray
    summed: bool

    def peak(self, channels_in: IntArray, channels: IntArray, plain: bool) -> IntArray:
        """Largest number of values alive inside the cell, per pixel; `plain`: no entry."""
        if self.summed:
            live = self.live[0] if plain else self.live_with_entry
            return np.asarray(channels_in + live * channels)
        one, two, three = (
            inputs * channels_in + live * channels for inputs, live in enumerate(self.live, 1)
        )
        return np.asarray(np.maximum(np.maximum(one, two), three))

    def of_rows(self, rows: Any) -> "_Counts":
        """The counts of some cells."""
        arrays = {name: getattr(self, name)[rows] for name in _ARRAYS}
        one, two, three = (line[rows] for line in self.live)
        return _Counts(**arrays, live=(one, two, three), summed=self.summed)

    @staticmethod
    def concatenate(parts: Sequence["_Counts"]) -> "_Counts":
        """The counts of all parts' cells in order."""
        arrays = {name: np.concatenate([getattr(p, name) for p in parts]) for name in _ARRAYS}
        lines = [np.concatenate([part.live[line] for part in parts]) for line in range(3)]
        one, two, three = lines
        return _Counts(**arrays, live=(one, two, three), summed=parts[0].summed)


_ARRAYS = [one.name for one in fields(_Counts) if one.name not in ("live", "summed")]


def _last_readers(edges: NDArray[np.uint8]) -> NDArray[np.int16]:
    """The last node that reads each node, (m, n); -1 where none does. From edges (n, m, m)."""
    count, places = edges.shape[:2]
    # One word per node with a bit per reader: its highest bit is its logarithm.
    padded = np.zeros((count, places, _WORD), dtype=np.uint8)
    padded[:, :, :places] = edges
    words = np.packbits(padded.reshape(count, places * _WORD), axis=1, bitorder="little").view(
        "<u4"
    )
    return np.asarray(np.frexp(words.T.astype(np.float64))[1] - 1, dtype=np.int16)


def _any_of(operations: NDArray[np.int8], codes: Sequence[int]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = operations == codes[0]
    for code in codes[1:]:
        found |= operations == code
    return found


def _count(cells: CellArrays) -> _Counts:
    """Reduce cells to what their costs depend on."""
    edges = cells.adjacency.view(np.uint8)
    count, places = edges.shape[:2]
    # From here on nodes come first, so that numpy's loops run along the cells.
    degree = np.ascontiguousarray(np.einsum("nij->jn", edges)).astype(np.int16)
    operations = np.ascontiguousarray(cells.operations.T)
    present = operations != ABSENT
    present[0] = False
    if (present & (degree == 0)).any():
        # In index order a node is reached by the input exactly if it reads a reached one.
        return _count(cells.pruned())
    kinds = [_any_of(operations, codes_of(kernel)) for kernel in KERNELS]
    separable = np.logical_or.reduce(kinds)
    last = _last_readers(edges)
    leaf = present & (last < 0)

    def total(values: NDArray[np.generic]) -> IntArray:
        return np.asarray(values.sum(axis=0, dtype=np.int64))

    def by_area(values: Sequence[IntArray]) -> IntArray:
        return np.asarray(sum(area * one for area, one in zip(_AREAS, values, strict=True)))

    def largest(live: NDArray[np.int16], where: NDArray[np.bool_]) -> IntArray:
        return np.asarray(np.where(where, live, _NEVER).max(axis=0), dtype=np.int64)

    # How many nodes are alive when each node's turn comes, and how many it is the last to read.
    # The leaves' reader is the output, which comes after all nodes.
    inner = present & ~leaf
    read_last = (last * np.int64(count) + np.arange(count))[inner]
    dying = np.bincount(read_last, minlength=last.size).reshape(last.shape).astype(np.int16)
    turns = np.arange(places, dtype=np.int16)[:, None]
    alive = np.zeros_like(dying)
    for node in range(2, places):
        alive[node] = alive[node - 1] + 1 - dying[node - 1]

    nodes, leaves = total(present), total(leaf)
    joins = degree > 1
    plain = present & ~joins & ~separable  # reads its one input and writes its output
    if cells.aggregation == "sum":
        live = []
        with_entry = (alive + (last[0] >= turns), dying + (last[0] == turns))
        for here, gone in ((alive, dying), with_entry):
            peak = np.maximum(here + np.where(joins, gone == 0, True), here - gone + 2)
            peak = np.where(plain, here + 1, peak)
            live.append(np.maximum(largest(peak, present), np.maximum(leaves, 2)))
        zero = np.zeros_like(nodes)
        return _Counts(
            nodes=nodes,
            edges=nodes,
            input_edges=zero,
            separable_edges=total(separable),
            separable_input_edges=zero,
            depthwise_edges=by_area([total(kind) for kind in kinds]),
            depthwise_input_edges=zero,
            leaves=zero + 1,
            live=(live[0], zero + _NEVER, zero + _NEVER),
            live_with_entry=live[1],
            summed=True,
        )

    from_input = cells.adjacency[:, 0, :].T
    inner_degree = degree - from_input
    # The joined input beside the tensors it was made of, or beside the output.
    wide = alive + inner_degree + (dying == 0)
    fed = present & from_input & ~plain
    # A joined input and the depthwise convolution's output.
    twice = alive - dying + 2 * inner_degree
    depthwise = separable & joins
    one = np.maximum(largest(np.where(plain, alive + 1, wide), present & ~fed), 2 * leaves)
    one = np.maximum(one, largest(twice, depthwise & ~from_input))
    return _Counts(
        nodes=nodes,
        edges=total(inner_degree),
        input_edges=total(from_input),
        separable_edges=total(inner_degree * separable),
        separable_input_edges=total(from_input & separable),
        depthwise_edges=by_area([total(inner_degree * kind) for kind in kinds]),
        depthwise_input_edges=by_area([total(from_input & kind) for kind in kinds]),
        leaves=leaves,
        live=(one, largest(wide, fed), largest(twice, depthwise & from_input)),
        live_with_entry=one,
        summed=False,
    )


@dataclass(frozen=True)
class _Place:
    """Cells of a stage that have the same input: `count` of them, one after the other.

    Attributes:
        before: the factor of their input's channels.
        plain: whether their input has as many channels as they have, at every width.
        projections: 1x1 convolutions that read the cell input alone: projection and entry.
    """

    before: float
    factor: float
    area: int
    count: int
    plain: bool
    projections: int


def _places(skeleton: Skeleton, stage: int, summed: bool) -> list[_Place]:
    factor = skeleton.stages[stage].width_factor
    height, width = skeleton.resolutions[stage]
    before = skeleton.stages[stage - 1].width_factor if stage else skeleton.stem_factors[-1]
    found = []
    for repeat, count in ((0, 1), (1, skeleton.stages[stage].repeats - 1)):
        plain = skeleton.is_plain(stage, repeat)
        projected = not (plain and skeleton.shortcut == "identity")
        projections = projected + (summed and not plain)
        if count:
            found.append(_Place(before, factor, height * width, count, plain, projections))
        before = factor
    return found


@lru_cache(maxsize=256)
def _channels_at(skeleton: Skeleton, factor: float) -> IntArray:
    """Channels of what has a factor, at every width from 0 to MAX_WIDTH."""
    widths = range(MAX_WIDTH + 1)
    return np.array([skeleton.channels(factor, width) for width in widths], dtype=np.int64)


@lru_cache(maxsize=64)
def _around(skeleton: Skeleton) -> Costs:
    """Costs of stem and classifier at every width; of the memory the values, not the bytes."""
    channels, height, width = skeleton.input_shape
    areas = [high * wide for high, wide in skeleton.stem_resolutions]
    last = _channels_at(skeleton, skeleton.stages[-1].width_factor)
    macs = last * skeleton.classes
    params = (last + 1) * skeleton.classes
    before, values = np.full_like(last, channels), np.full_like(last, channels * height * width)
    # A pooling needs no more than the end of the cell before it: two tensors of the larger size.
    memory = last + skeleton.classes
    for factor, area in zip(skeleton.stem_factors, areas, strict=True):
        here = _channels_at(skeleton, factor)
        macs = macs + 9 * area * before * here
        params = params + (9 * before + 2) * here
        memory = np.maximum(memory, values + area * here)
        before, values = here, area * here
    return Costs(macs, params, memory)


@dataclass(frozen=True)
class CostModel:
    """Cells in a skeleton, reduced to what their cost at any width follows from."""

    _skeleton: Skeleton
    _counts: tuple[_Counts, ...]  # for all stages, or one for each

    @classmethod
    def of(cls, cells: CellArrays | Sequence[CellArrays], skeleton: Skeleton) -> "CostModel":
        """Reduce cells.

        Args:
            cells: n cells, each for all stages; or one such batch per stage.
        """
        stages = [cells] if isinstance(cells, CellArrays) else list(cells)
        if len(stages) not in (1, len(skeleton.stages)) or len({len(s) for s in stages}) != 1:
            raise ValueError("give cells for all stages, or as many for each stage")
        starts = range(0, max(len(stages[0]), 1), CHUNK)
        counts = (
            _Counts.concatenate([_count(stage[start : start + CHUNK]) for start in starts])
            for stage in stages
        )
        return cls(skeleton, tuple(counts))

    def __len__(self) -> int:
        return len(self._counts[0].nodes)

    def costs(self, widths: ArrayLike, precision: str = "fp32") -> Costs:
        """Costs at a width, or at one width per cell."""
        width = np.broadcast_to(np.asarray(widths, dtype=np.int64), (len(self),))
        found = self._costs(width, range(len(self)))
        return Costs(found.macs, found.params, found.peak_memory_bytes * PRECISIONS[precision])

    def largest_widths(self, budget: Budget) -> IntArray:
        """The largest width of each cell within the budget's MACs, params and memory.

        Every width below it fits as well. At most MAX_WIDTH; 0 where not even MIN_WIDTH fits.
        Latency is not looked at.
        """
        inside = np.full(len(self), MIN_WIDTH - 1, dtype=np.int64)
        above = np.full(len(self), MAX_WIDTH + 1, dtype=np.int64)
        while len(rows := np.flatnonzero(above - inside > 1)):
            middle = (inside[rows] + above[rows]) // 2
            found = self._costs(middle, rows)
            size = PRECISIONS[budget.precision]
            fits = np.ones(len(rows), dtype=bool)
            for limit, values in (
                (budget.macs, found.macs),
                (budget.params, found.params),
                (budget.memory_bytes, found.peak_memory_bytes * size),
            ):
                if limit is not None:
                    fits &= values <= limit
            inside[rows[fits]], above[rows[~fits]] = middle[fits], middle[~fits]
        return np.asarray(np.where(inside < MIN_WIDTH, 0, inside))

    def _costs(self, width: IntArray, rows: IntArray | range) -> Costs:
        """Costs of some cells at a width each; of the memory the values, not the bytes."""
        around = _around(self._skeleton)
        macs, params = around.macs[width], around.params[width]
        memory = around.peak_memory_bytes[width]
        counts = [one if len(rows) == len(self) else one.of_rows(rows) for one in self._counts]
        for stage in range(len(self._skeleton.stages)):
            own = counts[stage if len(counts) > 1 else 0]
            for place in _places(self._skeleton, stage, own.summed):
                c = _channels_at(self._skeleton, place.before)[width]
                w = _channels_at(self._skeleton, place.factor)[width]
                weights = (
                    ((own.edges + own.leaves) * w + (own.input_edges + place.projections) * c) * w
                    + own.depthwise_edges * w
                    + own.depthwise_input_edges * c
                )
                normalised = (
                    own.separable_edges * w
                    + own.separable_input_edges * c
                    + (own.nodes + 1 + place.projections) * w
                )
                macs += place.count * place.area * weights
                params += place.count * (weights + 2 * normalised)
                memory = np.maximum(memory, place.area * own.peak(c, w, place.plain))
        return Costs(macs, params, memory)


def cost(architecture: Architecture, precision: str = "fp32") -> Cost:
    """What one architecture costs, from a walk over its layers.

    Args:
        precision: element type of the activations, for the memory.
    """
    network = layers(architecture)
    return Cost(
        sum(layer.macs for layer in network),
        sum(layer.params for layer in network),
        peak_memory(_steps(network, PRECISIONS[precision])),
    )


def costs(
    cells: CellArrays | Sequence[CellArrays],
    skeleton: Skeleton,
    widths: ArrayLike,
    precision: str = "fp32",
) -> Costs:
    """What many cells cost in a skeleton; nodes that the input does not reach cost nothing.

    Args:
        cells: n cells, each for all stages; or a batch of n per stage.
        widths: one width for all, or one per cell.
        precision: element type of the activations, for the memory.
    """
    return CostModel.of(cells, skeleton).costs(widths, precision)


def largest_widths(
    cells: CellArrays | Sequence[CellArrays], skeleton: Skeleton, budget: Budget
) -> IntArray:
    """The largest width of each cell within a budget's MACs, params and memory, exactly.

    At most MAX_WIDTH; 0 where not even MIN_WIDTH fits. Latency is not looked at. Who needs the
    costs too saves half of the time with one `CostModel`.

    Args:
        cells: n cells, each for all stages; or a batch of n per stage.
    """
    return CostModel.of(cells, skeleton).largest_widths(budget)


def check_feasible(
    budget: Budget, skeleton: Skeleton, smallest_latency_ms: float | None = None
) -> None:
    """Make sure that at least the smallest network of a skeleton is inside the budget.

    Args:
        smallest_latency_ms: measured latency of the smallest network, when it was measured.

    Raises:
        UserError: names the budget and the smallest possible cost.
    """
    least = cost(smallest(skeleton), budget.precision)
    height, width = skeleton.input_shape[1:]
    checks = (
        ("MACs", budget.macs, least.macs, format_count),
        ("params", budget.params, least.params, format_count),
        ("activation memory", budget.memory_bytes, least.peak_memory_bytes, format_bytes),
        ("latency", budget.latency_ms, smallest_latency_ms, format_latency),
    )
    for what, limit, found, written in checks:
        if limit is not None and found is not None and found > limit:
            raise UserError(
                f"no network fits the {what} budget of {written(limit)}: the smallest one for "
                f"{height}x{width} images takes {written(found)}; raise that limit"
            )


# ---- The reference


def count_with_fvcore(network: "nn.Module", input_shape: tuple[int, int, int]) -> tuple[int, int]:
    """MACs of convolutions and linear layers as fvcore counts them, and trainable parameters.

    The network may be any; it is left in the mode (training or evaluation) it was in.

    Args:
        input_shape: channels, height and width of an image.
    """
    import torch

    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    sample = next(network.parameters())
    image = torch.zeros(1, *input_shape, dtype=sample.dtype, device=sample.device)
    training = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # fvcore uses what torch calls deprecated
            from fvcore.nn import FlopCountAnalysis

            analysis = FlopCountAnalysis(network, image)
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            found = analysis.by_operator()
    finally:
        for module, mode in training.items():
            module.training = mode
    macs = int(found.get("conv", 0)) + int(found.get("linear", 0))
    return macs, sum(parameter.numel() for parameter in parameters)


def verify(architecture: Architecture, network: "nn.Module") -> None:
    """Make sure that walk and closed form say of a network what fvcore and PyTorch count.

    Raises:
        RuntimeError: they do not, which would be a fault of gemkit's.
    """
    macs, params = count_with_fvcore(network, architecture.skeleton.input_shape)
    cells = [CellArrays.from_cells([cell]) for cell in architecture.cells]
    closed = costs(cells, architecture.skeleton, architecture.width)
    walked = cost(architecture)
    for what, counted, *ours in (
        ("MACs", macs, walked.macs, closed.macs[0]),
        ("params", params, walked.params, closed.params[0]),
    ):
        for found in ours:
            if found != counted:
                raise RuntimeError(
                    f"the cost model gives {found} {what} for network {architecture.id}, "
                    f"but its layers have {counted}"
                )
