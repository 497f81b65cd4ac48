"""`gemkit compare`: networks trained side by side by one loop with one recipe.

    compare("cifar10", max_macs=40_000_000, seeds=3, out="runs/compare")

The folder is a run of its own: every network and seed is a row of its store, written the moment
its training ends, and the search for the found network is a run inside it. The same command goes
on after an interruption. With a seed, all networks see the same images in the same order with the
same augmentation, so that differences within a seed are compared, not means over seeds.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from gemkit.architecture import Architecture, skeleton_for
from gemkit.budget import Budget, format_count
from gemkit.cost import check_feasible
from gemkit.data import Dataset, limited, load
from gemkit.errors import UserError
from gemkit.files import write_json
from gemkit.identity import absolute
from gemkit.machine import usable_cores
from gemkit.recipe import RECIPES, Recipe
from gemkit.records import Compared, plain
from gemkit.store import Run, is_run

from .. import formatting, run_data
from ..comparison import FOUND, NARROW, Comparison, kind, names
from ..report import comparison
from ..runs import network_of, ranked_trials, short_name
from ..terminal.progress import default_console
from . import estimate
from .compare_entrants import Entrant, check_same, gather, of_run
from .compare_latency import measure
from .compare_result import result
from .final_training import Outcome, Settings, train_side_by_side
from .networks import Job
from .search import check_device, search

_CHANGEABLE = (*run_data.NAMES, "workers", "seeds", "networks")
"""What may differ when a comparison goes on: every training is what it is without the others."""


def default_out(data: str) -> Path:
    """`runs/compare-DATA`."""
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
    trials: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    device: str = "auto",
    console: Console | None = None,
) -> Comparison:
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
        trials: of the search.
        seed: the first seed.

    Returns:
        what is written to `compare.json`.

    Raises:
        UserError: an input is unusable; nothing was trained then.
    """
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
    kinds = {kind(name) for name in chosen}
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
    of_data = run_data.configuration(out, data, dataset)
    schedule = RECIPES[recipe].changed(epochs, batch_size)
    config = {
        "compare": True,
        **of_data,
        "images": images,
        "budget": Budget(macs=max_macs).to_json(),
        "share": share,
        "recipe": schedule.to_json(),
        "run": None if run is None else str(run),
        "trials": trials,
        "seed": seed,
        "seeds": seeds if isinstance(seeds, int) else many,
        "networks": list(chosen),
        "device": device,
        "workers": workers,
    }
    found = None if run is None else of_run(Path(run), dataset, data, max_macs)
    with Run.start(out, config, resume=True, changeable=_CHANGEABLE) as opened:
        console.print(
            f"data: {dataset.name}, {len(dataset.y_train):,} training and "
            f"{len(dataset.y_test):,} test images, {dataset.classes} classes"
        )
        run_data.remember(opened, data, dataset)
        opened.set_setting("skeleton", skeleton)
        known = opened.setting("found", Architecture)
        if known is not None:  # the run may rank another first by now
            found = known
        elif FOUND in chosen and found is None:
            found = _searched(opened, data, dataset, budget, trials, workers, device, console)
        if found is not None:
            opened.set_setting("found", found)
        entrants = list(gather(opened, many, dataset, max_macs, budget, found, console))
        check_same(opened, entrants)
        todo = _announce(opened, entrants, dataset, schedule, device, workers, console)
        if todo:
            train_side_by_side(
                todo,
                Settings(absolute(data), schedule, device, images),
                dataset,
                workers or usable_cores(),
                console,
                lambda *ended: _keep(opened, *ended),
            )
        measure(opened, entrants, dataset, console)
        found_out = result(opened, entrants, dataset, schedule)
        write_json(out / "compare.json", plain(found_out))
        report = comparison.write(found_out, out)
    console.print(f"report: {report}, {out / 'compare.json'}")
    return found_out


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
    with search(
        data,
        budget,
        dataset=dataset,
        out=run.path / "search",
        trials=trials,
        workers=workers,
        device=device,
        seed=run.seed,
        resume=True,
        console=console,
    ) as found:
        return network_of(found, ranked_trials(found)[0])


def _announce(
    run: Run,
    entrants: Sequence[Entrant],
    dataset: Dataset,
    recipe: Recipe,
    device: str,
    workers: int | None,
    console: Console,
) -> list[Job]:
    """The trainings still to be done; says how long they are going to take."""
    ended = {one.id for one in run.compared() if one.state in ("done", "failed")}
    todo = [job for entrant in entrants for job in entrant.jobs if job.name not in ended]
    # Seed by seed, so that after each seed there is a whole comparison.
    todo.sort(key=lambda job: job.seed)
    console.print(
        f"compare: {formatting.number(len(entrants), 'network')} at up to "
        f"{format_count(run.budget.macs or 0)} MACs, "
        f"{comparison.seeds([len(entrant.jobs) for entrant in entrants])}, "
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
        + (
            estimate.UNKNOWN_ON_GPU
            if estimate.on_gpu(device)
            else _foreseen(run, todo, dataset, recipe, device, many)
        )
    )
    return todo


def _foreseen(
    run: Run, todo: Sequence[Job], dataset: Dataset, recipe: Recipe, device: str, workers: int
) -> str:
    """How long the trainings are going to take, from a few steps of each network."""
    known = run.setting("seconds_per_image", dict[str, float], {})
    for job in todo:
        name = job.name.partition("@")[0]
        if name not in known:
            known[name] = estimate.seconds_per_image(job.build(dataset), dataset, recipe, device)
            run.set_setting("seconds_per_image", known)
    images = len(dataset.y_train) * recipe.epochs
    seconds = [images * known[job.name.partition("@")[0]] for job in todo]
    return estimate.side_by_side(seconds, workers)


def _keep(run: Run, job: Job, outcome: Outcome) -> None:
    run.put(
        Compared(
            id=job.name,
            network=job.name.partition("@")[0],
            seed=job.seed,
            architecture=job.architecture,
            **outcome.stored(),
        )
    )
