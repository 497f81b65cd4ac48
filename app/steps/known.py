"""Which known network is trained beside the found ones: the best of a few after a trial.

They get the user's own limits, never the cost of what was found, and the same short training on
the same images as a candidate of the search.
"""

import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from gemkit.baselines import baseline
from gemkit.budget import PRECISIONS
from gemkit.cost import count_with_fvcore
from gemkit.data import Dataset, proxy_split
from gemkit.errors import UserError
from gemkit.export.benchmark import export_untrained, latency_ms
from gemkit.export.schedule import peak_of_file
from gemkit.recipe import RECIPES, Recipe
from gemkit.records import Baseline, Limits, plain
from gemkit.store import Run
from gemkit.train import TrainingFailed, alone, train

from .. import formatting
from ..runs import is_elsewhere

NAMES = ("resnet20", "resnet8", "mobilenet_v3_small")
"""Those that were the best of their kind at 3 to 40 M MACs."""
TOLERANCE = 0.03
"""A network is planned to take so much less than a latency budget, for the noise of measuring."""
_SETTING = "tried_known"
_TRIES, _CLOSE = 6, 0.9
"""Sizes that are measured at most for a limit of latency or memory; what share of it is enough."""


@dataclass(frozen=True)
class Tried:
    """A known network after its trial.

    Attributes:
        limits: what it was made to fit; None where it can be made to fit the run's limits at none.
        accuracy: on the validation part of the search's images; None where there is none.
    """

    limits: Limits | None = None
    accuracy: float | None = None


def strongest(run: Run, dataset: Dataset, largest_batch: int, console: Console) -> Baseline | None:
    """The best within the run's limits, not trained yet; None where none can be made so small.

    What each reached is kept in the run, so that none is trained twice.

    Args:
        largest_batch: of the final trainings; a machine may not hold more at once.
    """
    tried = run.setting(_SETTING, dict[str, Tried], {})
    for name in NAMES:
        if name not in tried:
            limits = fitted(name, run, dataset)
            tried[name] = Tried(limits)
            if limits is not None:
                recipe = RECIPES["proxy"]
                batch = min(recipe.batch_size, largest_batch)
                recipe = recipe.changed(run.config.get("epochs"), batch)
                device = run.config.get("device", "auto")
                accuracy = trial(name, dataset, limits, recipe, run.seed, device)
                tried[name] = Tried(limits, accuracy)
            run.set_setting(_SETTING, tried)
    reached = {name: one.accuracy for name, one in tried.items() if one.accuracy is not None}
    if not reached:
        return None
    said = ", ".join(f"{name} {formatting.percent(value)}" for name, value in reached.items())
    console.print(f"known networks after a trial each: {said}")
    name = max(reached, key=lambda name: reached[name])
    limits = tried[name].limits or Limits()
    network = baseline(name, dataset.input_shape, dataset.classes, **plain(limits))
    macs, params = count_with_fvcore(network, dataset.input_shape)
    return Baseline(id=name, macs=macs, params=params, seed=run.seed, limits=limits)


def fitted(name: str, run: Run, dataset: Dataset) -> Limits | None:
    """The MACs and parameters to which a network must be held to keep all limits of a run.

    Memory and latency are those of a file, measured here, for which smaller and smaller networks
    are tried. A latency limit for another device is left out, since nothing is known of it there.

    Returns:
        None where no width is narrow enough.
    """
    budget = run.budget
    limits = Limits(budget.macs, budget.params, any_width=False)
    measured = budget.memory_bytes is not None or (
        budget.latency_ms is not None and not is_elsewhere(run)
    )
    if (limits.max_macs, limits.max_params) == (None, None):
        # Where to begin; a device that is not here leaves nothing else to go by.
        first = next((one.macs for one in run.models() if one.macs is not None), None)
        limits = replace(limits, max_macs=first)
    try:
        network = baseline(name, dataset.input_shape, dataset.classes, **plain(limits))
    except UserError:
        return None
    if not measured:
        return limits
    limited = budget.macs is not None or budget.params is not None
    inside: _Size | None = None
    outside: _Size | None = None
    for _ in range(_TRIES):
        size = _Size(
            count_with_fvcore(network, dataset.input_shape)[0], _excess(network, run, dataset)
        )
        if size.excess > 1:
            outside = size
        else:
            inside = size
            if size.excess > _CLOSE or (limited and outside is None):
                break
        try:
            wanted = replace(limits, max_macs=_next(inside, outside))
            network = baseline(name, dataset.input_shape, dataset.classes, **plain(wanted))
        except UserError:
            break
        macs = count_with_fvcore(network, dataset.input_shape)[0]
        if macs in {one.macs for one in (inside, outside) if one is not None}:
            break  # no width lies between
    if inside is None:
        return None
    return limits if limited and outside is None else replace(limits, max_macs=inside.macs)


@dataclass(frozen=True)
class _Size:
    """A network's MACs, and by which factor it exceeds the limit that binds it most."""

    macs: int
    excess: float


def _next(inside: _Size | None, outside: _Size | None) -> int:
    """MACs to try next, where the excess is a power of them (1 of time, 1/2 of memory)."""
    aim = 0.96
    if inside is None or outside is None:
        (size,) = (one for one in (inside, outside) if one is not None)
        return int(size.macs * min(aim / size.excess, 8.0))
    slope = math.log(outside.macs / inside.macs) / math.log(outside.excess / inside.excess)
    wanted = inside.macs * (aim / inside.excess) ** slope
    # Never so near to one of them that the next try says nothing.
    low, high = inside.macs * 1.02, outside.macs * 0.98
    return int(min(max(wanted, low), high))


def _excess(network: nn.Module, run: Run, dataset: Dataset) -> float:
    """By which factor a network exceeds the limit of memory or latency that binds it most."""
    budget = run.budget
    shares = []
    with tempfile.TemporaryDirectory(prefix="gemkit-known-") as folder:
        path = Path(folder) / "network.onnx"
        export_untrained(network, path, dataset.input_shape, dataset.classes)
        if budget.memory_bytes is not None:
            size = peak_of_file(path) * PRECISIONS[budget.precision] / 4
            shares.append(size / budget.memory_bytes)
        if budget.latency_ms is not None and not is_elsewhere(run):
            shares.append(latency_ms([path])[0] / (budget.latency_ms * (1 - TOLERANCE)))
    return max(shares)


def trial(
    name: str, dataset: Dataset, limits: Limits, recipe: Recipe, seed: int, device: str
) -> float | None:
    """Accuracy on the validation part of a search's images; None where the training fails.

    Raises:
        UserError: the network cannot be made so small.
    """
    torch.manual_seed(seed)
    network = baseline(name, dataset.input_shape, dataset.classes, **plain(limits))
    split = proxy_split(dataset, seed)
    try:
        with alone():  # only the first of several processes comes here
            trained = train(
                network,
                split.x_train,
                split.y_train,
                split.x_validation,
                split.y_validation,
                recipe=recipe,
                mean=dataset.mean,
                std=dataset.std,
                seed=seed,
                device=device,
            )
    except TrainingFailed:
        return None
    return trained.accuracy
