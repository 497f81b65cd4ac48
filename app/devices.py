"""Devices other than this machine: kits to measure them, and targets to search for."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from gemkit.architecture import MAX_WIDTH, MIN_WIDTH, skeleton_for
from gemkit.budget import PRECISIONS, Budget, format_bytes, format_latency
from gemkit.cell import AGGREGATIONS, CellArrays, read_cell
from gemkit.cost import check_feasible
from gemkit.data import load
from gemkit.errors import UserError
from gemkit.export.latency import LatencyModel, cross_validate
from gemkit.export.targets import (
    Target,
    check_name,
    images_of,
    remove_target,
    save_target,
    target,
    targets,
)

from . import formatting
from .steps.search import default_budget
from .terminal.progress import bar

WELL_PREDICTED = 0.8
"""Share of a device's networks to be predicted within 10 %; with less, a search keeps its limit of
time badly (ours: quiet machines reached 0.87 to 0.93)."""
_POOL = 8
"""Cells drawn for each network of a kit, from which those worth measuring are chosen."""
_ROOM = 2
"""A kit measures networks of up to so many times the MACs that gemkit aims for."""


def kit(
    *,
    out: Path,
    data: str,
    budget: Budget,
    aggregation: str,
    samples: int,
    seed: int,
    console: Console,
) -> dict[str, Any]:
    """Write a device kit for the networks that a search on `data` could find.

    Args:
        budget: bounds what is measured; without any limit, twice the MACs gemkit aims for.
        aggregation: "concat", "sum" or "both".

    Returns:
        what was written: `file`, `file_bytes`, `id`, `networks`, `input_shape`, `classes`.

    Raises:
        UserError: the data are unusable, no network fits, or the file cannot be written.
    """
    from gemkit.export.kit import write_kit
    from gemkit.search.sampling import random_cells

    if out.resolve().parent.exists() and not out.resolve().parent.is_dir():
        raise UserError(f"--out: {out.parent} is no folder")
    dataset = load(data)
    skeleton = skeleton_for(dataset.input_shape, dataset.classes)
    if budget.latency_ms is not None:
        raise UserError("--max-latency: a kit measures latency; bound its networks by --max-macs")
    check_feasible(budget, skeleton)
    if not any((budget.macs, budget.params, budget.memory_bytes)):
        budget = replace(budget, macs=_ROOM * (default_budget(skeleton).macs or 0))
    kinds = AGGREGATIONS if aggregation == "both" else (aggregation,)
    rng = np.random.default_rng(seed)
    pools = [random_cells(rng, _POOL * samples // len(kinds), 30, kind).pruned() for kind in kinds]
    console.print(
        f"kit: {samples} networks for {images_of(skeleton)} ({dataset.name}), {budget.describe()}"
    )
    with bar(console, "networks", 100) as advance:
        manifest = write_kit(
            out,
            skeleton,
            pools,
            budget=budget,
            samples=samples,
            seed=seed,
            progress=lambda share: advance(completed=int(100 * share)),
        )
    size = out.stat().st_size
    console.print(
        f"{out}: {format_bytes(size)}; copy it to the device, unzip it and there, in gemkit-kit:\n"
        "  pip install onnxruntime numpy && python measure.py\n"
        "then here: gemkit latency fit measurements.json --name NAME"
    )
    return {
        "file": str(out),
        "file_bytes": size,
        "id": manifest["id"],
        "networks": len(manifest["files"]),
        "input_shape": list(skeleton.input_shape),
        "classes": skeleton.classes,
    }


def fit(
    measurements: Sequence[Path], name: str, budget: Budget, description: str, console: Console
) -> dict[str, Any]:
    """Make a target of the user's own of what a kit measured.

    Returns:
        the target as `list_targets` describes it, with its `file` and, in `cross_validation`, how
        well measured networks are predicted from the others.

    Raises:
        UserError: the measurements or the name are unusable; nothing was written.
    """
    from gemkit.export.kit import fit_measurements

    check_name(name)
    model = fit_measurements(*measurements)
    check_feasible(budget, model.skeleton, model.smallest_safe_ms())
    found = cross_validate(model)
    path = save_target(name, model, budget, description)
    kept = target(name)
    console.print(
        f"{name}: {kept.description}; {formatting.number(len(model.measured), 'network')} for "
        f"{images_of(model.skeleton)}, {_span(model)}"
    )
    if found is not None:
        console.print(
            "each predicted from others: "
            f"{formatting.percent(found['within_10_percent'], 0)} of them "
            f"within 10 %, half within {formatting.percent(found['median_error'], 1)}; "
            f"rank correlation {found['spearman']:.3f}"
        )
        if found["within_10_percent"] < WELL_PREDICTED:
            console.print(
                f"less than {formatting.percent(WELL_PREDICTED, 0)} is poor: measure again with "
                "nothing else running there, or a kit of more --samples"
            )
    console.print(f"kept in {path}")
    console.print(f"next: gemkit run --data DATA --target {name} --max-latency TIME")
    return {**_about(kept), "file": str(path), "cross_validation": found}


def predict_latency(
    path: Path, name: str, widths: Sequence[int], console: Console
) -> list[dict[str, Any]]:
    """Predict how fast a cell is on a target, at several widths.

    Returns:
        for each width the `latency_ms`: `p50` and, with the safety margin, `at_most`.

    Raises:
        UserError: no such cell or target, or its latency is not known.
    """
    cell = read_cell(path).pruned()
    found = target(name)
    if found.latency is None:
        raise UserError(f"the latency on {found.name} is not known: it was not measured with a kit")
    for width in widths:
        if not MIN_WIDTH <= width <= MAX_WIDTH:
            raise UserError(f"--width {width} is not possible: use {MIN_WIDTH} to {MAX_WIDTH}")
    rows = found.latency.quote(CellArrays.from_cells([cell] * len(widths)), widths)
    values: list[dict[str, Any]] = [
        {
            "id": cell.id,
            "target": found.name,
            "width": width,
            "latency_ms": {"p50": p50, "at_most": at_most},
            "measured": False,
        }
        for width, (p50, at_most) in zip(widths, rows, strict=True)
    ]
    console.print(
        f"{cell.id} on {found.name}, {images_of(found.latency.skeleton)}: predicted, not measured"
    )
    for value in values:
        p50, at_most = value["latency_ms"].values()
        console.print(
            f"  width {value['width']}: {format_latency(p50)}, with a margin for its uncertainty "
            f"{format_latency(at_most)}"
        )
    return values


def list_targets(console: Console) -> list[dict[str, Any]]:
    """Print the devices known as a table and return them."""
    from .terminal.show import table_of

    found = targets()
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
    return [_about(one) for one in found]


def show_target(name: str, console: Console) -> dict[str, Any]:
    """Print all that is known of a device.

    Raises:
        UserError: there is none of that name.
    """
    from .terminal.show import headed

    found = target(name)
    console.print(*headed(found.name), found.description)
    console.print(f"a network may take: {found.budget.describe()}")
    for figure in found.figures:
        value = (
            format_bytes(figure.value)
            if figure.unit == "bytes"
            else f"{figure.value} {figure.unit}"
        )
        console.print(f"  {figure.name}: {value} ({figure.source})")
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
    return _about(found)


def remove(name: str, console: Console) -> dict[str, Any]:
    """Remove a target of the user's own.

    Raises:
        UserError: there is none of that name, or it comes with gemkit.
    """
    remove_target(name)
    console.print(f"removed {name}")
    return {"removed": name}


def precision_for(name: str, precision: str | None) -> str:
    """The precision that a target's budgets refer to.

    Raises:
        UserError: there is no such target, or another precision was asked for.
    """
    found = target(name)
    wanted = found.budget.precision
    if precision not in (None, wanted):
        raise UserError(f"--precision {precision}: networks for {found.name} are {wanted}")
    return wanted


def _about(one: Target) -> dict[str, Any]:
    """A target without the list of what was measured."""
    value = one.to_json()
    known = one.latency
    value["own"] = one.own
    value["latency"] = known and {
        "networks": len(known.measured),
        "input_shape": list(known.skeleton.input_shape),
        "classes": known.skeleton.classes,
        "device": known.device,
    }
    return {name: part for name, part in value.items() if name not in ("kind", "format")}


def _weight_bytes(one: Target) -> int | None:
    params = one.budget.params
    return None if params is None else params * PRECISIONS[one.budget.precision]


def _span(model: LatencyModel) -> str:
    times = [one.latency_ms for one in model.measured]
    return f"{format_latency(min(times))} to {format_latency(max(times))}"
