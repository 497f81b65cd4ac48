"""Costs: beside fvcore, PyTorch, hand-made sums and the walk over an execution order."""

from collections.abc import Callable, Iterable

import numpy as np
import pytest

from gemkit import cost as module
from gemkit.architecture import (
    MAX_WIDTH,
    MIN_WIDTH,
    Architecture,
    Skeleton,
    Stage,
    skeleton_for,
    smallest,
)
from gemkit.budget import Budget
from gemkit.cell import Cell, CellArrays
from gemkit.cost import (
    Cost,
    CostModel,
    Step,
    check_feasible,
    cost,
    costs,
    count_with_fvcore,
    execution_steps,
    largest_widths,
    peak_memory,
    verify,
)
from gemkit.errors import UserError
from gemkit.network import build

Draw = Callable[..., Architecture]
DrawCell = Callable[[int, str], Cell]
ONE = Cell(("input", "conv1x1"), ((0, 1),))
DIGITS = skeleton_for((1, 8, 8), 10)


def batch(
    draw_cell: DrawCell, count: int, aggregation: str, rng: np.random.Generator
) -> CellArrays:
    cells = [draw_cell(int(rng.integers(1, 31)), aggregation) for _ in range(count)]
    return CellArrays.from_cells(cells)


def test_one_node_by_hand() -> None:
    # Stem 1 -> 4 on 64 pixels; a cell of three 4x4 products on 64 pixels; a cell 4 -> 8 on 16
    # pixels: node 4x8, output 8x8, projection 4x8; classifier 8 -> 10.
    macs = 36 * 64 + 3 * 16 * 64 + (32 + 64 + 32) * 16 + 80
    params = (36 + 8) + (3 * 16 + 3 * 8) + (32 + 64 + 32 + 3 * 16) + 90
    # The first cell's input, output and projection: 12 channels of 64 pixels.
    assert cost(Architecture((ONE,), DIGITS, 4)) == Cost(macs, params, 12 * 64 * 4)


def test_sum_with_entry_by_hand() -> None:
    cell = Cell(
        ("input", "sep3x3", "conv1x1", "sep3x3"),
        ((0, 1), (0, 2), (0, 3), (1, 3), (2, 3)),
        "sum",
    )
    skeleton = Skeleton((3, 6, 6), 5, (2, 1), (Stage(1), Stage(3)))
    stem = 9 * 3 * 4 + 9 * 4 * 4
    first = 2 * (36 + 16) + 16 + 16 + 16  # two separable nodes, a 1x1, output, projection: 4 -> 4
    second = 48 + 2 * (108 + 144) + 144 + 144 + 48  # the same at 12, with an entry 4 -> 12
    macs = stem * 9 + first * 9 + second * 1 + 60
    norms = 2 * (4 + 4) + 2 * (4 * 4 + 3 * 4) + 2 * (12 + 4 * 12 + 3 * 12)
    params = stem + first + second + norms + 65
    # The image (3x36) beside the stem's first output (4x9) is the largest moment.
    found = cost(Architecture((cell,), skeleton, 4), "fp16")
    assert found == Cost(macs, params, (108 + 36) * 2)


def test_equals_fvcore_and_torch(draw_architecture: Draw) -> None:
    for _ in range(15):
        architecture = draw_architecture()
        network = build(architecture)
        found = cost(architecture)
        counted = count_with_fvcore(network, architecture.skeleton.input_shape)
        own = sum(parameter.numel() for parameter in network.parameters())
        assert (found.macs, found.params, own) == (*counted, counted[1]), architecture.to_json()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 224, 224)])
@pytest.mark.parametrize("aggregation", ["concat", "sum"])
def test_equals_fvcore_on_every_preset(
    shape: tuple[int, int, int], aggregation: str, draw_cell: DrawCell
) -> None:
    skeleton = skeleton_for(shape, 10)
    for count in (1, len(skeleton.stages)):
        cells = tuple(draw_cell(30, aggregation) for _ in range(count))
        architecture = Architecture(cells, skeleton, 4)
        verify(architecture, build(architecture))


def test_memory_equals_the_walk(draw_architecture: Draw) -> None:
    for _ in range(400):
        architecture = draw_architecture()
        for precision, element in (("fp32", 4), ("int8", 1)):
            walked = peak_memory(execution_steps(architecture, precision))
            cells = [CellArrays.from_cells([cell]) for cell in architecture.cells]
            found = costs(cells, architecture.skeleton, architecture.width, precision)
            assert found.peak_memory_bytes == [walked], architecture.to_json()
            assert walked % element == 0


def test_peak_memory_by_hand() -> None:
    diamond = [
        Step((), (("x", 5),)),
        Step(("x",), (("a", 7),)),  # x a
        Step(("x",), (("b", 2), ("unread", 1))),  # x a b unread
        Step(("a", "b")),  # in place: b dies
        Step(("a",), (("y", 4),)),  # a y unread
    ]
    assert peak_memory(diamond) == 15
    assert peak_memory([Step((), (("x", 3),))]) == 3
    assert peak_memory([]) == 0
    # An output stays: "a" is live at the last step though nothing reads it.
    outputs = [Step((), (("x", 1),)), Step(("x",), (("a", 50),)), Step(("x",), (("b", 20),))]
    assert peak_memory(outputs) == 71
    assert peak_memory([outputs[0], outputs[2], outputs[1]]) == 71


def test_peak_memory_depends_on_the_order() -> None:
    """Two branches x -> 100 -> 1: one after the other, or both at once."""
    first, join = Step((), (("x", 10),)), Step(("a", "b"), (("y", 1),))
    wide = [Step(("x",), ((f"wide {name}", 100),)) for name in "ab"]
    narrow = [Step((f"wide {name}",), ((name, 1),)) for name in "ab"]
    assert peak_memory([first, wide[0], narrow[0], wide[1], narrow[1], join]) == 111
    assert peak_memory([first, *wide, *narrow, join]) == 210


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([Step(("x",), (("y", 1),))], "before it is written"),
        ([Step((), (("x", 1),)), Step(("x",), (("x", 1),))], "a second time"),
    ],
)
def test_impossible_orders(steps: Iterable[Step], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        peak_memory(steps)


@pytest.mark.parametrize("aggregation", ["concat", "sum"])
def test_many_cells_cost_what_each_costs(
    aggregation: str,
    draw_cell: DrawCell,
    draw_architecture: Draw,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "CHUNK", 16)
    cells = batch(draw_cell, 70, aggregation, rng)
    widths = rng.integers(MIN_WIDTH, 50, size=70)
    drawn = [draw_architecture().skeleton for _ in range(6)]
    for skeleton in (DIGITS, skeleton_for((3, 200, 131), 7), *drawn):
        found = costs(cells, skeleton, widths, "fp16")
        for row in range(70):
            architecture = Architecture((cells.cell(row),), skeleton, int(widths[row]))
            assert cost(architecture, "fp16") == Cost(
                found.macs[row], found.params[row], found.peak_memory_bytes[row]
            )
        pruned = costs(cells.pruned(), skeleton, widths, "fp16")
        np.testing.assert_array_equal(found.peak_memory_bytes, pruned.peak_memory_bytes)
        np.testing.assert_array_equal(found.macs, pruned.macs)


def test_one_batch_per_stage(draw_cell: DrawCell, rng: np.random.Generator) -> None:
    skeleton = skeleton_for((3, 32, 32), 10)
    stages = [batch(draw_cell, 20, aggregation, rng) for aggregation in ("sum", "concat", "sum")]
    budget = Budget(macs=5_000_000, memory_bytes=200_000)
    widths = largest_widths(stages, skeleton, budget)
    found = costs(stages, skeleton, widths)
    for row in np.flatnonzero(widths):
        cells = tuple(stage.cell(row) for stage in stages)
        one = cost(Architecture(cells, skeleton, int(widths[row])))
        assert (one.macs, one.params) == (found.macs[row], found.params[row])
    for wrong in (stages[:2], [*stages[:2], stages[2][:3]]):
        with pytest.raises(ValueError, match="as many for each stage"):
            costs(wrong, skeleton, 8)


@pytest.mark.parametrize("aggregation", ["concat", "sum"])
def test_largest_widths_are_the_largest(
    aggregation: str, draw_cell: DrawCell, rng: np.random.Generator
) -> None:
    cells = batch(draw_cell, 200, aggregation, rng)
    for shape in ((1, 8, 8), (3, 32, 32), (3, 224, 224)):
        skeleton = skeleton_for(shape, 10)
        model = CostModel.of(cells, skeleton)
        middle = model.costs(int(rng.integers(6, 40)), "int8")
        limits = {
            "macs": int(np.median(middle.macs)),
            "params": int(np.median(middle.params)),
            "memory_bytes": int(np.median(middle.peak_memory_bytes)),
        }
        budgets = [Budget(**{name: limit}, precision="int8") for name, limit in limits.items()]
        for budget in [*budgets, Budget(**limits, precision="int8")]:
            widths = model.largest_widths(budget)
            assert (widths > 0).any()
            assert ((widths == 0) | (widths >= MIN_WIDTH)).all()
            np.testing.assert_array_equal(widths, largest_widths(cells, skeleton, budget))

            def fits(width: np.ndarray, budget: Budget = budget) -> np.ndarray:
                found = model.costs(width, "int8")  # noqa: B023
                return (
                    (found.macs <= (budget.macs or 1 << 62))
                    & (found.params <= (budget.params or 1 << 62))
                    & (found.peak_memory_bytes <= (budget.memory_bytes or 1 << 62))
                )

            some = widths > 0
            assert fits(widths)[some].all()
            assert not fits(np.where(some, widths + 1, MIN_WIDTH)).any()


def test_a_cost_is_its_own_budget(draw_architecture: Draw) -> None:
    """What an architecture costs fits exactly; one less of anything does not."""
    for _ in range(60):
        architecture = draw_architecture()
        found = cost(architecture)
        cells = [CellArrays.from_cells([cell]) for cell in architecture.cells]
        skeleton, width = architecture.skeleton, architecture.width
        limits = {"macs": found.macs, "params": found.params}
        for name, limit in limits.items():
            (found_width,) = largest_widths(cells, skeleton, Budget(**{name: limit}))
            assert found_width >= width
            same = Architecture(architecture.cells, skeleton, int(found_width))
            assert same.stage_channels == architecture.stage_channels
            assert same.stem_channels == architecture.stem_channels
            (below,) = largest_widths(cells, skeleton, Budget(**{name: limit - 1}))
            assert below < width
            assert not skeleton.any_width or below in (0, width - 1)
        memory = found.peak_memory_bytes
        assert largest_widths(cells, skeleton, Budget(memory_bytes=memory))[0] >= width
        assert largest_widths(cells, skeleton, Budget(memory_bytes=memory - 4))[0] < width


def test_widths_end_somewhere(draw_cell: DrawCell) -> None:
    cells = CellArrays.from_cells([draw_cell(30, "concat"), ONE])
    for budget in (Budget(), Budget(latency_ms=1.0), Budget(10**30, 10**40, None, 10**35)):
        assert largest_widths(cells, DIGITS, budget).tolist() == [MAX_WIDTH] * 2
    for budget in (Budget(macs=1), Budget(params=1), Budget(memory_bytes=1)):
        assert largest_widths(cells, DIGITS, budget).tolist() == [0, 0]
    assert len(largest_widths(cells[:0], DIGITS, Budget())) == 0


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 224, 224)])
def test_smallest(
    shape: tuple[int, int, int], draw_cell: DrawCell, rng: np.random.Generator
) -> None:
    skeleton = skeleton_for(shape, 10)
    least = cost(smallest(skeleton))
    for aggregation in ("concat", "sum"):
        found = costs(batch(draw_cell, 100, aggregation, rng), skeleton, MIN_WIDTH)
        assert found.macs.min() >= least.macs
        assert found.params.min() >= least.params
        assert found.peak_memory_bytes.min() >= least.peak_memory_bytes
    exact = Budget(least.macs, least.params, None, least.peak_memory_bytes)
    check_feasible(exact, skeleton)
    assert largest_widths(CellArrays.from_cells([ONE]), skeleton, exact) == [MIN_WIDTH]
    for tight in (
        Budget(macs=least.macs - 1),
        Budget(params=least.params - 1),
        Budget(memory_bytes=least.peak_memory_bytes - 1),
    ):
        with pytest.raises(UserError, match="no network fits"):
            check_feasible(tight, skeleton)


@pytest.mark.parametrize(
    ("budget", "what"),
    [
        (Budget(macs=10), "MACs"),
        (Budget(params=10), "params"),
        (Budget(memory_bytes=10), "activation memory"),
        (Budget(latency_ms=0.001), "latency"),
    ],
)
def test_impossible_budgets_name_the_smallest_cost(budget: Budget, what: str) -> None:
    with pytest.raises(UserError, match=rf"the {what} budget.*the smallest one for 8x8 images"):
        check_feasible(budget, DIGITS, smallest_latency_ms=0.05)
    check_feasible(Budget(macs=10**9, params=10**9, latency_ms=1.0), DIGITS, 0.05)


def test_verify_notices_another_network(draw_cell: DrawCell) -> None:
    architecture = Architecture((ONE,), DIGITS, 4)
    network = build(architecture).train()
    verify(architecture, network)
    assert network.training
    verify(architecture, build(architecture).double())
    with pytest.raises(RuntimeError, match="MACs"):
        verify(architecture, build(Architecture((ONE,), DIGITS, 5)))
    network.classifier.weight.requires_grad = False
    with pytest.raises(RuntimeError, match="params"):
        verify(architecture, network)
