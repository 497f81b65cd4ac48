"""Final training of the chosen networks and of their baseline, in processes side by side."""

import multiprocessing
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemkit.architecture import Architecture
from gemkit.data import Dataset
from gemkit.machine import usable_cores

if TYPE_CHECKING:
    from gemkit.train import Recipe
    from torch import nn

Progress = Callable[[str, int, int], None]
"""(name of the network, epochs done, epochs)."""


@dataclass(frozen=True)
class Job:
    """One network to train.

    Attributes:
        name: id of the model or name of the baseline.
        architecture: what to build; None for a baseline.
        limits: a baseline's `max_macs` and `max_params`.
        seed: of initialisation, order and augmentation.
        folder: where weights and checkpoints go.
    """

    name: str
    architecture: Architecture | None
    limits: dict[str, int]
    seed: int
    folder: Path

    @property
    def weights(self) -> Path:
        """The file of the trained weights."""
        return self.folder / "weights.safetensors"

    def build(self, dataset: Dataset) -> "nn.Module":
        """The untrained network, initialised from the job's seed."""
        import torch
        from gemkit.baselines import baseline

        from gemkit.network import build

        torch.manual_seed(self.seed)
        if self.architecture is not None:
            return build(self.architecture)
        return baseline(self.name, dataset.input_shape, dataset.classes, **self.limits)


@dataclass(frozen=True)
class Outcome:
    """What came of a job: a result, or the reason why there is none."""

    accuracy: float | None
    seconds: float
    epochs: int
    curve: list[dict[str, Any]]
    images_per_second: float
    error: str | None


def train_one(job: Job, dataset: Dataset, recipe: "Recipe", device: str, tell: Progress) -> Outcome:
    """Train a network on all training images, evaluate it once on the test set, keep its weights.

    A GEMNet is counted with fvcore first; a difference to the cost model stops everything.
    """
    from gemkit.train import TrainingFailed, train

    from gemkit.cost import verify

    network = job.build(dataset)
    if job.architecture is not None:
        verify(job.architecture, network)
    start = time.perf_counter()
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
            device=device,
            progress=lambda done, epochs: tell(job.name, done, epochs),
            checkpoint=job.folder / "checkpoint",
        )
    except TrainingFailed as failure:
        return Outcome(None, time.perf_counter() - start, recipe.epochs, [], 0.0, str(failure))
    save(network, job.weights)
    return Outcome(
        trained.accuracy,
        trained.seconds,
        trained.epochs,
        trained.curve,
        trained.images_per_second,
        None,
    )


def save(network: "nn.Module", path: Path) -> None:
    """Write any network's weights as safetensors; a GEMNet's with its architecture."""
    from safetensors.torch import save as serialise

    from gemkit.files import write_bytes
    from gemkit.network import GEMNet, save_weights

    if isinstance(network, GEMNet):
        save_weights(network, path)
        return
    tensors = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
    write_bytes(path, serialise(tensors))


def restored(job: Job, dataset: Dataset) -> "nn.Module":
    """The trained network of a job that was done.

    Raises:
        UserError: its weights are missing, damaged or another network's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from gemkit.errors import UserError
    from gemkit.network import GEMNet, load_weights

    network = job.build(dataset)
    if isinstance(network, GEMNet):
        load_weights(network, job.weights)
        return network
    if not job.weights.is_file():
        raise UserError(f"there is no weights file {job.weights}")
    try:
        network.load_state_dict(load_file(job.weights))
    except (SafetensorError, RuntimeError):
        raise UserError(
            f"{job.weights} is damaged or holds the weights of another network"
        ) from None
    return network


# ---- processes

_task: dict[str, Any] = {}
"""What a worker process was started with."""


def _prepare(dataset: Dataset, recipe: "Recipe", device: str, messages: Any, threads: int) -> None:
    import signal

    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    torch.set_num_threads(threads)
    _task.update(dataset=dataset, recipe=recipe, device=device, messages=messages)


def _work(job: Job) -> Outcome:
    def tell(name: str, done: int, epochs: int) -> None:
        _task["messages"].put((name, done, epochs))

    return train_one(job, _task["dataset"], _task["recipe"], _task["device"], tell)


def train_all(
    jobs: Sequence[Job],
    dataset: Dataset,
    recipe: "Recipe",
    device: str,
    workers: int,
    tell: Progress,
) -> Iterator[tuple[Job, Outcome]]:
    """Train several networks; yields each as it ends.

    With one worker everything happens in this process.

    Raises:
        RuntimeError: a worker process died (out of memory, killed).
    """
    workers = min(workers, len(jobs))
    if workers <= 1:
        for job in jobs:
            yield job, train_one(job, dataset, recipe, device, tell)
        return
    with _pool(dataset, recipe, device, workers) as (pool, messages):
        waiting: dict[Future[Outcome], Job] = {pool.submit(_work, job): job for job in jobs}
        while waiting:
            done, _ = wait(waiting, timeout=0.2)
            with_news = True
            while with_news:
                try:
                    tell(*messages.get_nowait())
                except queue.Empty:
                    with_news = False
            for future in sorted(done, key=lambda future: jobs.index(waiting[future])):
                yield waiting.pop(future), future.result()


@contextmanager
def _pool(
    dataset: Dataset, recipe: "Recipe", device: str, workers: int
) -> Iterator[tuple[ProcessPoolExecutor, Any]]:
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    pool = ProcessPoolExecutor(
        workers,
        mp_context=context,
        initializer=_prepare,
        initargs=(dataset, recipe, device, messages, max(1, usable_cores() // workers)),
    )
    try:
        yield pool, messages
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        messages.close()
