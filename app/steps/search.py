"""`gemkit search`: from data and a budget to a run full of trials."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from gemkit.architecture import Skeleton, smallest
from gemkit.budget import Budget, format_latency
from gemkit.cost import check_feasible
from gemkit.data import Dataset, load, proxy_split
from gemkit.errors import UserError
from gemkit.export import latency, targets
from gemkit.export.targets import Target
from gemkit.identity import absolute
from gemkit.machine import usable_cores
from gemkit.recipe import RECIPES
from gemkit.records import Trial
from gemkit.search import encoder as encoders
from gemkit.search import loop, strategies
from gemkit.search.cell_space import CellSpace, Latency
from gemkit.search.loop import Plan
from gemkit.search.sampling import random_cells
from gemkit.search.trials import ProxyTask, run_trial
from gemkit.skeletons import skeletons_for
from gemkit.store import Run, is_run
from gemkit.workers import Workers, threads_per_worker

from .. import formatting, run_data
from ..runs import LATENCY_FILE, default_budget, default_out, skeletons_of
from ..terminal.progress import bar, default_console
from ..terminal.watching import watched
from . import estimate

DEFAULT_TRIALS = 16
_FEW_IMAGES = 1000
"""Of fewer training images what judges trials says too little to choose by."""
_HAND_MADE = 4
"""One trial of so many is a cell that a person would write down, as far as there are such."""
_WORK_PER_CANDIDATE = {"cpu": 1.5e7, "gpu": 5e8}
"""MACs of a trial's training (forward, all images) for every candidate of a round."""
_CANDIDATES = (2_000, 1_000_000)
_MUTANTS, _CROSSOVERS = 20_000, 10_000
"""The most of a round: ten parents have not many more children of few edits."""
_TRIALS_OF_A_GPU = 8
"""Trials that run side by side on one."""
_LONGER = 3
"""How many times longer promoted trials are trained."""


def search(
    data: str = "digits",
    budget: Budget | None = None,
    *,
    dataset: Dataset | None = None,
    out: Path | str | None = None,
    nodes: int = 30,
    aggregation: str = "concat",
    trials: int | None = None,
    time_limit: float | None = None,
    workers: int | None = None,
    dask: str | None = None,
    strategy: str = "nasgem",
    encoder: Path | str | None = None,
    epochs: int | None = None,
    device: str = "auto",
    seed: int = 0,
    resume: bool = False,
    console: Console | None = None,
    command: str | None = None,
    target: str | None = None,
    promote: int = 0,
    promote_epochs: int | None = None,
    in_rounds: bool = False,
    any_width: bool = False,
) -> Run:
    """Search for cells that fit a budget; everything found is in the run's folder.

    Args:
        data: as `gemkit.data.load` takes it.
        budget: hard limits; without any, `default_budget`.
        dataset: what `data` names, where it is loaded already.
        out: the run's folder, by default `default_out`.
        nodes: of the complete graph whose sub-graphs are candidates.
        trials: networks trained on the proxy task; by default `DEFAULT_TRIALS`, but of fewer than a
            thousand training images the first cell that a person would write down, unsearched.
        time_limit: seconds after which no new trial is started.
        workers: processes; by default one per core. On a GPU threads, by default 8 per GPU.
        dask: address of a Dask scheduler that runs the trials instead.
        encoder: a graph encoder's file; by default the one that comes with gemkit.
        epochs: of a trial; by default those of the proxy recipe.
        resume: continue the run in `out`.
        command: what to write into the report as the way to repeat this.
        target: a device by name (see `gemkit.export.targets`), whose limits hold as well. Its
            latency is predicted, not measured.
        promote: how many of the best are trained again, longer, before the final ranking.
        promote_epochs: how long; by default three times `epochs`.
        in_rounds: with several workers, wait for a round's end before the next one is proposed.
        any_width: channels need not be multiples that processors like.

    Returns:
        the run, open for writing: hand it to the next steps, then close it.

    Raises:
        UserError: an input is unusable or no network fits the budget; nothing was written then.
    """
    console = console or default_console()
    path = Path(out) if out is not None else default_out(data, resume)
    if is_run(path) and not resume:
        raise UserError(
            f"{path} already holds a run: continue it with --resume or choose another --out"
        )
    dataset = dataset or load(data)
    of_data = run_data.configuration(path, data, dataset)
    device_known = None if target is None else targets.target(target)
    skeleton, *others = _skeletons(path, dataset, device_known, any_width)
    budget, aimed = _limits(budget or Budget(), device_known, skeleton)
    if budget.latency_ms is not None:
        others = []  # what predicts latency knows one
    predictor = _check_feasible(budget, skeleton, device_known)
    check_device(device)
    chosen_encoder = encoders.encoder_for_cells(Path(encoder) if encoder else None)
    many = _workers(workers, dask, device)
    epochs = epochs or RECIPES["proxy"].epochs
    unsearched = trials is None and len(dataset.y_train) < _FEW_IMAGES
    config: dict[str, Any] = {
        **of_data,
        "budget": budget.to_json(),
        "seed": seed,
        "nodes": nodes,
        "aggregation": aggregation,
        "trials": trials or (1 if unsearched else DEFAULT_TRIALS),
        "strategy": strategy,
        "encoder": str(encoder) if encoder else None,
        "epochs": epochs,
        "device": device,
        "workers": many.count,
        "dask": dask,
        "threads": threads_per_worker(many.count) if not dask else 1,
        "time_limit": time_limit,
        "target": target,
        # None where it is not asked for: so older runs can be resumed.
        "promote": promote or None,
        "promote_epochs": (promote_epochs or _LONGER * epochs) if promote else None,
        "in_rounds": in_rounds or None,
        "any_width": any_width or None,
    }
    opened = Run.start(path, config, resume, changeable=_CHANGEABLE)
    try:
        _describe(dataset, budget, aimed, console)
        if opened.setting("skeleton", Skeleton) is None:  # older runs did not begin with these
            opened.set_setting("hand_made", 1 if unsearched else config["trials"] // _HAND_MADE)
        opened.set_setting("skeleton", skeleton)
        opened.set_setting("alternatives", others)
        _say_skeletons(budget, others, console)
        if run_data.is_same(opened, dataset, data):  # networks may be trained on other data
            run_data.remember(opened, data, dataset)
        _note_command(opened, command)
        graph_encoder = _kept_encoder(path / "encoder.safetensors", chosen_encoder)
        if predictor is not None and device_known is not None:
            _keep_predictor(opened, device_known.name, predictor, console)
        space = CellSpace(
            skeleton,
            budget,
            nodes,
            aggregation,
            latency=_latency_model(opened, skeleton, aggregation, console),
            alternatives=tuple(others),
        )
        plan = replace(_plan(config), hand_made=opened.setting("hand_made", int, 0))
        split = proxy_split(dataset, seed)
        if unsearched:
            console.print(_why_unsearched(len(dataset.y_train), len(split.y_validation)))
        propose = strategies.strategy(
            strategy,
            lambda graphs: encoders.embed(graph_encoder, graphs.labels, graphs.adjacency),
            initial=max(3, opened.config["trials"] // 3),
            roles=False,
            **candidates_of_a_round(
                strategy, budget, len(split.y_train) * epochs, estimate.on_gpu(device)
            ),
        )
        task = ProxyTask(absolute(data), RECIPES["proxy"], seed, device, config["threads"])
        missing = plan.trials - sum(trial.state in ("done", "failed") for trial in opened.trials())
        if missing > 0:
            console.print(
                estimate.search(
                    space, dataset, len(split.y_train), plan, missing, many.count, device
                )
            )
        began = time.monotonic()
        with watched(console, opened.trials(), plan.trials + plan.promoted) as watch:
            best = loop.search(opened, space, propose, partial(run_trial, task), plan, many, watch)
        if missing > 0:
            minutes = (time.monotonic() - began) / 60
            console.print(
                f"{formatting.number(missing, 'trial')}, {missing / minutes:.1f} a minute"
            )
        opened.set_setting("ranking", [trial.id for trial in best])
        _name_the_best(best, space.exponent, len(split.y_validation), console)
    except BaseException:
        opened.close()
        raise
    return opened


def _skeletons(
    path: Path, dataset: Dataset, target: Target | None, any_width: bool
) -> tuple[Skeleton, ...]:
    """What may stand around the cells, the first in front: that of a run that goes on, the one
    that a target was measured for, or the table's."""
    if is_run(path):
        with Run.open(path) as begun:
            if known := skeletons_of(begun):
                return known
    if target is not None and target.latency is not None:
        measured = target.latency.skeleton
        if (measured.input_shape, measured.classes) == (dataset.input_shape, dataset.classes):
            return (measured,)
    return skeletons_for(dataset.input_shape, dataset.classes, any_width)


def _workers(count: int | None, dask: str | None, device: str) -> Workers:
    """What runs the trials."""
    if dask:
        return Workers.dask(dask)
    if estimate.on_gpu(device):
        return Workers.threads(count or _TRIALS_OF_A_GPU * torch.cuda.device_count())
    return Workers.local(count or usable_cores())


def _why_unsearched(images: int, judging: int) -> str:
    error = 1.96 * math.sqrt(0.8 * 0.2 / judging)
    return (
        f"no search: of {images:,} training images {judging:,} would judge the trials, which know "
        f"an accuracy to {100 * error:.0f} points; a network that does well elsewhere is taken "
        "as it is (--trials N searches all the same)"
    )


def _say_skeletons(budget: Budget, others: Sequence[Skeleton], console: Console) -> None:
    if others:
        console.print(f"skeletons: each cell stands in one of {1 + len(others)}")
    elif budget.latency_ms is not None:
        console.print("skeletons: one, since what predicts latency knows one")


def _limits(asked: Budget, target: Target | None, skeleton: Skeleton) -> tuple[Budget, bool]:
    """The budget to search within: what is asked for and the target's limits; where neither says
    how large networks may be, `default_budget`, and whether it was."""
    given = asked if target is None else target.limits(asked)
    if any((asked.macs, asked.params, asked.memory_bytes, given.macs, given.latency_ms)):
        return given, False
    aim = default_budget(skeleton)
    params = min(aim.params or 0, given.params or aim.params or 0)
    return replace(given, macs=aim.macs, params=params), True


def _check_feasible(
    budget: Budget, skeleton: Skeleton, target: Target | None
) -> latency.LatencyModel | None:
    """Make sure that some network fits; gives what predicts latency on the target, if it can.

    Raises:
        UserError: none fits.
    """
    check_feasible(budget, skeleton)
    if budget.latency_ms is None:
        return None
    predictor = None if target is None else target.predictor(skeleton)
    if predictor is not None:
        check_feasible(budget, skeleton, predictor.smallest_safe_ms())
    else:
        check_feasible(budget, skeleton, latency.measure_here([smallest(skeleton)])[0])
    return predictor


def _describe(dataset: Dataset, budget: Budget, aimed: bool, console: Console) -> None:
    console.print(
        f"data: {dataset.name}, {len(dataset.y_train):,} training and {len(dataset.y_test):,} "
        f"test images of {'x'.join(map(str, dataset.x_train.shape[1:]))}, "
        f"{dataset.classes} classes"
    )
    if dataset.note:
        console.print(f"      {dataset.note}")
    console.print(
        f"budget: {budget.describe()}"
        + (" (what gemkit aims for at this size of image)" if aimed else "")
    )


def _name_the_best(best: list[Trial], exponent: float, images: int, console: Console) -> None:
    by_score = best[0].accuracy != max(trial.accuracy or 0.0 for trial in best)
    console.print(
        f"best of {formatting.number(len(best), 'trial')}"
        f"{f', by accuracy x MACs^{exponent:g}' if by_score else ''}: {best[0].id}, "
        f"{formatting.percent(best[0].accuracy)} on {images:,} validation images"
    )


def _plan(config: dict[str, Any]) -> Plan:
    """What a run's configuration says of its course."""
    return Plan(
        trials=config["trials"],
        per_round=max(2, config["trials"] // 8),
        epochs=config["epochs"],
        promoted=config["promote"] or 0,
        promoted_epochs=config["promote_epochs"] or 0,
        seconds=config["time_limit"],
        in_rounds=bool(config["in_rounds"]),
    )


def _kept_encoder(path: Path, chosen: encoders.GraphEncoder) -> encoders.GraphEncoder:
    """The encoder that a run began with and goes on with; in a new run the chosen one is kept."""
    if path.is_file():
        return encoders.load_encoder(path)
    encoders.save_encoder(chosen, path)
    return chosen


def candidates_of_a_round(
    strategy: str, budget: Budget, images: int, gpu: bool = False
) -> dict[str, Any]:
    """How many candidates a round looks at: the more, the longer its trials take.

    Proposing is to stay below a twentieth of training. Both are foreseen from what is configured,
    not measured, so that a resumed search proposes the same.

    Args:
        images: seen by a trial, all epochs together.
        gpu: whether trials are trained on one, which takes less time.
    """
    if strategy.partition("+")[0] not in ("nasgem", "bo"):
        return {}
    worth = (budget.macs or 0) * images / _WORK_PER_CANDIDATE["gpu" if gpu else "cpu"]
    count = int(np.clip(worth, *_CANDIDATES))
    return {
        "random": count,
        "mutants": min(count // 4, _MUTANTS),
        "crossovers": min(count // 8, _CROSSOVERS),
    }


def _keep_predictor(run: Run, name: str, predictor: latency.LatencyModel, console: Console) -> None:
    """Copy a target's predictor into the run, which then needs the target no more."""
    path = run.path / LATENCY_FILE
    if not path.is_file():
        latency.save_model(predictor, path)
    console.print(
        f"latency: predicted for {name} from "
        f"{formatting.number(len(predictor.measured), 'network')} "
        "measured there, with a margin for its uncertainty; networks are delivered as predicted, "
        "not measured"
    )
    slowest = max(one.latency_ms for one in predictor.measured)
    if run.budget.latency_ms is not None and run.budget.latency_ms > slowest:
        console.print(
            f"  the slowest network measured there took {format_latency(slowest)}: what lies above "
            "is extrapolated; a kit with larger --max-macs would cover it"
        )


def check_device(device: str) -> None:
    """Make sure that there is such a device.

    Raises:
        UserError: CUDA is asked for and there is none.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch sees no CUDA GPU here; use auto or cpu")


_CHANGEABLE = (*run_data.NAMES, "workers", "dask", "threads", "time_limit", "trials")
"""What may differ when a search is resumed: it decides nothing about the trials made so far."""


def _note_command(run: Run, command: str | None) -> None:
    """Remember a command line, for the report."""
    commands = run.setting("commands", list[str], [])
    if command and command not in commands:
        run.set_setting("commands", [*commands, command])


def _latency_model(
    run: Run, skeleton: Skeleton, aggregation: str, console: Console
) -> Latency | None:
    """What predicts latency in a search with a latency budget; None without one."""
    if run.budget.latency_ms is None:
        return None
    path = run.path / LATENCY_FILE
    if not path.is_file():
        console.print(
            f"latency: measuring {latency.SAMPLES} networks on this machine to learn from: "
            "about a minute"
        )
        pool = random_cells(
            np.random.default_rng(run.seed), 8 * latency.SAMPLES, run.config["nodes"], aggregation
        )
        with bar(console, "measuring", 100) as advance:
            fitted = latency.fit_latency(
                skeleton,
                [pool.pruned()],
                budget=run.budget,
                seed=run.seed,
                progress=lambda share: advance(completed=int(100 * share)),
            )
        latency.save_model(fitted, path)
    return latency.load_model(path).safe
