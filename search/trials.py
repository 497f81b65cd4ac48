"""Proxy trials: one architecture is built, counted, trained shortly and judged.

`run_trial` is a plain function of small arguments, so it runs on any
`concurrent.futures.Executor`: in this process, in local processes (`LocalWorkers`), on a Dask
cluster. Whatever goes wrong with one network (an exception, a loss that is not finite, memory,
time) becomes part of the trial's outcome and never stops the search.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import TYPE_CHECKING, Any

from gemkit.architecture import Architecture
from gemkit.machine import usable_cores

if TYPE_CHECKING:
    from gemkit.recipe import Recipe


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


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: with an accuracy (a fraction) or with the reason why it failed."""

    accuracy: float | None
    error: str | None
    seconds: float

    @property
    def failed(self) -> bool:
        return self.accuracy is None


Evaluate = Callable[[ProxyTask, Architecture, int, int], Outcome]
"""(task, architecture, seed, epochs) -> outcome; `run_trial` or something of its form."""


_one_at_a_time = threading.Lock()
_worker = 0
"""Number of this process among the local workers: decides which GPU it uses."""


def run_trial(task: ProxyTask, architecture: Architecture, seed: int, epochs: int) -> Outcome:
    """Train an architecture on the proxy task.

    The result depends on the arguments alone (and on the machine's arithmetic): not on the
    worker, nor on what it did before. The test set is never looked at.

    Args:
        seed: of the initial weights, the order of images and the augmentation.
        epochs: how long to train.
    """
    started = time.monotonic()
    # A Dask worker may run several tasks in threads of one process; torch's random state and
    # its number of threads belong to the process.
    with _one_at_a_time:
        try:
            accuracy, error = _trained(task, architecture, seed, epochs), None
        except (Exception, MemoryError) as failure:
            accuracy, error = None, _reason(failure)
    return Outcome(accuracy, error, time.monotonic() - started)


def _trained(task: ProxyTask, architecture: Architecture, seed: int, epochs: int) -> float:
    import torch

    from gemkit.cost import verify
    from gemkit.network import build
    from gemkit.train import train

    torch.set_num_threads(task.threads)
    if task.device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(_worker % torch.cuda.device_count())
    split, mean, std = _data(task.data, task.seed)
    torch.manual_seed(seed)
    network = build(architecture)
    verify(architecture, network)
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
    from gemkit.data import load, proxy_split

    dataset = load(spec)
    return proxy_split(dataset, seed), dataset.mean, dataset.std


def _reason(failure: BaseException) -> str:
    """Why a trial failed, in one line."""
    from gemkit.train import TrainingFailed

    text = " ".join(str(failure).split())
    if isinstance(failure, MemoryError) or "out of memory" in text or "allocate memory" in text:
        return "out of memory"
    if isinstance(failure, TrainingFailed):
        return text
    return f"{type(failure).__name__}: {text}"[:500]


# -- local processes


def threads_per_worker(workers: int) -> int:
    """Threads that each of some local workers may use so that the cores are not oversubscribed.

    OMP_NUM_THREADS, OpenMP's own variable, bounds them: who trains several runs on one machine
    sets it, since threads that wait for one another's cores make each run ten times slower.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    share = max(1, usable_cores() // workers)
    return min(share, int(asked)) if asked.isdecimal() and int(asked) else share


class _Process(SpawnProcess):
    """A fresh process that does not run the caller's main script again.

    All that the workers need is importable from gemkit. So a search may be called from a script
    without the `if __name__ == "__main__"` that multiprocessing else asks for.
    """

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            return SpawnProcess._Popen(process_obj)  # type: ignore[attr-defined]
        finally:
            sys.modules["__main__"] = main


class _Context(SpawnContext):
    Process = _Process  # type: ignore[assignment]


def local_workers(workers: int) -> Executor:
    """Processes that run trials; on a machine with several GPUs each gets one in turn.

    They end with the process that started them, however it ends.
    """
    context = _Context()
    return ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin, initargs=(context.Value("i", 0),)
    )


def stop(executor: Executor) -> None:
    """End an executor now; what it was running is lost."""
    processes = list((getattr(executor, "_processes", None) or {}).values())
    executor.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()
    for process in processes:
        process.join()


def _begin(counter: Any) -> None:
    """First steps of a local worker."""
    # Ctrl-C reaches the whole group of processes: the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    global _worker
    with counter.get_lock():
        _worker = counter.value
        counter.value += 1


def end_with_parent() -> None:
    """Let this process end with the one that started it, however that ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()


def _follow(sentinel: int) -> None:
    """End this process when its parent has ended."""
    wait([sentinel])
    os._exit(1)
