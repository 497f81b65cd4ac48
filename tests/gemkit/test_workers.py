"""Workers: what dies runs again or is named, whatever it took down with it."""

import os
import sys
import threading
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from gemkit import workers as module
from gemkit.errors import UserError
from gemkit.workers import Ended, Workers, threads_per_worker, worker_number
from worker_calls import dies_beside, leave_number, waits_once


def all_of(workers: Workers, calls: dict[int, tuple]) -> dict[int, Ended]:
    """How all calls ended, by key."""
    waiting, found = deque(calls), {}
    with workers:
        while waiting or workers.running:
            while waiting and workers.idle:
                workers.submit(waiting[0], *calls[waiting.popleft()])
            ended = workers.next()
            assert ended is not None
            found[ended.key] = ended
    return found


def test_local_processes_are_numbered(tmp_path: Path) -> None:
    found = all_of(Workers.local(2), {key: (leave_number, tmp_path, key) for key in range(2)})
    assert {one.value for one in found.values()} == {0, 1}
    assert worker_number() == 0


def test_threads_are_numbered_and_share_the_process() -> None:
    together = threading.Barrier(3, timeout=60)  # so that each of them takes one call

    def who() -> tuple[int, int]:
        together.wait()
        return worker_number(), os.getpid()

    found = all_of(Workers.threads(3), dict.fromkeys(range(3), (who,)))
    assert {one.value for one in found.values()} == {(number, os.getpid()) for number in range(3)}
    assert worker_number() == 0


def test_who_dies_alone_is_named_and_all_others_end() -> None:
    calls = {key: (pow, key, 2) for key in range(7)} | {3: (os._exit, 1), 5: (os._exit, 0)}
    found = all_of(Workers.local(2), calls)
    assert {key: one.value for key, one in found.items() if one.died is None} == {
        key: key**2 for key in (0, 1, 2, 4, 6)
    }
    assert {key for key, one in found.items() if "process died" in (one.died or "")} == {3, 5}


def test_no_worker_is_idle_while_suspects_run_one_by_one(tmp_path: Path) -> None:
    """One call takes the other's process down: both are to run again, each alone."""
    with Workers.local(2) as workers:
        workers.submit("deadly", dies_beside, tmp_path)
        workers.submit("harmless", waits_once, tmp_path)
        first = workers.next()
        assert first is not None
        assert workers.idle is False
        assert len(workers.running) == 1
        second = workers.next()
        assert second is not None
        assert workers.idle
    assert {first.key: first.died is None, second.key: second.died is None} == {
        "deadly": False,
        "harmless": True,
    }


def test_the_death_of_a_process_that_started_late_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool's own thread had looked before the process was there."""
    start = ProcessPoolExecutor._adjust_process_count

    def start_late(pool: ProcessPoolExecutor) -> None:
        time.sleep(0.3)
        start(pool)

    monkeypatch.setattr(ProcessPoolExecutor, "_adjust_process_count", start_late)
    with Workers.local(2) as workers:
        workers.submit("harmless", waits_once, tmp_path)
        while not (tmp_path / "waits").exists():
            time.sleep(0.01)
        workers.submit("deadly", dies_beside, tmp_path)
        ended = [workers.next(60), workers.next(60)]
    assert {one.key: one.died is None for one in ended if one is not None} == {
        "deadly": False,
        "harmless": True,
    }


def test_a_call_that_takes_long_can_be_looked_after(tmp_path: Path) -> None:
    def wait_for_file() -> str:
        while not (tmp_path / "go").exists():
            time.sleep(0.01)
        return "went"

    with Workers(lambda: ThreadPoolExecutor(1), 1) as workers:
        assert workers.next(0.0) is None  # nothing runs
        workers.submit("slow", wait_for_file)
        assert workers.next(0.0) is None
        assert workers.running == ["slow"]
        (tmp_path / "go").touch()
        assert workers.next() == Ended("slow", "went")
        assert workers.running == []


def test_what_a_function_raises_is_raised() -> None:
    with Workers(lambda: ThreadPoolExecutor(1), 1) as workers:
        workers.submit("division", divmod, 1, 0)
        with pytest.raises(ZeroDivisionError):
            workers.next()


def test_no_dask_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    with pytest.raises(UserError, match="no Dask scheduler answers at nonsense"):
        Workers.dask("nonsense://nowhere:1")
    for address in ("nonsense", "tcp://host", "host:port", ""):
        with pytest.raises(UserError, match="is no address of a Dask scheduler"):
            Workers.dask(address)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match="pip install"):
        Workers.dask("tcp://127.0.0.1:1")


def test_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "usable_cores", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [threads_per_worker(workers) for workers in (1, 2, 4, 6, 12)] == [6, 3, 1, 1, 1]
    for given, threads in (("2", 2), ("12", 6), ("0", 6), ("two", 6), ("", 6)):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        assert threads_per_worker(1) == threads
