"""Rewrites and orders of ONNX graphs: the written file computes what it did before."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import permutations
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from gemkit.architecture import Architecture, skeleton_for
from gemkit.cell import Cell
from gemkit.cost import cost, peak_memory
from gemkit.errors import UserError
from gemkit.export import memory, optimize, rewrites, schedule
from gemkit.export.graph import Graph, Node, read, write
from gemkit.export.onnx_builder import build_onnx
from gemkit.search.sampling import random_cells

REWRITES = {
    "global pooling": rewrites.pool_globally,
    "pad 4": partial(rewrites.pad_channels, multiple=4),
    "pad 8": partial(rewrites.pad_channels, multiple=8),
    "pad 16": partial(rewrites.pad_channels, multiple=16),
    "share sums": rewrites.share_sums,
    "sums at once": rewrites.sums_at_once,
    "merge siblings": rewrites.merge_siblings,
    "split pairs": partial(rewrites.split_concats, largest=2),
    "split all": rewrites.split_concats,
    "partial sums": partial(memory.accumulate, tries=50),
    "all": lambda graph: rewrites.split_concats(
        rewrites.merge_siblings(
            rewrites.sums_at_once(rewrites.share_sums(rewrites.pad_channels(graph, 8)))
        ),
        3,
    ),
}
SMALL, LARGE = (1, 8, 8), (3, 32, 32)
CHAIN = Cell(("input", "conv1x1", "sep3x3"), ((0, 1), (1, 2)))


def random_architecture(
    rng: np.random.Generator, aggregation: str, shape: tuple[int, int, int] = SMALL, nodes: int = 12
) -> Architecture:
    cell = random_cells(rng, 1, nodes, aggregation, nodes).cell(0)
    return Architecture((cell,), skeleton_for(shape, 10), int(rng.integers(4, 21)))


def outputs(
    model: onnx.ModelProto, path: Path, seed: int = 0, fusions: bool = True
) -> list[np.ndarray]:
    """What onnxruntime computes from the written file, for batches 1 and 3."""
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if not fusions:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    rng = np.random.default_rng(seed)
    found = []
    for batch in (1, 3):
        values = rng.random((batch, *given.shape[1:]), dtype=np.float32)
        if "uint8" in given.type:
            values = (values * 255).astype(np.uint8)
        found.append(session.run(None, {given.name: values})[0])
    return found


def assert_close(found: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    for y, z in zip(found, wanted, strict=True):
        assert y.shape == z.shape
        assert np.abs(y - z).max() <= 1e-4 * max(1.0, np.abs(z).max() / 100)


def count(graph: Graph, *ops: str) -> int:
    return sum(node.op in ops for node in graph.nodes)


# Reading and writing


@pytest.mark.parametrize("aggregation", ["concat", "sum"])
def test_reading_and_writing_keeps_the_model(seed: int, tmp_path: Path, aggregation: str) -> None:
    rng = np.random.default_rng(seed)
    model = build_onnx(random_architecture(rng, aggregation), seed=seed)
    again = write(read(model))
    assert [node.op_type for node in again.graph.node] == [n.op_type for n in model.graph.node]
    for found, wanted in zip(
        outputs(again, tmp_path / "a.onnx"), outputs(model, tmp_path / "b.onnx"), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)


def test_a_model_with_inner_graphs_is_refused() -> None:
    inner = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "inner",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    node = helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner)
    with pytest.raises(UserError, match="operator If holds a graph"):
        read(helper.make_model(helper.make_graph([node], "g", [], [])))


# Rewrites


@pytest.mark.parametrize("aggregation", ["concat", "sum"])
@pytest.mark.parametrize("name", REWRITES)
def test_a_rewrite_keeps_the_outputs(
    seed: int, tmp_path: Path, name: str, aggregation: str
) -> None:
    rng = np.random.default_rng(seed)
    for index in range(3):
        nodes = int(rng.integers(3, 15))
        model = build_onnx(random_architecture(rng, aggregation, nodes=nodes), seed=seed + index)
        graph = read(model)
        rewritten = REWRITES[name](graph)
        if rewritten is graph:
            continue
        found = outputs(write(rewritten), tmp_path / "rewritten.onnx", seed)
        assert_close(found, outputs(model, tmp_path / "plain.onnx", seed))


@pytest.mark.parametrize("aggregation", ["concat", "sum"])
def test_thirty_nodes_at_three_resolutions(seed: int, tmp_path: Path, aggregation: str) -> None:
    rng = np.random.default_rng(seed)
    model = build_onnx(random_architecture(rng, aggregation, LARGE, 30), seed=seed)
    wanted = outputs(model, tmp_path / "plain.onnx", seed)
    for rewrite in (REWRITES["all"], partial(memory.accumulate, tries=10)):
        found = outputs(write(rewrite(read(model))), tmp_path / "rewritten.onnx", seed)
        assert_close(found, wanted)


@pytest.mark.parametrize("multiple", [4, 8, 16])
def test_padding_makes_all_channels_divisible(seed: int, multiple: int) -> None:
    rng = np.random.default_rng(seed)
    architecture = random_architecture(rng, "concat")
    padded = rewrites.pad_channels(read(build_onnx(architecture)), multiple)
    for node in padded.nodes:
        if node.op in ("Conv", "Concat", "MaxPool"):
            assert padded.channels(node.output) % multiple == 0
    widths = {
        architecture.width * stage.width_factor % multiple for stage in architecture.skeleton.stages
    }
    if widths == {0}:
        assert padded.nodes == read(build_onnx(architecture)).nodes


def test_padding_stops_before_what_it_does_not_know() -> None:
    weights = numpy_helper.from_array(np.ones((3, 1, 1, 1), np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"]),
        helper.make_node("Sigmoid", ["y"], ["z"]),  # makes 0.5 of zero channels
    ]
    sizes = {"x": ["n", 1, 2, 2], "z": ["n", 3, 2, 2]}
    values = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in sizes.items()}
    graph = read(
        helper.make_model(helper.make_graph(nodes, "g", [values["x"]], [values["z"]], [weights]))
    )
    assert rewrites.pad_channels(graph, 8) is graph


def model_of(
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    out: str,
    channels: int = 1,
    shape: list[str | int] | None = None,
) -> onnx.ModelProto:
    """A model that reads pictures `x` of 5x5 pixels and writes `out`."""
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", channels, 5, 5]),
        helper.make_tensor_value_info(out, TensorProto.FLOAT, shape),
    ]
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


@pytest.mark.parametrize("flat", ["Flatten", "Reshape", "Squeeze"])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("bias", [[], [""], ["b"]])  # without, left out by its name, with
def test_padding_ends_in_the_linear_layer(
    seed: int, tmp_path: Path, transposed: bool, bias: list[str], flat: str
) -> None:
    rng = np.random.default_rng(seed)
    sizes = {"w": (6, 2, 3, 3), "b": (6,), "u": (9, 6, 1, 1), "a": (9,), "c": (5,)}
    sizes["v"] = (5, 9) if transposed else (9, 5)
    weights = {name: rng.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    weights |= {"Reshape": np.array([-1, 9]), "Squeeze": np.array([2, 3])}
    nodes = [
        helper.make_node("Conv", ["x", "w", *bias], ["y"], pads=[1] * 4),
        helper.make_node("Relu", ["y"], ["r"]),
        helper.make_node("Conv", ["r", "u", *("a" if name else "" for name in bias)], ["q"]),
        helper.make_node("GlobalAveragePool", ["q"], ["p"]),
        helper.make_node(flat, ["p", *([] if flat == "Flatten" else [flat])], ["f"]),
        helper.make_node(
            "Gemm", ["f", "v", *(["c"] if bias == ["b"] else [])], ["z"],
            **({"transB": 1} if transposed else {}),
        ),
    ]  # fmt: skip
    model = model_of(nodes, weights, "z", channels=2, shape=["n", 5])
    padded = rewrites.pad_channels(read(model), 4)
    assert [padded.channels(name) for name in ("y", "r", "q", "p", "z")] == [8, 8, 12, 12, 5]
    assert_close(outputs(write(padded), tmp_path / "a.onnx"), outputs(model, tmp_path / "b.onnx"))


def test_channels_that_a_reader_would_see_are_not_padded() -> None:
    weights = {
        "w": np.ones((3, 1, 1, 1), np.float32),
        "d": np.ones((3, 1, 3, 3), np.float32),
        "g": np.ones((6, 1, 1, 1), np.float32),  # two outputs for each channel
    }
    conv = helper.make_node("Conv", ["x", "w"], ["y"])
    for reader in (
        helper.make_node("Relu", ["y"], ["z"]),
        helper.make_node("Conv", ["y", "d"], ["z"], group=3),
        helper.make_node("Conv", ["y", "g"], ["z"], group=3),
        helper.make_node("Softmax", ["y"], ["z"], axis=1),
        helper.make_node("ReduceMean", ["y"], ["z"], axes=[1]),
        helper.make_node("Concat", ["y", "y"], ["z"], axis=2),
        helper.make_node("Flatten", ["y"], ["z"]),
    ):
        used = {name: value for name, value in weights.items() if name in ("w", *reader.input)}
        # Behind the reader another step, so that it does not itself write the model's output.
        end = helper.make_node("Neg", ["z"], ["end"])
        for nodes, out in (([conv, reader], "z"), ([conv, reader, end], "end")):
            graph = read(model_of(nodes, used, out))
            assert rewrites.pad_channels(graph, 4) is graph, (reader.op_type, out)
    graph = read(model_of([conv], {"w": weights["w"]}, "y"))
    assert rewrites.pad_channels(graph, 4) is graph


def test_the_sums_of_a_complete_cell_become_running_totals() -> None:
    nodes = 9
    edges = tuple((i, j) for j in range(1, nodes + 1) for i in range(j))
    cell = Cell(("input", *["conv1x1"] * nodes), edges, "sum")
    graph = read(build_onnx(Architecture((cell,), skeleton_for(SMALL, 10), 8)))
    cells = len(skeleton_for(SMALL, 10).stages)
    assert count(graph, "Add") == cells * (sum(range(nodes)) + 1)
    # Node j adds one tensor to the total of node j - 1; one more addition ends the cell.
    assert count(rewrites.share_sums(graph), "Add") == cells * (nodes - 1 + 1)


def test_shared_sums_are_fewer_and_sum_the_same_tensors(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cells = random_cells(rng, 40, 30, "sum", 30)
    dense = next(one for one in map(cells.cell, range(len(cells))) if len(one.edges) >= 120)
    graph = read(build_onnx(Architecture((dense,), skeleton_for(SMALL, 10), 4)))
    shared = rewrites.share_sums(graph)
    assert count(shared, "Add") < count(graph, "Add")
    assert convolved(shared) == convolved(graph)


def convolved(graph: Graph) -> dict[str, list[str]]:
    """For every convolution the tensors whose sum it reads."""
    return {
        node.output: sorted(terms(graph, node.inputs[0]))
        for node in graph.nodes
        if node.op == "Conv"
    }


def terms(graph: Graph, name: str) -> list[str]:
    node = graph.producer.get(name)
    if node is None or node.op != "Add":
        return [name]
    return [term for operand in node.inputs for term in terms(graph, operand)]


def test_a_tensor_added_twice_stays_so(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["x", "x"], ["a"]),
        helper.make_node("Add", ["a", "x"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Add", ["c", "x"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 2, 3, 3]) for n in "xy"]
    model = helper.make_model(
        helper.make_graph(nodes, "g", values[:1], values[1:]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    wanted = outputs(model, tmp_path / "plain.onnx")
    for name in ("share sums", "sums at once", "partial sums"):
        found = outputs(write(REWRITES[name](read(model))), tmp_path / "rewritten.onnx")
        assert_close(found, wanted)


def test_splitting_leaves_no_concatenation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = read(build_onnx(random_architecture(rng, "concat", nodes=10)))
    assert count(rewrites.split_concats(graph), "Concat") == 0
    for node in rewrites.split_concats(graph, largest=3).nodes:
        assert node.op != "Concat" or len(node.inputs) > 3


@pytest.mark.parametrize("bias", [[], [""], ["b"]])
@pytest.mark.parametrize("name", ["split all", "merge siblings"])
def test_convolutions_with_and_without_bias(
    seed: int, tmp_path: Path, name: str, bias: list[str]
) -> None:
    rng = np.random.default_rng(seed)
    biases = [[f"{one}{index}" for one in bias if one] or bias for index in range(4)]
    nodes = [
        helper.make_node("Conv", ["x", "w0", *biases[0]], ["y0"]),
        helper.make_node("Conv", ["x", "w1", *biases[1]], ["y1"]),
        helper.make_node("Concat", ["y0", "y1"], ["j"], axis=1),
        helper.make_node("Conv", ["j", "w2", *biases[2]], ["y2"]),
        helper.make_node("Conv", ["j", "w3", *biases[3]], ["y3"]),
        helper.make_node("Concat", ["y2", "y3"], ["z"], axis=1),
    ]
    weights = {}
    for index, (wrote, read_) in enumerate(((2, 1), (3, 1), (4, 5), (6, 5))):
        weights[f"w{index}"] = rng.normal(size=(wrote, read_, 1, 1)).astype(np.float32)
        if bias == ["b"]:
            weights[f"b{index}"] = rng.normal(size=wrote).astype(np.float32)
    model = model_of(nodes, weights, "z", shape=["n", 10, 5, 5])
    rewritten = REWRITES[name](read(model))
    assert rewritten.nodes != read(model).nodes
    found = outputs(write(rewritten), tmp_path / "a.onnx", seed)
    assert_close(found, outputs(model, tmp_path / "b.onnx", seed))


def test_siblings_read_by_one_concatenation_become_one_convolution(tmp_path: Path) -> None:
    # Nodes 1 to 3 read the input, 4 reads all of them and one more.
    edges = ((0, 1), (0, 2), (0, 3), (1, 4), (2, 4), (3, 4), (0, 4))
    operations = ("input", "conv1x1", "conv1x1", "conv1x1", "sep3x3")
    architecture = Architecture((Cell(operations, edges),), skeleton_for(SMALL, 10), 5)
    model = build_onnx(architecture)
    graph = read(model)
    merged = rewrites.merge_siblings(graph)
    stages = len(architecture.skeleton.stages)
    assert count(merged, "Conv") == count(graph, "Conv") - 2 * stages
    assert {len(node.inputs) for node in merged.nodes if node.op == "Concat"} == {2}
    assert_close(outputs(write(merged), tmp_path / "a.onnx"), outputs(model, tmp_path / "b.onnx"))


def test_sums_of_three_and_more_are_written_as_one(tmp_path: Path) -> None:
    nodes = 9
    edges = tuple((i, j) for j in range(1, nodes + 1) for i in range(j))
    cell = Cell(("input", *["conv1x1"] * nodes), edges, "sum")
    model = build_onnx(Architecture((cell,), skeleton_for(SMALL, 10), 8))
    at_once = rewrites.sums_at_once(read(model))
    stages = len(skeleton_for(SMALL, 10).stages)
    sizes = sorted(len(node.inputs) for node in at_once.nodes if node.op == "Sum")
    assert sizes == sorted([*range(3, nodes + 1)] * stages)
    # Node 2 adds two tensors, and so does the end of the cell.
    assert count(at_once, "Add") == 2 * stages
    assert_close(outputs(write(at_once), tmp_path / "a.onnx"), outputs(model, tmp_path / "b.onnx"))
    assert rewrites.sums_at_once(at_once).nodes == at_once.nodes


@pytest.mark.parametrize("opset", [17, 18])
def test_only_a_mean_over_the_image_that_keeps_its_axes_is_a_pooling(
    tmp_path: Path, opset: int
) -> None:
    model = build_onnx(Architecture((CHAIN,), skeleton_for(SMALL, 10), 4), opset=opset)
    pooled = rewrites.pool_globally(read(model))
    assert count(pooled, "GlobalAveragePool") == 1
    assert count(pooled, "ReduceMean") == 0
    assert_close(outputs(write(pooled), tmp_path / "a.onnx"), outputs(model, tmp_path / "b.onnx"))
    assert rewrites.pool_globally(pooled) is pooled
    for axes, keepdims, pools in (
        ([2, 3], 1, True),
        ([-1, -2], 1, True),
        ([2, 3], 0, False),
        ([1, 2], 1, False),
        ([2], 1, False),
        ([1, 2, 3], 1, False),
        (None, 1, False),
    ):
        given = {} if axes is None else {"axes": axes}
        node = helper.make_node("ReduceMean", ["x"], ["y"], keepdims=keepdims, **given)
        ends = [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 4, 4]),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        ]
        graph = helper.make_graph([node], "g", ends[:1], ends[1:])
        opsets = [helper.make_opsetid("", 17)]
        mean = read(helper.make_model(graph, opset_imports=opsets, ir_version=10))
        assert count(rewrites.pool_globally(mean), "GlobalAveragePool") == pools, (axes, keepdims)


# Orders and memory


@pytest.mark.parametrize("aggregation", ["concat", "sum"])
@pytest.mark.parametrize("shape", [SMALL, LARGE])
def test_the_plain_order_needs_what_the_cost_model_says(
    seed: int, aggregation: str, shape: tuple[int, int, int]
) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(5):
        architecture = random_architecture(rng, aggregation, shape, int(rng.integers(1, 31)))
        peak = schedule.peak(read(build_onnx(architecture)))
        assert peak == cost(architecture).peak_memory_bytes


def brute_force(graph: Graph, accumulate: bool) -> int:
    """Least peak over all permutations that are orders."""
    steps = schedule.units(graph, accumulate)
    least = None
    for order in permutations(steps):
        there = set(graph.inputs)
        for unit in order:
            if not there.issuperset(unit.reads):
                break
            there.update(name for name, _ in unit.writes)
        else:
            peak = peak_memory(schedule.steps(order, graph))
            least = peak if least is None else min(least, peak)
    assert least is not None
    return least


@pytest.mark.parametrize("guessed", [False, True])
@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("aggregation", ["concat", "sum"])
def test_the_best_order_is_the_best_of_all(
    seed: int, monkeypatch: pytest.MonkeyPatch, aggregation: str, accumulate: bool, guessed: bool
) -> None:
    rng = np.random.default_rng(seed)
    if not guessed:  # the search begins at the order given
        monkeypatch.setattr(schedule.Problem, "beam", lambda self, done, part, *_: (part, 1 << 60))
    for _ in range(6):
        graph = small_graph(rng, aggregation)
        best = schedule.best_order(graph, accumulate=accumulate)
        assert best.peak == best.bound
        assert best.peak == brute_force(graph, accumulate)
        assert schedule.peak(schedule.in_order(graph, best.units), accumulate) == best.peak


def small_graph(rng: np.random.Generator, aggregation: str) -> Graph:
    """Random joins and rectifiers of tensors of random sizes: up to eight steps."""
    constants: dict[str, np.ndarray] = {}
    nodes: list[Node] = []
    names, channels = ["x"], {"x": 3}
    for index in range(int(rng.integers(2, 5))):
        read_names = [n for n in names if rng.random() < 0.5] or [names[-1]]
        joined = read_names[0]
        if aggregation == "sum":
            read_names = [n for n in read_names if channels[n] == channels[read_names[0]]]
        if len(read_names) > 1:
            joined = f"j{index}"
            op, attributes = ("Add", {}) if aggregation == "sum" else ("Concat", {"axis": 1})
            read_names = read_names[:2] if op == "Add" else read_names
            nodes.append(Node(op, tuple(read_names), (joined,), attributes))
            sizes = [channels[n] for n in read_names]
            channels[joined] = sizes[0] if op == "Add" else sum(sizes)
        size = int(rng.integers(1, 4)) if aggregation == "concat" else 3
        constants[f"w{index}"] = np.ones((size, channels[joined], 1, 1), np.float32)
        nodes.append(Node("Conv", (joined, f"w{index}"), (f"c{index}",)))
        channels[f"c{index}"] = size
        names.append(f"c{index}")
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 2, 2])]
    written = {name for node in nodes for name in node.inputs}
    ends = [name for name in names if name not in written]
    outs = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", channels[n], 2, 2]) for n in ends
    ]
    model = helper.make_model(helper.make_graph([], "g", given, outs))
    return Graph(tuple(nodes), constants, ("x",), tuple(ends), model)


@pytest.mark.parametrize("aggregation", ["concat", "sum"])
def test_reordering_changes_no_bit(seed: int, tmp_path: Path, aggregation: str) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(3):
        model = build_onnx(random_architecture(rng, aggregation, nodes=20), seed=seed)
        graph = read(model)
        given = schedule.peak(graph)
        best = schedule.best_order(graph, seconds=1)
        assert best.bound <= best.peak <= given
        reordered = schedule.in_order(graph, best.units)
        assert schedule.peak(reordered) == best.peak
        # With its fusions onnxruntime may add up in another order: it fuses what comes first.
        for found, wanted in zip(
            outputs(write(reordered), tmp_path / "a.onnx", seed, fusions=False),
            outputs(model, tmp_path / "b.onnx", seed, fusions=False),
            strict=True,
        ):
            np.testing.assert_array_equal(found, wanted)


def test_steps_that_all_others_wait_for_or_need_divide_an_order() -> None:
    # A chain; two branches between two steps; two chains that never meet.
    assert schedule.cut([0, 0b1, 0b10]) == [(0, [0]), (0b1, [1]), (0b11, [2])]
    assert schedule.cut([0, 0b1, 0b1, 0b110]) == [(0, [0]), (0b1, [1, 2, 3])]
    assert schedule.cut([0, 0, 0b1, 0b10]) == [(0, [0, 1, 2, 3])]


@pytest.mark.parametrize("aggregation", ["concat", "sum"])
def test_the_parts_of_an_order_make_up_the_whole(seed: int, aggregation: str) -> None:
    rng = np.random.default_rng(seed)
    graph = read(build_onnx(random_architecture(rng, aggregation, LARGE)))
    parts = schedule.parts(graph)
    assert len(parts) > 3
    assert [unit for part in parts for unit in part.units] == schedule.units(graph)
    assert max(part.peak for part in parts) == schedule.peak(graph)
    assert [part.before for part in parts[1:]] == [part.units[-1].size for part in parts[:-1]]


def test_memory_of_sums_and_rectifiers_by_hand() -> None:
    tensor = 5 * 5 * 4
    weights = {"w": np.ones((1, 1, 1, 1), np.float32), "v": np.ones((1, 1, 1, 1), np.float32)}
    relu = helper.make_node("Relu", ["x"], ["y"])
    # A rectifier takes the place of what it reads, unless that is needed again.
    assert schedule.peak(read(model_of([relu], {}, "y"))) == tensor
    both = [relu, helper.make_node("Add", ["y", "x"], ["z"])]
    assert schedule.peak(read(model_of(both, {}, "z"))) == 2 * tensor
    # Of two convolutions only the later one adds to what the other wrote: not both at once.
    two = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Conv", ["x", "v"], ["d"]),
        helper.make_node("Add", ["c", "d"], ["z"]),
    ]
    graph = read(model_of(two, weights, "z"))
    steps = [[node.output for node in unit.nodes] for unit in schedule.units(graph, True)]
    assert steps == [["c"], ["d", "z"]]
    assert schedule.peak(graph) == 3 * tensor
    assert schedule.peak(graph, accumulate=True) == 2 * tensor


def test_without_time_the_best_order_still_has_a_true_bound(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = read(build_onnx(random_architecture(rng, "concat", nodes=14)))
    hasty = schedule.best_order(graph, seconds=0)
    patient = schedule.best_order(graph, seconds=10)
    assert hasty.bound <= patient.bound <= patient.peak <= hasty.peak


@pytest.mark.parametrize("aggregation", ["concat", "sum"])
def test_partial_sums_never_need_more(seed: int, aggregation: str) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(2):
        graph = read(build_onnx(random_architecture(rng, aggregation, nodes=14)))
        given = schedule.peak(graph, accumulate=True)
        found = memory.accumulate(graph, tries=100)
        assert schedule.peak(found, accumulate=True) <= given
        assert found.nodes == memory.accumulate(graph, tries=100).nodes


def test_leaves_of_a_star_die_one_by_one() -> None:
    # Eight nodes read the input and are leaves: joined, all are alive; in partial sums only one.
    leaves = 8
    cell = Cell(("input", *["conv1x1"] * leaves), tuple((0, n + 1) for n in range(leaves)))
    skeleton = skeleton_for((1, 8, 8), 10)
    graph = read(build_onnx(Architecture((cell,), skeleton, 8)))
    tensor = 8 * 8 * 8 * 4
    assert schedule.peak(graph) == (1 + 2 * leaves) * tensor
    # The cell input, a leaf and the accumulator.
    assert schedule.peak(memory.accumulate(graph), accumulate=True) == 3 * tensor


# The whole optimiser


@pytest.mark.parametrize("objective", optimize.OBJECTIVES)
@pytest.mark.parametrize("aggregation", ["concat", "sum"])
def test_the_optimised_file_computes_the_same(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aggregation: str, objective: str
) -> None:
    monkeypatch.setattr(optimize, "ORDER_SECONDS", 0.2)
    monkeypatch.setattr(memory, "TRIES", 100)
    rng = np.random.default_rng(seed)
    model = build_onnx(random_architecture(rng, aggregation), seed=seed)
    helper.set_model_props(model, {"gemkit.note": "kept"})
    onnx.save(model, tmp_path / "plain.onnx")
    report = optimize.optimize_file(
        tmp_path / "plain.onnx", tmp_path / "better.onnx", objective, seconds=0.02
    )
    better = onnx.load(tmp_path / "better.onnx")
    assert {item.key: item.value for item in better.metadata_props}["gemkit.note"] == "kept"
    assert better.graph.input == model.graph.input
    assert better.graph.output == model.graph.output
    assert_close(outputs(better, tmp_path / "b.onnx"), outputs(model, tmp_path / "a.onnx"))
    before, after = report.peak_memory_bytes
    if objective == "memory":
        assert report.lower_bound_bytes is not None
        assert report.lower_bound_bytes <= after <= before
        assert after <= (report.order_only_bytes or 0) <= before
        assert sum(item.applied for item in report.tried) <= 1
    if not report.applied:
        assert better == model
    assert report.to_json()["rewrites"]


def test_only_what_pays_is_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    gains = {"slower": 0.9, "faster": 1.2, "fastest": 1.3, "hardly": 1.31}
    asked: list[str] = []

    def named(name: str) -> rewrites.Rewrite:
        def rewrite(graph: Graph) -> Graph:
            asked.append(name)
            return Graph(graph.nodes, graph.constants, graph.inputs, graph.outputs, graph.model)

        return rewrite

    stages = (("slower", "fastest", "faster"), ("hardly",))
    monkeypatch.setattr(
        optimize, "STAGES", tuple({name: named(name) for name in stage} for stage in stages)
    )
    cell = Cell(("input", "conv1x1"), ((0, 1),))

    def measure(paths: Sequence[Path]) -> list[float]:
        """The files are written in the order in which the rewrites were asked for."""
        names = [["plain", *asked][int(path.stem)] for path in paths]
        return [2.0 / gains.get(name, 1.0) for name in names]

    plain = build_onnx(Architecture((cell,), skeleton_for(SMALL, 10), 4))
    _, report = optimize.optimize(plain, measure=measure)
    assert report.applied == ("fastest",)
    found = {item.name: item.speedup for item in report.tried}
    # The last was tried on the fastest.
    assert found == pytest.approx(gains | {"hardly": gains["hardly"] / gains["fastest"]})
    assert report.speedup == pytest.approx(1.3)
    assert report.calm_ms == pytest.approx((2.0, 2.0 / 1.3))


def test_every_candidate_splits_what_its_name_says(seed: int) -> None:
    """Four leaves and nodes of two and three inputs: concatenations of 2, 3 and 4."""
    edges = ((0, 1), (0, 2), (1, 3), (2, 3), (0, 4), (1, 4), (2, 4), (0, 5), (0, 6))
    cell = Cell(("input", *["conv1x1"] * 6), edges)
    graph = read(build_onnx(Architecture((cell,), skeleton_for(SMALL, 10), 8), seed=seed))
    candidates = {name: rewrite for stage in optimize.STAGES for name, rewrite in stage.items()}
    for name, left in (
        ("concatenations of 2 split", {3, 4}),
        ("concatenations up to 3 split", {4}),
        ("all concatenations split", set()),
    ):
        split = candidates[name](graph)
        assert {len(node.inputs) for node in split.nodes if node.op == "Concat"} == left, name


@pytest.mark.parametrize("aggregation", ["concat", "sum"])
def test_the_memory_told_is_that_of_the_file(
    seed: int, monkeypatch: pytest.MonkeyPatch, aggregation: str
) -> None:
    monkeypatch.setattr(optimize, "ORDER_SECONDS", 0.5)
    monkeypatch.setattr(memory, "TRIES", 200)
    model = build_onnx(random_architecture(np.random.default_rng(seed), aggregation), seed=seed)
    better, report = optimize.optimize(model, "memory", measure=lambda paths: [1.5, 1.0])
    graph = read(better)
    peaks = schedule.peak(graph), schedule.peak(graph, accumulate=True)
    assert report.peak_memory_bytes == (schedule.peak(read(model)), min(peaks))
    applied = [item for item in report.tried if item.applied]
    assert len(applied) <= 1
    for item in applied:
        assert item.peak_memory_bytes == report.peak_memory_bytes[1] < report.peak_memory_bytes[0]
    for item in report.tried:
        assert item.note or item.speedup == 1.5
        assert (item.peak_memory_bytes or 0) >= report.peak_memory_bytes[1]


def test_what_changes_the_outputs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: Graph) -> Graph:
        name = graph.nodes[0].inputs[1]
        return graph.with_nodes(graph.nodes, {name: graph.constants[name] + 1})

    stage = {"nothing": lambda graph: graph, "broken": broken}
    monkeypatch.setattr(optimize, "STAGES", (stage,))
    cell = Cell(("input", "conv1x1"), ((0, 1),))
    model = build_onnx(Architecture((cell,), skeleton_for(SMALL, 10), 4))
    told: list[optimize.Tried] = []
    same, report = optimize.optimize(
        model, measure=lambda paths: [1.0] * len(paths), progress=told.append
    )
    assert same is model
    assert told == list(report.tried)
    assert report.tried[0].speedup is None
    assert report.tried[0].note.startswith("outputs differ by")
    assert report.speedup == 1


def test_what_does_not_pay_in_the_end_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    again = {"again": lambda graph: graph.with_nodes(graph.nodes)}
    monkeypatch.setattr(optimize, "STAGES", (again,))
    # Twice faster while it was tried, twice no faster at the end.
    found = iter([(1.5, 1.0), (1.5, 1.0), (1.0, 1.0), (1.5, 1.0)])
    cell = Cell(("input", "conv1x1"), ((0, 1),))
    model = build_onnx(Architecture((cell,), skeleton_for(SMALL, 10), 4))
    told: list[optimize.Tried] = []
    same, report = optimize.optimize(model, measure=lambda paths: next(found), progress=told.append)
    assert same is model
    assert any(item.applied for item in told)
    assert not report.applied


def test_a_difference_in_a_larger_batch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums over the images so far: the first image keeps its outputs."""

    def summed(graph: Graph) -> Graph:
        (last,) = graph.outputs
        nodes = [
            replace(node, outputs=tuple("alone" if name == last else name for name in node.outputs))
            for node in graph.nodes
        ]
        nodes.append(Node("CumSum", ("alone", "batch axis"), (last,)))
        return graph.with_nodes(nodes, {"batch axis": np.array(0, np.int64)})

    monkeypatch.setattr(optimize, "STAGES", ({"summed": summed},))
    cell = Cell(("input", "conv1x1"), ((0, 1),))
    model = build_onnx(Architecture((cell,), skeleton_for(SMALL, 10), 4))
    same, report = optimize.optimize(model, measure=lambda paths: [1.0] * len(paths))
    assert same is model
    assert report.tried[0].note.startswith("outputs differ by")


def test_pictures_as_bytes_go_through(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = build_onnx(random_architecture(rng, "sum"), seed=seed)
    graph = model.graph
    graph.node[0].input[0] = "scaled"
    before = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["planes", "scale"], ["scaled"]),
    ]
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == "image":
                node.input[place] = "scaled"
    nodes = [*before, *graph.node]
    del graph.node[:], graph.input[:]
    graph.node.extend(nodes)
    graph.input.append(
        helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 8, 8, 1])
    )
    graph.initializer.append(numpy_helper.from_array(np.float32(1 / 255), "scale"))
    better, _ = optimize.optimize(model, seconds=0.01)
    assert_close(outputs(better, tmp_path / "b.onnx"), outputs(model, tmp_path / "a.onnx"))


def test_bad_input_is_said_in_a_sentence(tmp_path: Path) -> None:
    cell = Cell(("input", "conv1x1"), ((0, 1),))
    model = build_onnx(Architecture((cell,), skeleton_for(SMALL, 10), 4))
    with pytest.raises(UserError, match="unknown objective 'size': use one of latency, memory"):
        optimize.optimize(model, "size")
    target = tmp_path / "target.onnx"
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(model.SerializeToString()[:100])
    for source in (damaged, tmp_path / "absent.onnx"):
        with pytest.raises(UserError):
            optimize.optimize_file(source, target)
    dynamic = onnx.ModelProto()
    dynamic.CopyFrom(model)
    dynamic.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    with pytest.raises(UserError, match="only the batch"):
        optimize.optimize(dynamic)
    assert not target.exists()
