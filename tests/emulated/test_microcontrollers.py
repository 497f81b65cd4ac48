"""C projects on emulated Cortex-M processors give the numbers that they give here."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from gemkit.export import quantize
from gemkit.export.exporter import export_onnx
from gemkit.export.microcontroller.project import c_project
from gemkit.export.microcontroller.toolchain import (
    ARM,
    EMULATOR,
    PROCESSORS,
    build,
    emulate,
    on_host,
)
from gemkit.export.quantize import to_int8
from networks import DIGITS, random_cell, random_images, random_network

MISSING = [name for name in ("gcc", f"{ARM}gcc", EMULATOR) if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


@pytest.fixture(scope="module", params=["concat", "sum"])
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A network in floats and in integers, as C projects."""
    seed = int(request.config.getoption("--seed"))
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("c")
    path = folder / "model.onnx"
    network = random_network(rng, DIGITS, (random_cell(rng, 8, request.param),))
    names = [str(number) for number in range(10)]
    export_onnx(network, path, input_shape=(1, 8, 8), class_names=names, mean=(0.3,), std=(0.4,))
    x = random_images(rng, 30)
    labelled = x, np.zeros(30, np.int64)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(quantize, "latency_ms", lambda paths: [1.0] * len(paths))
        to_int8(path, folder / "int8.onnx", training=labelled, test=labelled)
    c_project(path, folder / "fp32-c")
    c_project(folder / "int8.onnx", folder / "int8-c")
    return [folder / "fp32-c", folder / "int8-c"]


@pytest.mark.parametrize("name", PROCESSORS)
def test_outputs_are_those_of_this_machine(name: str, folders: list[Path], seed: int) -> None:
    x = random_images(np.random.default_rng(seed), 5)
    for folder, number in zip(folders, (np.float32, np.uint8), strict=True):
        found = emulate(folder, PROCESSORS[name], x, number)
        assert found is not None
        assert np.array_equal(found.outputs, on_host(folder, x, number))
        assert found.instructions > 10_000
        again = emulate(folder, PROCESSORS[name], x, number)
        assert again is not None
        assert again.instructions == found.instructions


@pytest.mark.parametrize("name", PROCESSORS)
def test_the_linker_finds_the_array_that_the_header_says(name: str, folders: list[Path]) -> None:
    for folder in folders:
        size = build(folder, PROCESSORS[name])
        assert size is not None
        header = (folder / "network.h").read_text()
        said = next(line for line in header.splitlines() if "NETWORK_ARENA_BYTES" in line)
        assert size.ram_bytes - size.stack_bytes == int(said.split()[-1])
        assert size.stack_bytes < 2000
