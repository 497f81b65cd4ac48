"""Any ONNX file and networks by name, side by side; what cannot be run is one sentence."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gemkit.errors import UserError
from gemkit.export.benchmark import benchmark, latency_ms, precision_of
from gemkit.export.exporter import export_onnx
from networks import DIGITS, random_network
from onnx_files import model

QUICK = {"seconds": 0.01, "rounds": 2}


def own(path: Path, seed: int) -> Path:
    network = random_network(np.random.default_rng(seed), width=4)
    names = [str(label) for label in range(DIGITS.classes)]
    how = {"class_names": names, "mean": [0.3], "std": [0.4]}
    export_onnx(network, path, input_shape=DIGITS.input_shape, **how)
    return path


def test_measurements_have_the_names_programs_read(tmp_path: Path, seed: int) -> None:
    ours, foreign = own(tmp_path / "ours.onnx", seed), model(tmp_path / "foreign.onnx")
    shares: list[float] = []
    found = benchmark([ours, foreign], batches=[1, 3], **QUICK, progress=shares.append)
    assert [(Path(one.model).stem, one.batch) for one in found] == [
        ("ours", 1),
        ("ours", 3),
        ("foreign", 1),
        ("foreign", 3),
    ]
    for one in found:
        assert one.provider == "CPUExecutionProvider"
        assert one.precision == "fp32"
        assert one.threads == 1
        latency = one.latency_ms
        assert 0 < latency.p50 <= latency.p90 <= latency.p95 <= latency.p99
        assert one.throughput == pytest.approx(1000 * one.batch / latency.p50)
        assert one.file_bytes == Path(one.model).stat().st_size
        assert one.load_ms > 0
        assert one.peak_rss_bytes > one.model_rss_bytes >= 0
        assert one.machine["cores"] >= 1
        assert {"gemkit", "onnxruntime"} <= one.versions.keys()
        assert sum(one.nodes.values()) >= 1
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert latency_ms([ours], rounds=2, seconds=0.01)[0] > 0


def test_networks_by_name(tmp_path: Path, seed: int) -> None:
    baselines = pytest.importorskip("gemkit.baselines")
    ours = own(tmp_path / "ours.onnx", seed)
    name = "mobilenet_v3_small"
    assert name in baselines.BASELINES
    found = benchmark([name, ours], **QUICK, memory=False)
    assert [one.model for one in found] == [name, str(ours)]
    with pytest.raises(UserError, match="'mobilenet_v9' is neither an ONNX file nor"):
        benchmark(["mobilenet_v9"])


def external(path: Path, location: str) -> Path:
    """A file that keeps its one weight elsewhere."""
    weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    onnx.external_data_helper.set_external_data(weight, location)
    weight.ClearField("raw_data")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [weight],
    )
    opsets = [helper.make_opsetid("", 18)]
    path.write_bytes(
        helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    )
    return path


def test_external_weights(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    weights = np.arange(16, dtype=np.float32)
    weights.tofile(tmp_path / "outside.bin")
    for place, sentence in (
        ("gone.bin", "which is missing beside it"),
        ("../outside.bin", "outside its folder"),
        (str(tmp_path / "outside.bin"), "outside its folder"),
    ):
        with pytest.raises(UserError, match=sentence):
            benchmark([external(tmp_path / "in" / "m.onnx", place)])
    weights.tofile(tmp_path / "in" / "w.bin")
    found = benchmark([external(tmp_path / "in" / "m.onnx", "w.bin")], **QUICK, memory=False)
    assert found[0].latency_ms.p50 > 0
    assert found[0].file_bytes == (tmp_path / "in" / "m.onnx").stat().st_size + 64


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: path.write_bytes(b""), "no whole ONNX file"),
        (lambda path: path.write_bytes(b"\x08\x09\x12\x07pytorch"), "no whole ONNX file"),
        (lambda path: path.mkdir(), "there is no file"),
        (lambda path: None, "there is no file"),
        (lambda path: model(path, op="Own", domain="my.ops"), "custom operator my.ops::Own"),
        (lambda path: model(path, shape=["batch", 0]), "holds nothing"),
        (lambda path: model(path, shape=["batch", "time"]), "leaves time open beside the batch"),
    ],
)
def test_bad_files(tmp_path: Path, make, sentence: str) -> None:
    path = tmp_path / "bad.onnx"
    make(path)
    with pytest.raises(UserError, match=sentence) as error:
        benchmark([path])
    assert "\n" not in str(error.value)


def test_truncated_files(tmp_path: Path, seed: int) -> None:
    content = own(tmp_path / "ours.onnx", seed).read_bytes()
    for share in (0.01, 0.3, 0.7, 0.99):
        path = tmp_path / "cut.onnx"
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(UserError, match="no whole ONNX file"):
            benchmark([path])


def test_nothing_to_measure() -> None:
    with pytest.raises(UserError, match="name at least one"):
        benchmark([])


def test_open_sizes_and_fixed_batches(tmp_path: Path) -> None:
    open_ = model(tmp_path / "a.onnx", shape=["n", 3, "h", "w"])
    four = model(tmp_path / "b.onnx", shape=[4, 3, 8, 8])
    found = benchmark([open_, four], sizes=[8, 8], **QUICK)
    assert [one.batch for one in found] == [1, 4]
    assert all(one.peak_rss_bytes > 0 for one in found)


@pytest.mark.parametrize(
    ("kind", "precision"),
    [
        (TensorProto.FLOAT, "fp32"),
        (TensorProto.FLOAT16, "fp16"),
        (TensorProto.BFLOAT16, "bf16"),
    ],
)
@pytest.mark.parametrize("held", ["by the graph", "by a node", "in a branch"])
def test_precision_by_the_weights_wherever_they_are(kind: int, precision: str, held: str) -> None:
    weights = helper.make_tensor("w", kind, [4], [1.0] * 4)
    proto = onnx.ModelProto()
    node = helper.make_node("Constant", [], ["c"], value=weights)
    if held == "by the graph":
        proto.graph.initializer.append(weights)
    elif held == "by a node":
        proto.graph.node.append(node)
    else:
        branch = helper.make_graph([node], "branch", [], [])
        choice = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
        proto.graph.node.append(choice)
    assert precision_of(proto) == precision


@pytest.mark.parametrize(
    "op",
    ["MatMulInteger", "ConvInteger", "QLinearMatMul", "DynamicQuantizeLinear", "QGemm"],
)
def test_integers_are_int8(op: str) -> None:
    proto = onnx.ModelProto()
    proto.graph.node.append(helper.make_node(op, ["x"], ["y"]))
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(9, np.float32), "w"))
    assert precision_of(proto) == "int8"


def test_precision_is_read_from_the_graph(tmp_path: Path) -> None:
    path = model(tmp_path / "a.onnx", op="QuantizeLinear")
    assert precision_of(onnx.load(path)) == "int8"
    proto = onnx.load(model(tmp_path / "b.onnx"))
    assert precision_of(proto) == "fp32"
    square = numpy_helper.from_array(np.ones((9, 9), np.float16), "h")
    proto.graph.initializer.append(square)
    for place in range(5):  # fewer numbers in more tensors
        proto.graph.initializer.append(numpy_helper.from_array(np.ones(9, np.float32), f"f{place}"))
    assert precision_of(proto) == "fp16"
