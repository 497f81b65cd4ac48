"""Workers, each of which runs one call at a time: processes of this machine, its threads where
they share a GPU, or a Dask cluster.

    with Workers.local(2) as workers:
        while waiting or workers.running:
            while waiting and workers.idle:
                name = waiting.pop()
                workers.submit(name, function, name)
            ended = workers.next()

A process that dies takes nothing else down: what it was running runs again (see `Workers.next`).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import sys
import threading
import types
from collections import deque
from collections.abc import Callable
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, Self

from gemkit.errors import UserError
from gemkit.machine import usable_cores


@dataclass(frozen=True)
class Ended:
    """A call that came to its end.

    Attributes:
        key: what the call was submitted under.
        value: what the function returned; None where it died.
        died: why there is no value; None where there is one.
    """

    key: Any
    value: Any
    died: str | None = None


@dataclass(frozen=True)
class _Call:
    key: Any
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Workers:
    """Runs calls on any executor; a context manager that ends it, with all that it still runs.

    Args:
        make: makes the executor; called again when it broke because a process died.
        count: how many calls run at once.
        end: ends an executor now; by default as a pool of local processes is ended.
    """

    def __init__(
        self,
        make: Callable[[], Executor],
        count: int,
        end: Callable[[Any], None] | None = None,
    ) -> None:
        self.count = count
        self._make, self._end = make, end or _stop
        self._executor: Executor | None = None
        self._running: dict[Future[Any], _Call] = {}
        self._suspects: deque[_Call] = deque()
        self._alone = False

    @classmethod
    def local(cls, count: int = 1) -> Self:
        """Fresh processes of this machine, which end with this one, however it ends."""
        return cls(lambda: _local_processes(count), count)

    @classmethod
    def threads(cls, count: int) -> Self:
        """Threads of this process: for calls that wait for a GPU, which processes would take turns
        on. What is running when they end runs on to its own end."""
        return cls(
            lambda: _threads(count), count, lambda one: one.shutdown(False, cancel_futures=True)
        )

    @classmethod
    def dask(cls, address: str) -> Self:
        """The workers of a Dask cluster, by its scheduler's address.

        Dask itself repeats the calls of a worker that died on another one.

        Raises:
            UserError: `distributed` is not installed, nobody answers, or there is no worker.
        """
        try:
            from distributed import Client
        except ImportError:
            raise UserError("Dask needs another package: pip install 'gemkit[dask]'") from None
        if not re.fullmatch(r"inproc://\S+|([a-z]+://)?[^\s/]+:[0-9]+(/\S*)?", address):
            raise UserError(
                f"{address!r} is no address of a Dask scheduler: write it like tcp://host:8786"
            )
        try:
            client = Client(address, timeout="10s", set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"no Dask scheduler answers at {address} ({type(error).__name__})"
            ) from None
        count = sum(client.ncores().values())
        if not count:
            client.close()
            raise UserError(f"the Dask cluster at {address} has no workers")

        def end(executor: Any) -> None:
            executor.shutdown(wait=False)
            client.close()

        return cls(client.get_executor, count, end)

    def __enter__(self) -> Self:
        self._executor = self._make()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._executor is not None
        self._end(self._executor)
        self._executor = None
        self._running.clear()
        self._suspects.clear()

    @property
    def running(self) -> list[Any]:
        """Keys of the calls that have not ended, those that are to run again included."""
        return [call.key for call in (*self._running.values(), *self._suspects)]

    @property
    def idle(self) -> bool:
        """Whether a worker has nothing to do."""
        return not self._suspects and not self._alone and len(self._running) < self.count

    def submit(self, key: Any, function: Callable[..., Any], *arguments: Any) -> None:
        """Start a call on an idle worker, under a key of the caller's choice.

        Args:
            function: must be importable by the workers; it and its arguments are pickled.
        """
        assert self.idle, "no worker is idle"
        self._start(_Call(key, function, arguments))

    def next(self, seconds: float | None = None) -> Ended | None:
        """Wait for a call to end; None when none does within `seconds`.

        When a process dies, it is unknown which of the running calls took it down.
        So they run again one by one, and one that dies alone has died of itself.

        Raises:
            UserError: the connection to the workers was lost.
            Exception: whatever the function raised.
        """
        while True:
            if self._suspects and not self._running:
                self._alone = True
                self._start(self._suspects.popleft())
            done, _ = wait(self._running, seconds, FIRST_COMPLETED)
            if not done:
                return None
            future = next(one for one in self._running if one in done)
            call, alone = self._running.pop(future), self._alone
            self._alone = False
            try:
                return Ended(call.key, future.result())
            except BrokenExecutor:
                self._renew()
                if alone:
                    return Ended(call.key, None, "its process died (killed, or out of memory)")
                broken = {one: call for one, call in self._running.items() if not _succeeded(one)}
                self._suspects.extend([call, *broken.values()])
                for one in broken:
                    del self._running[one]
            except CancelledError:
                raise UserError(
                    "the connection to the workers was lost; what was finished is kept"
                ) from None
            except Exception as error:
                if type(error).__name__ != "KilledWorker":  # of distributed
                    raise
                return Ended(call.key, None, f"its workers died: {error}")

    def _start(self, call: _Call) -> None:
        assert self._executor is not None, "use the workers as a context manager"
        try:
            future = self._executor.submit(call.function, *call.arguments)
        except BrokenExecutor:  # a process died while it was idle
            self._renew()
            future = self._executor.submit(call.function, *call.arguments)
        self._running[future] = call

    def _renew(self) -> None:
        assert self._executor is not None
        self._end(self._executor)
        self._executor = self._make()


def _succeeded(future: Future[Any]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


# -- local processes


def threads_per_worker(workers: int) -> int:
    """Threads that each of some local workers may use so that the cores are not oversubscribed.

    OMP_NUM_THREADS, OpenMP's own variable, bounds them: who trains several runs on one machine
    sets it, since threads that wait for one another's cores make each run ten times slower.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    share = max(1, usable_cores() // workers)
    return min(share, int(asked)) if asked.isdecimal() and int(asked) else share


_own = threading.local()
_of_process = 0


def worker_number() -> int:
    """Number of this one among the local workers that were started together; 0 elsewhere."""
    return int(getattr(_own, "number", _of_process))


def _threads(count: int) -> Executor:
    numbers = iter(range(count))

    def begin() -> None:
        _own.number = next(numbers)

    return ThreadPoolExecutor(count, initializer=begin)


class _Process(SpawnProcess):
    """A fresh process that does not run the caller's main script again.

    All that the workers need is importable. So workers may be used in a script without the
    `if __name__ == "__main__"` that multiprocessing else asks for.
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


class _Pool(ProcessPoolExecutor):
    """A pool that sees each of its processes die.

    Python's own wakes the thread that watches the processes before it starts another one, so that
    the death of that one may stay unseen until some call ends (Python 3.11). A second call, which
    does nothing, wakes the thread again.
    """

    def submit(self, *call: Any, **arguments: Any) -> Future[Any]:
        future = super().submit(*call, **arguments)
        with contextlib.suppress(BrokenExecutor):  # the call's own future says so
            super().submit(int)
        return future


def _local_processes(count: int) -> Executor:
    context = _Context()
    return _Pool(count, mp_context=context, initializer=_begin, initargs=(context.Value("i", 0),))


def _stop(executor: Executor) -> None:
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
    global _of_process
    with counter.get_lock():
        _of_process = counter.value
        counter.value += 1


def end_with_parent() -> None:
    """Let this process end with the one that started it, however that ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()


def _follow(sentinel: int) -> None:
    """End this process when its parent has ended."""
    connection.wait([sentinel])
    os._exit(1)
