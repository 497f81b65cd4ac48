"""The search loop, for any strategy: propose, train, store, learn, again.

The loop has no memory of its own. Each step is decided by the run's configuration and by what its
store holds: the proposals of round r depend on the stored trials and on a random stream derived
from the seed and r, a trial on its cell and its stored seed. So a killed search that is continued
makes, with one worker, the same trials as one that was left alone.
"""

from __future__ import annotations

import math
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    wait,
)
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gemkit.architecture import Architecture
from gemkit.errors import UserError
from gemkit.store import Run, Trial

from .cell_space import CellSpace, Scaled
from .strategies import Candidates, History, Strategy, efficiency_factor
from .trials import Evaluate, Outcome, ProxyTask, local_workers, run_trial, stop

Progress = Callable[[Trial], None]
"""Called with a trial when it starts and when it ends."""

Job = tuple[ProxyTask, Architecture, int, int]
"""Task, architecture, seed, epochs."""

_PROPOSALS, _TRIAL = 1, 2
"""What a random stream is for."""


@dataclass(frozen=True)
class Plan:
    """How far a search goes.

    Attributes:
        trials: how many cells are trained on the proxy task.
        per_round: how many are proposed at once, before the strategy learns again.
        epochs: how long a trial is trained.
        promoted: how many of the best are trained again, longer, before the final ranking.
        promoted_epochs: how long these are trained.
        seconds: no trial is started later than this (all sittings together); None without limit.
            Only this depends on the clock.
        failures: so many failed trials in a row end the search.
        in_rounds: whether a round waits for all trials of the one before. Otherwise it begins as
            soon as a worker would be idle, and the trials that still run are pending. With one
            worker this is all the same; with several, only searches in rounds repeat exactly.
    """

    trials: int
    per_round: int
    epochs: int
    promoted: int = 0
    promoted_epochs: int = 0
    seconds: float | None = None
    failures: int = 8
    in_rounds: bool = False

    def __post_init__(self) -> None:
        if min(self.trials, self.per_round, self.epochs, self.failures) < 1:
            raise UserError("a search needs at least one trial, one per round, and one epoch")


@dataclass
class Workers:
    """Where trials run: any executor, on any machine that can import gemkit.

    Attributes:
        make: makes the executor; called again when it broke because a process died.
        count: how many trials run at once.
        evaluate: runs a trial; must be importable by the workers.
        end: ends an executor now.
    """

    make: Callable[[], Executor]
    count: int = 1
    evaluate: Evaluate = run_trial
    end: Callable[[Any], None] = stop
    _executor: Executor | None = field(default=None, repr=False)

    @classmethod
    def local(cls, count: int = 1) -> Workers:
        """Processes of this machine."""
        return cls(lambda: local_workers(count), count)

    @classmethod
    def dask(cls, address: str) -> Workers:
        """The workers of a Dask cluster, by its scheduler's address; all must have the data.

        Dask itself repeats the trials of a worker that died on another one.

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

        return cls(client.get_executor, count, end=end)

    def __enter__(self) -> Workers:
        self._executor = self.make()
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self.end(self._executor)
            self._executor = None

    def outcomes(
        self,
        jobs: Iterable[Job],
        started: Callable[[int], None],
        wanted: Callable[[], bool],
        more: Callable[[bool], Sequence[Job]] = lambda busy: (),
    ) -> Iterator[tuple[int, Outcome]]:
        """Run jobs, in order, `count` at once; yield (position, outcome) as they end.

        When a process dies, nobody can tell which of the trials that were running took it down.
        So they run again one by one, and one that dies alone has failed.

        Args:
            started: called with a job's position before it starts.
            wanted: asked before each start; once it says no, only what is running is finished.
            more: asked when a worker has nothing to do, and told whether another one has; its
                jobs are added to the others.
        """
        jobs = list(jobs)
        waiting, suspects = deque(range(len(jobs))), deque[int]()
        running: dict[Future[Outcome], int] = {}
        alone = False
        while True:
            while wanted() and len(running) < self.count:
                if running and (alone or suspects):
                    break
                if not (suspects or waiting):
                    fresh = more(bool(running))
                    waiting.extend(range(len(jobs), len(jobs) + len(fresh)))
                    jobs += fresh
                if not (suspects or waiting):
                    break
                alone = bool(suspects)
                position = suspects.popleft() if alone else waiting.popleft()
                started(position)
                running[self._submit(jobs[position])] = position
            if not running:
                return
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            broken = []
            for future in ended:
                position = running.pop(future)
                try:
                    outcome = future.result()
                except BrokenExecutor:
                    broken.append(position)
                except CancelledError:
                    raise UserError(
                        "the connection to the workers was lost: continue with --resume "
                        "when they are there again"
                    ) from None
                except Exception as error:
                    if type(error).__name__ != "KilledWorker":  # of distributed
                        raise
                    yield position, Outcome(None, f"its workers died: {error}", math.nan)
                else:
                    yield position, outcome
            if broken:
                self._renew()
                if alone:
                    reason = "its process died (killed, or out of memory)"
                    yield broken[0], Outcome(None, reason, math.nan)
                else:
                    suspects.extend(sorted([*broken, *running.values()]))
                running.clear()

    def _renew(self) -> None:
        assert self._executor is not None
        self.end(self._executor)
        self._executor = self.make()

    def _submit(self, job: Job) -> Future[Outcome]:
        assert self._executor is not None, "use the workers as a context manager"
        try:
            return self._executor.submit(self.evaluate, *job)
        except BrokenExecutor:  # a process died while it was idle
            self._renew()
            return self._executor.submit(self.evaluate, *job)


def search(
    run: Run,
    space: CellSpace,
    strategy: Strategy,
    task: ProxyTask,
    plan: Plan,
    workers: Workers,
    progress: Progress | None = None,
) -> list[Trial]:
    """Search, or continue a search, until the plan is fulfilled.

    Args:
        run: open for writing; holds everything that is found, as it is found.
        strategy: proposes cells; asked once a round with the whole history.

    Returns:
        The finished trials, the best first (see `ranking`).

    Raises:
        UserError: too many trials failed in a row, or nothing fits the budgets.
    """
    clock = _Clock(run, plan.seconds)

    def next_round(busy: bool = False) -> list[Trial]:
        trials = run.trials()
        if len(trials) >= plan.trials or (busy and plan.in_rounds):
            return []
        with clock.spending("proposing"):
            proposed = propose(run, space, strategy, plan, trials)
            run.add_trials(proposed)
        return proposed

    with workers:
        while not clock.is_over:
            open_ = [trial for trial in run.trials() if trial.state == "queued"]
            open_ = open_ or next_round() or promote(run, space, plan, run.trials())
            if not open_:
                break
            train(run, space, task, plan, workers, open_, next_round, clock, progress)
    withdraw(run)
    return ranking(run.trials(), space)


def propose(
    run: Run, space: CellSpace, strategy: Strategy, plan: Plan, trials: Sequence[Trial]
) -> list[Trial]:
    """The trials of the next round, decided by what the finished ones gave."""
    number = max((trial.round for trial in trials), default=-1) + 1
    count = min(plan.per_round, plan.trials - len(trials))
    rng = np.random.default_rng([run.seed, _PROPOSALS, number])
    proposals = strategy(space, history(space, trials), count, rng)
    first = max((trial.index for trial in trials), default=-1) + 1
    scaled: Scaled = proposals.payload
    return [
        Trial(
            index=first + place,
            round=number,
            key=proposals.keys[place].decode(),
            cell=scaled.cells.cell(place),
            width=int(scaled.widths[place]),
            macs=int(scaled.macs[place]),
            params=int(scaled.params[place]),
            peak_memory_bytes=int(scaled.peak_memory_bytes[place]),
            latency_ms=None if scaled.latency_ms is None else float(scaled.latency_ms[place]),
            seed=trial_seed(run.seed, first + place),
            epochs=plan.epochs,
            extra=_predicted(proposals, place),
        )
        for place in range(len(proposals))
    ]


def train(
    run: Run,
    space: CellSpace,
    task: ProxyTask,
    plan: Plan,
    workers: Workers,
    trials: Iterable[Trial],
    more: Callable[[bool], Sequence[Trial]],
    clock: _Clock,
    progress: Progress | None,
) -> None:
    """Run trials, and what `more` adds to them, and store each as it ends."""
    trials = list(trials)

    def started(position: int) -> None:
        run.trial_started(trials[position].index)
        if progress:
            progress(replace(trials[position], state="running"))

    def job(trial: Trial) -> Job:
        architecture = Architecture((trial.cell,), space.skeleton, trial.width)
        return task, architecture, trial.seed, trial.epochs

    def more_jobs(busy: bool) -> list[Job]:
        added = more(busy)
        trials.extend(added)
        return [job(trial) for trial in added]

    for position, outcome in workers.outcomes(
        [job(trial) for trial in trials], started, lambda: not clock.is_over, more_jobs
    ):
        trial = trials[position]
        seconds = outcome.seconds if math.isfinite(outcome.seconds) else None
        if outcome.accuracy is not None:
            run.trial_done(trial.index, outcome.accuracy, outcome.seconds)
            ended = replace(trial, state="done", accuracy=outcome.accuracy)
        else:
            error = outcome.error or "failed without a reason"
            if short := trial.extra.get("short"):
                run.trial_restored(trial.index, **short, extra={"long_error": error})
            else:
                run.trial_failed(trial.index, error, seconds)
            ended = replace(trial, state="failed", error=error)
        clock.tick()
        if progress:
            progress(replace(ended, seconds=seconds))
        if outcome.failed and len(failures := _failures_in_a_row(run)) >= plan.failures:
            for one in failures:
                if not one.extra.get("tried_again"):
                    run.trial_queued(one.index, one.epochs, {"tried_again": True})
            raise UserError(
                f"{len(failures)} trials failed in a row, the last one because: {outcome.error}. "
                "Mend the cause and continue with --resume, which tries them once more"
            )


def promote(run: Run, space: CellSpace, plan: Plan, trials: Sequence[Trial]) -> list[Trial]:
    """Queue the best trials once more, to be trained longer; those not yet queued so."""
    if not plan.promoted:
        return []
    short = [
        replace(trial, accuracy=_short(trial)) for trial in trials if _short(trial) is not None
    ]
    chosen = ranking(short, space)[: plan.promoted]
    wanted = {trial.index for trial in chosen if "short" not in trial.extra}
    for trial in trials:
        if trial.index in wanted:
            note = {"short": {"epochs": trial.epochs, "accuracy": trial.accuracy}}
            run.trial_queued(trial.index, plan.promoted_epochs, note)
    return [trial for trial in run.trials() if trial.index in wanted]


def withdraw(run: Run) -> None:
    """Take back what is still queued when the time is over: no trial stays pending."""
    for trial in run.trials():
        if trial.state != "queued":
            continue
        if short := trial.extra.get("short"):
            run.trial_restored(trial.index, **short)
        else:
            run.remove_trial(trial.index)


def history(space: CellSpace, trials: Sequence[Trial]) -> History:
    """What a strategy learns from: the finished trials at their first length, by index.

    Trials that were trained longer count with what they reached first, since accuracies after
    different numbers of epochs cannot be compared.
    """
    ended, pending = list[Trial](), list[Trial]()
    for trial in trials:
        known = trial.state in ("done", "failed") or "short" in trial.extra
        (ended if known else pending).append(trial)
    values = [math.nan if (value := _short(trial)) is None else value for trial in ended]
    return History(
        _candidates(space, ended),
        np.array(values, dtype=float),
        pending=_candidates(space, pending),
    )


def _candidates(space: CellSpace, trials: Sequence[Trial]) -> Candidates | None:
    """The cells of trials as the strategies know them; None where there are none."""
    if not trials:
        return None
    latency = None
    if space.latency is not None:
        latency = [math.nan if one.latency_ms is None else one.latency_ms for one in trials]
    return space.restored([one.cell for one in trials], [one.width for one in trials], latency)


def ranking(trials: Sequence[Trial], space: CellSpace) -> list[Trial]:
    """The finished trials, the best first: those trained longest, by efficiency score.

    The score is accuracy x (MACs / MACs_ref)^weight; earlier trials first among equals.
    """
    done = [trial for trial in trials if trial.accuracy is not None]
    if not done:
        return []
    factors = efficiency_factor(
        [trial.macs for trial in done], space.reference_macs, space.exponent
    )
    scored = [
        (-trial.epochs, -(trial.accuracy or 0.0) * factor, trial.index, trial)
        for trial, factor in zip(done, factors.tolist(), strict=True)
    ]
    return [trial for *_, trial in sorted(scored, key=lambda entry: entry[:3])]


def trial_seed(seed: int, index: int) -> int:
    """The seed of a trial, derived from the run's seed and the trial's index."""
    return int(np.random.SeedSequence([seed, _TRIAL, index]).generate_state(1)[0] >> 1)


def _failures_in_a_row(run: Run) -> list[Trial]:
    """The failed trials after the last one, by index, that is done."""
    ended = [trial for trial in run.trials() if trial.state in ("done", "failed")]
    good = max((place for place, trial in enumerate(ended) if trial.state == "done"), default=-1)
    return ended[good + 1 :]


def _short(trial: Trial) -> float | None:
    """What a trial reached at its first length; None if it failed or has not ended."""
    short: dict[str, Any] | None = trial.extra.get("short")
    return trial.accuracy if short is None else short["accuracy"]


def _predicted(proposals: Candidates, place: int) -> dict[str, Any]:
    """What the strategy foresaw of a proposal, if it did."""
    notes = {
        name: float(proposals.notes[f"predicted_{name}"][place])
        for name in ("mean", "std")
        if f"predicted_{name}" in proposals.notes
    }
    if not notes or not all(map(math.isfinite, notes.values())):
        return {}
    return {"predicted": notes}


class _Clock:
    """Time spent on the search in all sittings, kept in the store."""

    def __init__(self, run: Run, limit: float | None) -> None:
        self._run, self._limit = run, limit
        self._before = float(run.setting("search_seconds", 0.0))
        self._started = time.monotonic()

    @property
    def spent(self) -> float:
        return self._before + time.monotonic() - self._started

    @property
    def is_over(self) -> bool:
        return self._limit is not None and self.spent >= self._limit

    def tick(self) -> None:
        self._run.set_setting("search_seconds", self.spent)

    @contextmanager
    def spending(self, on: str) -> Iterator[None]:
        """Add the time of a block to the setting `ON_seconds`."""
        started = time.monotonic()
        yield
        name = f"{on}_seconds"
        spent = self._run.setting(name, 0.0) + time.monotonic() - started
        self._run.set_setting(name, spent)
