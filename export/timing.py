"""Times ONNX files with onnxruntime. Needs Python 3.8+, onnxruntime and numpy, nothing else.

    python timing.py model.onnx ... [--threads 1,2] [--batch 1,8] [--size 224x224] [--provider cpu]
    python measure.py          # in an unpacked kit: measures it, or goes on where it stopped

This one file is used by gemkit itself and copied to devices (there as measure.py), so that all
measure alike, also beside programs that take the machine away at any moment:

- In a round every file is visited several times, all in turn. A visit opens the file afresh
  (sessions of one file differ in speed), warms up and runs it, and runs a fixed calibration network
  before and after: what slows both is the machine's drift and cancels.
- With one thread on the CPU the time is the thread's own processor time: waiting for other
  programs is no latency of a network. p90, p95 and p99 are of the wall clock.
- Other programs only ever add to a time. So a round's figure is its fastest moment, as a multiple
  of the calibration network's fastest in the same round, and all are given at the fastest speed
  that the calibration network reached. `calm_ms`, for ranking, is the lowest of all rounds; `p50`,
  for reporting, the median of the rounds, raised by as much as a visit's middle call lies above its
  fastest where it does so least.
- `p50_low` and `p50_high`, beside it, are the confidence interval of that median. Rounds go on
  until it is narrow, at most three times as many as asked for. `noisy` says that it stayed wide or
  that p99 lies far above p50.
- A call includes handing over the input and fetching the output, as in any program.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import glob
import hashlib
import io
import json
import math
import os
import platform
import re
import sys
import tempfile
import time
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Sequence  # noqa: UP035 (Python 3.8)

import numpy as np

NARROW = 0.05
"""Width of the interval of p50, as a share of p50, at which measuring ends."""
NOISY = 0.1
"""Width at which a measurement is called noisy."""
TAIL = 2.0
"""So many times p50 is a p99 at which a measurement is called noisy."""
CONFIDENCE = 0.9
"""Of the interval, where there are rounds enough: five."""
ROUNDS, SECONDS = 5, 0.1
"""Least number of rounds, and how long one visit runs a file."""
KIT_SECONDS = 0.03
"""How long a visit runs a file of a kit, whose networks are many and small."""
VISITS = 3
"""Of each file in one round."""
_GROUP = 4  # of a kit's networks are measured in turn
_CHUNK = 5e-4
"""Shortest time that is read off a clock; reading the processor's takes a microsecond or two."""
_LEAST_CHUNKS = 4
_CALIBRATION_SECONDS = 0.003
_COARSE = 1e-4
"""A clock that moves in larger steps is not used."""
PERCENTILES = (50, 90, 95, 99)
DISTRIBUTION = (1, 5, *range(10, 100, 10), 95, 99)
"""Percentiles of `distribution_ms`."""
_OVER_INPUT = 8
"""So many times the memory of its input a network needs at least, roughly."""
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


Run = Callable[[], object]
"""Runs something once."""


class MeasureError(Exception):
    """Something that cannot be measured, in one sentence."""


def provider_name(name: str) -> str:
    """The full name of an execution provider: `cpu` -> `CPUExecutionProvider`.

    Raises:
        MeasureError: this onnxruntime does not have it; the sentence lists those it has.
    """
    import onnxruntime as ort

    available = ort.get_available_providers()
    for full in available:
        if name.lower() in (full.lower(), short_name(full)):
            return str(full)
    here = ", ".join(short_name(full) for full in available)
    raise MeasureError(f"onnxruntime has no provider {name!r} here: use one of {here}")


def short_name(provider: str) -> str:
    """`CPUExecutionProvider` -> `cpu`."""
    return provider.replace("ExecutionProvider", "").lower()


def open_session(
    model: str | os.PathLike[str] | bytes,
    threads: int = 1,
    provider: str = "CPUExecutionProvider",
    *,
    profile: str | None = None,
    optimised: str | os.PathLike[str] | None = None,
) -> Any:
    """Open a file, or what stands in one, with one provider, and make sure that it is the one used.

    Args:
        threads: 0 for as many as there are cores.
        provider: a full name.
        profile: prefix of a profile file to write.
        optimised: where to write the graph that really runs.

    Raises:
        MeasureError: the file cannot be run, or the provider did not load.
    """
    import onnxruntime as ort

    source = model if isinstance(model, bytes) else os.fspath(model)
    path = "the file" if isinstance(source, bytes) else source
    if isinstance(source, str) and not os.path.isfile(source):
        raise MeasureError(f"there is no file {path}")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    if optimised is not None:
        options.optimized_model_filepath = os.fspath(optimised)
    ort.set_default_logger_severity(4)
    preload = getattr(ort, "preload_dlls", None)
    if preload is not None and provider.startswith(("CUDA", "Tensorrt")):
        with contextlib.redirect_stdout(io.StringIO()):
            preload()  # takes CUDA's libraries from torch's or NVIDIA's wheels
    wanted = [provider] if provider.startswith("CPU") else [provider, "CPUExecutionProvider"]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            session = ort.InferenceSession(source, options, providers=wanted)
        for one in (*session.get_inputs(), *session.get_outputs()):
            one.name, one.shape  # noqa: B018 -- a damaged name is decoded only when it is read
    except UnicodeDecodeError:
        raise MeasureError(f"{path} is no whole ONNX file: a name in it is no text") from None
    except Exception as error:
        raise MeasureError(_why(path, error)) from None
    loaded = session.get_providers()
    if loaded[0] != provider:
        raise MeasureError(
            f"{short_name(provider)} was asked for but did not load; onnxruntime fell back to "
            f"{short_name(loaded[0])}: check the driver and the CUDA libraries"
        )
    return session


def _why(path: str, error: Exception) -> str:
    """One sentence for what onnxruntime says about a file."""
    message = " ".join(str(error).split())
    kind = type(error).__name__
    if kind == "InvalidProtobuf" or "No graph was found" in message:
        return f"{path} is no whole ONNX file: it is damaged, cut short or something else"
    if re.search(r"external data|external_data|External initializer", message, re.IGNORECASE):
        return f"{path} keeps weights in another file that is missing or outside its folder"
    unknown = re.search(r"([\w.:]+)\(-?\d+\) is not a registered", message)
    if unknown:
        return f"{path} needs the operator {unknown.group(1)}, which onnxruntime does not have"
    if "IR version" in message or "opset" in message.lower():
        return f"{path} is of a newer ONNX version than this onnxruntime can read: {message[:200]}"
    return f"{path} cannot be run by onnxruntime: {message[:300]}"


def memory_bytes() -> int | None:
    """The memory of this machine, where the system reports it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def open_sizes(session: Any) -> list[str]:
    """The dimensions that a file leaves open beside the batch: their names, or places without."""
    found: list[str] = []
    for place in session.get_inputs():
        for axis, size in enumerate(place.shape):
            name = size or f"{place.name}[{axis}]"
            if axis and not isinstance(size, int) and name not in found:
                found.append(str(name))
    return found


def random_inputs(session: Any, batch: int, path: str, sizes: Sequence[int] = ()) -> dict[str, Any]:
    """Random values for every input of a session.

    Args:
        sizes: for the open dimensions, in the order of `open_sizes`.

    Raises:
        MeasureError: the batch or the sizes do not fit the file or this machine's memory.
    """
    rng = np.random.default_rng(0)
    feed: dict[str, Any] = {}
    left_open = open_sizes(session)
    if left_open and len(left_open) != len(sizes):
        example = "x".join(["224"] * len(left_open))
        given = f", and not {len(sizes)} sizes" if sizes else ""
        raise MeasureError(
            f"{path} leaves {', '.join(left_open)} open beside the batch: say how large, in this "
            f"order{given}, for example --size {example}"
        )
    chosen = dict(zip(left_open, sizes))  # noqa: B905 (Python 3.8)
    for number, place in enumerate(session.get_inputs()):
        shape = list(place.shape)
        if shape and not isinstance(shape[0], int):
            shape[0] = batch
        elif shape and number == 0 and shape[0] != batch and shape[0] > 0:
            raise MeasureError(f"{path} has the fixed batch {shape[0]}; {batch} was asked for")
        for axis, size in enumerate(shape):
            if not isinstance(size, int):
                shape[axis] = size = chosen[str(size or f"{place.name}[{axis}]")]
            if size < 1:
                raise MeasureError(f"{path}: input {place.name!r} of shape {shape} holds nothing")
        kind = _TYPES.get(place.type)
        if kind is None:
            raise MeasureError(f"{path}: input {place.name!r} is a {place.type}, not a number")
        needed = math.prod(shape) * np.dtype(kind).itemsize
        if needed * _OVER_INPUT > (memory_bytes() or math.inf):
            raise MeasureError(
                f"{path}: a batch of {batch} needs {needed / 1e9:.1f} GB for its input alone and "
                "many times that inside the network, more than this machine has: use a smaller one"
            )
        if np.issubdtype(kind, np.floating):
            feed[place.name] = rng.standard_normal(shape).astype(kind)
        else:
            feed[place.name] = rng.integers(0, 2 if kind is np.bool_ else 100, shape).astype(kind)
    return feed


class Clock:
    """Where times come from, in seconds; tests put an invented one in its place."""

    def wall(self) -> float:
        """Time that passes."""
        return time.perf_counter()

    def processor(self) -> float:
        """Time that the processor spends on this thread."""
        return time.thread_time()


def counts_processor_time(clock: Clock) -> bool:
    """Whether this system's clock of a thread moves in steps that are small enough to use."""
    start = clock.processor()
    end = clock.wall() + 0.05
    while clock.wall() < end:
        step = clock.processor() - start
        if step > 0:
            return step < _COARSE
    return False


class Visit(NamedTuple):
    """What one visit found, in seconds a call.

    Attributes:
        low, middle: lowest and median time over its chunks of calls.
        calibration: lowest time of the calibration network, run before and after.
        calls: wall time of each call.
    """

    low: float
    middle: float
    calibration: float
    calls: np.ndarray[Any, Any]


class Timed:
    """One thing to be timed, and what was found so far.

    Args:
        opened: makes it ready and returns what runs it once.
        calibration: runs the calibration network once.
        processor: whether times are the thread's processor time, not the wall clock's.
        seconds: to run it at each visit.
        reopen: whether each visit opens it afresh.
    """

    def __init__(
        self,
        opened: Callable[[], Run],
        calibration: Run,
        processor: bool,
        seconds: float,
        reopen: bool = True,
        clock: Clock | None = None,
    ) -> None:
        self.opened, self.calibration, self.processor = opened, calibration, processor
        self.seconds, self.reopen, self.clock = seconds, reopen, clock or Clock()
        self.run: Run | None = None
        self.loads: list[float] = []
        self.visits: list[Visit] = []

    def visit(self) -> None:
        """Open it, warm up, and time it between two runs of the calibration network."""
        run = self.run
        if run is None:
            start = self.clock.wall()
            run = self.opened()
            self.loads.append(self.clock.wall() - start)
            if not self.reopen:
                self.run = run
        before, _ = self._times(self.calibration, _CALIBRATION_SECONDS)
        chunks, calls = self._times(run, self.seconds)
        after, _ = self._times(self.calibration, _CALIBRATION_SECONDS)
        calibration = float(min(before.min(), after.min()))
        self.visits.append(Visit(float(chunks.min()), float(np.median(chunks)), calibration, calls))

    def _times(self, run: Run, seconds: float) -> tuple[np.ndarray[Any, Any], ...]:
        """Seconds a call in each chunk of calls, and wall time of each call, after a warm-up."""
        wall = self.clock.wall
        read = self.clock.processor if self.processor else wall
        run()
        start = read()
        run()
        size = max(1, int(_CHUNK / max(read() - start, 1e-9)))
        size = min(size, 1000)
        chunks: list[float] = []
        calls: list[float] = []
        spent = 0.0
        while spent < seconds or len(chunks) < _LEAST_CHUNKS:
            start, before = read(), wall()
            for _ in range(size):
                run()
                now = wall()
                calls.append(now - before)
                before = now
            taken = read() - start
            chunks.append(taken / size)
            spent += taken
        return np.array(chunks), np.array(calls)

    @property
    def rounds(self) -> list[list[Visit]]:
        """The visits of each whole round."""
        whole = range(0, len(self.visits) - VISITS + 1, VISITS)
        return [self.visits[start : start + VISITS] for start in whole]

    def multiples(self) -> np.ndarray[Any, Any]:
        """For each round its fastest moment as a multiple of the calibration network's."""
        return np.array(
            [
                min(one.low for one in visits) / min(one.calibration for one in visits)
                for visits in self.rounds
            ]
        )

    @property
    def width(self) -> float:
        """Width of the interval of p50, as a share of p50."""
        multiples = self.multiples()
        low, high = interval(multiples)
        return float((high - low) / np.median(multiples))

    def result(self, speed: float) -> dict[str, Any]:
        """The latency figures, in milliseconds.

        Args:
            speed: seconds that the calibration network takes where nothing disturbs it.
        """
        multiples = self.multiples()
        fastest = [one.calibration for one in self.visits]
        above = min(one.middle / one.low for one in self.visits)
        p50 = 1e3 * speed * above * float(np.median(multiples))
        low, high = (1e3 * speed * above * end for end in interval(multiples))
        walls = [np.concatenate([one.calls for one in visits]) for visits in self.rounds]
        wall = 1e3 * np.median([np.percentile(calls, PERCENTILES) for calls in walls], axis=0)
        # Processor time lies below the wall clock's, but for figures of few calls.
        rising = np.maximum.accumulate([p50, *wall[1:]])
        latency: dict[str, Any] = {
            f"p{share}": float(rising[i]) for i, share in enumerate(PERCENTILES)
        }
        noisy = bool(high - low > NOISY * p50 or latency["p99"] > TAIL * p50)
        latency.update(p50_low=low, p50_high=high, noisy=noisy)
        return {
            "latency_ms": latency,
            "p50_wall": float(wall[0]),
            "distribution_ms": [
                1e3 * float(one)
                for one in np.median([np.percentile(calls, DISTRIBUTION) for calls in walls], 0)
            ],
            "noisy": noisy,
            "calm_ms": 1e3 * speed * float(min(one.low for one in self.visits) / min(fastest)),
            "calibration_ms": 1e3 * speed,
            "drift": float(np.median(fastest) / speed - 1),
            "clock": "processor" if self.processor else "wall",
            "load_ms": 1e3 * float(np.median(self.loads)),
            "rounds": len(self.rounds),
            "calls": sum(len(one.calls) for one in self.visits),
        }


def interval(values: Sequence[float] | np.ndarray[Any, Any]) -> tuple[float, float]:
    """Confidence interval of the median of a few values, without an assumption of their kind.

    The narrowest pair of order statistics that holds it with CONFIDENCE; of fewer than five values
    the lowest and the highest.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    count = len(ordered)
    outside = 0
    below = 0.0  # chance that fewer than `outside + 1` values lie below the median
    while 2 * outside + 2 < count:
        below += math.comb(count, outside) / 2**count
        if 1 - 2 * (below + math.comb(count, outside + 1) / 2**count) < CONFIDENCE:
            break
        outside += 1
    return float(ordered[outside]), float(ordered[count - 1 - outside])


def in_rounds(
    timed: Sequence[Timed], rounds: int = ROUNDS, progress: Callable[[float], None] | None = None
) -> list[dict[str, Any]]:
    """Time things in turn, round by round, until each one's interval is narrow.

    Args:
        rounds: at least so many; up to three times as many.
        progress: called with the share done, from 0 to 1.

    Returns:
        the figures of each (`Timed.result`), all at one speed of the machine.
    """
    waiting = list(timed)
    for number in range(3 * rounds):
        for visit in range(VISITS):
            for one in waiting:
                one.visit()
            if progress is not None:
                progress(min(1.0, (number + (visit + 1) / VISITS) / rounds))
        if number + 1 >= rounds:
            waiting = [one for one in waiting if one.width > NARROW]
        if not waiting:
            break
    speeds: dict[int, float] = {}
    for one in timed:
        key = id(one.calibration)
        fastest = min(visit.calibration for visit in one.visits)
        speeds[key] = min(fastest, speeds.get(key, fastest))
    return [one.result(speeds[id(one.calibration)]) for one in timed]


def measure(
    paths: Sequence[str],
    threads: Sequence[int] = (1,),
    batches: Sequence[int] = (),
    providers: Sequence[str] = ("cpu",),
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    sizes: Sequence[int] = (),
    progress: Callable[[float], None] | None = None,
    clock: Clock | None = None,
) -> list[dict[str, Any]]:
    """Measure every file at every provider, thread count and batch size, in interleaved rounds.

    Args:
        batches: without any each file's own fixed batch, or 1.
        providers: short or full names.
        rounds: at least so many; up to three times as many where they differ.
        seconds: to run a file at each visit, of which there are three a round.
        sizes: for the dimensions that a file leaves open beside the batch.
        progress: called with the share done, from 0 to 1.

    Raises:
        MeasureError: something cannot be measured.
    """
    names = [provider_name(name) for name in providers]
    for count in threads:
        if count < 1:
            raise MeasureError(f"{count} threads are not possible: use 1 or more")
    for batch in batches:
        if batch < 1:
            raise MeasureError(f"batch {batch} is not possible: use 1 or more")
    if rounds < 1:
        raise MeasureError(f"{rounds} rounds are not possible: use 1 or more")
    clock = clock or Clock()
    fine = counts_processor_time(clock)
    timed, settings = [], []
    calibrations: dict[tuple[str, int], Run] = {}
    for path in paths:
        for name in names:
            for count in threads:
                if (name, count) not in calibrations:
                    network = calibration_network()
                    calibrations[name, count] = _opened(network, count, name)
                for batch in batches or (own_batch(path),):
                    alone = name == "CPUExecutionProvider" and count == 1
                    timed.append(
                        Timed(
                            functools.partial(_opened, path, count, name, batch, sizes),
                            calibrations[name, count],
                            alone and fine,
                            seconds,
                            name == "CPUExecutionProvider",  # others take seconds to open a file
                            clock,
                        )
                    )
                    settings.append((path, name, count, batch))
    found = []
    results = in_rounds(timed, rounds, progress)
    for (path, name, count, batch), figures in zip(settings, results):  # noqa: B905 (Python 3.8)
        one = {"model": path, "provider": name, "threads": count, "batch": batch}
        one.update(figures)
        one["throughput"] = 1e3 * batch / figures["latency_ms"]["p50"]
        one["file_bytes"] = file_bytes(path)
        found.append(one)
    return found


def _opened(
    model: str | bytes, threads: int, provider: str, batch: int = 1, sizes: Sequence[int] = ()
) -> Run:
    """What runs a file once on random inputs.

    Raises:
        MeasureError: it cannot be run.
    """
    session = open_session(model, threads, provider)
    outputs = [place.name for place in session.get_outputs()]
    name = model if isinstance(model, str) else "the calibration network"
    run = functools.partial(session.run, outputs, random_inputs(session, batch, name, sizes))
    try:
        run()
    except Exception as error:
        raise MeasureError(_why(name, error)) from None
    return run


def own_batch(path: str) -> int:
    """The batch that a file's first input is fixed to, or 1.

    Raises:
        MeasureError: the file cannot be opened.
    """
    inputs = open_session(path, 1, "CPUExecutionProvider").get_inputs()
    first = inputs[0].shape[:1] if inputs else []
    return int(first[0]) if first and isinstance(first[0], int) else 1


def calibration_network() -> bytes:
    """The ONNX file of a small network of the kind that gemkit searches, the same everywhere.

    Two blocks of a depthwise and a pointwise convolution, a concatenation and another pointwise
    one, on 32 channels of 32x32 pixels: 7 million multiply-accumulates, 128 kB an activation.
    """
    rng = np.random.RandomState(0)  # its stream is the same in every version of numpy
    nodes, weights = [], []

    def convolution(source: str, target: str, inputs: int, size: int, groups: int) -> None:
        values = rng.uniform(-0.1, 0.1, (32, inputs // groups, size, size)).astype("<f4")
        shape = [(1, length) for length in values.shape]
        weights.append(
            _message(*shape, (2, 1), (8, "weight " + target), (9, values.tobytes()))  # 1: float
        )
        nodes.append(
            _message(
                (1, source),
                (1, "weight " + target),
                (2, "sum " + target),
                (4, "Conv"),
                (5, _message((1, "pads"), *[(8, size // 2)] * 4, (20, 7))),  # 7: integers
                (5, _message((1, "group"), (3, groups), (20, 2))),  # 2: one integer
            )
        )
        nodes.append(_message((1, "sum " + target), (2, target), (4, "Relu")))

    source = "image"
    for block in ("first", "second"):
        convolution(source, block + " depthwise", 32, 3, 32)
        convolution(block + " depthwise", block + " pointwise", 32, 1, 1)
        nodes.append(
            _message(
                (1, source),
                (1, block + " pointwise"),
                (2, block + " joined"),
                (4, "Concat"),
                (5, _message((1, "axis"), (3, 1), (20, 2))),
            )
        )
        convolution(block + " joined", block, 64, 1, 1)
        source = block
    nodes.append(_message((1, source), (2, "mean"), (4, "GlobalAveragePool")))

    def value(name: str, *shape: int) -> bytes:
        sizes = _message(*[(1, _message((1, size))) for size in shape])
        return _message((1, name), (2, _message((1, _message((1, 1), (2, sizes))))))

    graph = _message(
        *[(1, node) for node in nodes],
        (2, "calibration"),
        *[(5, weight) for weight in weights],
        (11, value("image", 1, 32, 32, 32)),
        (12, value("mean", 1, 32, 1, 1)),
    )
    return _message((1, 7), (7, graph), (8, _message((2, 13))))  # IR version 7, opset 13


def _message(*fields: tuple[int, int | str | bytes]) -> bytes:
    """A protobuf message of fields by number, as ONNX files consist of (onnx.proto)."""
    found = b""
    for number, value in fields:
        if isinstance(value, int):
            found += _varint(number << 3) + _varint(value)
        else:
            content = value.encode() if isinstance(value, str) else value
            found += _varint(number << 3 | 2) + _varint(len(content)) + content
    return found


def _varint(number: int) -> bytes:
    digits = []
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])


def file_bytes(path: str) -> int:
    """Size of a file and, where its weights lie beside it under its name, of those too."""
    return sum(os.path.getsize(name) for name in {path, path + ".data"} if os.path.isfile(name))


def node_providers(
    path: str, provider: str, batch: int = 1, sizes: Sequence[int] = ()
) -> dict[str, int]:
    """How many nodes of a file each provider really runs, from onnxruntime's own profile."""
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(path, 1, provider, profile=os.path.join(folder, "profile"))
        session.run(None, random_inputs(session, batch, path, sizes))
        with open(session.end_profiling(), encoding="utf-8") as file:
            events = json.load(file)
    ran: dict[str, set[str]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            ran.setdefault(event["args"].get("provider", "?"), set()).add(event["name"])
    return {name: len(nodes) for name, nodes in sorted(ran.items())}


def peak_memory_bytes() -> int | None:
    """Largest resident memory of this process so far."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak * (1 if sys.platform == "darwin" else 1024))


def memory_of(
    path: str, threads: int, batch: int, provider: str, sizes: Sequence[int] = ()
) -> dict[str, int | None]:
    """Peak resident memory of this process, which should be fresh, after three calls.

    `model_bytes` is the part beyond what importing onnxruntime took.
    """
    import onnxruntime  # noqa: F401

    before = peak_memory_bytes()
    session = open_session(path, threads, provider_name(provider))
    feed = random_inputs(session, batch, path, sizes)
    for _ in range(3):
        session.run(None, feed)
    after = peak_memory_bytes()
    extra = None if after is None or before is None else after - before
    return {"peak_rss_bytes": after, "model_rss_bytes": extra}


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory, frequency governor, operating system and Python."""
    processor = platform.processor() or platform.machine()
    found = [
        line.partition(":")[2].strip()
        for line in _lines("/proc/cpuinfo")
        if line.startswith(("model name", "Model"))
    ]
    board = "".join(_lines("/proc/device-tree/model")[:1]).strip("\x00 \n")
    affinity = getattr(os, "sched_getaffinity", None)
    governors = {
        "".join(_lines(name)).strip()
        for name in glob.glob("/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor")
    }
    return {
        "processor": found[0] if found else processor,
        "board": board or None,
        "architecture": platform.machine(),
        "cores": len(affinity(0)) if affinity else os.cpu_count() or 1,
        "memory_bytes": memory_bytes(),
        "governor": ", ".join(sorted(governors)) or None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readlines()
    except OSError:
        return []


def versions() -> dict[str, str]:
    """Of onnxruntime and numpy, and how onnxruntime was built where it says so."""
    import onnxruntime as ort

    found = {"onnxruntime": str(ort.__version__), "numpy": str(np.__version__)}
    about = getattr(ort, "get_build_info", None)
    return {**found, "onnxruntime_build": str(about())} if about is not None else found


def write_json(path: str, value: Any) -> None:
    """Write JSON beside its place, then rename it.

    Raises:
        MeasureError: it cannot be written.
    """
    beside = path + ".part"
    try:
        with open(beside, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise MeasureError(f"{path} cannot be written: {error.strerror or error}") from None


def digest(path: str) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def manifest_id(manifest: dict[str, Any]) -> str:
    """What names a kit: SHA-256 of everything its manifest says."""
    content = {name: value for name, value in manifest.items() if name != "id"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_kit(folder: str) -> dict[str, Any]:
    """The manifest of an unpacked kit, after checking every file against it.

    Raises:
        MeasureError: a file is missing or was changed.
    """
    try:
        with open(os.path.join(folder, "manifest.json"), encoding="utf-8-sig") as file:
            manifest: dict[str, Any] = json.load(file)
        whole = manifest_id(manifest) == manifest["id"]
        files = {str(entry["file"]): entry["sha256"] for entry in manifest["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise MeasureError(f"{folder} holds no whole manifest.json: unpack the kit again") from None
    if not whole:
        raise MeasureError("manifest.json was changed: unpack the kit again")
    for name, known in files.items():
        path = os.path.join(folder, name)
        if not os.path.isfile(path) or digest(path) != known:
            raise MeasureError(f"{name} is missing or not as it was packed: unpack the kit again")
    return manifest


_KEPT = (*("latency_ms", "p50_wall", "calm_ms", "calibration_ms", "drift", "clock", "load_ms"),)
"""Of a measurement, in a kit's measurements.json."""


def measure_kit(folder: str, out: str, rounds: int, seconds: float) -> None:
    """Measure a kit's networks, a few at a time; what `out` holds already is not measured again.

    Raises:
        MeasureError: the kit was changed, or `out` belongs to another kit or device.
    """
    manifest = read_kit(folder)
    device = {
        "machine": describe_machine(),
        "versions": versions(),
        "provider": "CPUExecutionProvider",
        "threads": 1,
    }
    found: dict[str, Any] = {
        "kind": "gemkit measurements",
        "format": 1,
        "manifest": manifest,
        "device": device,
        "measured": [],
    }
    done: set[str] = set()
    if os.path.exists(out):
        try:
            with open(out, encoding="utf-8-sig") as file:
                before = json.load(file)
            same_kit = before["manifest"]["id"] == manifest["id"]
            same_device = before["device"] == device
            found["measured"] = before["measured"]
            done = {one["file"] for one in before["measured"]}
        except (ValueError, KeyError, TypeError):
            raise MeasureError(f"{out} is damaged: remove it to begin again") from None
        if not (same_kit and same_device):
            what = "on another device or with other versions" if same_kit else "of another kit"
            raise MeasureError(f"{out} holds measurements {what}: remove it to begin again")
    waiting = [entry for entry in manifest["files"] if entry["file"] not in done]
    began = time.monotonic()
    for start in range(0, len(waiting), _GROUP):
        part = waiting[start : start + _GROUP]
        paths = [os.path.join(folder, entry["file"]) for entry in part]
        for i, one in enumerate(measure(paths, batches=(1,), rounds=rounds, seconds=seconds)):
            found["measured"].append(
                dict(
                    {"file": part[i]["file"], "sha256": part[i]["sha256"]},
                    **{name: one[name] for name in _KEPT},
                )
            )
        write_json(out, found)
        here = start + len(part)
        left = (time.monotonic() - began) / here * (len(waiting) - here)
        print(
            f"{len(found['measured'])} of {len(manifest['files'])} measured"
            + (f", about {max(1, round(left / 60))} min left" if left else ""),
            flush=True,
        )
    if not waiting:
        print(f"all {len(done)} networks are measured already")
    print(f"written to {out}; next, where gemkit is:")
    print(f"gemkit latency fit {os.path.basename(out)} --name NAME")


def _numbers(text: str, between: str = ",") -> Iterator[int]:
    for word in text.split(between):
        if not word.strip().isdecimal():
            raise MeasureError(f"{text!r} is no list of numbers: write it like 1{between}2")
        yield int(word)


def _line(one: Mapping[str, Any]) -> str:
    """What was measured of a file, for people."""
    latency, threads = one["latency_ms"], one["threads"]
    return (
        f"{one['model']}: p50 {latency['p50']:.3f} ms ({latency['p50_low']:.3f} to "
        f"{latency['p50_high']:.3f}), p90 {latency['p90']:.3f} ms (batch {one['batch']}, {threads} "
        f"thread{'' if threads == 1 else 's'}, {one['provider']})"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Times ONNX files with onnxruntime.")
    parser.add_argument("models", nargs="*", metavar="MODEL.onnx", help="none: the kit beside this")
    parser.add_argument("--threads", default="1", help="thread counts, e.g. 1,2")
    parser.add_argument("--batch", default="", help="batch sizes, e.g. 1,8; the file's own without")
    parser.add_argument("--size", default="", help="of what a file leaves open, e.g. 224x224")
    parser.add_argument("--provider", default="cpu", help="execution providers, e.g. cpu,cuda")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, help="to run a file at each of its visits")
    parser.add_argument("--memory", action="store_true", help="peak memory instead of latency")
    parser.add_argument("--out", help="file for all figures as JSON; a line for each file without")
    chosen = parser.parse_args(arguments)
    try:
        threads = list(_numbers(chosen.threads))
        batches = list(_numbers(chosen.batch)) if chosen.batch else []
        sizes = list(_numbers(chosen.size, "x")) if chosen.size else []
        providers = chosen.provider.split(",")
        value: Any
        if not chosen.models:
            here = os.path.dirname(os.path.abspath(__file__))
            out = chosen.out or os.path.join(here, "measurements.json")
            measure_kit(here, out, chosen.rounds, chosen.seconds or KIT_SECONDS)
            return 0
        if chosen.memory:
            path = chosen.models[0]
            batch = batches[0] if batches else own_batch(path)
            value = memory_of(path, threads[0], batch, providers[0], sizes)
        else:
            value = measure(
                chosen.models,
                threads,
                batches,
                providers,
                chosen.rounds,
                chosen.seconds or SECONDS,
                sizes,
            )
            about = {"machine": describe_machine(), "versions": versions()}
            value = [dict(one, **about) for one in value]
        if chosen.out:
            write_json(chosen.out, value)
        elif chosen.memory:
            print(json.dumps(value, indent=2))
        else:
            print("\n".join(_line(one) for one in value))
    except MeasureError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
