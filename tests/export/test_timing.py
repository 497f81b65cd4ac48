"""timing.py goes to devices alone: old Python, few packages, sound numbers."""

import ast
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gemkit.export import timing
from onnx_files import model


def test_runs_on_python_38_with_two_packages() -> None:
    tree = ast.parse(Path(timing.__file__).read_text(), feature_version=(3, 8))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(node.module.split(".")[0])
        # Newer than 3.8: dict union, zip's strict, methods of str, parenthesised with.
        assert not (isinstance(node, ast.keyword) and node.arg == "strict")
        assert not (
            isinstance(node, ast.Attribute) and node.attr in ("removeprefix", "removesuffix")
        )
    third = imported - set(sys.stdlib_module_names)
    assert third == {"numpy", "onnxruntime"}


def test_runs_as_a_program(tmp_path: Path) -> None:
    path = model(tmp_path / "a.onnx")
    out = tmp_path / "out.json"
    command = [sys.executable, "-I", timing.__file__, path, "--batch", "1,3", "--seconds", "0.01"]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    first, second = json.loads(out.read_text())
    assert (first["batch"], second["batch"]) == (1, 3)
    assert first["provider"] == "CPUExecutionProvider"
    assert first["machine"]["cores"] >= 1
    assert first["versions"]["onnxruntime"]
    done = subprocess.run([*command, "--threads", "x"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


class Clocked:
    """Stands for a session whose every call takes a known time."""

    def __init__(self, seconds: list[float]) -> None:
        self.seconds, self.calls = seconds, 0

    def run(self, outputs: object, feed: object) -> None:
        end = time.perf_counter() + self.seconds[self.calls % len(self.seconds)]
        self.calls += 1
        while time.perf_counter() < end:
            pass


def test_percentiles_of_known_times(tmp_path: Path) -> None:
    one = timing.Timed(model(tmp_path / "a.onnx"), "CPUExecutionProvider", 1, 1, 0.0)
    one.rounds = [np.arange(1, 101) * 1e-3, np.arange(1, 101) * 3e-3, np.arange(1, 101) * 2e-3]
    result = one.result()
    assert result["latency_ms"]["p50"] == pytest.approx(2 * 50.5)
    assert result["latency_ms"]["p90"] == pytest.approx(2 * 90.1)
    assert result["latency_ms"]["p99"] == pytest.approx(2 * 99.01)
    assert result["throughput"] == pytest.approx(1000 / 101)
    assert result["spread"] == pytest.approx(1.0)
    assert one.noisy
    one.rounds = [times + 1 for times in (one.rounds[0], one.rounds[0] + 1e-3, one.rounds[0])]
    assert not one.noisy


def test_a_round_has_enough_calls(tmp_path: Path) -> None:
    one = timing.Timed(model(tmp_path / "a.onnx"), "CPUExecutionProvider", 1, 1, 0.0)
    one.session = Clocked([2e-3])
    one.turn(least=4)
    assert len(one.rounds[0]) == 4
    assert one.rounds[0].min() >= 2e-3


def test_rounds_are_interleaved_and_more_when_noisy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = []

    def turn(self: timing.Timed) -> None:
        turns.append(Path(self.path).stem)
        wild = self.path.endswith("b.onnx") and len(self.rounds) < 4
        self.rounds.append(np.full(20, 1e-3 * (1 + wild * len(self.rounds))))

    monkeypatch.setattr(timing.Timed, "turn", turn)
    paths = [model(tmp_path / "a.onnx"), model(tmp_path / "b.onnx")]
    found = timing.measure(paths, rounds=4)
    assert turns == ["a", "b"] * (len(turns) // 2)
    assert 4 < found[0]["rounds"] == found[1]["rounds"] <= 12


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"shape": ["batch", "height", 3]}, "open dimension 'height'"),
        ({"shape": ["batch", 0, 3]}, "holds nothing"),
        ({"shape": [4, 3]}, "fixed batch 4; 1 was asked for"),
        ({"op": "NoSuch"}, "NoSuch"),
        ({"op": "Custom", "domain": "my.domain"}, "operator my.domain:Custom"),
    ],
)
def test_files_that_cannot_be_measured(tmp_path: Path, arguments: dict, sentence: str) -> None:
    path = model(tmp_path / "a.onnx", **arguments)
    with pytest.raises(timing.MeasureError, match=sentence) as error:
        timing.measure([path])
    assert "\n" not in str(error.value)


def test_options_that_cannot_be_used(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = model(tmp_path / "a.onnx")
    with pytest.raises(timing.MeasureError, match=r"no provider 'quantum' here: use one of .*cpu"):
        timing.measure([path], providers=["quantum"])
    with pytest.raises(timing.MeasureError, match="0 threads"):
        timing.measure([path], threads=[0])
    with pytest.raises(timing.MeasureError, match="batch 0"):
        timing.measure([path], batches=[0])
    assert capfd.readouterr() == ("", "")


def test_a_provider_that_did_not_load_is_an_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime as ort

    if "CUDAExecutionProvider" not in ort.get_available_providers():
        pytest.skip("this onnxruntime was built without CUDA")
    path = model(tmp_path / "a.onnx")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    loaded = ort.InferenceSession(path, options, providers=["CUDAExecutionProvider"])
    if "CUDAExecutionProvider" in loaded.get_providers():
        assert timing.measure([path], providers=["cuda"])[0]["provider"] == "CUDAExecutionProvider"
        return
    capfd.readouterr()
    with pytest.raises(timing.MeasureError, match="cuda was asked for but did not load"):
        timing.measure([path], providers=["cuda"], seconds=0.01)
    assert capfd.readouterr() == ("", "")


def test_nodes_and_memory(tmp_path: Path) -> None:
    path = model(tmp_path / "a.onnx")
    assert timing.node_providers(path, "CPUExecutionProvider") == {"CPUExecutionProvider": 1}
    found = timing.memory_of(path, 1, 2, "cpu")
    assert 10_000_000 < found["peak_rss_bytes"] < 100_000_000_000


def test_a_file_with_a_damaged_name_is_explained(tmp_path: Path) -> None:
    """onnxruntime opens such a file and stumbles when the name is read (found by fuzzing)."""
    path = tmp_path / "damaged.onnx"
    model(path, shape=("batch", 2))
    path.write_bytes(path.read_bytes().replace(b"batch", b"batc\xe8"))
    with pytest.raises(timing.MeasureError, match="a name in it is no text"):
        timing.open_session(str(path), 1, "CPUExecutionProvider")


def test_a_batch_beyond_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = model(tmp_path / "one.onnx", shape=("batch", 4, 100, 100))
    monkeypatch.setattr(timing, "memory_bytes", lambda: 2 * 10**9)
    with pytest.raises(timing.MeasureError, match=r"a batch of 2000 needs 0\.3 GB"):
        timing.measure([path], batches=[2000], seconds=0.01)
