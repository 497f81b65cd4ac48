"""What people read of a run as rows of text: the same in the terminal, the report and the page."""

from collections.abc import Iterable
from typing import TypeVar

from gemkit.budget import format_bytes, format_count, format_latency
from gemkit.records import (
    Latency,
    Measurement,
    Model,
    Network,
    Recommendation,
    TeacherInfo,
    Trial,
    TrialSummary,
)

AnyTrial = TypeVar("AnyTrial", Trial, TrialSummary)

NONE = "–"
MODEL_HEADS = (
    "network",
    "hold-out",
    "test accuracy",
    "MACs",
    "params",
    "peak memory",
    "latency p50",
    "p90",
    "p99",
    "parity",
    "state",
)
TRIAL_HEADS = ("trial", "id", "round", "accuracy", "MACs", "params", "nodes", "width", "state")


def percent(fraction: float | None, digits: int = 2) -> str:
    """A fraction as per cent: 0.98611 -> `98.61 %`."""
    return NONE if fraction is None else f"{100 * fraction:.{digits}f} %"


def count(value: float | None) -> str:
    """A count or a dash."""
    return NONE if value is None else format_count(value)


def size(value: float | None) -> str:
    """A number of bytes or a dash."""
    return NONE if value is None else format_bytes(value)


def latency(value: Latency | None, part: str = "p50") -> str:
    """One percentile of a latency or a dash."""
    found = None if value is None else getattr(value, part)
    return NONE if found is None else format_latency(found)


def on_target(network: Network | Trial) -> str | None:
    """A network's predicted latency on the run's target as a sentence's part; None without one."""
    there = network.target if isinstance(network, Model) else None
    if there is None or there.latency_ms is None:
        return None
    return (
        f"{latency(there.latency_ms)} on {there.name} (predicted, not measured; at most "
        f"{latency(there.latency_ms, 'at_most')} with the margin for its uncertainty)"
    )


def fastest_file(best: Measurement) -> str:
    """Which of a network's files to use where it was measured."""
    return (
        f"the fastest of its files is {(best.onnx or best.model).rpartition('/')[2]}: "
        f"{latency(best.latency_ms)}, {percent(best.accuracy)}"
    )


def parity(value: float | None) -> str:
    """The largest difference to PyTorch or a dash."""
    return NONE if value is None else f"{value:.1e}"


def duration(seconds: float) -> str:
    """A time span for people: `about` precision, from seconds to hours."""
    if seconds < 1.5:
        return "1 second"
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 90 * 60:
        minutes = round(seconds / 60)
        return "1 minute" if minutes == 1 else f"{minutes} minutes"
    return f"{seconds / 3600:.1f} hours"


def number(amount: int, noun: str, plural: str = "") -> str:
    """`1 trial`, `16 trials`; `2 leaves`."""
    return f"{amount} {noun}" if amount == 1 else f"{amount} {plural or f'{noun}s'}"


def network_row(network: Network) -> tuple[str, ...]:
    """A network as texts under MODEL_HEADS."""
    return (
        network.id,
        NONE if network.holdout is None else percent(network.holdout.accuracy),
        percent(network.accuracy),
        count(network.macs),
        count(network.params),
        size(network.peak_memory_bytes),
        latency(network.latency_ms, "p50"),
        latency(network.latency_ms, "p90"),
        latency(network.latency_ms, "p99"),
        parity(network.parity_max_abs),
        state(network),
    )


def teacher_row(teacher: TeacherInfo) -> tuple[str, ...]:
    """A run's teacher as texts under MODEL_HEADS."""
    known = (percent(teacher.accuracy), count(teacher.macs), count(teacher.params))
    spent = NONE if teacher.latency_ms is None else latency(Latency(teacher.latency_ms))
    return (f"{teacher.name} (teacher)", NONE, *known, NONE, spent, *[NONE] * 4)


def teacher_line(teacher: TeacherInfo, test_images: int | None = None) -> str:
    """What a run's teacher reaches, and how it came to the classes."""
    on = "the" if test_images is None else f"{test_images:,}"
    spent = "" if teacher.macs is None else f", {count(teacher.macs)} MACs"
    how = f"; {teacher.head}" if teacher.head else ""
    return (
        f"teacher {teacher.name}: {percent(teacher.accuracy)} on {on} test images of "
        f"{teacher.side}x{teacher.side} pixels{spent}{how}"
    )


def recommendation_line(best: Recommendation) -> str:
    """Which network a run recommends and by how much it is better than the other kind."""
    kinds = {"found": "found by the search", "known": "a known network"}
    text = (
        f"recommended: {best.id}, {kinds[best.kind]}: {percent(best.holdout_accuracy)} of the "
        f"{best.images:,} images kept from all trainings"
    )
    if best.equal:
        more = "a higher log-loss there" if best.chosen_by == "loss" else "at least as many MACs"
        text += f", as {' and '.join(best.equal)} with {more}"
    if best.rival is not None and best.better_by is not None and best.interval is not None:
        low, high = (f"{100 * end:+.1f}" for end in best.interval)
        other = "best known network" if best.kind == "found" else "best network found"
        text += (
            f", {_apart(best.better_by)} the {other}, {best.rival} (95 % interval {low} to {high}"
        )
        text += ": too few images to tell them apart)" if best.interval[0] <= 0 else ")"
    text += f"; on the test images {percent(best.accuracy)}"
    if best.test_better_by is not None:
        text += f", {_apart(best.test_better_by)} it"
    return text


def _apart(difference: float) -> str:
    """A difference of accuracies as a sentence's part."""
    points = f"{abs(100 * difference):.1f}"
    if points == "0.0":
        return "level with"
    return f"{points} points {'above' if difference > 0 else 'below'}"


def state(entry: Trial | Network) -> str:
    """A trial's or network's state, with the reason when it failed."""
    return f"failed: {entry.error}" if entry.state == "failed" else entry.state


def trial_row(trial: Trial) -> tuple[str, ...]:
    """A trial as texts under TRIAL_HEADS."""
    return (
        str(trial.index),
        trial.id,
        str(trial.round),
        percent(trial.accuracy),
        count(trial.macs),
        count(trial.params),
        str(trial.nodes),
        str(trial.width),
        state(trial),
    )


def cell_line(entry: Trial | Model) -> str:
    """One line about a cell."""
    cell = entry.cell
    return (
        f"{number(cell.nodes, 'node')}, {number(len(cell.edges), 'edge')}, "
        f"{number(len(cell.leaves), 'leaf', 'leaves')}, {cell.aggregation}; "
        f"width {entry.width}"
    )


def best_trials(trials: Iterable[AnyTrial]) -> list[AnyTrial]:
    """The trials in order of accuracy, the earlier first among equals; failed ones last."""
    return sorted(
        trials,
        key=lambda trial: (trial.accuracy is None, -(trial.accuracy or 0.0), trial.index),
    )
