"""Architectures: presets, what is rejected, JSON."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from gemkit.architecture import MAX_WIDTH, Architecture, Skeleton, Stage, skeleton_for
from gemkit.cell import MAX_NODES, Cell, CellArrays
from gemkit.cost import CostModel, cost
from gemkit.errors import UserError

CELL = Cell(("input", "conv1x1", "sep3x3"), ((0, 1), (1, 2)))
SKELETON = Skeleton((3, 32, 32), 10, (1, 2), (Stage(1), Stage(2, 3), Stage(4)))


@pytest.mark.parametrize(
    ("shape", "resolutions"),
    [
        ((1, 8, 8), ((8, 8), (4, 4))),
        ((1, 2, 2), ((2, 2), (1, 1))),
        ((3, 12, 40), ((12, 40), (6, 20))),
        ((1, 28, 28), ((14, 14), (7, 7), (3, 3))),
        ((3, 32, 32), ((16, 16), (8, 8), (4, 4))),
        ((3, 13, 13), ((7, 7), (3, 3), (1, 1))),
        ((3, 96, 96), ((48, 48), (24, 24), (12, 12))),
        ((3, 97, 97), ((25, 25), (12, 12), (6, 6), (3, 3))),
        ((3, 224, 224), ((56, 56), (28, 28), (14, 14), (7, 7))),
    ],
)
def test_presets(shape: tuple[int, int, int], resolutions: tuple[tuple[int, int], ...]) -> None:
    skeleton = skeleton_for(shape, 10)
    assert skeleton.resolutions == resolutions
    assert [stage.width_factor for stage in skeleton.stages] == [1, 2, 4, 8][: len(resolutions)]


@pytest.mark.parametrize("aggregation", ["concat", "sum"])
@pytest.mark.parametrize("factors", [(1,), (1, 2, 4, 8), (64, 1, 64)])
def test_costs_of_the_largest_images_stay_within_64_bits(
    factors: tuple[int, ...], aggregation: str
) -> None:
    stages = tuple(Stage(factor, 64) for factor in factors)
    side = 16
    while True:  # the largest power of two that is taken
        try:
            skeleton = Skeleton((3, 2 * side, 2 * side), 10, (1, 2), stages)
        except UserError:
            break
        side *= 2
    nodes = range(MAX_NODES + 1)
    edges = tuple((low, high) for high in nodes for low in range(high))
    cell = Cell(("input", *("sep3x3",) * MAX_NODES), edges, aggregation)
    model = CostModel.of(CellArrays.from_cells([cell]), skeleton)
    walked = cost(Architecture((cell,), skeleton, MAX_WIDTH)).macs  # without a limit to numbers
    assert int(model.costs(MAX_WIDTH).macs[0]) == walked < 1 << 62
    assert walked > 1 << 52 or aggregation == "sum"  # the limit is not far away
    assert int(model.costs(MAX_WIDTH).peak_memory_bytes[0]) > 0


def test_total_stride() -> None:
    assert skeleton_for((3, 224, 224), 1000).total_stride == 32
    assert skeleton_for((1, 8, 8), 10).total_stride == 2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: skeleton_for((1, 1, 8), 10), "1x8 pixels are too small.* a side of 2 pixels is"),
        (lambda: skeleton_for((0, 8, 8), 10), "input shape"),
        (lambda: skeleton_for((8, 8), 10), "input shape"),  # type: ignore[arg-type]
        (lambda: skeleton_for((8,), 10), "input shape"),  # type: ignore[arg-type]
        (lambda: skeleton_for((1, 8, 8), 1), "at least 2"),
        (lambda: Skeleton((3, 32.0, 32), 10, (1,), (Stage(1),)), "whole numbers"),  # type: ignore[arg-type]
        (lambda: Skeleton((3, 32, 32), 10, (), (Stage(1),)), "stem strides"),
        (lambda: Skeleton((3, 32, 32), 10, (3,), (Stage(1),)), "stem strides"),
        (lambda: Skeleton((3, 32, 32), 10, (1,), ()), "at least one stage"),
        (lambda: Skeleton((3, 7, 7), 10, (2,), (Stage(1),) * 4), "side of 16 pixels is always"),
        (lambda: Skeleton((3, 10**8, 10**8), 10, (2,), (Stage(1),)), "is too large"),
        (lambda: Skeleton((1 << 60, 8, 8), 10, (1,), (Stage(1),)), "is too large"),
        (lambda: Skeleton((3, 8, 8), 1 << 60, (1,), (Stage(1),)), "is too large"),
        (lambda: skeleton_for((3, 10**6, 10**6), 10), "is too large"),
        (lambda: Stage(0), "width_factor"),
        (lambda: Stage(1, 0), "repeats"),
        (lambda: Stage(True), "width_factor"),
        (lambda: Stage(10**9), "width_factor"),
        (lambda: Architecture((CELL, CELL), SKELETON, 8), "2 cells for 3 stages"),
        (lambda: Architecture((), SKELETON, 8), "0 cells"),
        (lambda: Architecture((CELL,), SKELETON, 3), "width 3"),
        (lambda: Architecture((CELL,), SKELETON, MAX_WIDTH + 1), "width"),
        (lambda: Architecture((CELL,), SKELETON, 8.0), "width 8.0"),  # type: ignore[arg-type]
    ],
)
def test_rejects(make: Callable[[], object], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_json_round_trip(draw_architecture: Callable[[], Architecture]) -> None:
    for _ in range(30):
        architecture = draw_architecture()
        written = json.dumps(architecture.to_json())
        assert Architecture.from_json(json.loads(written)) == architecture


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda value: value.pop("width"), "JSON object with cells, skeleton, width"),
        (lambda value: value.update(width="8"), "width '8'"),
        (lambda value: value.update(cells={}), "'cells' must be a list"),
        (lambda value: value.update(cells=[3]), "cell 0"),
        (lambda value: value["skeleton"].pop("classes"), "skeleton: there must be"),
        (lambda value: value["skeleton"].update(stages=3), "'stages' must be a list"),
        (lambda value: value["skeleton"].update(stages=[3]), "stages: there must be"),
        (lambda value: value["skeleton"].update(stem_strides=["1"]), "stem strides"),
        (lambda value: value["skeleton"].update(input_shape=[3, 32]), "input shape"),
        (lambda value: value["skeleton"].update(classes=None), "classes"),
    ],
)
def test_json_that_is_none(change: Callable[[Any], object], words: str) -> None:
    value = Architecture((CELL,), SKELETON, 8).to_json()
    change(value)
    with pytest.raises(UserError, match=words) as caught:
        Architecture.from_json(value, "some.json")
    assert str(caught.value).startswith("some.json: ")


def test_id() -> None:
    other = Cell(("input", "sep3x3"), ((0, 1),))
    assert Architecture((CELL,), SKELETON, 8).id == CELL.id
    several = Architecture((CELL, other, CELL), SKELETON, 8)
    assert len(several.id) == 10
    assert several.id != Architecture((other, CELL, CELL), SKELETON, 8).id


def test_one_cell_stands_for_all_stages() -> None:
    other = Cell(("input", "sep3x3"), ((0, 1),))
    assert Architecture((CELL,), SKELETON, 8).stage_cells == (CELL, CELL, CELL)
    assert Architecture((CELL, other, CELL), SKELETON, 8).stage_cells == (CELL, other, CELL)


def test_cells_are_pruned() -> None:
    unreached = Cell(("input", "sep3x3", "conv1x1", "conv1x1"), ((0, 2), (1, 3), (2, 3)))
    assert Architecture((unreached,), SKELETON, 8).cells == (
        Cell(("input", "conv1x1", "conv1x1"), ((0, 1), (1, 2))),
    )


def test_costs_need_no_torch() -> None:
    code = (
        "import sys, gemkit.architecture, gemkit.cost\n"
        "assert not {'torch', 'fvcore', 'networkx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
