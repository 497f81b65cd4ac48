import base64
import json
import pickle
import struct
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from gemkit.errors import UserError
from gemkit.search import convert_tables, tables
from gemkit.search.features import Roles
from gemkit.search.interfaces import Candidates
from gemkit.search.nasbench101 import masked_crc32c
from gemkit.search.tables import Queries, TableSpace, load
from nasbench_records import crc32c, framed, masked, message, small_nasbench101

MEASURES = ("training_time", "train_accuracy", "validation_accuracy", "test_accuracy")
NAMES = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


def records_of(data: dict[str, np.ndarray], rows: range, path: bytes = b"") -> list[bytes]:
    found = []
    for row in rows:
        ops = [data["op_names"][code] for code in data["ops"][row] if code != 255]
        m = len(ops)
        edges = "".join(str(int(bit)) for bit in data["adjacency"][row][:m, :m].ravel())
        for run in range(3):
            evaluations = [[0.0] * 5] + [
                [epoch, *(float(data[f"{moment}_{q}_run{run}"][row]) for q in MEASURES)]
                for moment, epoch in (("halfway", 54.0), ("final", 108.0))
            ]
            text = base64.b64encode(message(evaluations, int(data["params"][row]), path)).decode()
            digest = str(data["module_hash"][row])
            found.append(json.dumps([digest, 108, edges, ",".join(ops), text]).encode())
    return found


@pytest.fixture
def runs(shared_data: Path) -> dict[str, np.ndarray]:
    with np.load(shared_data / "nasbench101_runs.npz") as archive:
        return dict(archive)


def edge_table(path: Path, seed: int, cells: int = 400, **metrics: np.ndarray) -> Path:
    rng = np.random.default_rng(seed)
    codes = rng.permutation(5**6)[:cells]
    ops = np.stack([codes // 5**k % 5 for k in range(6)], axis=1).astype(np.uint8)
    if not metrics:
        metrics = {"accuracy": rng.random(cells)}
    np.savez(path, ops=ops, op_names=np.array(NAMES), **metrics)
    return path


def test_crc_is_the_published_one(seed: int) -> None:
    assert crc32c(b"123456789") == 0xE3069283
    rng = np.random.default_rng(seed)
    data = rng.integers(256, size=200, dtype=np.uint8)
    starts = np.array([0, 7, 60])
    found = masked_crc32c(data, starts, 33)
    for start, one in zip(starts, found, strict=True):
        assert struct.pack("<I", one) == masked(data[start : start + 33].tobytes())


@pytest.mark.parametrize("checkpoint", [b"", b"/some/where/model.ckpt-1"])
def test_real_records_come_back_from_a_tfrecord(
    runs: dict[str, np.ndarray], tmp_path: Path, checkpoint: bytes
) -> None:
    file = tmp_path / "nasbench_only108.tfrecord"
    file.write_bytes(framed(records_of(runs, range(52), checkpoint)))
    table = load(file)
    assert len(table) == 52
    for name in ("final_validation_accuracy", "halfway_test_accuracy", "final_training_time"):
        expected = np.stack([runs[f"{name}_run{r}"] for r in range(3)], axis=1)
        np.testing.assert_array_equal(table.runs[name], expected)
        np.testing.assert_allclose(table.metrics[name], expected.mean(axis=1))
    np.testing.assert_array_equal(table.metric("params"), runs["params"])
    np.testing.assert_array_equal(table.graphs.adjacency, runs["adjacency"] != 0)
    cache = tmp_path / "nasbench_only108.tfrecord.npz"
    assert cache.is_file()
    again = load(file)
    np.testing.assert_array_equal(again.keys, table.keys)
    np.testing.assert_array_equal(
        again.runs["final_test_accuracy"], table.runs["final_test_accuracy"]
    )


def test_cache_of_another_file_is_not_used(tmp_path: Path, seed: int) -> None:
    file = tmp_path / "a.tfrecord"
    file.write_bytes(framed(small_nasbench101(seed, 4)))
    assert len(load(file)) == 4
    file.write_bytes(framed(small_nasbench101(seed, 5)))
    assert len(load(file)) == 5


def test_lengths_of_training_are_kept_apart(tmp_path: Path, seed: int) -> None:
    records = small_nasbench101(seed, 3)
    shorter = [json.dumps([*json.loads(r)[:1], 4, *json.loads(r)[2:]]).encode() for r in records]
    file = tmp_path / "nasbench_full.tfrecord"
    file.write_bytes(framed(records + shorter[:2]))
    table = load(file)
    assert {"final_test_accuracy", "final_test_accuracy_4ep"} <= set(table.metrics)
    assert np.isnan(table.metrics["final_test_accuracy_4ep"]).sum() == 1


def test_bad_files_are_refused_with_a_position(tmp_path: Path, seed: int) -> None:
    good = framed(small_nasbench101(seed))
    second = 16 + len(small_nasbench101(seed)[0])
    spoiled = bytearray(good)
    spoiled[second + 40] ^= 1
    long = bytearray(good)
    long[second] ^= 1
    file = tmp_path / "x.tfrecord"
    cases = {
        b"": "is empty",
        good[:-3]: "truncated: record 5",
        good[:5]: "truncated: record 0 at byte 0",
        good[: second + 6]: f"truncated: record 1 at byte {second}",
        bytes(spoiled): f"record 1 at byte {second} fails its checksum",
        bytes(long): f"record 1 at byte {second} fails its checksum",
        b"hello, this is no such file at all": "no TFRecord file",
        framed([b"[1, 2]"]): "record 0 at byte 0 is no NAS-Bench-101 record",
        framed([*small_nasbench101(seed), b"\xff"]): "is no NAS-Bench-101 record",
    }
    for content, sentence in cases.items():
        file.write_bytes(content)
        with pytest.raises(UserError, match=sentence):
            load(file)
    assert not list(tmp_path.glob("*.npz"))


def test_fuzzed_files_give_a_table_or_one_sentence(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    records = framed(small_nasbench101(seed))
    npz = edge_table(tmp_path / "good.npz", seed, 30).read_bytes()
    refused = 0
    for trial in range(300):
        source = bytearray(records if trial % 2 else npz)
        for _ in range(rng.integers(1, 4)):
            source[rng.integers(len(source))] = rng.integers(256)
        if rng.random() < 0.3:
            source = source[: rng.integers(len(source))]
        file = tmp_path / f"{trial}.{'tfrecord' if trial % 2 else 'npz'}"
        file.write_bytes(source)
        sentence = ""
        try:
            load(file)
        except UserError as error:
            sentence = str(error)
            refused += 1
        assert "\n" not in sentence
    assert refused > 100


def test_other_wrong_inputs(tmp_path: Path, seed: int) -> None:
    with pytest.raises(UserError, match="no file"):
        load(tmp_path / "missing.npz")
    pth = tmp_path / "NAS-Bench-201-v1_1-096897.pth"
    pth.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match=r"gemkit\.search\.convert_tables nasbench201"):
        load(pth)
    table = load(edge_table(tmp_path / "t.npz", seed))
    with pytest.raises(UserError, match="no metric 'speed'; it has accuracy"):
        table.metric("speed")
    for arrays, sentence in (
        ({"a": np.zeros(3)}, "no array 'ops'"),
        ({"ops": np.full((3, 6), 9), "op_names": np.array(NAMES)}, "row 0 of 'ops' has the code 9"),
        ({"ops": np.zeros((3, 5), int), "op_names": np.array(NAMES)}, "5 columns"),
        ({"ops": np.array([[{}]], dtype=object), "op_names": np.array(NAMES)}, "Python objects"),
        (
            {
                "ops": np.array([[0, 1]]),
                "op_names": np.array(["input", "output"]),
                "adjacency": np.ones((1, 2, 2), int),
            },
            "row 0 is no cell",
        ),
        (
            {"ops": np.zeros((2, 6), int), "op_names": np.array(list(map(str, range(61))))},
            "61 kinds",
        ),
        (
            {
                "ops": np.zeros((2, 28), int),
                "op_names": np.array(NAMES),
                "edges": np.array([(i, j) for j in range(1, 8) for i in range(j)]),
            },
            "5 operations on 28 edges",
        ),
        ({"ops": np.zeros((2, 5), int), "op_names": np.array([b"caf\xe9"])}, "5 columns"),
    ):
        np.savez(tmp_path / "w.npz", **arrays)
        with pytest.raises(UserError, match=sentence):
            load(tmp_path / "w.npz")


def outputs(ops: np.ndarray) -> float:
    """What a NAS-Bench-201 cell computes, with numbers in place of tensors."""
    act = {2: lambda x: np.tanh(x + 0.3), 3: lambda x: np.sin(2 * x + 0.1), 4: lambda x: x**2 + 0.2}
    nodes = [0.7]
    position = 0
    dead = [False]
    for target in (1, 2, 3):
        terms = []
        for source in range(target):
            code = ops[position]
            position += 1
            if code == 0 or dead[source]:
                continue
            terms.append(nodes[source] if code == 1 else act[code](nodes[source]))
        nodes.append(sum(terms))
        dead.append(not terms)
    return float("nan") if dead[3] else nodes[3]


def test_merging_agrees_with_evaluating_the_cells(tmp_path: Path, seed: int) -> None:
    # Columns stand for the edges (0,1) (0,2) (1,2) (0,3) (1,3) (2,3): the order of `outputs`.
    path = edge_table(tmp_path / "t.npz", seed, 1500)
    table, merged = load(path), load(path, unique=True)
    assert table.ops is not None
    keys = [round(outputs(row), 10) for row in table.ops]
    distinct = len({key for key in keys if key == key}) + any(key != key for key in keys)
    assert len(merged) == distinct
    assert merged.merged == 1500 - distinct


def test_whole_nasbench201(shared_data: Path) -> None:
    table = load(shared_data / "nasbench201_cifar10.npz")
    assert len(table) == 15625
    assert np.isnan(table.metric("flops_M")).sum() == 6180
    assert load(shared_data / "nasbench201_cifar10.npz", unique=True).merged == 10695


def test_repeated_cells_are_one(shared_data: Path) -> None:
    table = load(shared_data / "nasbench101_sample.npz")
    assert (len(table), table.merged) == (292, 208)


def test_each_cell_is_paid_once_and_the_space_knows_no_metric(tmp_path: Path, seed: int) -> None:
    table = load(edge_table(tmp_path / "t.npz", seed))
    space, ask = TableSpace(table), Queries(table, "accuracy", seed)
    held = list(vars(space).values())
    for values in table.metrics.values():
        assert not any(part is values or part is table for part in held)
    cells = space.candidates(np.array([3, 5, 3]))
    np.testing.assert_array_equal(ask(cells), table.metric("accuracy")[[3, 5, 3]])
    ask(space.candidates(np.array([5, 9])))
    assert ask.paid == [3, 5, 9]


def test_a_query_shows_one_run_of_three(runs: dict[str, np.ndarray], shared_data: Path) -> None:
    table = load(shared_data / "nasbench101_runs.npz")
    space = TableSpace(table)
    every = space.candidates(np.arange(len(table)))
    shown = np.stack([Queries(table, "validation_accuracy", s)(every) for s in range(200)])
    choices = np.stack([runs[f"final_validation_accuracy_run{r}"] for r in range(3)], axis=1)
    assert all(set(shown[:, i]) <= set(choices[i]) for i in range(52))
    first = (shown == choices[None, :, 0]).mean()
    assert 0.3 < first < 0.4
    one = Queries(table, "validation_accuracy", 1)
    np.testing.assert_array_equal(one(every), one(every))
    assert one.reported_name == "final_test_accuracy"
    np.testing.assert_allclose(
        one.reported, np.mean([runs[f"final_test_accuracy_run{r}"] for r in range(3)], axis=0)
    )


def test_mutants_of_edge_cells_differ_in_one_operation(tmp_path: Path, seed: int) -> None:
    table = load(edge_table(tmp_path / "t.npz", seed, 5**6))
    space, rng = TableSpace(table), np.random.default_rng(seed)
    assert table.ops is not None
    parent = space.sample(rng, 1)
    found = space.mutate(rng, parent, 500)
    assert len(found) == 24
    assert len(set(found.payload.tolist())) == 24
    differences = (table.ops[found.payload] != table.ops[parent.payload]).sum(axis=1)
    assert (differences == 1).all()


def test_mutants_of_node_cells_are_in_the_table(shared_data: Path, seed: int) -> None:
    table = load(shared_data / "ecnas_nb101_5v.npz")
    space, rng = TableSpace(table), np.random.default_rng(seed)
    parents = space.sample(rng, 5)
    for found in (space.mutate(rng, parents, 60), space.crossover(rng, parents, 60)):
        assert 0 < len(found) <= 60
        assert len(set(found.payload.tolist())) == len(found)
        assert not set(found.payload.tolist()) & set(parents.payload.tolist())
        np.testing.assert_array_equal(found.keys, table.keys[found.payload])


def test_mutants_of_node_cells_are_near_their_parent(shared_data: Path, seed: int) -> None:
    """About 2 edits away, random cells about 5; means over sixty lie five deviations apart."""
    table = load(shared_data / "ecnas_nb101_5v.npz")
    space, rng = TableSpace(table), np.random.default_rng(seed)

    def graph(row: int) -> nx.DiGraph:
        found = nx.DiGraph(np.argwhere(table.graphs.adjacency[row]).tolist())
        labels = enumerate(table.graphs.labels[row].tolist())
        found.add_nodes_from((node, {"label": label}) for node, label in labels if label >= 0)
        return found

    near, far = [], []
    for _ in range(3):
        parent = space.sample(rng, 1)
        (row,) = parent.payload
        for rows, edits in (
            (space.mutate(rng, parent, 20).payload, near),
            (space.sample(rng, 20).payload, far),
        ):
            edits += [
                nx.graph_edit_distance(graph(row), graph(other), node_match=dict.__eq__)
                for other in rows
            ]
    assert np.mean(near) < 0.7 * np.mean(far)


def test_edges_become_nodes(tmp_path: Path) -> None:
    ops = np.array([[3, 1, 2, 4, 0, 3]], dtype=np.uint8)
    np.savez(tmp_path / "t.npz", ops=ops, op_names=np.array(NAMES), a=np.ones(1))
    graphs = load(tmp_path / "t.npz").graphs
    # Sorted by edge: (0,1) (0,2) (0,3) (1,2) (1,3) (2,3).
    assert (graphs.labels[0] - 2).tolist()[1:-1] == [3, 1, 4, 2, 0, 3]
    followers = {(i, j) for i, j in np.argwhere(graphs.adjacency[0]).tolist()}
    expected = {(0, 1), (0, 2), (0, 3), (1, 4), (1, 5), (2, 6), (4, 6), (3, 7), (5, 7), (6, 7)}
    assert followers == expected


def test_memo_describes_a_table_once(tmp_path: Path, seed: int) -> None:
    from gemkit.search.predictor import describe

    table = load(edge_table(tmp_path / "t.npz", seed))
    space, calls = TableSpace(table), []

    def how(graphs: object) -> object:
        calls.append(1)
        return describe(graphs, Roles(), 7, ("counts", "paths"))

    some = space.candidates(np.array([7, 2, 2]))
    for _ in range(3):
        found = space.memo(some, "key", how)
    assert len(calls) == 1
    direct = describe(some.graphs, Roles(), 7, ("counts", "paths"))
    np.testing.assert_array_equal(found.dense["counts"], direct.dense["counts"])
    words = np.unique(direct.sparse["paths"].codes)
    np.testing.assert_array_equal(
        found.sparse["paths"].dense(words), direct.sparse["paths"].dense(words)
    )


CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|none~1|nor_conv_1x1~2|"


def test_converters_read_small_files_of_the_original_form(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    def results(accuracy: float) -> dict[str, object]:
        return {"flop": 10.0, "params": 0.1, "eval_acc1es": {"x-valid@199": accuracy}}

    info = {
        "all_results": {
            ("cifar10-valid", 777): results(80.0),
            ("cifar10-valid", 888): results(82.0),
        }
    }
    stored = {"meta_archs": [CELL], "arch2infos": {0: {"full": info}}}
    torch.save(stored, tmp_path / "n.pth")
    hardware = {
        "nasbench201": {
            "cifar10": {"config": [{"arch_str": CELL}], "raspi4_latency": [np.float64(2.5)]}
        }
    }
    (tmp_path / "h.pickle").write_bytes(pickle.dumps(hardware, 2))
    hardware["nasbench201"]["cifar10"]["raspi4_latency"] = [2.5]
    (tmp_path / "i.pickle").write_bytes(pickle.dumps(hardware, 3))
    (tmp_path / "c.csv").write_text(f"cell,accuracy\n{CELL},91.5\n")
    (tmp_path / "r.tfrecord").write_bytes(framed(small_nasbench101(0)))
    for form, source, metric, value in (
        ("nasbench201", "n.pth", "cifar10-valid_x-valid_199", 81.0),
        ("hw-nas-bench", "h.pickle", "raspi4_latency", 2.5),
        ("hw-nas-bench", "i.pickle", "raspi4_latency", 2.5),
        ("csv", "c.csv", "accuracy", 91.5),
        ("nasbench101", "r.tfrecord", "params", 1000),
    ):
        target = tmp_path / f"{form}.npz"
        assert convert_tables.main([form, str(tmp_path / source), str(target)]) == 0
        assert load(target).metric(metric)[0] == value
    assert load(tmp_path / "csv.npz").ops.tolist() == [[3, 3, 4, 1, 0, 2]]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_csv_of_any_editor_is_read(mark: bytes, end: bytes, tmp_path: Path) -> None:
    lines = [b"cell,accuracy", f"{CELL},91.5".encode(), b""]
    (tmp_path / "c.csv").write_bytes(mark + end.join(lines))
    found = convert_tables.from_csv(tmp_path / "c.csv")
    assert found["accuracy"].tolist() == [91.5]


def test_converters_run_no_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "pwned",))

    bad = tmp_path / "bad.pickle"
    for protocol in (2, 3, 4, 5):
        bad.write_bytes(pickle.dumps(Evil(), protocol))
        for form in ("hw-nas-bench", "nasbench201"):
            assert convert_tables.main([form, str(bad), str(tmp_path / "o.npz")]) == 2
            error = capsys.readouterr().err
            assert error.count("\n") == 1
            assert "cannot be read without running its code" in error
    pages = (
        b"hello world",
        b"<!DOCTYPE html><html>Virus scan warning</html>",
        b"\n<html>",
        b"{}",
        b"",
    )
    for form in ("hw-nas-bench", "nasbench201"):
        for page in pages:
            bad.write_bytes(page)
            assert convert_tables.main([form, str(bad), str(tmp_path / "o.npz")]) == 2
            error = capsys.readouterr().err
            assert "of another kind" in error
            assert "running its" not in error
    assert not (tmp_path / "pwned").exists()
    assert not (tmp_path / "o.npz").exists()
    with pytest.raises(UserError, match="no cell of NAS-Bench-201"):
        convert_tables.parse_cell("|nor_conv_3x3~0|+|junk~0|none~1|")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"cell,accuracy\ncaf\xe9,1\n", "no csv file in UTF-8"),
        (b"accuracy,cell\n1\n", "is no cell of NAS-Bench-201"),
        (f"cell,file\n{CELL},1\n".encode(), "cannot be called 'file'"),
        (f"cell,ops\n{CELL},1\n".encode(), "cannot be called 'ops'"),
        (b"cell,accuracy\n" + b"x" * 200_000 + b",1\n", "no csv file in UTF-8"),
    ],
)
def test_csv_files_that_cannot_be_read(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "cells.csv").write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        convert_tables.from_csv(tmp_path / "cells.csv")


def test_cells_of_a_candidates_batch_keep_their_places(tmp_path: Path, seed: int) -> None:
    table = load(edge_table(tmp_path / "t.npz", seed))
    space = TableSpace(table)
    joined = Candidates.concatenate(
        [space.candidates(np.array([1, 2])), space.candidates(np.array([3]))]
    )
    assert joined.payload.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(joined[1].graphs.labels[0], table.graphs.labels[2])
    assert tables.ABSENT == 255
