"""The report of a comparison: `report.md` with figures, and the same in one HTML file."""

from collections.abc import Sequence
from pathlib import Path

from gemkit.budget import format_count
from gemkit.records import Latency

from .. import formatting
from ..comparison import FOUND, NARROW, RANDOM, Comparison
from ..formatting import percent
from . import document, plots

HEADS = (
    "network",
    "seeds",
    "accuracy",
    "95 % interval",
    "found better by",
    "95 % interval ",
    "MACs",
    "params",
    "peak memory",
    "latency p50",
)


def write(result: Comparison, folder: Path) -> Path:
    """Write a comparison's report with its pictures into its folder; gives the report's path."""
    drawn = []
    for cost_name, label, scale in (
        ("macs", "million MACs", 1e6),
        ("params", "thousand parameters", 1e3),
        ("latency_ms", "milliseconds (p50, batch 1, one thread, CPU)", 1.0),
    ):
        shown: dict[bool, list[plots.Point]] = {True: [], False: []}
        for entry in result.networks:
            value = getattr(entry, cost_name)
            if isinstance(value, Latency):
                value = value.p50
            if value is not None and entry.accuracy is not None:
                low, high = entry.interval or (entry.accuracy, entry.accuracy)
                point = plots.Point(entry.id, value / scale, entry.accuracy, (high - low) / 2)
                shown[entry.id in (FOUND, NARROW)].append(point)
        if shown[True] or shown[False]:
            epochs = formatting.number(result.epochs, "epoch")
            title = f"{result.data}, {epochs}, one recipe"
            figure = plots.tradeoff_figure(title, label, [], shown[True], shown[False], front=True)
            picture = f"{document.FIGURES}/{cost_name}.png"
            plots.save(figure, folder / picture)
            drawn.append(document.picture(picture, f"accuracy against {label}"))
    name = folder.resolve().name
    blocks = [
        f"# gemkit compare: {name}",
        summary(result),
        document.table(HEADS, table_rows(result)),
        notes(result),
        *drawn,
        "## How it was made",
        made(result),
    ]
    return document.write(blocks, f"gemkit compare: {name}", folder)


def points(value: float | None, sign: bool = True) -> str:
    """A difference of fractions in points: 0.0123 -> `+1.23`."""
    if value is None:
        return formatting.NONE
    return f"{100 * value:+.2f}" if sign else f"{100 * value:.2f}"


def table_rows(result: Comparison) -> list[tuple[str, ...]]:
    """The networks as texts under the heads of the table, the most accurate first."""
    rows: list[tuple[str, ...]] = []
    ordered = sorted(result.networks, key=lambda entry: -(entry.accuracy or 0.0))
    for entry in ordered:
        better = entry.found_better_by
        accuracy = percent(entry.accuracy)
        if entry.accuracy is None and entry.errors:
            accuracy = f"failed: {entry.errors[0]}"
        rows.append(
            (
                entry.id,
                str(len(entry.accuracies)),
                accuracy,
                _between(entry.interval, sign=False),
                points(None if better is None else better.mean),
                _between(None if better is None else better.interval, sign=True),
                formatting.count(entry.macs),
                formatting.count(entry.params),
                formatting.size(entry.peak_memory_bytes),
                formatting.latency(entry.latency_ms),
            )
        )
    return rows


def _between(interval: Sequence[float] | None, sign: bool) -> str:
    if interval is None:
        return formatting.NONE
    return f"{points(interval[0], sign)} to {points(interval[1], sign)}"


def summary(result: Comparison) -> str:
    """What was compared, and the found network beside the others, in a few sentences."""
    text = (
        f"{result.data}: {len(result.networks)} networks of up to "
        f"{format_count(result.max_macs)} MACs, "
        f"{seeds([len(entry.accuracies) for entry in result.networks])}, "
        f"{formatting.number(result.epochs, 'epoch')} on {result.train:,} images, "
        f"judged on {result.test:,} test images."
    )
    for own in result.networks:
        if own.id not in (FOUND, NARROW):
            continue
        for entry in result.networks:
            better = entry.found_better_by if own.id == FOUND else entry.narrow_better_by
            if better is None or entry.kind not in ("random", "differentiable"):
                continue
            text += (
                f" {own.id.capitalize()} against {entry.id}: {points(better.mean)} points"
                + (f" ({_between(better.interval, True)})" if better.interval else "")
                + f" with {own.macs / entry.macs:.2f} times the MACs and "
                f"{own.params / entry.params:.2f} times the parameters."
            )
    return text


def notes(result: Comparison) -> str:
    """How the figures are to be read."""
    text = (
        "Accuracies are means over the seeds, in per cent. `found better by` is the mean of the "
        "differences seed by seed, in points; intervals are Student's t over the seeds, so they "
        "hold the randomness of training and not that of which images are in the test set."
    )
    if any(entry.id == RANDOM for entry in result.networks):
        text += (
            " `random` is another cell of thirty nodes for each seed, as wide as the found "
            "network's MACs allow; costs are those of the first."
        )
    if any(entry.id == NARROW for entry in result.networks):
        text += (
            f" `narrow` is the found network with at most {percent(result.share, 0)} of the "
            "MACs of the smallest network of differentiable search."
        )
    return text + (
        " MACs are multiply-accumulates of convolutions and linear layers. Peak memory and latency "
        "are those of the ONNX file (fp32, batch 1, one thread, CPU), all measured in one session."
    )


def made(result: Comparison) -> str:
    """Recipe, seeds, machine and versions."""
    recipe = ", ".join(f"{name} {value}" for name, value in result.recipe.items())
    machine = ", ".join(f"{name} {value}" for name, value in result.machine.items() if value)
    versions = ", ".join(f"{name} {value}" for name, value in result.versions.items())
    return (
        f"One recipe for every network: {recipe}. Seeds: "
        f"{', '.join(map(str, result.seeds))}. Machine: {machine}. Versions: {versions}."
    )


def seeds(counts: Sequence[int]) -> str:
    """`3 seeds`, or `2 to 5 seeds` where networks differ."""
    low, high = min(counts, default=0), max(counts, default=0)
    return formatting.number(low, "seed") if low == high else f"{low} to {high} seeds"
