"""Devices other than this machine: kits to measure them, and targets to search for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from gemkit.architecture import MAX_WIDTH, MIN_WIDTH, skeleton_for
from gemkit.budget import Budget
from gemkit.cell import AGGREGATIONS, CellArrays, read_cell
from gemkit.cost import check_feasible
from gemkit.data import load
from gemkit.errors import UserError
from gemkit.export.kit import fit_measurements, write_kit
from gemkit.export.latency import cross_validate
from gemkit.export.targets import Target, check_name, images_of, save_target, target, targets
from gemkit.records import Latency
from gemkit.search.sampling import random_cells

from .runs import default_budget
from .terminal.progress import bar

_POOL = 8
"""Cells drawn for each network of a kit, from which those worth measuring are chosen."""
_SHORT = 50
"""Up to so many measured networks, what was measured on other devices may help."""
_HELPS = 0.95
"""By which factor it must bring the median error of networks left out down."""
_ROOM = 2
"""A kit measures networks of up to so many times the MACs that gemkit aims for."""


@dataclass(frozen=True)
class Kit:
    """A kit that was written, and what the networks in it are for."""

    file: str
    file_bytes: int
    id: str
    networks: int
    input_shape: tuple[int, int, int]
    classes: int


@dataclass(frozen=True)
class Fitted:
    """A target made of measurements.

    Attributes:
        file: where it is kept.
        cross_validation: how well measured networks are predicted from the others; None where
            they are too few.
        prior: the target measured before that the predictor starts from.
    """

    target: Target
    file: Path
    cross_validation: Mapping[str, float] | None
    prior: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The target as `about` gives it, with the rest."""
        found = {"file": str(self.file), "cross_validation": self.cross_validation}
        return {**about(self.target), **found, "prior": self.prior}


@dataclass(frozen=True)
class PredictedLatency:
    """How fast a cell is on a target at one width; `id` is the cell's."""

    id: str
    target: str
    width: int
    latency_ms: Latency
    measured: bool = False


def kit(
    *,
    out: Path,
    data: str,
    budget: Budget,
    aggregation: str,
    samples: int,
    seed: int,
    console: Console,
) -> Kit:
    """Write a device kit for the networks that a search on `data` could find.

    Args:
        budget: bounds what is measured; without any limit, twice the MACs gemkit aims for.
        aggregation: "concat", "sum" or "both".

    Raises:
        UserError: the data are unusable, no network fits, or the file cannot be written.
    """
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
    return Kit(
        str(out),
        out.stat().st_size,
        manifest["id"],
        len(manifest["files"]),
        skeleton.input_shape,
        skeleton.classes,
    )


def fit(
    measurements: Sequence[Path],
    name: str,
    budget: Budget,
    description: str,
    prior: str | None = None,
) -> Fitted:
    """Make a target of the user's own of what a kit measured.

    Args:
        prior: a target that was measured before, to start from. Without one, the user's own targets
            for the same images are tried where few networks were measured, and the one that helps
            most to predict networks left out is taken, if any does.

    Raises:
        UserError: the measurements or the name are unusable; nothing was written.
    """
    check_name(name)
    known = None if prior is None else target(prior)
    if known is not None and known.latency is None:
        raise UserError(f"--prior: the latency on {known.name} is not known")
    model = fit_measurements(*measurements, prior=None if known is None else known.latency)
    found = cross_validate(model)
    if known is None and found is not None and len(model.measured) <= _SHORT:
        for one in targets():
            if not one.own or one.name == name or one.latency is None:
                continue
            if one.latency.skeleton != model.skeleton:
                continue
            tried = fit_measurements(*measurements, prior=one.latency)
            judged = cross_validate(tried)
            if judged is not None and judged["median_error"] < _HELPS * found["median_error"]:
                model, found, known = tried, judged, one
    check_feasible(budget, model.skeleton, model.smallest_safe_ms())
    path = save_target(name, model, budget, description)
    return Fitted(target(name), path, found, None if known is None else known.name)


def predict_latency(path: Path, name: str, widths: Sequence[int]) -> list[PredictedLatency]:
    """Predict how fast a cell is on a target, at each of some widths.

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
    return [
        PredictedLatency(cell.id, found.name, width, Latency(p50, at_most=at_most))
        for width, (p50, at_most) in zip(widths, rows, strict=True)
    ]


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


def about(one: Target) -> dict[str, Any]:
    """A target under the names that programs read, without the list of what was measured."""
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
