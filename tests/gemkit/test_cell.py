"""Cells: what is accepted, pruning, keys against networkx, and the ways in and out."""

import json
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemkit.cell import ABSENT, MAX_NODES, OPERATIONS, Cell, CellArrays, read_cell, write_cell
from gemkit.errors import UserError
from gemkit.operations import KERNELS, TABLE, codes_of
from networks import graph_of


@st.composite
def cells(draw: st.DrawFn, largest: int = MAX_NODES, aggregation: str | None = None) -> Cell:
    """Any valid cell, unreached nodes and all densities included."""
    nodes = draw(st.integers(1, largest))
    density = draw(st.sampled_from([0.05, 0.15, 0.4, 0.8, 1.0]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    edges = [
        (source, target)
        for target in range(1, nodes + 1)
        for source in range(target)
        if random.random() < density
    ]
    if not any(source == 0 for source, _ in edges):
        edges.append((0, int(random.integers(1, nodes + 1))))
    operations = ["input", *random.choice(["conv1x1", "sep3x3"], nodes).tolist()]
    return Cell(
        tuple(operations),
        tuple(edges),
        aggregation or draw(st.sampled_from(["concat", "sum"])),
    )


def renumbered(cell: Cell, random: np.random.Generator) -> Cell:
    """A cell with its nodes numbered by another topological order."""
    graph = graph_of(cell)
    waiting = {node: graph.in_degree(node) for node in graph}
    order: list[int] = [0]
    ready = [node for node in graph if node and not waiting[node]]
    current = 0
    while True:
        for successor in graph.successors(current):
            waiting[successor] -= 1
            if not waiting[successor]:
                ready.append(successor)
        if not ready:
            break
        current = ready.pop(int(random.integers(len(ready))))
        order.append(current)
    place = {node: index for index, node in enumerate(order)}
    return Cell(
        tuple(cell.operations[node] for node in order),
        tuple((place[source], place[target]) for source, target in cell.edges),
        cell.aggregation,
    )


def isomorphic(first: Cell, second: Cell) -> bool:
    return first.aggregation == second.aggregation and nx.is_isomorphic(
        graph_of(first),
        graph_of(second),
        node_match=lambda a, b: a["operation"] == b["operation"],
    )


@given(cells(), st.integers(0, 2**32 - 1))
@settings(max_examples=80, deadline=None)
def test_renumbered_cells_share_their_key(cell: Cell, number: int) -> None:
    other = renumbered(cell, np.random.default_rng(number))
    assert other.key == cell.key


@given(cells(largest=5, aggregation="sum"), cells(largest=5, aggregation="sum"))
@settings(max_examples=300, deadline=None)
def test_keys_agree_with_networkx_on_small_cells(first: Cell, second: Cell) -> None:
    same = isomorphic(first.pruned(), second.pruned())
    assert (first.key == second.key) == same


def test_every_small_cell_has_one_key_per_isomorphism_class() -> None:
    """All graphs of up to three nodes: as many keys as networkx finds classes."""
    found: list[Cell] = []
    for nodes in (1, 2, 3):
        pairs = [(i, j) for j in range(1, nodes + 1) for i in range(j)]
        for mask in range(1, 2 ** len(pairs)):
            edges = tuple(pair for bit, pair in enumerate(pairs) if mask >> bit & 1)
            if not any(source == 0 for source, _ in edges):
                continue
            for code in range(2**nodes):
                names = ["sep3x3" if code >> node & 1 else "conv1x1" for node in range(nodes)]
                found.append(Cell(("input", *names), edges).pruned())
    classes: list[Cell] = []
    for cell in found:
        if not any(
            len(other.edges) == len(cell.edges) and isomorphic(cell, other) for other in classes
        ):
            classes.append(cell)
    assert len({cell.key for cell in found}) == len(classes)


def test_one_flipped_operation_changes_the_key(seed: int) -> None:
    random = np.random.default_rng(seed)
    edges = tuple((i, j) for j in range(1, 31) for i in range(j) if i == 0 or random.random() < 0.2)
    names = random.choice(["conv1x1", "sep3x3"], 30).tolist()
    cell = Cell(("input", *names), edges)
    keys = {cell.key}
    for node in range(30):
        flipped = list(names)
        flipped[node] = "sep3x3" if names[node] == "conv1x1" else "conv1x1"
        other = Cell(("input", *flipped), edges)
        assert (other.key in keys) == any(
            isomorphic(other, Cell(("input", *kept), edges)) for kept in seen_before(names, node)
        )
        keys.add(other.key)


def seen_before(names: list[str], node: int) -> list[list[str]]:
    """The operation lists that were flipped before `node`, the original first."""
    lists = [list(names)]
    for earlier in range(node):
        flipped = list(names)
        flipped[earlier] = "sep3x3" if names[earlier] == "conv1x1" else "conv1x1"
        lists.append(flipped)
    return lists


def test_symmetric_cells_have_quick_and_exact_keys() -> None:
    """Fifteen equal chains: 15! equal numberings, one key whichever is taken."""

    def chains(order: list[int]) -> Cell:
        edges = [(0, node) for node in range(1, 16)]
        edges += [(1 + index, 16 + place) for index, place in enumerate(order)]
        return Cell(("input", *["conv1x1"] * 15, *["sep3x3"] * 15), tuple(edges))

    assert chains(list(range(15))).key == chains(list(reversed(range(15)))).key


def rings(lengths: list[int]) -> Cell:
    """Six nodes read in turn by six others, in circles of these lengths."""
    edges, start = [], 0
    for length in lengths:
        for step in range(length):
            source = 1 + start + step
            edges += [(0, source), (source, 7 + start + step)]
            edges.append((source, 7 + start + (step + 1) % length))
        start += length
    return Cell(("input", *["conv1x1"] * 12), tuple(edges))


def test_equal_degrees_do_not_fool_the_key() -> None:
    """Two 3-cycles of readers against one 6-cycle: colour refinement alone sees no difference."""

    assert rings([3, 3]).key != rings([6]).key
    assert rings([2, 4]).key == rings([4, 2]).key


def test_symmetric_cells_share_a_key_in_every_numbering(seed: int) -> None:
    """Several choices one after the other are needed to tell the nodes of these apart."""
    rng = np.random.default_rng(seed)
    keys = set()
    for lengths in ([6], [3, 3], [2, 4], [2, 2, 2]):
        cell = rings(lengths)
        found = {renumbered(cell, rng).key for _ in range(12)}
        assert found == {cell.key}
        keys |= found
    assert len(keys) == 4


def test_regular_cells_share_a_key_in_every_numbering(seed: int) -> None:
    """Eight nodes are read by three others each: alike to colour refinement, seldom symmetric."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(4):
        turns = np.add.outer(np.arange(8), np.sort(rng.permutation(8)[:3])) % 8
        turns = rng.permutation(8)[turns]
        for _ in range(20):  # exchange the ends of two edges, now and then
            (a, b), (i, j) = rng.integers(8, size=2), rng.integers(3, size=2)
            if turns[a, i] not in turns[b] and turns[b, j] not in turns[a]:
                turns[a, i], turns[b, j] = turns[b, j], turns[a, i]
        edges = [(0, node) for node in range(1, 9)]
        edges += [(1 + source, 9 + int(target)) for source in range(8) for target in turns[source]]
        cell = Cell(("input", *["conv1x1"] * 16), tuple(edges))
        assert {renumbered(cell, rng).key for _ in range(12)} == {cell.key}
        found.append(cell)
    for first in found:
        for second in found:
            assert (first.key == second.key) == isomorphic(first, second)


def test_keys_stay_what_they_are() -> None:
    """Stored trials and delivered networks are named by them."""
    large = Cell(
        ("input", *("sep3x3" if i * i % 7 < 3 else "conv1x1" for i in range(1, 31))),
        tuple(
            (i, j) for j in range(1, 31) for i in range(j) if i == j - 1 or (i * i + 3 * j) % 5 == 0
        ),
        "sum",
    )
    one = ("input", "conv1x1"), ((0, 1),)
    assert Cell(*one).key == "d254422eb508b2a7b2a7e60bea9de3b8"
    assert Cell(*one, "sum").key == "35c7a137531b58752640312d5579bb4c"
    assert rings([3, 3]).key == "89824cbff9d8976d399f60e1988b425c"
    assert rings([2, 4]).key == "d5a19cff642f126e2e6828f8eb0e5ebc"
    assert large.key == "7943ee4f90ec0ffe2ed842c58896b3ef"
    assert large.id == "7943ee4f90"


@given(st.lists(cells(aggregation="concat"), min_size=1, max_size=12))
@settings(max_examples=30, deadline=None)
def test_arrays_hold_the_same_cells(batch: list[Cell]) -> None:
    arrays = CellArrays.from_cells(batch)
    pruned = arrays.pruned()
    for index, cell in enumerate(batch):
        assert arrays.cell(index) == cell
        assert pruned.cell(index) == cell.pruned()
    assert [key.decode() for key in pruned.keys()] == [cell.key for cell in batch]
    joined = CellArrays.concatenate([arrays[:1], arrays])
    assert joined.cell(0) == joined.cell(1) == batch[0]


@given(cells())
@settings(max_examples=50, deadline=None)
def test_json_round_trip(cell: Cell) -> None:
    assert Cell.from_json(json.loads(json.dumps(cell.to_json()))) == cell


def test_pruning_drops_what_the_input_does_not_reach() -> None:
    cell = Cell(("input", "conv1x1", "sep3x3", "conv1x1"), ((0, 1), (1, 3), (2, 3)))
    assert not cell.is_pruned
    assert cell.pruned() == Cell(("input", "conv1x1", "conv1x1"), ((0, 1), (1, 2)))
    assert cell.leaves == (3,)
    assert cell.predecessors[3] == (1, 2)


@pytest.mark.parametrize(
    ("operations", "edges", "aggregation", "sentence"),
    [
        (("input", "conv1x1"), ((0, 1), (0, 1)), "concat", "given twice"),
        (("input", "conv1x1"), ((1, 1),), "concat", "self-loop"),
        (("input", "conv1x1", "sep3x3"), ((0, 1), (2, 1)), "concat", "cycle"),
        (("input", "conv9x9"), ((0, 1),), "concat", "unknown operation 'conv9x9' at node 1"),
        (("input", "conv1x1"), ((0, 2),), "concat", "names node 2"),
        (("input", "conv1x1"), (), "concat", "no edge leaves"),
        (("conv1x1", "input"), ((0, 1),), "concat", "first operation"),
        (("input", "input"), ((0, 1),), "concat", "node 1 is .input.: only node 0"),
        (("input", "conv1x1"), ((0, 1),), "mean", "unknown aggregation"),
        (("input", *["conv1x1"] * 31), ((0, 1),), "concat", "of 31 nodes is too large: at most 30"),
        (("input", "conv1x1"), ((-1, 1),), "concat", "names node -1"),
        ((), (), "concat", "first operation"),
        (("input", "conv1x1", "sep3x3"), ((1, 2),), "concat", "no edge leaves"),
    ],
)
def test_what_is_no_cell_is_refused(
    operations: tuple[str, ...], edges: tuple[tuple[int, int], ...], aggregation: str, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        Cell(operations, edges, aggregation)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"operations": 3, "edges": []}',
        '{"operations": ["input"], "edges": [[0]]}',
        '{"operations": ["input", 7], "edges": []}',
        '{"operations": ["input"], "edges": []}',
        "\xff",
        '{"operations": ["input", "conv1x1"], "edges": [[0, true]]}',
        '{"operations": ["input", "conv1x1"], "edges": [[0, 1]], "aggregation": null}',
    ],
)
def test_files_that_are_no_cell_are_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "cell.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"cell\.json"):
        read_cell(path)


def test_arrays_of_no_cell_and_of_different_ones() -> None:
    none = CellArrays.from_cells([])
    assert (len(none), none.operations.shape, none.adjacency.shape) == (0, (0, 1), (0, 1, 1))
    assert none.aggregation == "concat"
    small, large = (
        Cell(
            ("input", *["sep3x3"] * nodes), tuple((0, node) for node in range(1, nodes + 1)), "sum"
        )
        for nodes in (1, 3)
    )
    joined = CellArrays.concatenate([CellArrays.from_cells([one]) for one in (small, large, small)])
    assert [joined.cell(index) for index in range(3)] == [small, large, small]
    assert joined.operations[0].tolist() == [0, 2, ABSENT, ABSENT]
    assert joined[1:].cell(0) == large
    with pytest.raises(ValueError, match="different aggregations"):
        CellArrays.from_cells([small, Cell(("input", "conv1x1"), ((0, 1),))])


def test_the_table_of_operations() -> None:
    given = [(one.name, one.kernel, one.is_separable) for one in TABLE[:2]]
    assert given == [("conv1x1", 1, False), ("sep3x3", 3, True)]
    assert all(one.kernel % 2 for one in TABLE)
    assert tuple(sorted({one.kernel for one in TABLE} - {1})) == KERNELS
    for kernel in (1, *KERNELS):
        names = [OPERATIONS[code] for code in codes_of(kernel)]
        assert names == [one.name for one in TABLE if one.kernel == kernel]


def test_a_cell_file(tmp_path: Path) -> None:
    cell = Cell(("input", "conv1x1", "sep3x3"), ((0, 1), (0, 2), (1, 2)), "sum")
    write_cell(tmp_path / "cell.json", cell)
    assert read_cell(tmp_path / "cell.json") == cell
    assert json.loads((tmp_path / "cell.json").read_text())["format"] == 1
    # By hand, without what has a default.
    (tmp_path / "own.json").write_text(
        '{"operations": ["input", "conv1x1", "sep3x3"], "edges": [[1, 2], [0, 1]]}'
    )
    assert read_cell(tmp_path / "own.json") == Cell(cell.operations, ((0, 1), (1, 2)), "concat")
