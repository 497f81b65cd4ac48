"""Final training of the chosen networks and of their baseline, in processes side by side."""

import contextlib
import functools
import importlib.util
import json
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from gemkit.data import Dataset, limited, load
from gemkit.errors import UserError
from gemkit.workers import Workers, threads_per_worker

from ..terminal.progress import bar
from .networks import Job, save

if TYPE_CHECKING:
    from torch import nn

    from gemkit.recipe import Recipe

Progress = Callable[[str, float], None]
"""(name of the network, share of its training that is done)."""


_MATRIX_CLASSES, _MISTAKES = 100, 12
UNTIMED = "how long depends on the GPU, which takes up to half a minute before each network's start"


@dataclass(frozen=True)
class Way:
    """How all networks of a step are trained.

    Attributes:
        data: a data set's name, as `gemkit.data.load` takes it.
        images: train on so many of its training images only.
        tensorboard: write event files beside the weights.
        compile: use `torch.compile`.
    """

    data: str
    recipe: "Recipe"
    device: str = "auto"
    images: int | None = None
    tensorboard: bool = False
    compile: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of a job: a result, or the reason why there is none.

    Attributes:
        confusion: test images by class (row) and by what the network said (column); empty for
            more than a hundred classes.
        mistakes: the wrong answers of most confidence: `index` of the test image, `label`,
            `predicted`, `probability`.
    """

    accuracy: float | None
    seconds: float
    epochs: int
    curve: list[dict[str, Any]]
    images_per_second: float
    error: str | None
    confusion: list[list[int]] = field(default_factory=list)
    mistakes: list[dict[str, Any]] = field(default_factory=list)

    def to_extra(self) -> dict[str, Any]:
        """What the store keeps beside the figures."""
        names = ("curve", "images_per_second", "confusion", "mistakes")
        return {name: getattr(self, name) for name in names}


def train_one(job: Job, dataset: Dataset, way: Way, tell: Progress) -> Outcome:
    """Train a network on all training images, evaluate it once on the test set, keep its weights.

    A GEMNet is counted with fvcore first; a difference to the cost model stops everything.
    """
    from gemkit.cost import verify
    from gemkit.train import Progress as Standing
    from gemkit.train import TrainingFailed, is_first, train

    network = job.build(dataset)
    recipe = way.recipe
    if job.architecture is not None:
        verify(job.architecture, network)
    start = time.perf_counter()
    writer = _event_writer(job.folder / "tensorboard") if way.tensorboard else None

    def follow(now: Standing) -> None:
        tell(job.name, now.step / now.steps)
        if writer is not None:
            for name in ("loss", "learning_rate", "images_per_second"):
                writer.add_scalar(name, getattr(now, name), now.step)

    try:
        trained = train(
            network,
            dataset.x_train,
            dataset.y_train,
            dataset.x_test,
            dataset.y_test,
            recipe=recipe,
            mean=dataset.mean,
            std=dataset.std,
            seed=job.seed,
            device=way.device,
            progress=follow,
            checkpoint=job.folder / "checkpoint",
            compile=way.compile,
        )
        if writer is not None:
            writer.add_scalar("test accuracy", trained.accuracy, trained.epochs)
    except TrainingFailed as failure:
        return Outcome(None, time.perf_counter() - start, recipe.epochs, [], 0.0, str(failure))
    finally:
        if writer is not None:
            writer.close()
    if is_first():
        save(network, job.weights)
    return Outcome(
        trained.accuracy,
        trained.seconds,
        trained.epochs,
        trained.curve,
        trained.images_per_second,
        None,
        *_mistakes(trained.outputs, dataset),
    )


def forget_checkpoint(job: Job) -> None:
    """Remove the state of a training whose result is stored."""
    shutil.rmtree(job.folder / "checkpoint", ignore_errors=True)


def _mistakes(
    outputs: NDArray[np.float32], dataset: Dataset
) -> tuple[list[list[int]], list[dict[str, Any]]]:
    """The confusion matrix and the wrong answers of most confidence."""
    said, labels, classes = outputs.argmax(1), dataset.y_test, dataset.classes
    confusion: list[list[int]] = []
    if classes <= _MATRIX_CLASSES:
        counts = np.bincount(labels * classes + said, minlength=classes**2)
        confusion = counts.reshape(classes, classes).tolist()
    raised = np.exp(outputs - outputs.max(1, keepdims=True))
    confidence = raised.max(1) / raised.sum(1)
    wrong = np.flatnonzero(said != labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:_MISTAKES]
    return confusion, [
        {
            "index": int(index),
            "label": int(labels[index]),
            "predicted": int(said[index]),
            "probability": float(confidence[index]),
        }
        for index in worst
    ]


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


def on_gpu(device: str) -> bool:
    """Whether networks are trained on a GPU.

    No time is foreseen there: the first steps of a network take longer than many a training.
    """
    import torch

    return device != "cpu" and torch.cuda.is_available()


def seconds_per_image(
    network: "nn.Module", dataset: Dataset, recipe: "Recipe", device: str
) -> float:
    """What a training step takes here for each image with one thread, from a few steps."""
    import torch

    from gemkit.train import train

    images = 2 * recipe.batch_size
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        spent = [
            train(
                network,
                dataset.x_train[:images],
                dataset.y_train[:images],
                dataset.x_test[:1],
                dataset.y_test[:1],
                recipe=recipe.changed(1),
                mean=dataset.mean,
                std=dataset.std,
                seed=0,
                device=device,
            ).images_per_second
            for _ in range(2)  # the first one warms up
        ]
    finally:
        torch.set_num_threads(threads)
    return 1 / spent[-1]


@contextlib.contextmanager
def epochs_bar(console: Console, jobs: Sequence[Job], epochs: int) -> Iterator[Progress]:
    """A bar over the epochs of all jobs; gives the function that is told how far each is."""
    shares = dict.fromkeys((job.name for job in jobs), 0.0)
    with bar(console, "epochs", epochs * len(jobs)) as advance:

        def tell(name: str, share: float) -> None:
            shares[name] = share
            advance(completed=int(epochs * sum(shares.values())))

        yield tell


# ---- processes that torchrun started: the first leads, the others train along


def ranks() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def lead_or_follow(lead: Callable[[], Any]) -> Any:
    """Call `lead` in the first process, and let all others train along what it trains.

    Returns:
        what `lead` returns; None in the other processes.
    """
    from gemkit.train import distributed

    with distributed() as (rank, many):
        if rank:
            _follow()
            return None
        found = lead()
        if many > 1:  # after an error torchrun ends the others
            _broadcast({})
        return found


def _tell_followers(job: Job, way: Way) -> None:
    architecture = None if job.architecture is None else job.architecture.to_json()
    _broadcast(
        {
            "job": {**asdict(job), "architecture": architecture, "folder": str(job.folder)},
            "way": {**asdict(way), "recipe": way.recipe.to_json()},
        }
    )


def _follow() -> None:
    from gemkit.architecture import Architecture
    from gemkit.recipe import Recipe

    while told := _broadcast(None):
        job, way = told["job"], told["way"]
        if job["architecture"] is not None:
            job["architecture"] = Architecture.from_json(job["architecture"])
        job["folder"] = Path(job["folder"])
        # Only the first process writes.
        way |= {"recipe": Recipe.from_json(way["recipe"]), "tensorboard": False}
        train_one(Job(**job), _data(way["data"], way["images"]), Way(**way), lambda *_: None)


def _broadcast(value: dict[str, Any] | None) -> dict[str, Any]:
    """Send the first process's value to all others, as JSON; None in those that receive."""
    import torch

    from gemkit.train import communication_device

    text = json.dumps(value).encode()
    place = communication_device()
    length = torch.tensor([len(text)], device=place)
    torch.distributed.broadcast(length, 0)
    content = torch.zeros(int(length), dtype=torch.uint8, device=place)
    if value is not None:
        content[:] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    torch.distributed.broadcast(content, 0)
    found: dict[str, Any] = json.loads(bytes(content.tolist()))
    return found


# ---- processes of one's own

_POLL = 0.3


@functools.lru_cache(maxsize=1)
def _data(spec: str, images: int | None) -> Dataset:
    """The data, read once in every process."""
    return limited(load(spec), images)


def _share_file(job: Job) -> Path:
    return job.folder / "progress.txt"


def _work(job: Job, way: Way, threads: int) -> Outcome:
    """What a worker process does; it says how far it is in a small file."""
    import torch

    torch.set_num_threads(threads)

    job.folder.mkdir(parents=True, exist_ok=True)

    def tell(name: str, share: float) -> None:
        _share_file(job).write_text(str(share))

    try:
        return train_one(job, _data(way.data, way.images), way, tell)
    finally:
        _share_file(job).unlink(missing_ok=True)


def train_all(
    jobs: Sequence[Job],
    way: Way,
    workers: int,
    tell: Progress,
) -> Iterator[tuple[Job, Outcome]]:
    """Train several networks in processes side by side; yields each as it ends.

    With one worker everything happens in this process. Whoever stops iterating stops the workers;
    a training that was stopped continues from its last epoch the next time. So do those whose
    process died, one by one; one that takes its process down alone has failed.
    """
    workers = min(workers, len(jobs))
    if ranks() > 1:
        for job in jobs:
            _tell_followers(job, way)
            yield job, train_one(job, _data(way.data, way.images), way, tell)
        return
    if workers <= 1:
        for job in jobs:
            yield job, train_one(job, _data(way.data, way.images), way, tell)
        return
    waiting, threads = deque(jobs), threads_per_worker(workers)
    with Workers.local(workers) as pool:
        while waiting or pool.running:
            while waiting and pool.idle:
                pool.submit(waiting[0], _work, waiting.popleft(), way, threads)
            ended = pool.next(_POLL)
            for job in pool.running:
                with contextlib.suppress(OSError, ValueError):
                    tell(job.name, float(_share_file(job).read_text()))
            if ended is not None:
                tell(ended.key.name, 1.0)
                died = Outcome(None, 0.0, way.recipe.epochs, [], 0.0, ended.died)
                yield ended.key, ended.value or died
