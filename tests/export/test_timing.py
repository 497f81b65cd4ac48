"""timing.py goes to devices alone: old Python, few packages, sound numbers."""

import ast
import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from scipy import stats

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


class Machine(timing.Clock):
    """An invented machine that computes things of known times, and not always equally fast.

    `slower(now)` says how many times longer everything takes at a moment, `wait` how long the
    processor is lent to others after each call.
    """

    def __init__(
        self,
        slower: Callable[[float], float] = lambda now: 1.0,
        wait: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.now = self.busy = 0.0
        self.slower, self.wait = slower, wait

    def wall(self) -> float:
        return self.now

    def processor(self) -> float:
        return self.busy

    def spend(self, seconds: float) -> None:
        taken = seconds * self.slower(self.now)
        self.busy += taken
        self.now += taken + self.wait()

    def timed(self, *times: float, processor: bool = True) -> list[timing.Timed]:
        """Things that take `times`, beside one calibration network."""

        def calibration() -> None:
            self.spend(2e-4)

        return [
            timing.Timed(
                lambda seconds=seconds: lambda: self.spend(seconds),
                calibration,
                processor,
                seconds=0.02,
                clock=self,
            )
            for seconds in times
        ]


def test_a_calm_machine_tells_the_time_itself() -> None:
    for processor in (True, False):
        first, second = timing.in_rounds(Machine().timed(1e-3, 7e-5, processor=processor), 4)
        for found, ms in ((first, 1.0), (second, 0.07)):
            names = ("p50", "p90", "p95", "p99", "p50_low", "p50_high")
            calm = dict.fromkeys(names, ms) | {"noisy": False}
            assert found["latency_ms"] == pytest.approx(calm)
            assert (found["calm_ms"], found["p50_wall"]) == pytest.approx((ms, ms))
            assert found["distribution_ms"] == pytest.approx([ms] * len(timing.DISTRIBUTION))
            assert found["drift"] == pytest.approx(0, abs=1e-9)
            assert not found["noisy"]
            assert found["rounds"] == 4


def test_drift_of_the_machine_cancels(seed: int) -> None:
    """A machine that is up to twice as slow for seconds, and half of the time lent to others."""
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 6, 3)

    def slower(now: float) -> float:
        return 1.5 + 0.5 * np.mean(np.sin(phase + now * np.array([1.1, 2.3, 0.7])))

    def wait() -> float:
        # Longer than the slowest takes. Fewer than two such calls among the forty-five that are
        # timed at least, so that p99 does not see them, happen once in ten thousand networks.
        return 9e-3 if rng.random() < 0.25 else 0.0

    times = rng.uniform(1e-4, 4e-3, 5)
    found = timing.in_rounds(Machine(slower, wait).timed(*times), 5)
    p50 = np.array([one["latency_ms"]["p50"] for one in found])
    calm = np.array([one["calm_ms"] for one in found])
    # The machine drifts within a round too: by up to 1.7 and 4.7 % in 3,000 such machines.
    assert p50 / times == pytest.approx(np.full(5, p50[0] / times[0]), rel=0.04)
    assert calm / times == pytest.approx(np.full(5, calm[0] / times[0]), rel=0.1)
    assert 1e3 <= p50[0] / times[0] <= 2e3
    for one in found:
        latency = one["latency_ms"]
        assert latency["p50_low"] <= latency["p50"] <= latency["p50_high"]
        assert one["noisy"] is latency["noisy"] is True  # since some calls take 9 ms longer
        assert latency["p99"] > one["p50_wall"] >= latency["p50"]
        spread = one["distribution_ms"]
        assert spread == sorted(spread)
        middle, top = timing.DISTRIBUTION.index(50), timing.DISTRIBUTION.index(99)
        assert (spread[middle], spread[top]) == (one["p50_wall"], latency["p99"])


def test_rounds_go_on_until_the_interval_is_narrow() -> None:
    machine = Machine()
    steady, unsteady, wild = machine.timed(1e-3, 1e-3, 1e-3)
    opened = {"unsteady": 0, "wild": 0}

    def opening(name: str, factors: Sequence[float]) -> Callable[[], timing.Run]:
        def open_() -> timing.Run:
            factor = factors[opened[name] // timing.VISITS % len(factors)]
            opened[name] += 1
            return lambda: machine.spend(1e-3 * factor)

        return open_

    unsteady.opened = opening("unsteady", [1.2, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    wild.opened = opening("wild", [1.0, 1.5])
    found = timing.in_rounds([steady, unsteady, wild], 5)
    # Of eight rounds the interval leaves the highest out.
    assert [one["rounds"] for one in found] == [5, 8, 15]
    assert [one["noisy"] for one in found] == [False, False, True]
    assert found[1]["latency_ms"]["p50"] == pytest.approx(1)
    wide = found[2]["latency_ms"]
    assert (wide["p50_low"], wide["p50_high"]) == pytest.approx((1, 1.5))


def test_a_long_tail_is_noisy() -> None:
    machine = Machine(wait=itertools.cycle([0.0] * 9 + [5e-3]).__next__)
    (found,) = timing.in_rounds(machine.timed(1e-3), 5)
    latency = found["latency_ms"]
    assert latency["p50"] == pytest.approx(1)
    assert latency["p50_high"] - latency["p50_low"] < 1e-6
    assert latency["p99"] == pytest.approx(6)
    assert found["noisy"]


@pytest.mark.parametrize("count", range(1, 31))
def test_interval_against_the_binomial_distribution(count: int) -> None:
    low, high = timing.interval(np.arange(count)[::-1])
    assert low + high == count - 1

    def coverage(outside: float) -> float:
        return 1 - 2 * float(stats.binom.cdf(outside, count, 0.5))

    assert low == 0 or coverage(low) >= timing.CONFIDENCE
    if high - low > 2:
        assert coverage(low + 1) < timing.CONFIDENCE


def test_a_clock_in_large_steps_is_not_used() -> None:
    class Coarse(Machine):
        def processor(self) -> float:
            self.now += 1e-4
            return self.now // 0.0156 * 0.0156  # as Windows counts

    class Fine(Machine):
        def processor(self) -> float:
            self.now += 1e-6
            return self.now

    assert not timing.counts_processor_time(Coarse())
    assert timing.counts_processor_time(Fine())


def test_one_thread_is_the_thread_that_calls(tmp_path: Path) -> None:
    """So its processor time is the network's: onnxruntime starts no other thread."""
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        pytest.skip("only Linux lists a process's threads there")
    path = model(tmp_path / "a.onnx")
    first = timing.open_session(path, 1)  # starts what the process needs once
    before = len(list(tasks.iterdir()))
    alone = timing.open_session(path, 1)
    assert len(list(tasks.iterdir())) == before
    pair = timing.open_session(path, 2)
    assert len(list(tasks.iterdir())) == before + 1
    del first, alone, pair


def test_the_calibration_network_against_onnx_and_its_reference() -> None:
    written = timing.calibration_network()
    network = onnx.load_from_string(written)
    onnx.checker.check_model(network, full_check=True)
    assert (network.ir_version, network.opset_import[0].version) == (7, 13)
    assert network.SerializeToString() == written
    image = np.random.default_rng(0).random((1, 32, 32, 32), dtype=np.float32)
    (wanted,) = ReferenceEvaluator(network).run(None, {"image": image})
    (found,) = timing.open_session(written).run(None, {"image": image})
    assert found == pytest.approx(wanted, rel=1e-3)
    assert np.ptp(found) > 0
    weights = [math.prod(tensor.dims) for tensor in network.graph.initializer]
    assert 1024 * sum(weights) == pytest.approx(7e6, rel=0.05)  # each at every pixel


def test_files_are_measured_side_by_side(tmp_path: Path) -> None:
    paths = [model(tmp_path / f"{name}.onnx") for name in "ab"]
    shares: list[float] = []
    found = timing.measure(paths, batches=[1, 3], rounds=2, seconds=0.001, progress=shares.append)
    assert [(Path(one["model"]).stem, one["batch"]) for one in found] == [
        ("a", 1),
        ("a", 3),
        ("b", 1),
        ("b", 3),
    ]
    for one in found:
        assert 2 <= one["rounds"] <= 6
        latency = one["latency_ms"]
        rising = [latency[f"p{share}"] for share in (50, 90, 95, 99)]
        assert rising == sorted(rising)
        assert 0 < latency["p50_low"] <= latency["p50"] <= latency["p50_high"]
        assert one["throughput"] == pytest.approx(1e3 * one["batch"] / latency["p50"])
    assert len({one["calibration_ms"] for one in found}) == 1
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_sizes_fill_what_a_file_leaves_open(tmp_path: Path) -> None:
    path = model(tmp_path / "a.onnx", ["batch", 3, "height", "width"])
    session = timing.open_session(path)
    assert timing.open_sizes(session) == ["height", "width"]
    assert timing.random_inputs(session, 2, path, [5, 7])["x"].shape == (2, 3, 5, 7)
    for sizes in ([], [5], [5, 6, 7]):
        with pytest.raises(timing.MeasureError, match=r"leaves height, width open .* 224x224"):
            timing.random_inputs(session, 1, path, sizes)
    nameless = model(tmp_path / "b.onnx", [None, None, 3])
    (found,) = timing.measure([nameless], rounds=1, seconds=0.001, sizes=[5])
    assert found["batch"] == 1
    with pytest.raises(timing.MeasureError, match=r"leaves x\[1\] open"):
        timing.measure([nameless])


def test_a_fixed_batch_is_taken_where_none_is_asked_for(tmp_path: Path) -> None:
    four, any_ = model(tmp_path / "a.onnx", [4, 3]), model(tmp_path / "b.onnx", ["n", 3])
    found = timing.measure([four, any_], rounds=1, seconds=0.001)
    assert [one["batch"] for one in found] == [4, 1]
    with pytest.raises(timing.MeasureError, match="fixed batch 4; 1 was asked for"):
        timing.measure([four], batches=[1])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"shape": ["batch", 0, 3]}, "holds nothing"),
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
    other = model(tmp_path / "b.onnx", shape=("batch", 8, 1024, 1024))
    # Fresh processes, since a peak never falls.
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as fresh:
        small, large = (
            fresh.submit(timing.memory_of, one, 1, 1, "cpu").result() for one in (path, other)
        )
    assert small["model_rss_bytes"] < 25_000_000
    # An input and an output of 32 MiB each, which may be copied once on their way.
    assert 64 * 2**20 <= large["model_rss_bytes"] - small["model_rss_bytes"] < 200 * 2**20
    for found in (small, large):
        assert found["peak_rss_bytes"] > found["model_rss_bytes"]


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
