"""What a network's latency follows from: the costs of its kernels, for arrays of cells; ours.

Multiply-accumulates of pointwise and depthwise convolutions, values written, joined and added,
kernels, operands; apart by blocks of channels, since runtimes work on these.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gemkit.architecture import Skeleton
from gemkit.cell import ABSENT, CellArrays
from gemkit.operations import TABLE

FloatArray = NDArray[np.float64]

_AREA = np.array([0, *(one.is_separable * one.kernel**2 / 9 for one in TABLE), 0], np.float64)
"""Work of an operation's depthwise convolution per channel, in units of a 3x3 one; by code, the
last for ABSENT."""
_BLOCKS = ("8", "4", "1")
"""Classes of channel counts: multiples of 8, other multiples of 4, all others."""
_BLOCKED = ("pointwise", "depthwise", "written", "joined", "added", "kernels", "operands")
_PLAIN = ("joins", "adds", "weights", "groups")
_CHUNK = 8192


@dataclass(frozen=True)
class _Counts:
    """What a cell's kernels follow from: float arrays (n,).

    "Inner" inputs are those from other nodes, "outer" ones come from the cell input. What is
    "depthwise" is weighted by the kernel's area.
    """

    nodes: FloatArray
    separable: FloatArray
    inner: FloatArray
    outer: FloatArray
    separable_inner: FloatArray
    separable_outer: FloatArray
    depthwise: FloatArray
    depthwise_inner: FloatArray
    depthwise_outer: FloatArray
    depthwise_kinds: FloatArray  # (n, 16): separable nodes, by 2 (inner inputs mod 8) + outer
    depthwise_inner_kinds: FloatArray  # (n, 16): their inner inputs
    joins: FloatArray
    joined_inner: FloatArray
    joined_outer: FloatArray
    leaves: FloatArray
    additions: FloatArray  # of cells of sums; what several sums begin with is added once

    @classmethod
    def of(cls, cells: CellArrays) -> "_Counts":
        present = cells.operations != ABSENT
        present[:, 0] = False
        edges = cells.adjacency
        # One column per node: how many it reads, and whether the cell input is among them.
        outer = edges[:, 0, :] & present
        degree = edges.sum(axis=1, dtype=np.int16) * present
        area = _AREA[cells.operations]
        separable = area > 0
        leaf = present & ~edges.any(axis=2)
        joins = degree > 1
        inner = degree - outer

        def total(values: NDArray[Any]) -> FloatArray:
            summed: FloatArray = values.sum(axis=1).astype(np.float64)
            return summed

        kind = 2 * (inner % 8) + outer
        kinds = np.zeros((2, len(cells), 16))
        for index in range(16):
            here = area * (kind == index)
            kinds[0, :, index] = here.sum(axis=1)
            kinds[1, :, index] = (inner * here).sum(axis=1)
        return cls(
            depthwise=total(area),
            depthwise_inner=total(inner * area),
            depthwise_outer=total(outer * area),
            depthwise_kinds=kinds[0],
            depthwise_inner_kinds=kinds[1],
            nodes=total(present),
            separable=total(separable),
            inner=total(inner),
            outer=total(outer),
            separable_inner=total(inner * separable),
            separable_outer=total(outer & separable),
            joins=total(joins),
            joined_inner=total(inner * joins),
            joined_outer=total(outer & joins),
            leaves=total(leaf),
            additions=_additions(edges, leaf),
        )


def _additions(edges: NDArray[np.bool_], leaf: NDArray[np.bool_]) -> FloatArray:
    """Additions left when runtimes compute equal beginnings of sums once (n,).

    Sums are added up in the order of their operands, so two of them share what they have in common
    before their first difference.
    """
    nodes = edges.shape[1]
    bits = np.uint64(1) << np.arange(nodes, dtype=np.uint64)
    # Operands of every node's sum, and of the leaves', as bits.
    sums = [(edges[:, :, node] * bits).sum(axis=1, dtype=np.uint64) for node in range(1, nodes)]
    sums.append((leaf * bits).sum(axis=1, dtype=np.uint64))
    total = np.zeros(len(edges))
    for place, own in enumerate(sums):
        shared = np.zeros(len(edges), dtype=np.uint8)
        for other in sums[:place]:
            first = own ^ other
            below = (first & (~first + np.uint64(1))) - np.uint64(1)  # all ones where equal
            shared = np.maximum(shared, np.bitwise_count(own & below))
        count = np.bitwise_count(own).astype(np.float64)
        total += np.maximum(count - 1, 0) - np.maximum(shared.astype(np.float64) - 1, 0)
    return total


def features(cells: CellArrays, skeleton: Skeleton, widths: ArrayLike) -> dict[str, FloatArray]:
    """Physical costs of networks: name -> (n,).

    Blocked costs come once per class of the stage's channels (`pointwise/8`, ...) and once per
    stage (`pointwise@0`, ...); their totals over the classes and over the stages are equal.

    Args:
        cells: n pruned cells, each for all stages.
        widths: one per cell, or one for all.
    """
    width = np.broadcast_to(np.asarray(widths, dtype=np.float64), (len(cells),))
    parts = []
    for start in range(0, max(len(cells), 1), _CHUNK):
        part = slice(start, start + _CHUNK)
        counts = _Counts.of(cells[part])
        parts.append(_features(counts, cells.aggregation == "sum", skeleton, width[part]))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _features(
    counts: _Counts, summed: bool, skeleton: Skeleton, width: FloatArray
) -> dict[str, FloatArray]:
    zero = np.zeros_like(width)
    found = {"constant": zero + 1, "stem": zero, "width": width, "summed": zero + summed}
    found |= {f"{name}/{block}": zero.copy() for name in _BLOCKED for block in _BLOCKS}
    found |= {name: zero.copy() for name in _PLAIN}
    channels = zero + skeleton.input_shape[0]
    for (height, wide), factor in zip(
        skeleton.stem_resolutions, skeleton.stem_factors, strict=True
    ):
        here = _channels(skeleton, factor, width)
        found["stem"] = found["stem"] + 9 * height * wide * channels * here
        channels = here
    for index, (stage, (height, wide)) in enumerate(
        zip(skeleton.stages, skeleton.resolutions, strict=True)
    ):
        w = _channels(skeleton, stage.width_factor, width)
        once = _cell_costs(counts, summed, height * wide, channels, w, skeleton, index, 0)
        costs = once
        if stage.repeats > 1:
            again = _cell_costs(counts, summed, height * wide, w, w, skeleton, index, 1)
            costs = {name: once[name] + (stage.repeats - 1) * again[name] for name in once}
        channels = w
        classes = {"8": w % 8 == 0, "4": (w % 8 != 0) & (w % 4 == 0), "1": w % 4 != 0}
        for name in _BLOCKED:
            found[f"{name}@{index}"] = costs[name]
            for block, here in classes.items():
                # A depthwise convolution's channels may be aligned where the cell's are not.
                own = costs[f"{name}/{block}"] if name == "depthwise" else costs[name] * here
                found[f"{name}/{block}"] += own
        for name in _PLAIN:
            found[name] += costs[name]
    return found


def _channels(skeleton: Skeleton, factor: float, width: FloatArray) -> FloatArray:
    """Channels of what has a factor, at each width."""
    values, places = np.unique(width, return_inverse=True)
    found = [skeleton.channels(factor, int(value)) for value in values]
    return np.array(found, np.float64)[places]


def _cell_costs(
    counts: _Counts,
    summed: bool,
    pixels: int,
    c: FloatArray,
    w: FloatArray,
    skeleton: Skeleton,
    stage: int,
    repeat: int,
) -> dict[str, FloatArray]:
    """Costs of one cell with a c-channel input at width w, at a place of the skeleton."""
    plain = skeleton.is_plain(stage, repeat)
    projected = int(not (plain and skeleton.shortcut == "identity"))
    # A multiple of 4 is filled up to one of 8 by runtimes that work on blocks of 8.
    padded_w = np.where(w % 4 == 0, 8 * np.ceil(w / 8), w)
    padded_c = np.where(c % 4 == 0, 8 * np.ceil(c / 8), c)
    zero = np.zeros_like(w)
    if summed:
        entry = (counts.outer > 0) & (not plain)
        adds = counts.additions
        pointwise = padded_w * (counts.nodes + 1) + padded_c * (projected + entry)
        depthwise = w * counts.depthwise
        separable = w * counts.separable
        joined = joins = operands = zero
    else:
        entry, adds = zero > 0, zero
        pointwise = w * (counts.inner + counts.leaves) + c * (counts.outer + projected)
        separable = w * counts.separable_inner + c * counts.separable_outer
        depthwise = w * counts.depthwise_inner + c * counts.depthwise_outer
        last = counts.leaves * (counts.leaves > 1)
        joins = counts.joins + (counts.leaves > 1)
        operands = counts.joined_inner + counts.joined_outer + last
        joined = w * (counts.joined_inner + last) + c * counts.joined_outer
    channels = _depthwise_channels(counts, summed, c, w)
    return {
        "pointwise": pixels * padded_w * pointwise,
        "depthwise": pixels * depthwise,
        **{f"depthwise/{block}": pixels * found for block, found in channels.items()},
        "groups": channels["1"],
        "written": pixels * (w * (counts.nodes + 1 + projected + entry) + separable),
        "joined": pixels * joined,
        "added": pixels * w * (adds + 1),
        "kernels": counts.nodes + counts.separable + 1 + projected + entry,
        "operands": operands,
        "joins": joins,
        "adds": adds + 1,
        "weights": padded_w * pointwise,
    }


def _depthwise_channels(
    counts: _Counts, summed: bool, c: FloatArray, w: FloatArray
) -> dict[str, FloatArray]:
    """Channels of all depthwise convolutions, weighted, by what they are multiples of."""
    found = {block: np.zeros_like(w) for block in _BLOCKS}
    for kind in range(1 if summed else 16):
        inner, outer = divmod(kind, 2)
        if summed:
            total, residue = w * counts.depthwise, w
        else:
            nodes = counts.depthwise_kinds[:, kind]
            total = w * counts.depthwise_inner_kinds[:, kind] + c * nodes * outer
            residue = w * inner + c * outer
        eight, four = residue % 8 == 0, residue % 4 == 0
        found["8"] += total * eight
        found["4"] += total * (four & ~eight)
        found["1"] += total * ~four
    return found


RATES = (
    "constant",
    "stem",
    *(f"{name}/{block}" for name in _BLOCKED for block in _BLOCKS),
    *_PLAIN,
)
"""Features whose rates are fitted, as physics: time = sum of rate x feature."""


def _steps() -> FloatArray:
    """(rates, steps): a rate is a sum of steps, none negative, so that channels which are no
    multiple of 8 never cost less than those which are, even where few of them were measured."""
    matrix = np.eye(len(RATES))
    for name in _BLOCKED:
        places = [RATES.index(f"{name}/{block}") for block in _BLOCKS]
        for later, place in enumerate(places):
            matrix[place, places[:later]] = 1
    return matrix


STEPS = _steps()
