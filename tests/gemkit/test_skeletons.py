"""The table of skeletons: for images of every size, all different, the preset first."""

import pytest
import torch

from gemkit.architecture import Architecture, Skeleton, skeleton_for
from gemkit.budget import Budget
from gemkit.cell import Cell, CellArrays
from gemkit.cost import largest_widths, verify
from gemkit.network import build
from gemkit.skeletons import skeletons_for

CELL = Cell(("input", "sep3x3", "conv1x1"), ((0, 1), (1, 2), (0, 2)), "sum")


@pytest.mark.parametrize("side", [2, 8, 12, 13, 28, 32, 64, 96, 97, 224])
def test_all_suit_images_of_every_size(side: int) -> None:
    found = skeletons_for((3, side, side), 10)
    assert found[0] == Skeleton.from_json(
        {**skeleton_for((3, side, side), 10).to_json(), "any_width": False}
    )
    assert len(set(found)) == len(found) == (1 if side <= 12 else 3 if side <= 96 else 2)
    for skeleton in found:
        network = Architecture((CELL,), skeleton, 8)
        verify(network, build(network))
        assert build(network).eval()(torch.zeros(2, 3, side, side)).shape == (2, 10)
        assert skeleton.resolutions == found[0].resolutions


@pytest.mark.parametrize("any_width", [False, True])
def test_channels_are_multiples_unless_any_will_do(any_width: bool) -> None:
    cells = CellArrays.from_cells([CELL])
    for skeleton in skeletons_for((3, 32, 32), 10, any_width):
        odd = set()
        for macs in range(1_000_000, 3_000_000, 100_000):
            (width,) = largest_widths(cells, skeleton, Budget(macs=macs))
            one = Architecture((CELL,), skeleton, int(width))
            channels = (*one.stem_channels, *one.stage_channels)
            odd |= {number for number in channels if number % (4 if number < 32 else 8)}
        assert bool(odd) == any_width
