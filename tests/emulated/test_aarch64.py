"""What runs on a Raspberry Pi, under emulation: files give the same outputs, the kit works."""

import json
import subprocess
import zipfile
from pathlib import Path

import aarch64
import numpy as np
import onnxruntime as ort
import pytest

from gemkit.export.exporter import export_onnx, read_info
from gemkit.export.kit import read_measurements, write_kit
from gemkit.export.optimize import optimize_file
from gemkit.export.quantize import to_fp16, to_int8
from networks import DIGITS, pools, random_cell, random_images, random_network

pytestmark = pytest.mark.skipif(
    bool(aarch64.missing()), reason=f"not installed: {', '.join(aarch64.missing())}"
)
RUN = """
import sys, numpy, onnxruntime
folder, *names = sys.argv[1:]
x = numpy.load(folder + "/x.npy")
for name in names:
    session = onnxruntime.InferenceSession(folder + "/" + name)
    numpy.save(folder + "/" + name + ".npy", session.run(None, {"image": x})[0])
"""


@pytest.fixture(scope="module", autouse=True)
def _emulated() -> None:
    aarch64.prepare()


def test_all_forms_of_a_file_give_the_same_outputs(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = random_network(rng, DIGITS, (random_cell(rng, 8, "concat"),))
    path = tmp_path / "model.onnx"
    names = [str(number) for number in range(10)]
    export_onnx(network, path, input_shape=(1, 8, 8), class_names=names, mean=(0.3,), std=(0.4,))
    images = random_images(rng, 40)
    labelled = images, np.zeros(40, np.int64)
    to_fp16(path, tmp_path / "fp16.onnx", test=labelled)
    to_int8(path, tmp_path / "int8.onnx", training=labelled, test=labelled)
    optimize_file(path, tmp_path / "better.onnx", "memory")
    x = read_info(path).normalise(images)
    np.save(tmp_path / "x.npy", x)
    files = ["model.onnx", "fp16.onnx", "int8.onnx", "better.onnx"]
    done = aarch64.python("-c", RUN, str(tmp_path), *files)
    assert done.returncode == 0, done.stderr
    for name, allowed in zip(files, (1e-5, 0.02, 0.2, 1e-5), strict=True):
        wanted = ort.InferenceSession(tmp_path / name).run(None, {"image": x})[0]
        found = np.load(tmp_path / f"{name}.npy")
        assert np.abs(found - wanted).max() <= allowed * max(1.0, float(np.abs(wanted).max()))


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """An unpacked kit of four networks."""
    folder = tmp_path_factory.mktemp("kit")
    seed = int(request.config.getoption("--seed"))
    write_kit(folder / "kit.zip", DIGITS, pools(seed), samples=4, seed=seed)
    with zipfile.ZipFile(folder / "kit.zip") as archive:
        archive.extractall(folder)
    return folder / "gemkit-kit"


def measured(kit: Path) -> subprocess.CompletedProcess[str]:
    return aarch64.python(str(kit / "measure.py"), "--rounds", "1", "--seconds", "0.001")


def test_the_kit_completes_resumes_and_refuses(kit: Path) -> None:
    out = kit / "measurements.json"
    done = measured(kit)
    assert done.returncode == 0, done.stderr
    whole = json.loads(out.read_text())
    assert whole["device"]["machine"]["architecture"] == "aarch64"
    assert whole["device"]["versions"]["onnxruntime"] == aarch64.ONNXRUNTIME
    assert "Build Info" in whole["device"]["versions"]["onnxruntime_build"]
    assert len(read_measurements(out)[1]) == 4

    first = whole["measured"][:2]
    out.write_text(json.dumps({**whole, "measured": first}))
    done = measured(kit)
    assert done.returncode == 0, done.stderr
    resumed = json.loads(out.read_text())
    assert len(resumed["measured"]) == 4
    assert resumed["measured"][:2] == first

    mixed = {**whole["device"]["versions"], "onnxruntime_build": "another build"}
    out.write_text(json.dumps({**whole, "device": {**whole["device"], "versions": mixed}}))
    done = measured(kit)
    assert done.returncode == 2
    assert "on another device or with other versions: remove it to begin again" in done.stderr

    file = kit / whole["manifest"]["files"][0]["file"]
    file.write_bytes(file.read_bytes()[:-1])
    out.unlink()
    done = measured(kit)
    assert done.returncode == 2
    assert file.name in done.stderr
    assert not out.exists()
