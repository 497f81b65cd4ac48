"""`gemkit compare`: networks trained side by side by one loop with one recipe.

    compare("cifar10", max_macs=40_000_000, seeds=3, out="runs/compare")

The folder is a run of its own: every network and seed is a row of its store, written the moment
its training ends, and the search for the found network is a run inside it. The same command goes
on after an interruption. With a seed, all networks see the same images in the same order with the
same augmentation, so that differences within a seed are compared, not means over seeds.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from gemkit.architecture import Architecture, skeleton_for
from gemkit.budget import Budget, format_count
from gemkit.cell import CellArrays
from gemkit.cost import check_feasible, cost, count_with_fvcore, largest_widths
from gemkit.data import Dataset, limited, load
from gemkit.errors import UserError
from gemkit.files import write_json, write_text
from gemkit.machine import usable_cores
from gemkit.records import Trial
from gemkit.store import Run, is_run

from .. import formatting
from ..formatting import percent
from ..terminal.progress import bar, default_console
from .final_training import (
    UNTIMED,
    Outcome,
    Way,
    epochs_bar,
    forget_checkpoint,
    on_gpu,
    seconds_per_image,
    train_all,
)
from .networks import Job, about, check_suits, ranked_trials, restored

if TYPE_CHECKING:
    from torch import nn

    from gemkit.recipe import Recipe

FOUND, NARROW, RANDOM = "found", "narrow", "random"
_SPENT = 0.95
_STATISTICS_OF = 64
_CHANGEABLE = ("workers", "seeds", "networks")
"""What may differ when a comparison goes on: every training is what it is without the others."""
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


@dataclass(frozen=True)
class Entrant:
    """One network that takes part.

    Attributes:
        name: `found`, `narrow`, `random` or a baseline's name.
        jobs: one for each seed, in the order of the seeds; those of `random` are different cells.
        macs, params: of the first job's network.
    """

    name: str
    jobs: tuple[Job, ...]
    macs: int
    params: int


def names() -> tuple[str, ...]:
    """All that can be compared."""
    from gemkit.baselines import BASELINES

    return (FOUND, NARROW, RANDOM, *BASELINES)


def default_out(data: str) -> Path:
    """`runs/compare-DATA`."""
    from .search import short_name

    return Path("runs") / f"compare-{short_name(data)}"


def compare(
    data: str,
    *,
    max_macs: int,
    out: Path | str,
    seeds: int | Mapping[str, int] = 3,
    share: float = 1.0,
    recipe: str = "standard",
    epochs: int | None = None,
    batch_size: int | None = None,
    images: int | None = None,
    networks: Sequence[str] = (),
    run: Path | str | None = None,
    earlier: Mapping[str, Any] | None = None,
    trials: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    device: str = "auto",
    console: Console | None = None,
) -> dict[str, Any]:
    """Train networks beside one another and say how far apart they are.

    Args:
        max_macs: each network is as wide as this allows.
        out: folder of the comparison; what is finished there is kept.
        seeds: trainings of every network; by its name where they differ.
        share: the found network and the random cells get this share of `max_macs`; `narrow` is
            the found network with at most this share of the MACs of each network of differentiable
            search, whose own widths are coarse.
        recipe, epochs, batch_size: as in `train`, the same for all.
        images: train on so many images, the same for all.
        networks: some of `names()`; all by default.
        run: take the found network from this run instead of searching for one.
        earlier: what an earlier comparison returned whose folder is gone: its found network takes
            part, and what it trained in the same way is not trained again.
        trials: of the search.
        seed: the first seed.

    Returns:
        what is written to `compare.json`.

    Raises:
        UserError: an input is unusable; nothing was trained then.
    """
    from gemkit.recipe import RECIPES

    from .search import check_device

    console = console or default_console()
    out = Path(out)
    chosen = tuple(dict.fromkeys(networks)) or names()
    for name in chosen:
        if name not in names():
            raise UserError(f"unknown network {name!r}: use some of {', '.join(names())}")
    if not 0 < share <= 1:
        raise UserError(f"a share of {share} is not possible: use more than 0, at most 1")
    if is_run(out) and "compare" not in Run.open(out).config:
        raise UserError(f"{out} holds a search, no comparison: choose another --out")
    kinds = {_kind(name) for name in chosen}
    if NARROW in kinds and not {FOUND, "differentiable"} <= kinds:
        raise UserError(
            f"{NARROW} is the found network beside networks of differentiable search: name "
            f"{FOUND} and one of them in --networks as well"
        )
    many = {name: seeds if isinstance(seeds, int) else seeds[name] for name in chosen}
    check_device(device)
    dataset = limited(load(data), images)
    skeleton = skeleton_for(dataset.input_shape, dataset.classes)
    budget = Budget(macs=int(share * max_macs))
    check_feasible(budget, skeleton)
    schedule = RECIPES[recipe].changed(epochs, batch_size)
    # A comparison that has searched for itself goes on with what it found.
    found = None if earlier is None or is_run(out / "search") else _found_in(earlier)
    config = {
        "compare": True,
        "data": data,
        "images": images,
        "budget": Budget(macs=max_macs).to_json(),
        "share": share,
        "recipe": schedule.to_json(),
        "run": None if run is None else str(run),
        "found": None if found is None else found.to_json(),
        "trials": trials,
        "seed": seed,
        "seeds": seeds if isinstance(seeds, int) else many,
        "networks": list(chosen),
        "device": device,
        "workers": workers,
    }
    if run is not None:
        found = _of_run(Path(run), dataset, data, max_macs)
    with Run.start(out, config, resume=True, changeable=_CHANGEABLE) as opened:
        console.print(
            f"data: {dataset.name}, {len(dataset.y_train):,} training and "
            f"{len(dataset.y_test):,} test images, {dataset.classes} classes"
        )
        opened.set_setting("data", about(dataset))
        opened.set_setting("skeleton", skeleton.to_json())
        if (known := opened.setting("found")) is not None:  # the run may rank another first by now
            found = Architecture.from_json(known, f"{out}: found network")
        elif FOUND in chosen and found is None:
            found = _searched(opened, data, dataset, budget, trials, workers, device, console)
        if found is not None:
            opened.set_setting("found", found.to_json())
        entrants = list(_entrants(opened, many, dataset, max_macs, budget, found, console))
        _check_same(opened, entrants)
        if earlier is not None:
            _take_over(opened, entrants, earlier, dataset, schedule)
        todo = _announce(opened, entrants, dataset, schedule, device, workers, console)
        _train(opened, todo, Way(data, schedule, device, images), workers, console)
        _measure(opened, entrants, dataset, console)
        result = _result(opened, entrants, dataset, schedule)
        write_json(out / "compare.json", result)
        _report(opened, result, console)
    console.print(f"report: {out / 'report.md'}, {out / 'compare.json'}")
    source = run or (out / "search" if is_run(out / "search") else None)
    if source is not None:
        console.print(f"next: gemkit train {source}")
    else:
        console.print(f"next: gemkit search --data {data} --max-macs {format_count(max_macs)}")
    return result


# ------------------------------------------------------------------------- who takes part


def _check_same(run: Run, entrants: Sequence[Entrant]) -> None:
    """Make sure that what is stored was trained of the networks that take part now.

    Raises:
        UserError: a row is of another network.
    """
    stored = {row["id"]: (row["extra"] or {}).get("architecture") for row in run.baselines()}
    for entrant in entrants:
        for job in entrant.jobs:
            known = stored.get(job.name)
            if known and job.architecture is not None and known != job.architecture.to_json():
                raise UserError(
                    f"{run.path} holds {job.name} trained as another network: its size follows "
                    "from those that were compared before; choose another --out"
                )


def _of_run(path: Path, dataset: Dataset, data: str, max_macs: int) -> Architecture:
    """The network that a run ranks first.

    Raises:
        UserError: it was searched for other images, or for a larger budget.
    """
    with Run.open(path) as run:
        check_suits(run, dataset, data)
        best = ranked_trials(run)[0]
    if best.macs > max_macs:
        raise UserError(
            f"--run {path}: its best network takes {format_count(best.macs)} MACs, more than "
            f"--max-macs {format_count(max_macs)}"
        )
    return _network(best, dataset)


def _found_in(result: Mapping[str, Any]) -> Architecture | None:
    """The found network of an earlier comparison."""
    for entry in result["networks"]:
        if entry["id"] == FOUND:
            return Architecture.from_json(entry["cells"][0], "an earlier comparison")
    return None


def _take_over(
    run: Run,
    entrants: Sequence[Entrant],
    earlier: Mapping[str, Any],
    dataset: Dataset,
    recipe: "Recipe",
) -> None:
    """Store what an earlier comparison trained in the same way; its weights are not needed."""
    same = {
        "data": dataset.name,
        "train": len(dataset.y_train),
        "test": len(dataset.y_test),
        "max_macs": run.budget.macs,
        "recipe": recipe.to_json(),
    }
    if any(earlier[name] != value for name, value in same.items()):
        return
    stored = {row["id"] for row in run.baselines()}
    entries = {entry["id"]: entry for entry in earlier["networks"]}
    for entrant in entrants:
        entry = entries.get(entrant.name)
        if entry is None or (entry["macs"], entry["params"]) != (entrant.macs, entrant.params):
            continue
        # A network that is no cell has none to be compared.
        cells = entry["cells"] or [None] * len(entrant.jobs)
        for job, cell in zip(entrant.jobs, cells, strict=False):
            accuracy = entry["accuracies"].get(str(job.seed))
            own = None if job.architecture is None else job.architecture.to_json()
            if accuracy is not None and cell == own and job.name not in stored:
                seconds = entry["seconds"] / len(entry["accuracies"])
                _keep(run, job, Outcome(accuracy, seconds, recipe.epochs, [], 0.0, None))
                run.set_setting("taken_over", run.setting("taken_over", 0) + 1)


def _network(trial: Trial, dataset: Dataset) -> Architecture:
    skeleton = skeleton_for(dataset.input_shape, dataset.classes)
    return Architecture((trial.cell,), skeleton, trial.width)


def _searched(
    run: Run,
    data: str,
    dataset: Dataset,
    budget: Budget,
    trials: int | None,
    workers: int | None,
    device: str,
    console: Console,
) -> Architecture:
    from .search import search

    with search(
        data,
        budget,
        out=run.path / "search",
        trials=trials,
        workers=workers,
        device=device,
        seed=run.seed,
        resume=True,
        console=console,
        hint=False,
    ) as found:
        return _network(ranked_trials(found)[0], dataset)


def _entrants(
    run: Run,
    seeds: Mapping[str, int],
    dataset: Dataset,
    max_macs: int,
    budget: Budget,
    found: Architecture | None,
    console: Console,
) -> Iterator[Entrant]:
    """What is trained; a network of which no form is small enough is left out and said so."""
    skeleton = skeleton_for(dataset.input_shape, dataset.classes)
    numbers = {name: [run.seed + place for place in range(seeds[name])] for name in seeds}
    if found is not None:
        budget = Budget(macs=cost(found).macs)  # random cells of equal cost
        if FOUND in seeds:
            yield _cells(run, FOUND, [found] * seeds[FOUND], numbers[FOUND])
    if RANDOM in seeds:
        cells = [_random(skeleton, budget, seed) for seed in numbers[RANDOM]]
        yield _cells(run, RANDOM, cells, numbers[RANDOM])
    least: int | None = None
    for name in seeds:
        if name in (FOUND, NARROW, RANDOM):
            continue
        jobs = tuple(
            Job(_row(name, s), None, {"max_macs": max_macs}, s, _folder(run, name, s), name)
            for s in numbers[name]
        )
        try:
            network = jobs[0].build(dataset)
        except UserError as error:
            console.print(f"  left out: {error}")
            continue
        macs, params = count_with_fvcore(network, dataset.input_shape)
        if _kind(name) == "differentiable":
            least = min(macs, least or macs)
        yield Entrant(name, jobs, macs, params)
    if NARROW in seeds and found is not None and least is not None:
        limit = Budget(macs=int(run.config["share"] * least))
        (width,) = largest_widths(CellArrays.from_cells(found.cells), skeleton, limit)
        if width:
            narrow = replace(found, width=int(width))
            yield _cells(run, NARROW, [narrow] * seeds[NARROW], numbers[NARROW])


def _seeds(counts: Sequence[int]) -> str:
    """`3 seeds`, or `2 to 5 seeds` where networks differ."""
    low, high = min(counts, default=0), max(counts, default=0)
    return formatting.number(low, "seed") if low == high else f"{low} to {high} seeds"


def _row(name: str, seed: int) -> str:
    return f"{name}@{seed}"


def _folder(run: Run, name: str, seed: int) -> Path:
    return run.path / "trainings" / f"{name}-{seed}"


def _cells(
    run: Run, name: str, architectures: Sequence[Architecture], seeds: Sequence[int]
) -> Entrant:
    jobs = tuple(
        Job(_row(name, seed), architecture, {}, seed, _folder(run, name, seed))
        for architecture, seed in zip(architectures, seeds, strict=True)
    )
    price = cost(architectures[0])
    return Entrant(name, jobs, price.macs, price.params)


def _random(skeleton: Any, budget: Budget, seed: int) -> Architecture:
    """The seed's random cell of thirty nodes, at the largest width within the budget.

    The first that spends 95 % of the budget; where widths are too coarse, the one nearest to it.
    """
    from gemkit.search.cell_space import CellSpace
    from gemkit.search.sampling import random_cells

    space = CellSpace(skeleton, budget)
    rng = np.random.default_rng((seed, 30))
    for _ in range(100):
        cells = random_cells(rng, 512, space.nodes, space.aggregation)
        whole = cells[(cells.pruned().operations >= 0).sum(1) == space.nodes + 1]
        fitting = space.fitting(whole)
        if len(fitting):
            macs = fitting.payload.macs
            enough = macs >= _SPENT * (budget.macs or 0)
            return space.architecture(fitting, int((enough if enough.any() else macs).argmax()))
    raise UserError(
        f"no random cell of {space.nodes} nodes fits {budget.describe()}: allow more, or leave "
        f"{RANDOM} out of --networks"
    )


# ------------------------------------------------------------------------------- training


def _announce(
    run: Run,
    entrants: Sequence[Entrant],
    dataset: Dataset,
    recipe: "Recipe",
    device: str,
    workers: int | None,
    console: Console,
) -> list[Job]:
    """The trainings still to be done; says how long they are going to take."""
    ended = {row["id"] for row in run.baselines() if row["state"] in ("done", "failed")}
    todo = [job for entrant in entrants for job in entrant.jobs if job.name not in ended]
    # Seed by seed, so that after each seed there is a whole comparison.
    todo.sort(key=lambda job: job.seed)
    console.print(
        f"compare: {formatting.number(len(entrants), 'network')} at up to "
        f"{format_count(run.budget.macs or 0)} MACs, "
        f"{_seeds([len(entrant.jobs) for entrant in entrants])}, "
        f"{formatting.number(recipe.epochs, 'epoch')} each on {len(dataset.y_train):,} images"
    )
    if not todo:
        console.print("everything is trained already")
        return todo
    many = min(workers or usable_cores(), len(todo))
    done = len([job for entrant in entrants for job in entrant.jobs]) - len(todo)
    console.print(
        f"{formatting.number(len(todo), 'training')} to do"
        + (f" ({done} done already)" if done else "")
        + f" on {formatting.number(many, 'worker')}: "
        + (UNTIMED if on_gpu(device) else _foreseen(run, todo, dataset, recipe, device, many))
    )
    return todo


def _foreseen(
    run: Run, todo: Sequence[Job], dataset: Dataset, recipe: "Recipe", device: str, workers: int
) -> str:
    """How long the trainings are going to take, from a few steps of each network."""
    known = run.setting("seconds_per_image", {})
    each = 0.0
    for job in todo:
        name = job.name.partition("@")[0]
        if name not in known:
            known[name] = seconds_per_image(job.build(dataset), dataset, recipe, device)
            run.set_setting("seconds_per_image", known)
        each += known[name]
    return f"about {formatting.duration(len(dataset.y_train) * recipe.epochs * each / workers)}"


def _train(
    run: Run,
    jobs: Sequence[Job],
    way: Way,
    workers: int | None,
    console: Console,
) -> None:
    if not jobs:
        return
    with epochs_bar(console, jobs, way.recipe.epochs) as tell:
        for job, outcome in train_all(jobs, way, workers or usable_cores(), tell):
            _keep(run, job, outcome)
            forget_checkpoint(job)
            text = f"failed: {outcome.error}" if outcome.error else percent(outcome.accuracy)
            console.print(f"  {job.name}: {text} ({formatting.duration(outcome.seconds)})")


def _keep(run: Run, job: Job, outcome: Outcome) -> None:
    extra = outcome.to_extra()
    if job.architecture is not None:
        extra["architecture"] = job.architecture.to_json()
    run.put_baseline(
        job.name,
        seed=job.seed,
        state="failed" if outcome.accuracy is None else "done",
        accuracy=outcome.accuracy,
        error=outcome.error,
        seconds=outcome.seconds,
        epochs=outcome.epochs,
        extra=extra,
    )


# ------------------------------------------------------------------- measuring, reporting


def _measure(run: Run, entrants: Sequence[Entrant], dataset: Dataset, console: Console) -> None:
    """Latency and peak memory of each network's ONNX file, all in one session.

    All are measured again when one was not, so that their latencies were taken side by side. A
    network whose trainings were taken over is written untrained: as fast, and as large.
    """
    from gemkit.export import graph, schedule
    from gemkit.export.benchmark import benchmark
    from gemkit.export.exporter import export_onnx, load_onnx

    rows = {row["id"]: row for row in run.baselines()}
    trained = {
        entrant.name: job
        for entrant in entrants
        for job in reversed(entrant.jobs)
        if rows.get(job.name, {}).get("accuracy") is not None
    }
    measured = run.setting("measured", {})
    if not trained or set(trained) <= set(measured):
        return
    console.print(
        f"exporting {formatting.number(len(trained), 'ONNX file')}, then measuring them side "
        "by side"
    )
    paths: dict[str, Path] = {}
    with bar(console, "measuring", 100) as advance:
        for name, job in trained.items():
            paths[name] = run.path / "onnx" / f"{name}.onnx"
            try:
                export_onnx(
                    restored(job, dataset) if job.weights.is_file() else _untrained(job, dataset),
                    paths[name],
                    input_shape=dataset.input_shape,
                    class_names=dataset.class_names,
                    mean=dataset.mean,
                    std=dataset.std,
                    images=dataset.x_test[:17],
                    metadata={"id": job.name, "data": dataset.name},
                    seed=run.seed,
                )
            except RuntimeError as error:  # its accuracy is worth knowing all the same
                del paths[name]
                console.print(f"  {name} is not measured: {error}")
            advance(completed=50 * len(paths) // len(trained))
        if not paths:
            return
        found = benchmark(
            list(paths.values()),
            memory=False,
            progress=lambda share: advance(completed=50 + int(50 * share)),
        )
    run.set_setting(
        "measured",
        {
            name: {
                "onnx": str(path.relative_to(run.path)),
                "latency_ms": one["latency_ms"],
                "file_bytes": one["file_bytes"],
                "peak_memory_bytes": schedule.peak(graph.read(load_onnx(path))),
                "provider": one["provider"],
                "threads": one["threads"],
                "batch": one["batch"],
                "notes": one["notes"],
            }
            for (name, path), one in zip(paths.items(), found, strict=True)
        },
    )


def _untrained(job: Job, dataset: Dataset) -> "nn.Module":
    """A network with random weights and the batch statistics of a few images, without which values
    grow from layer to layer until fp32 cannot carry them."""
    import torch
    from torch import nn

    from gemkit.batches import Normalisation

    network = job.build(dataset)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    normalise = Normalisation(
        dataset.mean, dataset.std, torch.device("cpu"), torch.contiguous_format
    )
    with torch.no_grad():
        network.train()(normalise(torch.from_numpy(np.array(dataset.x_train[:_STATISTICS_OF]))))
    return network.eval()


def mean_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Mean and its 95 % interval by Student's t; no interval for one value alone."""
    from scipy.stats import t

    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None, None
    half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return mean, mean - half, mean + half


def _result(
    run: Run, entrants: Sequence[Entrant], dataset: Dataset, recipe: "Recipe"
) -> dict[str, Any]:
    rows = {row["id"]: row for row in run.baselines()}
    measured = run.setting("measured", {})
    accuracies = {
        entrant.name: {
            job.seed: rows[job.name]["accuracy"]
            for job in entrant.jobs
            if rows.get(job.name, {}).get("accuracy") is not None
        }
        for entrant in entrants
    }
    networks = []
    for entrant in entrants:
        own = accuracies[entrant.name]
        of_it = [rows[job.name] for job in entrant.jobs if job.name in rows]
        known = measured.get(entrant.name, {})
        entry: dict[str, Any] = {
            "id": entrant.name,
            "kind": _kind(entrant.name),
            "macs": entrant.macs,
            "params": entrant.params,
            "peak_memory_bytes": known.get("peak_memory_bytes"),
            "latency_ms": known.get("latency_ms"),
            "onnx": known.get("onnx"),
            "accuracies": {str(seed): value for seed, value in own.items()},
            "accuracy": None,
            "interval": None,
            "found_better_by": None,
            "narrow_better_by": None,
            "errors": [row["error"] for row in of_it if row["error"]],
            "seconds": sum(row["seconds"] or 0.0 for row in of_it),
            "cells": [
                job.architecture.to_json() for job in entrant.jobs if job.architecture is not None
            ],
        }
        if own:
            mean, low, high = mean_interval(list(own.values()))
            entry["accuracy"] = mean
            if low is not None and high is not None:
                entry["interval"] = [max(low, 0.0), min(high, 1.0)]
        if entrant.name not in (FOUND, NARROW):
            for ours in (FOUND, NARROW):
                entry[f"{ours}_better_by"] = _better(accuracies.get(ours, {}), own)
        networks.append(entry)
    return {
        "data": dataset.name,
        "train": len(dataset.y_train),
        "test": len(dataset.y_test),
        "max_macs": run.budget.macs,
        "share": run.config["share"],
        "seeds": sorted({job.seed for entrant in entrants for job in entrant.jobs}),
        "taken_over": run.setting("taken_over", 0),
        "recipe": recipe.to_json(),
        "config": run.config,
        "machine": run.about["machine"],
        "versions": run.about["versions"],
        "networks": networks,
    }


def _better(ours: Mapping[int, float], theirs: Mapping[int, float]) -> dict[str, Any] | None:
    """By how much one network is better than another, seed by seed; None without common seeds."""
    common = [seed for seed in theirs if seed in ours]
    if not common:
        return None
    mean, low, high = mean_interval([ours[seed] - theirs[seed] for seed in common])
    return {"mean": mean, "interval": None if low is None else [low, high], "seeds": common}


def _kind(name: str) -> str:
    from gemkit.baselines import DIFFERENTIABLE, TORCHVISION

    if name in (FOUND, NARROW, RANDOM):
        return name
    if name in TORCHVISION:
        return "torchvision"
    return "differentiable" if name in DIFFERENTIABLE else "random wiring"


def points(value: float | None, sign: bool = True) -> str:
    """A difference of fractions in points: 0.0123 -> `+1.23`."""
    if value is None:
        return formatting.NONE
    return f"{100 * value:+.2f}" if sign else f"{100 * value:.2f}"


def table_rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The networks as texts under the heads of the table, the most accurate first."""
    rows: list[tuple[str, ...]] = []
    ordered = sorted(result["networks"], key=lambda entry: -(entry["accuracy"] or 0.0))
    for entry in ordered:
        better = entry["found_better_by"]
        accuracy = percent(entry["accuracy"])
        if entry["accuracy"] is None and entry["errors"]:
            accuracy = f"failed: {entry['errors'][0]}"
        rows.append(
            (
                entry["id"],
                str(len(entry["accuracies"])),
                accuracy,
                _between(entry["interval"], sign=False),
                points(better and better["mean"]),
                _between(better and better["interval"], sign=True),
                formatting.count(entry["macs"]),
                formatting.count(entry["params"]),
                formatting.size(entry["peak_memory_bytes"]),
                formatting.latency(entry["latency_ms"]),
            )
        )
    return rows


def _between(interval: Sequence[float] | None, sign: bool) -> str:
    if interval is None:
        return formatting.NONE
    return f"{points(interval[0], sign)} to {points(interval[1], sign)}"


def _report(run: Run, result: Mapping[str, Any], console: Console) -> None:
    from ..report import plots, report
    from ..terminal.show import table_of

    rows = table_rows(result)
    console.print(table_of("accuracy on the test set", HEADS, rows))
    console.print(notes(result))
    drawn = []
    for cost_name, label, scale in (
        ("macs", "million MACs", 1e6),
        ("params", "thousand parameters", 1e3),
        ("latency_ms", "milliseconds (p50, batch 1, one thread, CPU)", 1.0),
    ):
        shown: dict[bool, list[plots.Point]] = {True: [], False: []}
        for entry in result["networks"]:
            value = entry[cost_name]
            if cost_name == "latency_ms":
                value = (value or {}).get("p50")
            if value is not None and entry["accuracy"] is not None:
                low, high = entry["interval"] or (entry["accuracy"], entry["accuracy"])
                point = plots.Point(entry["id"], value / scale, entry["accuracy"], (high - low) / 2)
                shown[entry["id"] in (FOUND, NARROW)].append(point)
        if shown[True] or shown[False]:
            epochs = formatting.number(result["recipe"]["epochs"], "epoch")
            title = f"{result['data']}, {epochs}, one recipe"
            figure = plots.tradeoff_figure(title, label, [], shown[True], shown[False], front=True)
            path = f"{report.FIGURES}/{cost_name}.png"
            plots.save(figure, run.path / path)
            drawn.append(report.Picture(path, f"accuracy against {label}"))
    blocks: list[report.Block] = [
        report.Heading(f"gemkit compare: {run.name}", 1),
        report.Paragraph(summary(result)),
        report.Table(HEADS, rows),
        report.Paragraph(notes(result)),
        *drawn,
        report.Heading("How it was made"),
        report.Paragraph(made(result)),
    ]
    write_text(run.path / "report.md", report.markdown(blocks))
    write_text(
        run.path / "report.html", report.page(blocks, f"gemkit compare: {run.name}", run.path)
    )


def summary(result: Mapping[str, Any]) -> str:
    """What was compared, and the found network beside the others, in a few sentences."""
    text = (
        f"{result['data']}: {len(result['networks'])} networks of up to "
        f"{format_count(result['max_macs'])} MACs, "
        f"{_seeds([len(entry['accuracies']) for entry in result['networks']])}, "
        f"{formatting.number(result['recipe']['epochs'], 'epoch')} on {result['train']:,} images, "
        f"judged on {result['test']:,} test images."
    )
    for own in result["networks"]:
        if own["id"] not in (FOUND, NARROW):
            continue
        for entry in result["networks"]:
            better = entry.get(f"{own['id']}_better_by")
            if better is None or entry["kind"] not in ("random", "differentiable"):
                continue
            text += (
                f" {own['id'].capitalize()} against {entry['id']}: {points(better['mean'])} points"
                + (f" ({_between(better['interval'], True)})" if better["interval"] else "")
                + f" with {own['macs'] / entry['macs']:.2f} times the MACs and "
                f"{own['params'] / entry['params']:.2f} times the parameters."
            )
    return text


def notes(result: Mapping[str, Any]) -> str:
    """How the figures are to be read."""
    text = (
        "Accuracies are means over the seeds, in per cent. `found better by` is the mean of the "
        "differences seed by seed, in points; intervals are Student's t over the seeds, so they "
        "hold the randomness of training and not that of which images are in the test set."
    )
    if any(entry["id"] == RANDOM for entry in result["networks"]):
        text += (
            " `random` is another cell of thirty nodes for each seed, as wide as the found "
            "network's MACs allow; costs are those of the first."
        )
    if any(entry["id"] == NARROW for entry in result["networks"]):
        text += (
            f" `narrow` is the found network with at most {percent(result['share'], 0)} of the "
            "MACs of the smallest network of differentiable search."
        )
    return text + (
        " MACs are multiply-accumulates of convolutions and linear layers. Peak memory and latency "
        "are those of the ONNX file (fp32, batch 1, one thread, CPU), all measured in one session."
    )


def made(result: Mapping[str, Any]) -> str:
    """Recipe, seeds, machine and versions."""
    recipe = ", ".join(f"{name} {value}" for name, value in result["recipe"].items())
    machine = ", ".join(f"{name} {value}" for name, value in result["machine"].items() if value)
    versions = ", ".join(f"{name} {value}" for name, value in result["versions"].items())
    trainings = sum(len(entry["accuracies"]) for entry in result["networks"])
    taken_over = (
        f" {result['taken_over']} of {formatting.number(trainings, 'training')} were taken "
        "over from "
        "an earlier comparison with the same recipe, data and networks."
        if result.get("taken_over")
        else ""
    )
    return (
        f"One recipe for every network: {recipe}. Seeds: "
        f"{', '.join(map(str, result['seeds']))}. Machine: {machine}. Versions: {versions}."
        + taken_over
    )
