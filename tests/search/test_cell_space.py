"""The space of real cells: always inside every budget, at the largest width, each cell once."""

import math

import networkx as nx
import numpy as np
import pytest
from numpy.typing import NDArray

from gemkit.architecture import MAX_WIDTH, MIN_WIDTH, Architecture, skeleton_for
from gemkit.budget import Budget
from gemkit.cell import Cell, CellArrays
from gemkit.cost import cost
from gemkit.errors import UserError
from gemkit.operations import TABLE
from gemkit.search.cell_space import CellSpace, Scaled
from gemkit.search.interfaces import Candidates
from gemkit.search.sampling import random_cells
from gemkit.skeletons import skeletons_for
from networks import graph_of

SKELETON = skeleton_for((3, 32, 32), 10)
BUDGETS = [
    Budget(macs=20_000_000),
    Budget(params=120_000),
    Budget(memory_bytes=300_000),
    Budget(memory_bytes=60_000, precision="int8"),
    Budget(macs=8_000_000, params=90_000, memory_bytes=400_000),
]


def milliseconds(cells: CellArrays, widths: NDArray[np.int64]) -> NDArray[np.float64]:
    """A made-up latency: a part for every node and one for its width."""
    nodes = (cells.operations > 0).sum(axis=1)
    return nodes * (0.01 + 0.001 * np.asarray(widths))


def fits(architecture: Architecture, budget: Budget) -> bool:
    """By the cost of one architecture, not by the arrays' closed form."""
    spent = cost(architecture, budget.precision)
    return (
        (budget.macs is None or spent.macs <= budget.macs)
        and (budget.params is None or spent.params <= budget.params)
        and (budget.memory_bytes is None or spent.peak_memory_bytes <= budget.memory_bytes)
    )


def same(one: Candidates, other: Candidates) -> bool:
    return (
        np.array_equal(one.keys, other.keys)
        and np.array_equal(one.graphs.adjacency, other.graphs.adjacency)
        and np.array_equal(one.payload.widths, other.payload.widths)
    )


@pytest.mark.parametrize("aggregation", ["concat", "sum"])
@pytest.mark.parametrize("budget", BUDGETS, ids=lambda budget: budget.describe())
def test_what_is_offered_fits_at_the_largest_width(
    budget: Budget, aggregation: str, seed: int
) -> None:
    space = CellSpace(SKELETON, budget, aggregation=aggregation)
    rng = np.random.default_rng(seed)
    sampled = space.sample(rng, 60)
    assert len(sampled) == 60
    offered = Candidates.concatenate(
        [sampled, space.mutate(rng, sampled[:5], 40), space.crossover(rng, sampled[:8], 20)]
    )
    for index in range(len(offered)):
        found = space.architecture(offered, index)
        scaled: Scaled = offered.payload
        assert found.cells[0].is_pruned
        assert found.cells[0].key == offered.keys[index].decode()
        assert found.cells[0].aggregation == aggregation
        assert found.width >= MIN_WIDTH
        assert fits(found, budget)
        if found.width < MAX_WIDTH:
            assert not fits(Architecture(found.cells, SKELETON, found.width + 1), budget)
        spent = cost(found, budget.precision)
        assert (spent.macs, spent.params, spent.peak_memory_bytes) == (
            scaled.macs[index],
            scaled.params[index],
            scaled.peak_memory_bytes[index],
        )


def test_cells_are_distinct_and_follow_the_random_stream(seed: int) -> None:
    space = CellSpace(SKELETON, BUDGETS[0])

    def draw() -> list[Candidates]:
        rng = np.random.default_rng(seed)
        sampled = space.sample(rng, 500)
        return [
            sampled,
            space.mutate(rng, sampled[:3], 300),
            space.crossover(rng, sampled[:30], 100),
        ]

    first, again = draw(), draw()
    for one, other in zip(first, again, strict=True):
        assert same(one, other)
        assert len(set(one.keys.tolist())) == len(one)
    assert [len(one) for one in first] == [500, 300, 100]
    for children, parents in ((first[1], first[0][:3]), (first[2], first[0][:30])):
        assert not set(children.keys.tolist()) & set(parents.keys.tolist())
    assert not same(first[0], space.sample(np.random.default_rng(seed + 1), 500))


def test_sizes_stay_inside_the_space(seed: int) -> None:
    space = CellSpace(SKELETON, BUDGETS[0], nodes=5)
    rng = np.random.default_rng(seed)
    cells = space.sample(rng, 100)
    for found in (cells, space.mutate(rng, cells, 100), space.crossover(rng, cells, 50)):
        assert (found.graphs.labels > 0).sum(axis=1).max() <= 5


def test_a_space_smaller_than_asked_for_gives_all_it_has(seed: int) -> None:
    space = CellSpace(SKELETON, BUDGETS[0], nodes=2)
    found = space.sample(np.random.default_rng(seed), 1000)
    # One node of k operations: k cells. Two nodes: 0->1, and 2 reads 1, both, or 0 alone, when the
    # two can be exchanged: k^2 + k^2 + k (k + 1) / 2.
    k = len(TABLE)
    assert len(found) == k + 2 * k**2 + k * (k + 1) // 2
    assert not len(space.crossover(np.random.default_rng(seed), found[:1], 10))


def test_latency_limits_the_width(seed: int) -> None:
    limit = 0.5
    budget = Budget(macs=20_000_000, latency_ms=limit)
    space = CellSpace(SKELETON, budget, latency=milliseconds)
    free = CellSpace(SKELETON, Budget(macs=20_000_000))
    found = space.sample(np.random.default_rng(seed), 300)
    scaled: Scaled = found.payload
    assert scaled.latency_ms is not None
    assert (scaled.latency_ms <= limit).all()
    assert np.array_equal(scaled.latency_ms, milliseconds(scaled.cells, scaled.widths))
    # Within a latency budget the score is the accuracy, whatever the MACs.
    factors = space.fitting(scaled.cells).factors
    assert factors is not None
    assert (factors == 1).all()
    limited = scaled.widths < free.fitting(scaled.cells).payload.widths
    assert limited.any()
    wider = milliseconds(scaled.cells, scaled.widths + 1)
    assert (wider[limited] > limit).all()
    assert not len(
        CellSpace(SKELETON, Budget(latency_ms=1e-3), latency=milliseconds).fitting(scaled.cells)
    )


def test_widths_off_the_vector_do_not_hide_larger_ones(seed: int) -> None:
    """Where a multiple of 8 or 4 takes less than the widths below it, as on real processors."""

    def blocks(cells: CellArrays, widths: NDArray[np.int64]) -> NDArray[np.float64]:
        widths = np.asarray(widths)
        slow = np.where(widths % 8 == 0, 1.0, np.where(widths % 4 == 0, 1.3, 2.0))
        return milliseconds(cells, widths) * slow

    rng = np.random.default_rng(seed)
    limit = float(rng.uniform(0.2, 1.5))
    macs = int(rng.integers(2_000_000, 20_000_000))
    free = CellSpace(SKELETON, Budget(macs=macs)).fitting(random_cells(rng, 200)).payload
    space = CellSpace(SKELETON, Budget(macs=macs, latency_ms=limit), latency=blocks)
    found: Scaled = space.fitting(free.cells).payload
    # By trying every width.
    every = np.arange(4, free.widths.max() + 1)
    taken = np.stack([blocks(free.cells, np.full(len(free), width)) for width in every], axis=1)
    possible = (taken <= limit) & (every <= free.widths[:, None])
    expected = np.where(possible, every, 0).max(axis=1)
    assert np.array_equal(found.widths, expected[expected > 0])
    assert np.array_equal(found.latency_ms, blocks(found.cells, found.widths))


def test_latency_alone_is_limit_enough(seed: int) -> None:
    space = CellSpace(SKELETON, Budget(latency_ms=0.4), latency=milliseconds)
    found = space.sample(np.random.default_rng(seed), 50)
    assert (found.payload.latency_ms <= 0.4).all()


def test_stored_cells_come_back(seed: int) -> None:
    space = CellSpace(SKELETON, Budget(macs=9_000_000, latency_ms=2.0), latency=milliseconds)
    found = space.sample(np.random.default_rng(seed), 40)
    scaled: Scaled = found.payload
    assert scaled.latency_ms is not None
    again = space.restored(
        [scaled.cells.cell(index) for index in range(40)],
        scaled.widths.tolist(),
        scaled.latency_ms.tolist(),
    )
    assert np.array_equal(again.keys, found.keys)
    assert np.array_equal(again.payload.macs, scaled.macs)
    assert np.array_equal(again.payload.latency_ms, scaled.latency_ms)
    assert np.array_equal(again.factors, found.factors)


def test_stored_small_cells_have_the_places_of_large_ones(seed: int) -> None:
    """Else the flat encoding of what was measured and of what is proposed would not agree."""
    space = CellSpace(SKELETON, Budget(macs=10_000_000))
    found = space.sample(np.random.default_rng(seed), 60)
    small = found[(found.graphs.labels >= 0).sum(axis=1) < 12]
    scaled: Scaled = small.payload
    again = space.restored(
        [scaled.cells.cell(index) for index in range(len(small))], scaled.widths.tolist()
    )
    assert np.array_equal(again.graphs.labels, small.graphs.labels)
    assert np.array_equal(again.graphs.adjacency, small.graphs.adjacency)


def test_the_score_is_accuracy_times_a_power_of_macs(seed: int) -> None:
    space = CellSpace(SKELETON, Budget(macs=10_000_000, params=50_000))
    found = space.sample(np.random.default_rng(seed), 20)
    expected = 0.9 * (found.payload.macs / 10_000_000) ** -0.07
    assert np.allclose(found.scores(np.full(20, 0.9)), expected)


def test_nothing_fits(seed: int) -> None:
    space = CellSpace(SKELETON, Budget(params=200))
    with pytest.raises(UserError, match="no sampled cell"):
        space.sample(np.random.default_rng(seed), 5)


def test_bad_spaces() -> None:
    with pytest.raises(UserError, match="--max-macs"):
        CellSpace(SKELETON, Budget())
    with pytest.raises(UserError, match="31 nodes: a cell has 1 to 30"):
        CellSpace(SKELETON, BUDGETS[0], nodes=31)
    with pytest.raises(UserError, match="aggregation"):
        CellSpace(SKELETON, BUDGETS[0], aggregation="mean")
    with pytest.raises(ValueError, match="latency model"):
        CellSpace(SKELETON, Budget(latency_ms=1.0))


def test_the_smallest_cell_can_be_offered() -> None:
    space = CellSpace(SKELETON, Budget(macs=20_000_000))
    smallest = Cell(("input", "conv1x1"), ((0, 1),))
    found = space.fitting(CellArrays.from_cells([smallest]))
    assert space.architecture(found, 0).cells == (smallest,)


def test_pairs_of_cell_and_skeleton(seed: int) -> None:
    """Each fits in its own skeleton, is told from the same cell in another, and comes back."""
    first, *others = skeletons_for((3, 32, 32), 10)
    space = CellSpace(first, Budget(macs=2_000_000), alternatives=tuple(others))
    rng = np.random.default_rng(seed)
    found = space.sample(rng, 200)
    found = Candidates.concatenate(
        [found, space.mutate(rng, found[:10], 100), space.crossover(rng, found[:10], 30)]
    )
    scaled: Scaled = found.payload
    assert set(scaled.skeletons.tolist()) == set(range(len(space.skeletons)))
    for index in range(len(found)):
        one = space.architecture(found, index)
        assert one.skeleton == space.skeletons[scaled.skeletons[index]]
        assert fits(one, space.budget)
        assert cost(one).params == scaled.params[index]
        assert not fits(Architecture(one.cells, one.skeleton, one.width + 1), space.budget)
        plain = found.keys[index].decode() == one.cells[0].key
        graph = graph_of(one.cells[0])
        in_a_row = nx.dag_longest_path_length(graph)
        assert found.context is not None
        wide, pixels, depth = 2 ** found.context[index]
        assert (round(wide), round(pixels)) == (one.width, math.prod(one.skeleton.resolutions[0]))
        assert round(depth) == in_a_row * sum(stage.repeats for stage in one.skeleton.stages)
        assert plain == (scaled.skeletons[index] == 0)
    cells = [scaled.cells.cell(index) for index in range(len(found))]
    again = space.restored(cells, scaled.widths.tolist(), skeletons=scaled.skeletons.tolist())
    assert np.array_equal(again.keys, found.keys)
    assert np.array_equal(again.payload.macs, scaled.macs)
    small = Cell(("input", "conv1x1"), ((0, 1),))
    one = CellArrays.from_cells([small] * len(space.skeletons))
    keys = space.fitting(one, np.arange(len(space.skeletons))).keys
    assert len(set(keys.tolist())) == len(space.skeletons)


@pytest.mark.parametrize("nodes", [1, 2, 30])
@pytest.mark.parametrize("aggregation", ["concat", "sum"])
def test_hand_made_cells_are_told_apart_and_fit(aggregation: str, nodes: int) -> None:
    first, *others = skeletons_for((3, 32, 32), 10)
    budget = Budget(macs=3_000_000)
    space = CellSpace(first, budget, nodes, aggregation, alternatives=tuple(others))
    found = space.hand_made()
    assert len(found) == (1 if nodes == 1 else 4)
    assert len(set(found.keys.tolist())) == len(found)
    for index in range(len(found)):
        one = space.architecture(found, index)
        assert fits(one, budget)
        assert one.cells[0].nodes <= nodes
