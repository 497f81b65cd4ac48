"""C projects, compiled here and called by ctypes, beside onnxruntime on the ONNX file."""

import ctypes
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from gemkit.architecture import skeleton_for
from gemkit.baselines import baseline
from gemkit.budget import Budget
from gemkit.errors import UserError
from gemkit.export import quantize
from gemkit.export.exporter import export_onnx, read_info
from gemkit.export.microcontroller import project as project_module
from gemkit.export.microcontroller.program import program_of
from gemkit.export.microcontroller.project import c_project
from gemkit.export.quantize import to_fp16, to_int8
from networks import DIGITS, random_cell, random_images, random_network

needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc")
SOURCES = ("network.c", "kernels.c")
CLASSES = (*"abcdefgh", 'say "hi"', "Ä?\\")


@pytest.fixture(autouse=True)
def _without_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversions measure how fast their files are, which takes seconds and is not needed here."""
    monkeypatch.setattr(quantize, "latency_ms", lambda paths: [1.0] * len(paths))


def written(network: nn.Module, path: Path, shape: tuple[int, int, int] = (1, 8, 8)) -> Path:
    mean, std = (0.3,) * shape[0], (0.4,) * shape[0]
    names = [str(number) for number in range(10)] if shape[0] > 1 else CLASSES
    export_onnx(network, path, input_shape=shape, class_names=names, mean=mean, std=std)
    return path


def in_int8(source: Path, x: np.ndarray) -> Path:
    target = source.with_suffix(".int8.onnx")
    labelled = x, np.zeros(len(x), np.int64)
    to_int8(source, target, training=labelled, test=labelled)
    return target


def outputs_of(folder: Path, x: np.ndarray, integer: bool) -> np.ndarray:
    """What the compiled project gives, as real numbers."""
    library = folder / "network.so"
    command = ["gcc", "-std=c99", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fPIC"]
    subprocess.run([*command, "-shared", *SOURCES, "-o", library.name], cwd=folder, check=True)
    loaded = ctypes.CDLL(str(library))
    number = ctypes.c_uint8 if integer else ctypes.c_float
    loaded.network_pixels.restype = ctypes.POINTER(ctypes.c_uint8)
    loaded.network_run.restype = ctypes.POINTER(number)
    rows = []
    for image in x:
        pixels = np.ascontiguousarray(image)
        ctypes.memmove(loaded.network_pixels(), pixels.ctypes.data, pixels.nbytes)
        rows.append(loaded.network_run()[: len(CLASSES)])
    header = (folder / "network.h").read_text()
    value = re.search(r"#define NETWORK_VALUE\(number\) (.*)", header)
    assert value is not None
    found = re.fullmatch(r"\(\(float\)\(\(number\) - (\d+)\) \* (\S+)f\)", value[1])
    if not integer:
        return np.array(rows)
    assert found is not None
    return (np.array(rows) - int(found[1])) * np.float32(found[2])


def by_onnxruntime(path: Path, x: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(path).run(None, {"image": read_info(path).normalise(x)})[0]


def step_of(path: Path) -> float:
    """The scale of the 8-bit output."""
    model = onnx.load(path)
    last = next(node for node in model.graph.node if node.output[0] == model.graph.output[0].name)
    return next(
        onnx.numpy_helper.to_array(tensor).item()
        for tensor in model.graph.initializer
        if tensor.name == last.input[1]
    )


@needs_compiler
@pytest.mark.parametrize("aggregation", ["concat", "sum"])
@pytest.mark.parametrize("nodes", [2, 12])
def test_a_searched_network(
    nodes: int, aggregation: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    rng = np.random.default_rng([request.config.getoption("--seed"), nodes])
    network = random_network(rng, DIGITS, (random_cell(rng, nodes, aggregation),))
    x = random_images(rng, 40)
    path = written(network, tmp_path / "model.onnx")
    made = c_project(path, tmp_path / "c", test=(x, np.zeros(40, np.int64)))
    assert made.verified
    assert not made.notes
    found, wanted = outputs_of(made.folder, x, False), by_onnxruntime(path, x)
    assert np.abs(found - wanted).max() < 1e-4
    assert made.accuracy == (wanted.argmax(1) == 0).mean()

    path = in_int8(path, x)
    made = c_project(path, tmp_path / "c8")
    found, wanted = outputs_of(made.folder, x, True), by_onnxruntime(path, x)
    steps = np.abs(found - wanted) / step_of(path)
    assert steps.mean() < 0.1
    lost = wanted.max(1) - wanted[np.arange(40), found.argmax(1)]
    assert (lost <= 1.01 * step_of(path)).all()
    assert made.planned_bytes <= made.arena_bytes <= 1.15 * made.planned_bytes
    assert_computes_in_integers(made.folder)


def assert_computes_in_integers(folder: Path) -> None:
    """A compiler that may use general registers only compiles it, and nothing is called."""
    command = ["gcc", "-std=c99", "-O2", "-mgeneral-regs-only", "-c", *SOURCES]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    command = ["nm", "-u", "--format=just-symbols", "network.o", "kernels.o"]
    printed = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    undefined = printed.stdout.split()
    own = {name for name in undefined if name.startswith("network_") or name.endswith(".o:")}
    assert set(undefined) - own <= {"memcpy", "memset", "_GLOBAL_OFFSET_TABLE_"}
    for name in (*SOURCES, "kernels.h", "weights.h"):
        code = re.sub(r"/\*.*?\*/|\"[^\"]*\"", "", (folder / name).read_text(), flags=re.S)
        assert not re.search(r"float|double|\d\.\d", code)


@needs_compiler
def test_floats_are_seen_where_there_are_some(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    made = c_project(written(random_network(rng), tmp_path / "model.onnx"), tmp_path / "c")
    with pytest.raises(subprocess.CalledProcessError):
        assert_computes_in_integers(made.folder)


@needs_compiler
@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v2"])
def test_a_known_network(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    network = baseline(name, (3, 16, 16), 10, max_macs=600_000).eval()
    x = random_images(rng, 20, skeleton_for((3, 16, 16), 10))
    path = written(network, tmp_path / "model.onnx", (3, 16, 16))
    made = c_project(path, tmp_path / "c")
    found = outputs_of(made.folder, x, False)
    assert np.abs(found - by_onnxruntime(path, x)).max() < 1e-4
    if name == "resnet8":
        path = in_int8(path, x)
        made = c_project(path, tmp_path / "c8")
        steps = np.abs(outputs_of(made.folder, x, True) - by_onnxruntime(path, x)) / step_of(path)
        assert steps.mean() < 0.2
        assert_computes_in_integers(made.folder)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of one small network."""
    rng = np.random.default_rng(1)
    network = random_network(rng, DIGITS, (random_cell(rng, 3, "concat"),), 4)
    return written(network, tmp_path_factory.mktemp("small") / "model.onnx")


@needs_compiler
def test_the_example_is_built_and_classifies_its_image(small: Path, tmp_path: Path) -> None:
    x = random_images(np.random.default_rng(2), 3)
    made = c_project(small, tmp_path / "c", test=(x, np.array([9, 1, 2])))
    subprocess.run(["make", "-s", "CC=gcc"], cwd=made.folder, check=True)
    printed = subprocess.run(
        ["./classify"], cwd=made.folder, check=True, capture_output=True, text=True
    ).stdout
    best = CLASSES[int(by_onnxruntime(small, x[:1]).argmax())]
    assert f"class: {best} (the image is of class {CLASSES[9]})" in printed
    header = (made.folder / "network.h").read_text()
    assert f"#define NETWORK_ARENA_BYTES {made.arena_bytes}\n" in header
    assert "mean 0.3 and standard deviation 0.4" in header


def test_without_a_compiler_the_files_are_there_and_unverified(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    made = c_project(small, tmp_path / "c", processors=["cortex-m4"])
    assert not made.verified
    assert (made.folder / "network.c").is_file()
    assert "not verified" in made.notes[0]
    assert "apt install gcc" in made.notes[0]
    assert "gcc-arm-none-eabi" in made.notes[1]
    assert made.boards == ()
    value = json.loads(json.dumps(made.to_json()))
    assert (value["verified"], value["accuracy"]) == (False, None)
    limits = Budget(params=10, memory_bytes=10, precision="int8")
    assert re.search(r"kB of flash, .* more than the 10 B allowed and .* of RAM", made.over(limits))
    assert made.over(Budget()) == ""


@needs_compiler
def test_a_wrong_program_is_not_delivered(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(folder: Path, images: np.ndarray, number: type) -> np.ndarray:
        return np.ones((len(images), len(CLASSES)), number)

    monkeypatch.setattr(project_module, "on_host", wrong)
    with pytest.raises(RuntimeError, match="differ from onnxruntime"):
        c_project(small, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_what_cannot_be_written_is_refused(small: Path, tmp_path: Path) -> None:
    x = random_images(np.random.default_rng(0), 4)
    half = to_fp16(small, tmp_path / "half.onnx", test=(x, np.zeros(4, np.int64))).path
    with pytest.raises(UserError, match=r"half\.onnx is fp16: C files are made of fp32 and int8"):
        c_project(half, tmp_path / "c")

    model = onnx.load(small)
    model.graph.node[-1].op_type = "MatMulNBits"
    with pytest.raises(UserError, match="the operator MatMulNBits, which cannot be written as C"):
        program_of(model)

    model = onnx.load(small)
    for entry in model.metadata_props:
        if entry.key == "gemkit.precision":
            entry.value = '"int8"'
    with pytest.raises(UserError, match="computes some layers in floats"):
        program_of(model)

    rng = np.random.default_rng(1)
    path = tmp_path / "pixels.onnx"
    export_onnx(
        random_network(rng, DIGITS, (random_cell(rng, 1),), 4),
        path,
        input_shape=(1, 8, 8),
        class_names=CLASSES,
        mean=(0.3,),
        std=(0.4,),
        preprocessing=True,
    )
    with pytest.raises(UserError, match="take normalised images and give logits"):
        c_project(path, tmp_path / "c")
    assert not (tmp_path / "c").exists()
