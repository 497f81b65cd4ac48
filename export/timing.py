"""Times ONNX files with onnxruntime. Needs Python 3.8+, onnxruntime and numpy, nothing else.

    python timing.py model.onnx ... [--threads 1,2] [--batch 1,8] [--provider cpu] [--out FILE]
    python measure.py          # in an unpacked kit: measures it, or goes on where it stopped

This one file is used by gemkit itself and copied to devices (there as measure.py), so that both
measure alike:

- All files, thread counts, batch sizes and providers are measured in turn, round by round, so
  that a slow moment of the machine meets all of them. Before each turn come warm-up calls.
- A percentile is the median, over the rounds, of the rounds' percentiles.
- Where the rounds differ by more than NOISY, more of them are measured, up to three times as many.
- A call includes handing over the input and fetching the output, as in any program.
"""

from __future__ import annotations

import argparse
import contextlib
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
from typing import Any, Callable, Iterator, Mapping, Sequence  # noqa: UP035 (this file runs on Python 3.8)

import numpy as np

NOISY = 0.1
"""Largest difference of two rounds' medians, as a share of their median, that is still calm."""
PERCENTILES = (50, 90, 95, 99)
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


def open_session(path: str, threads: int, provider: str, profile: str | None = None) -> Any:
    """Open a file with one provider, and make sure that it is the one that runs.

    Args:
        provider: a full name.
        profile: prefix of a profile file to write.

    Raises:
        MeasureError: the file cannot be run, or the provider did not load.
    """
    import onnxruntime as ort

    if not os.path.isfile(path):
        raise MeasureError(f"there is no file {path}")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    ort.set_default_logger_severity(4)
    preload = getattr(ort, "preload_dlls", None)
    if preload is not None and provider.startswith(("CUDA", "Tensorrt")):
        with contextlib.redirect_stdout(io.StringIO()):
            preload()  # takes CUDA's libraries from torch's or NVIDIA's wheels
    wanted = [provider] if provider.startswith("CPU") else [provider, "CPUExecutionProvider"]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            session = ort.InferenceSession(path, options, providers=wanted)
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
    """The memory of this machine, where the system tells."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def random_inputs(session: Any, batch: int, path: str) -> dict[str, Any]:
    """Random values for every input of a session.

    Raises:
        MeasureError: the batch does not fit the file or this machine's memory, or the file's shapes
            leave open what to feed.
    """
    rng = np.random.default_rng(0)
    feed: dict[str, Any] = {}
    for place in session.get_inputs():
        shape = list(place.shape)
        if shape and not isinstance(shape[0], int):
            shape[0] = batch
        elif shape and shape[0] != batch and shape[0] > 0:
            raise MeasureError(f"{path} has the fixed batch {shape[0]}; {batch} was asked for")
        for size in shape:
            if not isinstance(size, int):
                raise MeasureError(
                    f"{path}: input {place.name!r} has the open dimension {size!r} beside the "
                    "batch: give it a fixed size"
                )
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


class Timed:
    """One file with one provider, thread count and batch size."""

    def __init__(self, path: str, provider: str, threads: int, batch: int, seconds: float) -> None:
        self.path, self.threads, self.batch = path, threads, batch
        self.seconds = seconds
        loads = []
        for _ in range(3):
            start = time.perf_counter()
            self.session = open_session(path, threads, provider)
            loads.append(time.perf_counter() - start)
        self.load_ms = 1e3 * float(np.median(loads))
        self.provider = self.session.get_providers()[0]
        self.feed = random_inputs(self.session, batch, path)
        self.outputs = [place.name for place in self.session.get_outputs()]
        self.rounds: list[np.ndarray[Any, Any]] = []
        try:
            self.session.run(self.outputs, self.feed)
        except Exception as error:
            raise MeasureError(_why(path, error)) from None

    def turn(self, least: int = 10, most: int = 5000) -> None:
        """One round: warm-up, then calls for `seconds`, at least `least` of them."""
        run, outputs, feed = self.session.run, self.outputs, self.feed
        clock = time.perf_counter
        warm = clock() + min(0.1 * self.seconds, 0.05)
        calls = 0
        while clock() < warm or calls < 2:
            run(outputs, feed)
            calls += 1
        times: list[float] = []
        end = clock() + self.seconds
        while len(times) < most:
            start = clock()
            if start >= end and len(times) >= least:
                break
            run(outputs, feed)
            times.append(clock() - start)
        self.rounds.append(np.array(times))

    @property
    def calm_ms(self) -> float:
        """10th percentile of all calls: hardly changed by what else the machine does."""
        return 1e3 * float(np.percentile(np.concatenate(self.rounds), 10))

    @property
    def spread(self) -> float:
        """How far the rounds' medians lie apart, as a share of their median."""
        medians = [np.median(times) for times in self.rounds]
        return float((max(medians) - min(medians)) / np.median(medians))

    @property
    def noisy(self) -> bool:
        """Whether the rounds' middle half lies too far apart for a sound median."""
        medians = [np.median(times) for times in self.rounds]
        low, middle, high = np.percentile(medians, [25, 50, 75])
        return bool(high - low > NOISY * middle)

    def result(self) -> dict[str, Any]:
        """The measurement, latencies in milliseconds."""
        found = 1e3 * np.median(
            [np.percentile(times, PERCENTILES) for times in self.rounds], axis=0
        )
        latency = {f"p{p}": float(found[i]) for i, p in enumerate(PERCENTILES)}
        return {
            "model": self.path,
            "provider": self.provider,
            "threads": self.threads,
            "batch": self.batch,
            "latency_ms": latency,
            "throughput": 1e3 * self.batch / latency["p50"],
            "load_ms": self.load_ms,
            "file_bytes": file_bytes(self.path),
            "calm_ms": self.calm_ms,
            "rounds": len(self.rounds),
            "calls": sum(len(times) for times in self.rounds),
            "spread": self.spread,
            "noisy": self.noisy,
        }


def measure(
    paths: Sequence[str],
    threads: Sequence[int] = (1,),
    batches: Sequence[int] = (1,),
    providers: Sequence[str] = ("cpu",),
    rounds: int = 5,
    seconds: float = 0.3,
    progress: Callable[[float], None] | None = None,
) -> list[dict[str, Any]]:
    """Measure every file at every provider, thread count and batch size, in interleaved rounds.

    Args:
        providers: short or full names.
        rounds: at least so many; up to three times as many where they differ much.
        seconds: of calls in each round of each measurement.
        progress: is told the share done, from 0 to 1.

    Raises:
        MeasureError: something cannot be measured.
    """
    names = [provider_name(name) for name in providers]
    for count in threads:
        if count < 1:
            raise MeasureError(f"{count} threads are not possible: use 1 or more")
    for size in batches:
        if size < 1:
            raise MeasureError(f"batch {size} is not possible: use 1 or more")
    if rounds < 1:
        raise MeasureError(f"{rounds} rounds are not possible: use 1 or more")
    timed = [
        Timed(path, name, count, size, seconds)
        for path in paths
        for name in names
        for count in threads
        for size in batches
    ]
    for turn in range(3 * rounds):
        # Noise of one file is noise of the machine: all are measured again, side by side.
        if turn >= rounds and not any(one.noisy for one in timed):
            break
        for one in timed:
            one.turn()
        if progress is not None:
            progress(min(1.0, (turn + 1) / rounds))
    return [one.result() for one in timed]


def file_bytes(path: str) -> int:
    """Size of a file and, where its weights lie beside it under its name, of those too."""
    return sum(os.path.getsize(name) for name in {path, path + ".data"} if os.path.isfile(name))


def node_providers(path: str, provider: str, batch: int = 1) -> dict[str, int]:
    """How many nodes of a file each provider really runs, from onnxruntime's own profile."""
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(path, 1, provider, os.path.join(folder, "profile"))
        session.run(None, random_inputs(session, batch, path))
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


def memory_of(path: str, threads: int, batch: int, provider: str) -> dict[str, int | None]:
    """Peak resident memory of this process, which should be fresh, after three calls.

    `model_bytes` is the part beyond what importing onnxruntime took.
    """
    import onnxruntime  # noqa: F401

    before = peak_memory_bytes()
    session = open_session(path, threads, provider_name(provider))
    feed = random_inputs(session, batch, path)
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
    """Of onnxruntime and numpy."""
    import onnxruntime as ort

    return {"onnxruntime": str(ort.__version__), "numpy": str(np.__version__)}


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
        with open(os.path.join(folder, "manifest.json"), encoding="utf-8") as file:
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


def measure_kit(folder: str, out: str, rounds: int, seconds: float, group: int = 4) -> None:
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
            with open(out, encoding="utf-8") as file:
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
    for start in range(0, len(waiting), group):
        part = waiting[start : start + group]
        paths = [os.path.join(folder, entry["file"]) for entry in part]
        for i, one in enumerate(measure(paths, rounds=rounds, seconds=seconds)):
            found["measured"].append(
                dict(
                    {"file": part[i]["file"], "sha256": part[i]["sha256"]},
                    **{name: one[name] for name in ("latency_ms", "calm_ms", "spread", "load_ms")},
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


def _numbers(text: str) -> Iterator[int]:
    for word in text.split(","):
        if not word.strip().isdecimal():
            raise MeasureError(f"{text!r} is no list of numbers: write it like 1,2")
        yield int(word)


def _line(one: Mapping[str, Any]) -> str:
    """What was measured of a file, for people."""
    latency, threads = one["latency_ms"], one["threads"]
    return (
        f"{one['model']}: p50 {latency['p50']:.3f} ms, p90 {latency['p90']:.3f} ms (batch "
        f"{one['batch']}, {threads} thread{'' if threads == 1 else 's'}, {one['provider']})"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Times ONNX files with onnxruntime.")
    parser.add_argument("models", nargs="*", metavar="MODEL.onnx", help="none: the kit beside this")
    parser.add_argument("--threads", default="1", help="thread counts, e.g. 1,2")
    parser.add_argument("--batch", default="1", help="batch sizes, e.g. 1,8")
    parser.add_argument("--provider", default="cpu", help="execution providers, e.g. cpu,cuda")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, help="of one file in one round")
    parser.add_argument("--memory", action="store_true", help="peak memory instead of latency")
    parser.add_argument("--out", help="file for all figures as JSON; a line for each file without")
    chosen = parser.parse_args(arguments)
    try:
        threads, batches = list(_numbers(chosen.threads)), list(_numbers(chosen.batch))
        providers = chosen.provider.split(",")
        value: Any
        if not chosen.models:
            here = os.path.dirname(os.path.abspath(__file__))
            out = chosen.out or os.path.join(here, "measurements.json")
            measure_kit(here, out, chosen.rounds, chosen.seconds or 0.1)
            return 0
        if chosen.memory:
            value = memory_of(chosen.models[0], threads[0], batches[0], providers[0])
        else:
            value = measure(
                chosen.models, threads, batches, providers, chosen.rounds, chosen.seconds or 0.3
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
