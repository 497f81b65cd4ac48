"""Final training: the chosen networks one by one or in processes side by side."""

import contextlib
import functools
import importlib.util
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from scipy.special import log_softmax, softmax
from torch import nn

from gemkit.architecture import Architecture
from gemkit.cost import verify
from gemkit.data import Dataset, Split, final_split, limited, load
from gemkit.errors import UserError
from gemkit.recipe import Recipe
from gemkit.records import Epoch, HoldOut, Limits, Mistake, read
from gemkit.train import Progress as Standing
from gemkit.train import TrainingFailed, is_first, logits, train
from gemkit.views import read_lessons
from gemkit.workers import Workers, threads_per_worker

from .. import formatting
from ..terminal.progress import bar
from . import torchrun
from .networks import Job, save

Report = Callable[[str, float], None]
"""(name of the network, share of its training that is done)."""

_MATRIX_CLASSES, _MISTAKES = 100, 12
_POLL = 0.3


@dataclass(frozen=True)
class Settings:
    """How all networks of a step are trained.

    Attributes:
        data: a data set's name, as `gemkit.data.load` takes it.
        images: train on so many of its training images only.
        hold_out: keep the hold-out of `gemkit.data.final_split` from the training and judge the
            network by it, too.
        tensorboard: write event files beside the weights.
        compile: use `torch.compile`.
        lessons: folder of what a teacher sees, as `gemkit.views.read_lessons` takes it.
    """

    data: str
    recipe: Recipe
    device: str = "auto"
    images: int | None = None
    hold_out: bool = False
    tensorboard: bool = False
    compile: bool = False
    lessons: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a job: a result, or the reason why there is none.

    Attributes:
        confusion: test images by class (row) and by what the network said (column); empty for
            more than a hundred classes.
        mistakes: the wrong answers of most confidence.
        holdout: what it made of the images that were kept from its training, where there are any.
    """

    accuracy: float | None
    seconds: float
    epochs: int
    error: str | None = None
    curve: tuple[Epoch, ...] = ()
    images_per_second: float | None = None
    confusion: tuple[tuple[int, ...], ...] = ()
    mistakes: tuple[Mistake, ...] = ()
    holdout: HoldOut | None = None

    def stored(self) -> dict[str, Any]:
        """The fields of a network's record that a training decides."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {**values, "state": "failed" if self.accuracy is None else "done"}


def train_one(job: Job, dataset: Dataset, settings: Settings, report: Report) -> Outcome:
    """Train a network, evaluate it once on the test set, keep its weights.

    A GEMNet is counted with fvcore first; a difference to the cost model stops everything.
    """
    network = job.build(dataset)
    recipe = settings.recipe
    x, y = dataset.x_train, dataset.y_train
    judging: Split | None = None
    if settings.hold_out:
        judging = final_split(dataset)
        x, y = judging.x_train, judging.y_train
    if job.architecture is not None:
        verify(job.architecture, network)
    start = time.perf_counter()
    writer = _event_writer(job.folder / "tensorboard") if settings.tensorboard else None

    def follow(now: Standing) -> None:
        report(job.name, now.step / now.steps)
        if writer is not None:
            for name in ("loss", "learning_rate", "images_per_second"):
                writer.add_scalar(name, getattr(now, name), now.step)

    try:
        trained = train(
            network,
            x,
            y,
            dataset.x_test,
            dataset.y_test,
            recipe=recipe,
            mean=dataset.mean,
            std=dataset.std,
            seed=job.seed,
            device=settings.device,
            progress=follow,
            checkpoint=job.folder / "checkpoint",
            compile=settings.compile,
            lessons=None if settings.lessons is None else read_lessons(Path(settings.lessons)),
        )
        if writer is not None:
            writer.add_scalar("test accuracy", trained.accuracy, trained.epochs)
    except TrainingFailed as failure:
        return Outcome(None, time.perf_counter() - start, recipe.epochs, str(failure))
    finally:
        if writer is not None:
            writer.close()
    if is_first():
        save(network, job.weights)
    return Outcome(
        trained.accuracy,
        trained.seconds,
        trained.epochs,
        None,
        read(tuple[Epoch, ...], trained.curve, "a training's curve"),
        trained.images_per_second,
        *mistakes(trained.outputs, dataset),
        None if judging is None else _judged(network, judging, dataset, settings.device),
    )


def _judged(network: nn.Module, split: Split, dataset: Dataset, device: str) -> HoldOut | None:
    """What a trained network makes of the hold-out; None where there are no images in it."""
    labels = split.y_validation
    if not len(labels):
        return None
    outputs = logits(network, split.x_validation, dataset.mean, dataset.std, device)
    wrong = np.flatnonzero(outputs.argmax(1) != labels)
    right = log_softmax(outputs.astype(np.float64), axis=1)[np.arange(len(labels)), labels]
    accuracy = 1 - len(wrong) / len(labels)
    return HoldOut(accuracy, len(labels), tuple(wrong.tolist()), -float(right.mean()))


def mistakes(
    outputs: NDArray[np.float32], dataset: Dataset
) -> tuple[tuple[tuple[int, ...], ...], tuple[Mistake, ...]]:
    """The confusion matrix and the wrong answers of most confidence."""
    said, labels, classes = outputs.argmax(1), dataset.y_test, dataset.classes
    confusion: tuple[tuple[int, ...], ...] = ()
    if classes <= _MATRIX_CLASSES:
        counts = np.bincount(labels * classes + said, minlength=classes**2)
        confusion = tuple(map(tuple, counts.reshape(classes, classes).tolist()))
    confidence = softmax(outputs, axis=1).max(1)
    wrong = np.flatnonzero(said != labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:_MISTAKES]
    return confusion, tuple(
        Mistake(int(index), int(labels[index]), int(said[index]), float(confidence[index]))
        for index in worst
    )


def check_tensorboard() -> None:
    """Make sure that event files can be written.

    Raises:
        UserError: TensorBoard is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError("--tensorboard needs TensorBoard: install it with pip install tensorboard")


def _event_writer(folder: Path) -> Any:
    check_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))  # type: ignore[no-untyped-call]


def train_side_by_side(
    jobs: Sequence[Job],
    settings: Settings,
    dataset: Dataset,
    workers: int,
    console: Console,
    keep: Callable[[Job, Outcome], None],
) -> None:
    """Train networks in up to `workers` processes, with a bar over their epochs.

    Args:
        dataset: what `settings` name, loaded.
        keep: stores what came of a network, the moment its training ends.
    """
    shares = dict.fromkeys((job.name for job in jobs), 0.0)
    epochs = settings.recipe.epochs
    with bar(console, "epochs", epochs * len(jobs)) as advance:

        def report(name: str, share: float) -> None:
            shares[name] = share
            advance(completed=int(epochs * sum(shares.values())))

        for job, outcome in _outcomes(jobs, settings, dataset, workers, report):
            keep(job, outcome)
            shutil.rmtree(job.folder / "checkpoint", ignore_errors=True)
            text = (
                f"failed: {outcome.error}"
                if outcome.accuracy is None
                else f"{formatting.percent(outcome.accuracy)} on "
                f"{len(dataset.y_test):,} test images"
            )
            console.print(f"  {job.name}: {text} ({formatting.duration(outcome.seconds)})")


# ---- in processes that torchrun started


def train_along(message: torchrun.Message) -> None:
    """Take part in the training that the first of several processes has begun."""
    job, settings = message["job"], message["settings"]
    if job["architecture"] is not None:
        job["architecture"] = Architecture.from_json(job["architecture"])
    job |= {"folder": Path(job["folder"]), "limits": Limits(**job["limits"])}
    # Only the first process writes.
    settings |= {"recipe": Recipe.from_json(settings["recipe"]), "tensorboard": False}
    data = _data(settings["data"], settings["images"])
    train_one(Job(**job), data, Settings(**settings), lambda *_: None)


def _message(job: Job, settings: Settings) -> torchrun.Message:
    architecture = None if job.architecture is None else job.architecture.to_json()
    return {
        "job": {**asdict(job), "architecture": architecture, "folder": str(job.folder)},
        "settings": {**asdict(settings), "recipe": settings.recipe.to_json()},
    }


# ---- in processes side by side


@functools.lru_cache(maxsize=1)
def _data(spec: str, images: int | None) -> Dataset:
    """The data, read once in every process."""
    return limited(load(spec), images)


def _share_file(job: Job) -> Path:
    return job.folder / "progress.txt"


def _work(job: Job, settings: Settings, threads: int) -> Outcome:
    """What a worker process does; it says how far it is in a small file."""
    torch.set_num_threads(threads)
    job.folder.mkdir(parents=True, exist_ok=True)

    def report(name: str, share: float) -> None:
        _share_file(job).write_text(str(share))

    try:
        return train_one(job, _data(settings.data, settings.images), settings, report)
    finally:
        _share_file(job).unlink(missing_ok=True)


def _outcomes(
    jobs: Sequence[Job], settings: Settings, dataset: Dataset, workers: int, report: Report
) -> Iterator[tuple[Job, Outcome]]:
    """Train several networks in processes side by side; yields each as it ends.

    With one worker everything happens in this process. Whoever stops iterating stops the workers;
    a training that was stopped continues from its last epoch the next time. So do those whose
    process died, one by one; one that takes its process down alone has failed.
    """
    workers = min(workers, len(jobs))
    if torchrun.ranks() > 1 or workers <= 1:
        for job in jobs:
            if torchrun.ranks() > 1:
                torchrun.broadcast(_message(job, settings))
            yield job, train_one(job, dataset, settings, report)
        return
    waiting, threads = deque(jobs), threads_per_worker(workers)
    with Workers.local(workers) as pool:
        while waiting or pool.running:
            while waiting and pool.idle:
                pool.submit(waiting[0], _work, waiting.popleft(), settings, threads)
            ended = pool.next(_POLL)
            for job in pool.running:
                with contextlib.suppress(OSError, ValueError):
                    report(job.name, float(_share_file(job).read_text()))
            if ended is not None:
                report(ended.key.name, 1.0)
                died = Outcome(None, 0.0, settings.recipe.epochs, ended.died)
                yield ended.key, ended.value or died
