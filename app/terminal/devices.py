"""What `gemkit latency` and `gemkit targets` print."""

from collections.abc import Sequence

from rich.console import Console

from gemkit.budget import PRECISIONS, format_bytes, format_latency
from gemkit.export.latency import LatencyModel
from gemkit.export.targets import Target, images_of, target

from .. import formatting
from ..devices import Fitted, Kit, PredictedLatency
from .tables import headed, table_of

_WELL_PREDICTED = 0.8
"""Share of a device's networks to be predicted within 10 %; with less, a search keeps its limit of
time badly (ours: quiet machines reached 0.87 to 0.93)."""


def print_kit(made: Kit, console: Console) -> None:
    """Print what to do with a kit."""
    console.print(
        f"{made.file}: {format_bytes(made.file_bytes)}; copy it to the device, unzip it and "
        "there, in gemkit-kit:\n"
        "  pip install onnxruntime numpy && python measure.py\n"
        "then here: gemkit latency fit measurements.json --name NAME"
    )


def print_fit(fitted: Fitted, console: Console) -> None:
    """Print what was measured on a device and how well its networks are predicted."""
    kept, found = fitted.target, fitted.cross_validation
    assert kept.latency is not None
    console.print(
        f"{kept.name}: {kept.description}; "
        f"{formatting.number(len(kept.latency.measured), 'network')} for "
        f"{images_of(kept.latency.skeleton)}, {_span(kept.latency)}"
    )
    if fitted.prior is not None:
        console.print(f"starts from what was measured on {fitted.prior}")
    if found is not None:
        console.print(
            "each predicted from others: "
            f"{formatting.percent(found['within_10_percent'], 0)} of them "
            f"within 10 %, half within {formatting.percent(found['median_error'], 1)}; "
            f"rank correlation {found['spearman']:.3f}"
        )
        if found["within_10_percent"] < _WELL_PREDICTED:
            console.print(
                f"less than {formatting.percent(_WELL_PREDICTED, 0)} is poor: measure again with "
                "nothing else running there, or a kit of more --samples"
            )
    console.print(f"kept in {fitted.file}")
    console.print(f"next: gemkit run --data DATA --target {kept.name} --max-latency TIME")


def print_predictions(values: Sequence[PredictedLatency], name: str, console: Console) -> None:
    """Print how fast a cell is on a target, by width; the target by name or by its file."""
    known = target(name)
    assert known.latency is not None
    console.print(
        f"{values[0].id} on {known.name}, {images_of(known.latency.skeleton)}: predicted, "
        "not measured"
    )
    for value in values:
        console.print(
            f"  width {value.width}: {formatting.latency(value.latency_ms)}, with a "
            f"margin for its uncertainty {formatting.latency(value.latency_ms, 'at_most')}"
        )


def print_targets(found: Sequence[Target], console: Console) -> None:
    """Print the devices known as a table."""
    heads = ("target", "activations", "weights", "latency", "precision", "predicts latency of", "")
    rows = [
        (
            one.name,
            formatting.size(one.budget.memory_bytes),
            formatting.size(_weight_bytes(one)),
            formatting.NONE
            if one.budget.latency_ms is None
            else format_latency(one.budget.latency_ms),
            one.budget.precision,
            formatting.NONE if one.latency is None else images_of(one.latency.skeleton),
            "yours" if one.own else "",
        )
        for one in found
    ]
    console.print(table_of("devices, and what a network may take there at most", heads, rows))
    console.print(
        "activations: memory while it runs; weights: memory that keeps it; – no limit, or not known"
    )
    console.print(f"search for one: gemkit run --target {found[-1].name} --data digits")
    console.print(f"where its figures come from: gemkit targets {found[-1].name}")
    console.print("add your own device: gemkit latency kit --out kit.zip")


def print_target(found: Target, console: Console) -> None:
    """Print all that is known of a device."""
    console.print(*headed(found.name), found.description)
    console.print(f"a network may take: {found.budget.describe()}")
    for figure in found.figures:
        value = (
            format_bytes(figure.value)
            if figure.unit == "bytes"
            else f"{figure.value} {figure.unit}"
        )
        console.print(f"  {figure.name}: {value} ({figure.source})")
    for toolchain in found.toolchains:
        console.print(f"  {toolchain.name} takes {toolchain.takes} ({toolchain.source})")
    if found.latency is None:
        console.print("latency: not known, and none is claimed")
    else:
        versions = found.latency.device.get("versions", {})
        console.print(
            "latency: predicted from "
            f"{formatting.number(len(found.latency.measured), 'network')} for "
            f"{images_of(found.latency.skeleton)}, {_span(found.latency)}; onnxruntime "
            f"{versions.get('onnxruntime', 'of unknown version')}, one thread, batch 1"
        )


def _weight_bytes(one: Target) -> int | None:
    params = one.budget.params
    return None if params is None else params * PRECISIONS[one.budget.precision]


def _span(model: LatencyModel) -> str:
    times = [one.latency_ms for one in model.measured]
    return f"{format_latency(min(times))} to {format_latency(max(times))}"
