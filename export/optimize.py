"""Make an exported network faster, or smaller in memory, without changing what it computes.

Rewrites of the graph (`gemkit.export.rewrites`) and execution orders (`gemkit.export.schedule`)
are candidates only: each is tried on the network at hand, on the machine that runs this, beside
the best form found so far, and kept when the measurement says that it pays. A network that none
of them helps is returned as it was. See docs/optimizer.md for what pays where.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from gemkit.budget import Budget
from gemkit.errors import UserError
from gemkit.files import replacing

from . import memory, rewrites, schedule, timing
from .exporter import Images, accuracy_of, allowed_difference
from .figures import Figures, count, describe
from .graph import Graph, read, write
from .onnx_file import load_onnx

OBJECTIVES = ("latency", "memory")
ORDER_SECONDS = 10.0
"""Time for an execution order; after it the best one so far is taken, with a bound."""
LEAST_GAIN = 1.02
"""A rewrite that is not faster by this factor, in each of two measurements, is not applied."""

CHOICE_ROUNDS, CHOICE_SECONDS = 2, 0.03
"""Least number of rounds of each measurement, and how long their visits run a candidate."""
_BATCHES = (1, 3)

Measure = Callable[[Sequence[Path]], Sequence[float]]
"""Milliseconds a call of each file, measured side by side."""

Candidates = dict[str, rewrites.Rewrite]

STAGES: tuple[Candidates, ...] = (
    {"global pooling": rewrites.pool_globally},
    {
        f"channels padded to {multiple}": partial(rewrites.pad_channels, multiple=multiple)
        for multiple in (4, 8, 16)
    },
    {
        "sums shared, rest at once": lambda graph: rewrites.sums_at_once(
            rewrites.share_sums(graph)
        ),
    },
    {"siblings merged": rewrites.merge_siblings},
    {
        "concatenations of 2 split": partial(rewrites.split_concats, largest=2),
        "concatenations up to 3 split": partial(rewrites.split_concats, largest=3),
        "all concatenations split": rewrites.split_concats,
    },
)
"""What is tried for latency, in this order; of each stage at most one rewrite is applied."""


@dataclass(frozen=True)
class Tried:
    """One rewrite on one network.

    Attributes:
        name: what was tried.
        speedup: how many times faster than the form it was tried on; None if it was not timed.
        peak_memory_bytes: of the rewritten graph in its best known order; None for latency.
        applied: whether it was kept.
        note: why it was not timed.
    """

    name: str
    speedup: float | None = None
    peak_memory_bytes: int | None = None
    applied: bool = False
    note: str = ""


@dataclass(frozen=True)
class Report:
    """What `optimize` did.

    Attributes:
        objective: "latency" or "memory".
        tried: every rewrite in the order of trial.
        speedup: the result against the model given, measured anew at the end; 1 where nothing was
            applied.
        calm_ms: of the model given and of the result in that measurement (as of
            `timing`).
        peak_memory_bytes: peak activation memory of the model in the order given and of the
            result, by the definition of `gemkit.cost`.
        order_only_bytes: the same of the model given in its best order, without rewrites; None
            for latency.
        lower_bound_bytes: no order of the result needs less; None for latency.
        parity_max_abs: largest difference of the written file's outputs on random inputs.
        provider, threads: what the times were measured with.
        figures: what the written model costs.
        accuracy: of the written file, where images were given.
    """

    objective: str
    tried: tuple[Tried, ...]
    speedup: float
    calm_ms: tuple[float, float]
    peak_memory_bytes: tuple[int, int]
    order_only_bytes: int | None
    lower_bound_bytes: int | None
    parity_max_abs: float
    provider: str
    threads: int
    figures: Figures
    accuracy: float | None = None

    @property
    def applied(self) -> tuple[str, ...]:
        """Names of the rewrites that were applied."""
        return tuple(item.name for item in self.tried if item.applied)

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the names that programs read."""
        before, after = self.calm_ms
        return {
            "objective": self.objective,
            "rewrites": [asdict(item) for item in self.tried],
            "speedup": self.speedup,
            "calm_ms": {"plain": before, "optimized": after},
            "peak_memory_bytes": dict(
                zip(("plain", "optimized"), self.peak_memory_bytes, strict=True)
            )
            | {"order_only": self.order_only_bytes, "lower_bound": self.lower_bound_bytes},
            "parity_max_abs": self.parity_max_abs,
            "provider": self.provider,
            "threads": self.threads,
        }


def optimize(
    model: Any,
    objective: str = "latency",
    *,
    threads: int = 1,
    provider: str = "CPUExecutionProvider",
    seconds: float = CHOICE_SECONDS,
    limits: Budget | None = None,
    measure: Measure | None = None,
    progress: Callable[[Tried], None] | None = None,
) -> tuple[Any, Report]:
    """Rewrite a model and say what that brought.

    Args:
        model: an `onnx.ModelProto` in float, its first dimension being the batch.
        objective: "latency" applies what is faster on this machine, "memory" what lowers the
            peak of activation memory, whatever it costs in time.
        threads, provider: what the model will run with; times are taken at batch 1.
        seconds: to run each candidate at a visit; candidates run in turn with what they replace.
        limits: no rewrite is applied that leaves them where the model given does not.
        measure: measures in place of `timing`.
        progress: called with every rewrite tried.

    Returns:
        The rewritten model and the report. Inputs, outputs, metadata and the dynamic batch stay.

    Raises:
        UserError: the objective is unknown, or the model is none that can be rewritten.
    """
    if objective not in OBJECTIVES:
        raise UserError(f"unknown objective {objective!r}: use one of {', '.join(OBJECTIVES)}")
    plain = read(model)
    with tempfile.TemporaryDirectory() as folder:
        bench = _Bench(
            plain,
            Path(folder),
            provider,
            threads,
            measure or partial(_calm_ms, provider=provider, threads=threads, seconds=seconds),
        )
        notify = progress or (lambda item: None)
        if objective == "latency":
            best, tried = _for_latency(plain, bench, _Limits(limits, model), notify)
            order_only, bound = None, None
        else:
            best, tried, order_only, bound = _for_memory(
                plain, bench, _Limits(limits, model), notify
            )
        found = [bench.times([plain, best]) for _ in range(2)]
        if objective == "latency" and min(old / new for old, new in found) < LEAST_GAIN:
            best, tried = plain, [replace(item, applied=False) for item in tried]
        times = [sum(pair) / 2 for pair in zip(*found, strict=True)]
        if best is plain:
            times[1] = times[0]
        report = Report(
            objective=objective,
            tried=tuple(tried),
            speedup=times[0] / times[1],
            calm_ms=(times[0], times[1]),
            peak_memory_bytes=(schedule.peak(plain), _peak(best)),
            order_only_bytes=order_only,
            lower_bound_bytes=bound,
            parity_max_abs=bench.difference(best),
            provider=provider,
            threads=threads,
            figures=replace(count(write(best)), peak_memory_bytes=_peak(best)),
        )
    return (model if best is plain else _labelled(best, plain, report)), report


def optimize_file(
    source: Path,
    target: Path,
    objective: str = "latency",
    *,
    test: tuple[Images, NDArray[np.int64]] | None = None,
    **options: Any,
) -> Report:
    """`optimize` from file to file; the target is written whole or not at all.

    Args:
        test: images and labels to take the written file's accuracy on, for its metadata.

    Raises:
        UserError: the source cannot be read or rewritten, or the target cannot be written.
    """
    model = load_onnx(source)
    try:
        optimized, report = optimize(model, objective, **options)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    with replacing(target) as temporary:
        onnx.save(optimized, temporary)
        if test is not None:
            accuracy = accuracy_of(temporary, *test)
            describe(optimized, report.figures, accuracy=accuracy)
            onnx.save(optimized, temporary)
            report = replace(report, accuracy=accuracy)
    return report


class _Limits:
    """The limits that a rewrite must not leave: those of a budget that the model given keeps."""

    def __init__(self, budget: Budget | None, model: Any) -> None:
        self.budget = None if budget is None or count(model).over(budget, "fp32") else budget

    def left_by(self, graph: Graph, accumulate: bool = False) -> str:
        """Which limits a graph leaves, as a note; empty where none."""
        if self.budget is None:
            return ""
        over = count(write(graph), accumulate).over(self.budget, "fp32")
        return f"leaves the budget: {over}" if over else ""


def _for_latency(
    plain: Graph, bench: "_Bench", limits: _Limits, notify: Callable[[Tried], None]
) -> tuple[Graph, list[Tried]]:
    best, tried = plain, []
    for stage in STAGES:
        graphs: dict[str, Graph] = {}
        for name, rewrite in stage.items():
            graph = rewrite(best)
            if graph is best:
                continue
            difference = bench.difference(graph)
            note = limits.left_by(graph)
            if difference > bench.allowed:
                note = f"outputs differ by {difference:.2g}"
            if note:
                tried.append(Tried(name, note=note))
                notify(tried[-1])
            else:
                graphs[name] = graph
        gains = dict(zip(graphs, bench.gains(best, list(graphs.values())), strict=True))
        fastest = max(gains, key=gains.__getitem__, default=None)
        for name, gain in gains.items():
            applied = name == fastest and gain >= LEAST_GAIN
            tried.append(Tried(name, speedup=gain, applied=applied))
            notify(tried[-1])
            if applied:
                best = graphs[name]
    return best, tried


def _for_memory(
    plain: Graph, bench: "_Bench", limits: _Limits, notify: Callable[[Tried], None]
) -> tuple[Graph, list[Tried], int, int]:
    """Orders and partial sums; the least peak wins, the time it takes is only reported."""
    least = schedule.best_order(plain, ORDER_SECONDS)
    ordered = schedule.in_order(plain, least.units)
    graphs = {"order": ordered, "partial sums": memory.accumulate(ordered)}
    shared = rewrites.share_sums(plain)
    if shared is not plain:
        graphs["sums shared, partial sums"] = memory.accumulate(shared)
    best, peak = plain, schedule.peak(plain)
    found: list[Tried] = []
    names: dict[str, Graph] = {}
    for name, graph in graphs.items():
        if graph is ordered and name != "order":
            continue
        need = least.peak if graph is ordered else schedule.peak(graph, accumulate=True)
        difference = bench.difference(graph)
        note = limits.left_by(graph, accumulate=graph is not ordered)
        if difference > bench.allowed:
            note = f"outputs differ by {difference:.2g}"
        found.append(Tried(name, peak_memory_bytes=need, note=note))
        if not note and need < peak:
            best, peak = graph, need
        names[name] = graph
    bound = least.bound
    if best is not plain and best is not ordered:
        again = schedule.best_order(best, ORDER_SECONDS, accumulate=True)
        bound = again.bound
        if again.peak < peak:
            reordered = schedule.in_order(best, again.units)
            names = {n: reordered if graph is best else graph for n, graph in names.items()}
            best, peak = reordered, again.peak
    tried = []
    for item in found:
        gain = None
        if not item.note and names[item.name] is not plain:
            (gain,) = bench.gains(plain, [names[item.name]])
        applied = names[item.name] is best
        now = peak if applied else item.peak_memory_bytes
        tried.append(replace(item, speedup=gain, applied=applied, peak_memory_bytes=now))
        notify(tried[-1])
    return best, tried, least.peak, bound


def _peak(graph: Graph) -> int:
    """Peak of a graph; where it holds partial sums, with convolutions that accumulate."""
    return min(schedule.peak(graph), schedule.peak(graph, accumulate=True))


def _labelled(graph: Graph, plain: Graph, report: Report) -> Any:
    """The model of a graph, its metadata with its own figures and the rewrites applied."""
    model = write(graph)
    # What the rewrites added beyond the network's own parameters.
    own, before = report.figures, count(plain.model)
    more: dict[str, Any] = {"rewrites": report.applied}
    params = [entry for entry in model.metadata_props if entry.key == "gemkit.params"]
    if params:
        more["params"] = int(params[0].value) + own.weights - before.weights
    describe(model, own, **more)
    return model


class _Bench:
    """Runs graphs in onnxruntime, from files written for it, beside the graph given first."""

    def __init__(
        self, plain: Graph, folder: Path, provider: str, threads: int, measure: Measure
    ) -> None:
        self.folder, self.provider, self.threads, self.measure = folder, provider, threads, measure
        self.sessions: dict[int, tuple[Graph, Path, Any]] = {}
        rng = np.random.default_rng(0)
        self.inputs = [
            {
                value.name: _random_input(value, batch, rng)
                for value in plain.model.graph.input
                if value.name in plain.inputs
            }
            for batch in _batches(plain)
        ]
        session = self.opened(plain)[1]
        self.expected = [session.run(None, inputs) for inputs in self.inputs]
        self.allowed = max(allowed_difference(y) for ys in self.expected for y in ys)

    def opened(self, graph: Graph) -> tuple[Path, Any]:
        """The graph's file and a session on it with all of onnxruntime's own optimisations."""
        if id(graph) not in self.sessions:
            path = self.folder / f"{len(self.sessions)}.onnx"
            onnx.save(write(graph), path)
            try:
                session = timing.open_session(path, self.threads, self.provider)
            except timing.MeasureError as error:
                raise UserError(str(error).replace(f"{path} ", "the model ")) from None
            # The graph too, so that its id stays taken.
            self.sessions[id(graph)] = (graph, path, session)
        return self.sessions[id(graph)][1:]

    def difference(self, graph: Graph) -> float:
        """Largest difference of the graph's outputs from the plain graph's, on random inputs."""
        session = self.opened(graph)[1]
        return max(
            float(np.abs(y - z).max())
            for inputs, expected in zip(self.inputs, self.expected, strict=True)
            for y, z in zip(session.run(None, inputs), expected, strict=True)
        )

    def gains(self, base: Graph, graphs: Sequence[Graph]) -> list[float]:
        """How many times faster than `base` each graph is: the worse of two measurements."""
        if not graphs:
            return []
        found = [self.times([base, *graphs]) for _ in range(2)]
        return [
            min(times[0] / times[place] for times in found) for place in range(1, len(found[0]))
        ]

    def times(self, graphs: Sequence[Graph]) -> list[float]:
        """Milliseconds a run of each graph, taken in turn."""
        return list(self.measure([self.opened(graph)[0] for graph in graphs]))


def _calm_ms(paths: Sequence[Path], provider: str, threads: int, seconds: float) -> list[float]:
    found = timing.measure(
        [str(path) for path in paths],
        [threads],
        (),
        [provider],
        rounds=CHOICE_ROUNDS,
        seconds=seconds,
    )
    return [float(one["calm_ms"]) for one in found]


def _batches(graph: Graph) -> tuple[int, ...]:
    first = graph.model.graph.input[0].type.tensor_type.shape.dim
    fixed = bool(first) and first[0].HasField("dim_value")
    return (first[0].dim_value,) if fixed else _BATCHES


def _random_input(value: Any, batch: int, rng: np.random.Generator) -> NDArray[Any]:
    """Random values of the shape and type that a model's input has."""
    tensor = value.type.tensor_type
    sizes = []
    for place, size in enumerate(tensor.shape.dim):
        if place == 0 and not size.HasField("dim_value"):
            sizes.append(batch)
        elif size.HasField("dim_value") and size.dim_value > 0:
            sizes.append(size.dim_value)
        else:
            raise UserError(
                f"input {value.name!r} has a size that is not known: only the batch, its first "
                "dimension, may be dynamic"
            )
    kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    if kind == np.uint8:
        return rng.integers(0, 256, size=sizes, dtype=np.uint8)
    if kind.kind != "f":
        raise UserError(f"input {value.name!r} holds {kind.name}: only images can be optimised")
    return rng.random(sizes).astype(kind)
