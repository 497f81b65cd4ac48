"""The search as a step: from data and a budget to a run full of trials."""

import contextlib
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from gemkit.architecture import Skeleton, skeleton_for, smallest
from gemkit.budget import Budget, format_latency
from gemkit.cost import check_feasible
from gemkit.data import Dataset, Split, load, proxy_split
from gemkit.errors import UserError
from gemkit.machine import usable_cores
from gemkit.records import Trial
from gemkit.store import Run, is_run
from gemkit.workers import Workers, threads_per_worker

from .. import formatting
from ..terminal.progress import bar, default_console
from .final_training import UNTIMED, on_gpu, seconds_per_image
from .networks import LATENCY_FILE, about

if TYPE_CHECKING:
    from gemkit.export.latency import LatencyModel
    from gemkit.export.targets import Target
    from gemkit.search.cell_space import CellSpace, Latency
    from gemkit.search.encoder import GraphEncoder
    from gemkit.search.interfaces import Evaluate, Strategy
    from gemkit.search.loop import Plan

DEFAULT_TRIALS = 16
_WORK_PER_CANDIDATE = 1.5e7
"""MACs of a trial's training (forward, all images) for every candidate of a round."""
_CANDIDATES = (2_000, 20_000)
_LONGER = 3
"""How many times longer promoted trials are trained."""


def default_budget(skeleton: Skeleton) -> Budget:
    """What is aimed for when no limit is given, by the size of the images."""
    side = min(skeleton.input_shape[1:])
    if side <= 12:
        return Budget(macs=3_000_000, params=100_000)
    if side <= 96:
        return Budget(macs=20_000_000, params=500_000)
    return Budget(macs=300_000_000, params=3_000_000)


def short_name(data: str) -> str:
    """What data is called in paths: `digits`, or the name of its file or folder."""
    name = data.partition("@")[0].rstrip("/").partition(":")
    return (Path(os.path.abspath(name[2])).stem if name[2] else name[0]) or "run"


def default_out(data: str, resume: bool) -> Path:
    """`runs/DATA`, or the next free `runs/DATA-2` and so on; the last one there to resume."""
    first = Path("runs") / short_name(data)
    path, number = first, 1
    while is_run(path):
        number += 1
        following = first.with_name(f"{first.name}-{number}")
        if resume and not is_run(following):
            break
        path = following
    return path


def search(
    data: str = "digits",
    budget: Budget | None = None,
    *,
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
    hint: bool = True,
    target: str | None = None,
    promote: int = 0,
    promote_epochs: int | None = None,
    in_rounds: bool = False,
) -> Run:
    """Search for cells that fit a budget; everything found is in the run's folder.

    Args:
        data: as `gemkit.data.load` takes it.
        budget: hard limits; without any, `default_budget`.
        out: the run's folder, by default `default_out`.
        nodes: of the complete graph whose sub-graphs are candidates.
        trials: networks trained on the proxy task.
        time_limit: seconds after which no new trial is started.
        workers: processes; by default one per core.
        dask: address of a Dask scheduler that runs the trials instead.
        encoder: a graph encoder's file; by default the one that comes with gemkit.
        epochs: of a trial; by default those of the proxy recipe.
        resume: continue the run in `out`.
        command: what to write into the report as the way to repeat this.
        hint: end with a line that names the next command.
        target: a device by name (see `gemkit.export.targets`), whose limits hold as well. Its
            latency is predicted, not measured.
        promote: how many of the best are trained again, longer, before the final ranking.
        promote_epochs: how long; by default three times `epochs`.
        in_rounds: with several workers, wait for a round's end before the next one is proposed.

    Returns:
        the run, open for reading.

    Raises:
        UserError: an input is unusable or no network fits the budget; nothing was written then.
    """
    from gemkit.recipe import RECIPES
    from gemkit.search import encoder as encoders
    from gemkit.search import strategies
    from gemkit.search.cell_space import CellSpace
    from gemkit.search.trials import ProxyTask, run_trial

    console = console or default_console()
    path = Path(out) if out is not None else default_out(data, resume)
    if is_run(path) and not resume:
        raise UserError(
            f"{path} already holds a run: continue it with --resume or choose another --out"
        )
    dataset = load(data)
    skeleton = skeleton_for(dataset.input_shape, dataset.classes)
    device_known = _target(target)
    budget, aimed = _limits(budget or Budget(), device_known, skeleton)
    predictor = _check_feasible(budget, skeleton, device_known)
    check_device(device)
    chosen_encoder = encoders.encoder_for_cells(Path(encoder) if encoder else None)
    many = Workers.dask(dask) if dask else Workers.local(workers or usable_cores())
    epochs = epochs or RECIPES["proxy"].epochs
    config: dict[str, Any] = {
        "data": data,
        "budget": budget.to_json(),
        "seed": seed,
        "nodes": nodes,
        "aggregation": aggregation,
        "trials": trials or DEFAULT_TRIALS,
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
    }
    with Run.start(path, config, resume, changeable=_CHANGEABLE) as opened:
        _describe(dataset, budget, aimed, console)
        opened.set_setting("skeleton", skeleton.to_json())
        opened.set_setting("data", about(dataset))
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
        )
        plan = _plan(config)
        split = proxy_split(dataset, seed)
        propose = strategies.strategy(
            strategy,
            lambda graphs: encoders.embed(graph_encoder, graphs.labels, graphs.adjacency),
            initial=max(3, opened.config["trials"] // 3),
            roles=False,
            **_candidates(strategy, budget, len(split.y_train) * epochs),
        )
        task = ProxyTask(data, RECIPES["proxy"], seed, device, config["threads"])
        missing = plan.trials - sum(trial.state in ("done", "failed") for trial in opened.trials())
        if missing > 0:
            _announce(space, split, dataset, plan, missing, many.count, device, console)
        best = _search(opened, space, propose, partial(run_trial, task), plan, many, console)
        opened.set_setting("ranking", [trial.id for trial in best])
    _name_the_best(best, space.exponent, len(split.y_validation), console)
    if hint:
        console.print(f"next: gemkit train {path}")
    return Run.open(path)


def _limits(asked: Budget, target: "Target | None", skeleton: Skeleton) -> tuple[Budget, bool]:
    """The budget to search within: what is asked for and the target's limits; where neither says
    how large networks may be, `default_budget`, and whether it was."""
    given = asked if target is None else target.limits(asked)
    if any((asked.macs, asked.params, asked.memory_bytes, given.macs, given.latency_ms)):
        return given, False
    aim = default_budget(skeleton)
    params = min(aim.params or 0, given.params or aim.params or 0)
    return replace(given, macs=aim.macs, params=params), True


def _check_feasible(
    budget: Budget, skeleton: Skeleton, target: "Target | None"
) -> "LatencyModel | None":
    """Make sure that some network fits; gives what predicts latency on the target, if it can.

    Raises:
        UserError: none fits.
    """
    check_feasible(budget, skeleton)
    if budget.latency_ms is None:
        return None
    from gemkit.export.latency import measure_here

    predictor = None if target is None else target.predictor(skeleton)
    if predictor is not None:
        check_feasible(budget, skeleton, predictor.smallest_safe_ms())
    else:
        check_feasible(budget, skeleton, measure_here([smallest(skeleton)])[0])
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


def _plan(config: dict[str, Any]) -> "Plan":
    """What a run's configuration says of its course."""
    from gemkit.search.loop import Plan

    return Plan(
        trials=config["trials"],
        per_round=max(2, config["trials"] // 8),
        epochs=config["epochs"],
        promoted=config["promote"] or 0,
        promoted_epochs=config["promote_epochs"] or 0,
        seconds=config["time_limit"],
        in_rounds=bool(config["in_rounds"]),
    )


def _kept_encoder(path: Path, chosen: "GraphEncoder") -> "GraphEncoder":
    """The encoder that a run began with and goes on with; in a new run the chosen one is kept."""
    from gemkit.search import encoder

    if path.is_file():
        return encoder.load_encoder(path)
    encoder.save_encoder(chosen, path)
    return chosen


def _candidates(strategy: str, budget: Budget, images: int) -> dict[str, Any]:
    """How many candidates a round looks at: the more, the longer its trials take.

    Proposing is to stay below a twentieth of training. Both are foreseen from what is configured,
    not measured, so that a resumed search proposes the same.
    """
    if strategy.partition("+")[0] not in ("nasgem", "bo"):
        return {}
    work = (budget.macs or 0) * images
    count = int(np.clip(work / _WORK_PER_CANDIDATE, _CANDIDATES[0], _CANDIDATES[1]))
    return {"random": count, "mutants": count // 4, "crossovers": count // 8}


def _target(name: str | None) -> "Target | None":
    from gemkit.export import targets

    return None if name is None else targets.target(name)


def _keep_predictor(run: Run, name: str, predictor: "LatencyModel", console: Console) -> None:
    """Copy a target's predictor into the run, which then needs the target no more."""
    from gemkit.export.latency import save_model

    path = run.path / LATENCY_FILE
    if not path.is_file():
        save_model(predictor, path)
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
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch sees no CUDA GPU here; use auto or cpu")


_CHANGEABLE = ("workers", "dask", "threads", "time_limit", "trials")
"""What may differ when a search is resumed: it decides nothing about the trials made so far."""


def _note_command(run: Run, command: str | None) -> None:
    """Remember a command line, for the report."""
    commands = run.setting("commands", [])
    if command and command not in commands:
        run.set_setting("commands", [*commands, command])


def _announce(
    space: "CellSpace",
    split: Split,
    dataset: Dataset,
    plan: "Plan",
    trials: int,
    workers: int,
    device: str,
    console: Console,
) -> None:
    """Say how long the search is going to take, from a few training steps of sampled networks."""
    longer = f", the best {plan.promoted} of them longer" if plan.promoted else ""
    on = f"on {formatting.number(workers, 'worker')}{longer}"
    if on_gpu(device):
        console.print(f"search: {formatting.number(trials, 'trial')} {on}; {UNTIMED}")
        return
    epoch = len(split.y_train) * _seconds_per_image(space, dataset, device)
    seconds = plan.epochs * epoch
    total = (seconds * trials + plan.promoted_epochs * plan.promoted * epoch) / workers
    console.print(
        f"search: {formatting.number(trials, 'trial')} of about "
        f"{formatting.duration(seconds)} {on}: "
        f"about {formatting.duration(total)}"
    )


def _seconds_per_image(space: "CellSpace", dataset: Dataset, device: str) -> float:
    """Mean over three sampled networks."""
    from gemkit.network import build
    from gemkit.recipe import RECIPES
    from gemkit.train import TrainingFailed

    found = space.sample(np.random.default_rng(0), 3)
    spent: list[float] = []
    for index in range(len(found)):
        network = build(space.architecture(found, index))
        with contextlib.suppress(TrainingFailed):
            spent.append(seconds_per_image(network, dataset, RECIPES["proxy"], device))
    return float(np.mean(spent)) if spent else 0.0


def _search(
    run: Run,
    space: "CellSpace",
    propose: "Strategy",
    evaluate: "Evaluate",
    plan: "Plan",
    workers: Workers,
    console: Console,
) -> list[Trial]:
    from gemkit.search import loop

    from ..terminal.watching import watched

    with watched(console, run.trials(), plan.trials + plan.promoted) as watch:
        return loop.search(run, space, propose, evaluate, plan, workers, watch)


def _latency_model(
    run: Run, skeleton: Skeleton, aggregation: str, console: Console
) -> "Latency | None":
    """What predicts latency in a search with a latency budget; None without one."""
    if run.budget.latency_ms is None:
        return None
    from gemkit.export import latency
    from gemkit.search.sampling import random_cells

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
