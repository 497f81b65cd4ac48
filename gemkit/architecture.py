"""An architecture: cells, the skeleton that they are put into, and a width.

The skeleton (macro-architecture) is a stem, stages that each halve the resolution, global average
pooling and a classifier. All channel counts follow from one number, the width, so that a cell can
be scaled to a budget: each is a factor of it, rounded to what processors like (`gemkit.widths`).
What the network computes is documented in `gemkit.network`; which skeletons are tried in
`gemkit.skeletons`.
"""

import hashlib
import math
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Self

from gemkit.cell import MAX_NODES, Cell
from gemkit.errors import UserError
from gemkit.operations import KERNELS
from gemkit.widths import rounded

MIN_WIDTH = 4
"""Smallest width."""
MAX_WIDTH = 1024
"""Largest width: where scaling ends when no budget ends it before."""
SHORTCUTS = ("projection", "identity")
"""What a cell's input passes on its way around the nodes: a 1x1 convolution, or nothing where the
stage, or the stem before it, has the same factor."""

_MOST = 64
"""Largest width factor and number of repeats of a stage."""
_PARTS = 4
"""Width factors are multiples of a quarter."""
_MOST_MACS = 1 << 62
"""What no network may reach, so that costs can be reckoned in 64 bits."""


def _is_whole(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_factor(value: Any) -> bool:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return known and 0 < value <= _MOST and float(value * _PARTS).is_integer()


@dataclass(frozen=True)
class Stage:
    """Cells of one resolution.

    Attributes:
        width_factor: channels of the stage's nodes as a multiple of the architecture's width, a
            multiple of a quarter.
        repeats: number of cells, one after the other.
    """

    width_factor: float
    repeats: int = 1

    def __post_init__(self) -> None:
        _check_factor("a stage's width_factor", self.width_factor)
        object.__setattr__(self, "width_factor", _plain(self.width_factor))
        if not _is_whole(self.repeats) or self.repeats > _MOST:
            raise UserError(
                f"a stage's repeats is {self.repeats!r}: it must be a whole number from 1 to "
                f"{_MOST}"
            )


def _plain(factor: float) -> float:
    """A whole number as such, so that equal skeletons are written alike."""
    return int(factor) if float(factor).is_integer() else float(factor)


def _check_factor(name: str, value: object) -> None:
    if not _is_factor(value):
        raise UserError(
            f"{name} is {value!r}: it must be a multiple of a quarter, above 0 and up to {_MOST}"
        )


@dataclass(frozen=True)
class Skeleton:
    """Everything of a network but its cells and its width.

    Attributes:
        input_shape: channels, height and width of an image.
        classes: number of classes, at least 2.
        stem_strides: strides (1 or 2) of the stem's 3x3 convolutions.
        stages: the stages; a 2x2 max-pooling stands between two of them.
        stem_factors: channels of the stem's convolutions as multiples of the width, in quarters;
            1 each where none are given.
        shortcut: one of `SHORTCUTS`.
        any_width: numbers of channels need not be multiples that processors like.

    Raises:
        UserError: a value is out of range, or the image is too small for the reductions.
    """

    input_shape: tuple[int, int, int]
    classes: int
    stem_strides: tuple[int, ...]
    stages: tuple[Stage, ...]
    stem_factors: tuple[float, ...] = ()
    shortcut: str = "projection"
    any_width: bool = True

    def __post_init__(self) -> None:
        for name in ("input_shape", "stem_strides", "stages", "stem_factors"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.stem_factors:
            object.__setattr__(self, "stem_factors", (1,) * len(self.stem_strides))
        if len(self.input_shape) != 3 or not all(map(_is_whole, self.input_shape)):
            raise UserError(
                f"input shape {list(self.input_shape)} must be channels, height and width, "
                "whole numbers of at least 1"
            )
        if not _is_whole(self.classes, 2):
            raise UserError(f"{self.classes!r} classes: there must be at least 2")
        if not self.stem_strides or any(
            not _is_whole(stride) or stride > 2 for stride in self.stem_strides
        ):
            raise UserError(
                f"stem strides {list(self.stem_strides)} must be one or more of 1 and 2"
            )
        for factor in self.stem_factors:
            _check_factor("a stem's factor", factor)
        object.__setattr__(self, "stem_factors", tuple(map(_plain, self.stem_factors)))
        if len(self.stem_factors) != len(self.stem_strides):
            raise UserError(
                f"{len(self.stem_factors)} stem factors for {len(self.stem_strides)} strides: "
                "give one for each convolution of the stem"
            )
        if self.shortcut not in SHORTCUTS:
            raise UserError(f"unknown shortcut {self.shortcut!r}: use {' or '.join(SHORTCUTS)}")
        if not isinstance(self.any_width, bool):
            raise UserError(f"any_width is {self.any_width!r}: it must be true or false")
        if not self.stages:
            raise UserError("a skeleton needs at least one stage")
        if min(self.resolutions[-1]) < 1:
            raise UserError(
                f"images of {self.input_shape[1]}x{self.input_shape[2]} pixels are too small for "
                f"{len(self.stages)} stages after stem strides {list(self.stem_strides)}: "
                f"a side of {self.total_stride} pixels is always enough"
            )
        if self._most_macs() >= _MOST_MACS:
            raise UserError(
                f"input shape {list(self.input_shape)} with {self.classes} classes is too large "
                f"for these stages: the widest network would take over {_MOST_MACS:.1e} MACs"
            )

    def _most_macs(self) -> int:
        """What no network of this skeleton exceeds: every node reads all before it, at the largest
        width."""
        edges, leaves = MAX_NODES * (MAX_NODES + 1) // 2, MAX_NODES
        stem = [height * width for height, width in self.stem_resolutions]
        widest = MAX_WIDTH * math.ceil(max(self.stem_factors))
        macs = 9 * widest * (self.input_shape[0] * stem[0] + widest * sum(stem[1:]))
        before = self.stem_factors[-1]
        for stage, (height, width) in zip(self.stages, self.resolutions, strict=True):
            channels = MAX_WIDTH * math.ceil(max(before, stage.width_factor))
            depthwise = max(KERNELS) ** 2 * edges * channels
            pointwise = (edges + leaves + 2) * channels**2  # with the entry and the projection
            macs += height * width * stage.repeats * (depthwise + pointwise)
            before = stage.width_factor
        return macs + MAX_WIDTH * math.ceil(before) * self.classes

    @property
    def total_stride(self) -> int:
        """How many times smaller the last stage's sides are than the image's."""
        return math.prod(self.stem_strides) << (len(self.stages) - 1)

    @cached_property
    def stem_resolutions(self) -> tuple[tuple[int, int], ...]:
        """Height and width after each convolution of the stem."""
        height, width = self.input_shape[1:]
        found = []
        for stride in self.stem_strides:
            height, width = (height - 1) // stride + 1, (width - 1) // stride + 1
            found.append((height, width))
        return tuple(found)

    @cached_property
    def resolutions(self) -> tuple[tuple[int, int], ...]:
        """Height and width of each stage."""
        height, width = self.stem_resolutions[-1]
        return tuple((height >> stage, width >> stage) for stage in range(len(self.stages)))

    def channels(self, factor: float, width: int) -> int:
        """Channels of what has a factor, in a network of a width."""
        if self.any_width:
            return max(1, math.floor(factor * width + 0.5))
        return rounded(factor * width)

    def is_plain(self, stage: int, repeat: int) -> bool:
        """Whether a cell has as many channels as its input at every width."""
        before = self.stages[stage - 1].width_factor if stage else self.stem_factors[-1]
        return repeat > 0 or before == self.stages[stage].width_factor

    def to_json(self) -> dict[str, Any]:
        """Plain values, as in a run's configuration."""
        return {
            "input_shape": list(self.input_shape),
            "classes": self.classes,
            "stem_strides": list(self.stem_strides),
            "stages": [
                {"width_factor": stage.width_factor, "repeats": stage.repeats}
                for stage in self.stages
            ],
            "stem_factors": list(self.stem_factors),
            "shortcut": self.shortcut,
            "any_width": self.any_width,
        }

    @classmethod
    def from_json(cls, value: Any, where: str = "skeleton") -> Self:
        """Read what `to_json` wrote.

        Raises:
            UserError: `value` is no skeleton; the sentence begins with `where`.
        """
        if isinstance(value, dict):  # files of version 0.1 do not have the later ones
            value = {"stem_factors": [], "shortcut": "projection", "any_width": True, **value}
        _check_object(value, tuple(field.name for field in fields(cls)), where)
        for name in ("input_shape", "stem_strides", "stages", "stem_factors"):
            if not isinstance(value[name], list):
                raise UserError(f"{where}: {name!r} must be a list")
        for stage in value["stages"]:
            _check_object(stage, ("width_factor", "repeats"), f"{where}: stages")
        try:
            return cls(
                tuple(value["input_shape"]),
                value["classes"],
                tuple(value["stem_strides"]),
                tuple(Stage(stage["width_factor"], stage["repeats"]) for stage in value["stages"]),
                tuple(value["stem_factors"]),
                value["shortcut"],
                value["any_width"],
            )
        except UserError as error:
            raise UserError(f"{where}: {error}") from None


def _check_object(value: Any, names: tuple[str, ...], where: str) -> None:
    if not isinstance(value, dict) or set(value) != set(names):
        raise UserError(f"{where}: there must be a JSON object with {', '.join(names)}")


def skeleton_for(input_shape: tuple[int, int, int], classes: int) -> Skeleton:
    """The preset for images of a size (ours), chosen by the shorter side.

    Up to 12 pixels two stages at full and half resolution (8 -> 8, 4), up to 96 pixels three from
    half resolution on (32 -> 16, 8, 4), above that four from a quarter on (224 -> 56, 28, 14, 7).
    The width doubles from stage to stage; each stage holds one cell.

    Args:
        input_shape: channels, height and width of an image.

    Raises:
        UserError: the image is too small, or there are fewer than two classes.
    """
    is_shape = len(input_shape) == 3 and all(map(_is_whole, input_shape))
    side = min(input_shape[1:]) if is_shape else 2  # Skeleton says what is wrong
    stem, stages = ((1,), 2) if side <= 12 else ((1, 2), 3) if side <= 96 else ((2, 2), 4)
    return Skeleton(input_shape, classes, stem, tuple(Stage(2**stage) for stage in range(stages)))


@dataclass(frozen=True)
class Architecture:
    """A network without its weights: cells in a skeleton, at a width.

    Attributes:
        cells: one cell for all stages, or one per stage; kept pruned (nodes that the cell input
            does not reach are dropped).
        skeleton: stem, stages and classifier.
        width: MIN_WIDTH to MAX_WIDTH; stem and stages have their factors of it, rounded.

    Raises:
        UserError: the number of cells does not match the stages, or the width is out of range.
    """

    cells: tuple[Cell, ...]
    skeleton: Skeleton
    width: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", tuple(cell.pruned() for cell in self.cells))
        stages = len(self.skeleton.stages)
        if len(self.cells) not in (1, stages):
            raise UserError(
                f"{len(self.cells)} cells for {stages} stages: give one cell for all stages "
                "or one per stage"
            )
        if not _is_whole(self.width, MIN_WIDTH) or self.width > MAX_WIDTH:
            raise UserError(
                f"width {self.width!r} must be a whole number from {MIN_WIDTH} to {MAX_WIDTH}"
            )

    @property
    def stage_cells(self) -> tuple[Cell, ...]:
        """The cell of each stage."""
        if len(self.cells) == 1:
            return self.cells * len(self.skeleton.stages)
        return self.cells

    @property
    def stem_channels(self) -> tuple[int, ...]:
        """Channels of each convolution of the stem."""
        skeleton = self.skeleton
        return tuple(skeleton.channels(factor, self.width) for factor in skeleton.stem_factors)

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels of each stage's cells."""
        skeleton = self.skeleton
        return tuple(skeleton.channels(one.width_factor, self.width) for one in skeleton.stages)

    @property
    def id(self) -> str:
        """Short name: the cell's id, or ten digits derived from the keys of several cells."""
        if len(self.cells) == 1:
            return self.cells[0].id
        keys = " ".join(cell.key for cell in self.cells)
        return hashlib.sha256(keys.encode()).hexdigest()[:10]

    def to_json(self) -> dict[str, Any]:
        """Plain values: cells, skeleton and width."""
        return {
            "cells": [cell.to_json() for cell in self.cells],
            "skeleton": self.skeleton.to_json(),
            "width": self.width,
        }

    @classmethod
    def from_json(cls, value: Any, where: str = "architecture") -> Self:
        """Read what `to_json` wrote.

        Raises:
            UserError: `value` is no architecture; the sentence begins with `where`.
        """
        _check_object(value, ("cells", "skeleton", "width"), where)
        if not isinstance(value["cells"], list):
            raise UserError(f"{where}: 'cells' must be a list")
        cells = tuple(
            Cell.from_json(cell, f"{where}: cell {index}")
            for index, cell in enumerate(value["cells"])
        )
        skeleton = Skeleton.from_json(value["skeleton"], f"{where}: skeleton")
        try:
            return cls(cells, skeleton, value["width"])
        except UserError as error:
            raise UserError(f"{where}: {error}") from None


def smallest(skeleton: Skeleton) -> Architecture:
    """The smallest network of a skeleton: one 1x1 convolution at MIN_WIDTH."""
    return Architecture((Cell(("input", "conv1x1"), ((0, 1),)),), skeleton, MIN_WIDTH)
