"""Proxy trials: one architecture is built, counted, trained shortly and judged.

`run_trial` is a plain function of small arguments, so it runs wherever `gemkit.workers` runs it.
Whatever goes wrong with one network (an exception, a loss that is not finite, memory, time) becomes
part of the trial's outcome and never stops the search.
"""

from __future__ import annotations

import functools
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from gemkit.architecture import Architecture
from gemkit.cost import verify
from gemkit.data import load, proxy_split
from gemkit.network import build
from gemkit.recipe import Recipe
from gemkit.train import TrainingFailed, train
from gemkit.workers import worker_number

from .interfaces import Outcome


@dataclass(frozen=True)
class ProxyTask:
    """What every trial of a search has in common.

    Attributes:
        data: a data set's name, as `gemkit.data.load` takes it; it must mean the same data in
            every worker.
        recipe: how trials are trained.
        seed: of the proxy's split into training and validation part.
        device: "auto", "cpu" or "cuda".
        threads: processor threads of one trial; it decides the last digits of a result.
    """

    data: str
    recipe: Recipe
    seed: int = 0
    device: str = "auto"
    threads: int = 1


_one_at_a_time = threading.Lock()
"""Several trials may run in threads of one process, whose random state they share."""


def run_trial(task: ProxyTask, architecture: Architecture, seed: int, epochs: int) -> Outcome:
    """Train an architecture on the proxy task; with the task filled in, an `Evaluate`.

    The result depends on the arguments alone (and on the machine's arithmetic): not on the
    worker, nor on what it did before. The test set is never looked at.

    Args:
        seed: of the initial weights, the order of images and the augmentation.
        epochs: how long to train.
    """
    started = time.monotonic()
    try:
        accuracy, error = _trained(task, architecture, seed, epochs), None
    except torch.AcceleratorError:
        raise  # the process can use its GPU no more: every trial after this would fail
    except (Exception, MemoryError) as failure:
        accuracy, error = None, _reason(failure)
    return Outcome(accuracy, error, time.monotonic() - started)


def _trained(task: ProxyTask, architecture: Architecture, seed: int, epochs: int) -> float:
    torch.set_num_threads(task.threads)
    on_gpu = task.device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(worker_number() % torch.cuda.device_count())
    with _one_at_a_time:
        split, mean, std = _data(task.data, task.seed)
        torch.manual_seed(seed)
        network = build(architecture)
        verify(architecture, network)
    # Side by side on a GPU; threads would oversubscribe a processor.
    with nullcontext() if on_gpu else _one_at_a_time:
        trained = train(
            network,
            split.x_train,
            split.y_train,
            split.x_validation,
            split.y_validation,
            recipe=task.recipe.changed(epochs),
            mean=mean,
            std=std,
            seed=seed,
            device=task.device,
        )
    return float(trained.accuracy)


@functools.lru_cache(maxsize=1)
def _data(spec: str, seed: int) -> tuple[Any, tuple[float, ...], tuple[float, ...]]:
    """The proxy's split, with mean and deviation; read once in every process."""
    dataset = load(spec)
    return proxy_split(dataset, seed), dataset.mean, dataset.std


def _reason(failure: BaseException) -> str:
    """Why a trial failed, in one line."""
    text = " ".join(str(failure).split())
    if isinstance(failure, MemoryError) or "out of memory" in text or "allocate memory" in text:
        return "out of memory"
    if isinstance(failure, TrainingFailed):
        return text
    return f"{type(failure).__name__}: {text}"[:500]
