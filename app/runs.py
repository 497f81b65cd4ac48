"""What every room asks of a run: where it goes by default, its data, its networks, its target."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from gemkit.architecture import Architecture, Skeleton
from gemkit.budget import Budget
from gemkit.data import Dataset
from gemkit.errors import UserError
from gemkit.records import DataInfo, Model, Network, Trial
from gemkit.store import Run, is_run

from .hints import command

Entry = TypeVar("Entry", bound=Trial | Network)

LATENCY_FILE = "latency.json"
"""A run's latency predictor, where its budget limits latency."""


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


@contextlib.contextmanager
def opened(run: Run | Path | str) -> Iterator[Run]:
    """A run that can be written: the one given if it can be, else its folder while this lasts."""
    if isinstance(run, Run) and run.is_writable:
        yield run
        return
    with Run.open(run.path if isinstance(run, Run) else run, write=True) as found:
        yield found


def ranked_trials(run: Run) -> list[Trial]:
    """The trials that have an accuracy, in the order of the search.

    Raises:
        UserError: there are none.
    """
    done = [trial for trial in run.trials() if trial.accuracy is not None]
    if not done:
        raise UserError(
            f"{run.path} has no finished trial: run "
            f"`{command('search', '--out', run.path, '--resume')}` first"
        )
    order = {id: place for place, id in enumerate(run.setting("ranking", list[str], []))}
    return sorted(
        done, key=lambda one: (order.get(one.id, len(order)), -(one.accuracy or 0), one.index)
    )


def find(id: str, where: Path, *kinds: Sequence[Entry]) -> Entry:
    """The entry that `id` names, in the first of some kinds that has one; its beginning is enough.

    Raises:
        UserError: nothing or more than one has that id.
    """
    for entries in kinds:
        found = {entry.id: entry for entry in entries if entry.id.startswith(id)}
        if id in found:
            return found[id]
        if len(found) > 1:
            raise UserError(f"{id!r} could be {' or '.join(sorted(found)[:4])}: write more of it")
        if found:
            return next(iter(found.values()))
    known = [entry.id for entry in next(filter(None, kinds), ())][:5]
    hint = f"; there are {', '.join(known)}" if known else " (it has no trials yet)"
    raise UserError(f"{where} has no trial or model {id!r}{hint}")


def skeletons_of(run: Run) -> tuple[Skeleton, ...]:
    """The skeletons that a run was searched with, by their numbers; none where it says none."""
    first = run.setting("skeleton", Skeleton)
    if first is None:
        return ()
    return (first, *run.setting("alternatives", list[Skeleton], []))


def skeleton_of(run: Run, number: int = 0) -> Skeleton:
    """One of the skeletons that a run was searched with, by its number.

    Raises:
        UserError: the run does not say it.
    """
    known = skeletons_of(run)
    if not 0 <= number < len(known):
        raise UserError(f"{run.path} does not say which skeleton its networks have")
    return known[number]


def network_of(run: Run, trial: Trial) -> Architecture:
    """The architecture of a run's trial."""
    return Architecture((trial.cell,), skeleton_of(run, trial.skeleton), trial.width)


def architecture_of(run: Run, model: Model) -> Architecture:
    """The architecture of a run's model.

    Raises:
        UserError: the model has no width, since it fits the budget at none.
    """
    if model.width is None:
        raise UserError(f"{run.path}: {model.id} has no width: {model.error}")
    return Architecture((model.cell,), skeleton_of(run, model.skeleton), model.width)


def check_suits(run: Run, dataset: Dataset, data: str) -> None:
    """Make sure that data are of the images that a run's networks were searched for.

    Raises:
        UserError: they have another shape or number of classes.
    """
    skeleton = skeleton_of(run)
    if (dataset.input_shape, dataset.classes) != (skeleton.input_shape, skeleton.classes):
        raise UserError(
            f"{data} has {dataset.classes} classes of {dataset.input_shape} images, but "
            f"{run.path} was searched for {skeleton.classes} classes of {skeleton.input_shape}"
        )


def about(dataset: Dataset) -> DataInfo:
    """What a run remembers of its data."""
    return DataInfo(
        dataset.name,
        dataset.note,
        len(dataset.y_train),
        len(dataset.y_test),
        dataset.input_shape,
        tuple(dataset.class_names),
        tuple(dataset.mean),
        tuple(dataset.std),
    )


def data_of(run: Run) -> str:
    """Where the data lie that the run's final networks are trained on: the search's, or others."""
    return run.setting("final_data", str, str(run.config["data"]))


def is_elsewhere(run: Run) -> bool:
    """Whether a run's latency budget means another device, where nothing can be measured now."""
    return run.config.get("target") is not None and run.budget.latency_ms is not None


def target_name(run: Run) -> str | None:
    """The device that a run is for, without the folders of its file; None where it named none."""
    name = run.config.get("target")
    return Path(name).stem if name is not None and name.endswith(".json") else name
