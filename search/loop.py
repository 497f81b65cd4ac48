"""The search loop, for any strategy: propose, train, store, learn, again.

The loop has no memory of its own. Each step is decided by the run's configuration and by what its
store holds: the proposals of round r depend on the stored trials and on a random stream derived
from the seed and r, a trial on its cell and its stored seed. So a killed search that is continued
makes, with one worker, the same trials as one that was left alone.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import monotonic

import numpy as np

from gemkit.architecture import Architecture
from gemkit.errors import UserError
from gemkit.records import Latency, Prediction, Trial
from gemkit.store import Run
from gemkit.workers import Workers

from .cell_space import CellSpace, Scaled, efficiency_factor
from .interfaces import Candidates, Evaluate, History, Outcome, Strategy

Progress = Callable[[Trial], None]
"""Called with a trial when it starts and when it ends."""

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
        hand_made: so many cells that a person would write down are the first round, as far as they
            fit.
    """

    trials: int
    per_round: int
    epochs: int
    promoted: int = 0
    promoted_epochs: int = 0
    seconds: float | None = None
    failures: int = 8
    in_rounds: bool = False
    hand_made: int = 0

    def __post_init__(self) -> None:
        if min(self.trials, self.per_round, self.epochs, self.failures) < 1:
            raise UserError("a search needs at least one trial, one per round, and one epoch")


def search(
    run: Run,
    space: CellSpace,
    strategy: Strategy,
    evaluate: Evaluate,
    plan: Plan,
    workers: Workers,
    progress: Progress = lambda trial: None,
) -> list[Trial]:
    """Search, or continue a search, until the plan is fulfilled.

    Args:
        run: open for writing; holds everything that is found, as it is found.
        strategy: proposes cells; asked once a round with the whole history.
        evaluate: trains a cell; called by the workers.

    Returns:
        The finished trials, the best first (see `ranking`).

    Raises:
        UserError: too many trials failed in a row, none succeeded, or nothing fits the budgets.
            What failed is queued: continued, the search tries it again.
    """
    clock = _Clock(run, plan.seconds)
    queue = deque(trial for trial in run.trials() if trial.state == "queued")
    with workers:
        while True:
            if not queue and workers.idle and not clock.is_over:
                trials = run.trials()
                # The next round; it need not wait for the end of the last one.
                if len(trials) < plan.trials and not (workers.running and plan.in_rounds):
                    with clock.spending("proposing"):
                        proposed = propose(run, space, strategy, plan, trials)
                        run.add_trials(proposed)
                    queue.extend(proposed)
                # After the last round: the best once more, for longer.
                if not queue and not workers.running:
                    queue.extend(promote(run, space, plan, trials))

            while queue and workers.idle and not clock.is_over:
                trial = queue.popleft()
                run.trial_started(trial.index)
                progress(replace(trial, state="running"))
                skeleton = space.skeletons[trial.skeleton]
                architecture = Architecture((trial.cell,), skeleton, trial.width)
                workers.submit(trial, evaluate, architecture, trial.seed, trial.epochs)

            if not workers.running:  # all is done, or the time is over
                break
            ended = workers.next()
            assert ended is not None
            trial = _stored(run, ended.key, ended.value or Outcome(None, ended.died, math.nan))
            clock.tick()
            progress(trial)
            failures = _failures_in_a_row(run) if trial.state == "failed" else []
            if len(failures) >= plan.failures:
                _try_again(run, [one for one in failures if not one.tried_again])
                raise UserError(
                    f"{len(failures)} trials failed in a row, the last one because: "
                    f"{trial.error}. {_MEND}"
                )

    withdraw(run)
    ranked = ranking(run.trials(), space)
    if not ranked:
        failures = [trial for trial in run.trials() if trial.state == "failed"]
        if not failures:
            raise UserError("the time was over before a trial ended: allow more")
        _try_again(run, failures)
        raise UserError(f"every trial failed, the last one because: {failures[-1].error}. {_MEND}")
    return ranked


def propose(
    run: Run, space: CellSpace, strategy: Strategy, plan: Plan, trials: Sequence[Trial]
) -> list[Trial]:
    """The trials of the next round, decided by what the finished ones gave."""
    number = max((trial.round for trial in trials), default=-1) + 1
    count = min(plan.per_round, plan.trials - len(trials))
    rng = np.random.default_rng([run.seed, _PROPOSALS, number])
    proposals = space.hand_made()[: min(plan.hand_made, plan.trials)] if number == 0 else None
    if proposals is None or not len(proposals):
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
            latency_ms=(
                None if scaled.latency_ms is None else Latency(float(scaled.latency_ms[place]))
            ),
            seed=trial_seed(run.seed, first + place),
            epochs=plan.epochs,
            predicted=_predicted(proposals, place),
            skeleton=int(scaled.skeletons[place]),
        )
        for place in range(len(proposals))
    ]


def _stored(run: Run, trial: Trial, outcome: Outcome) -> Trial:
    """Store how a trial ended, and return it as it is now."""
    seconds = outcome.seconds if math.isfinite(outcome.seconds) else None
    if outcome.accuracy is not None:
        run.trial_done(trial.index, outcome.accuracy, outcome.seconds)
        return replace(trial, state="done", accuracy=outcome.accuracy, seconds=seconds)
    error = outcome.error or "failed without a reason"
    if trial.short is not None:
        run.trial_demoted(trial.index, error)
    else:
        run.trial_failed(trial.index, error, seconds)
    return replace(trial, state="failed", error=error, seconds=seconds)


def promote(run: Run, space: CellSpace, plan: Plan, trials: Sequence[Trial]) -> list[Trial]:
    """Queue the best trials once more, to be trained longer; those not yet queued so."""
    if not plan.promoted:
        return []
    short = [
        replace(trial, accuracy=_short(trial)) for trial in trials if _short(trial) is not None
    ]
    chosen = ranking(short, space)[: plan.promoted]
    wanted = {trial.index for trial in chosen if trial.short is None}
    for trial in trials:
        if trial.index in wanted:
            run.trial_promoted(trial.index, plan.promoted_epochs)
    return [trial for trial in run.trials() if trial.index in wanted]


def withdraw(run: Run) -> None:
    """Take back what is still queued when the time is over: no trial stays pending."""
    for trial in run.trials():
        if trial.state != "queued":
            continue
        if trial.short is not None:
            run.trial_demoted(trial.index)
        else:
            run.remove_trial(trial.index)


def history(space: CellSpace, trials: Sequence[Trial]) -> History:
    """What a strategy learns from: the finished trials at their first length, by index.

    Trials that were trained longer count with what they reached first, since accuracies after
    different numbers of epochs cannot be compared.
    """
    ended, pending = list[Trial](), list[Trial]()
    for trial in trials:
        known = trial.state in ("done", "failed") or trial.short is not None
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
        latency = [math.nan if one.latency_ms is None else one.latency_ms.p50 for one in trials]
    return space.restored(
        [one.cell for one in trials],
        [one.width for one in trials],
        latency,
        [one.skeleton for one in trials],
    )


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


_MEND = "Mend the cause and resume the search, which tries them once more"


def _failures_in_a_row(run: Run) -> list[Trial]:
    """The failed trials after the last one, by index, that is done."""
    ended = [trial for trial in run.trials() if trial.state in ("done", "failed")]
    good = max((place for place, trial in enumerate(ended) if trial.state == "done"), default=-1)
    return ended[good + 1 :]


def _try_again(run: Run, failures: Sequence[Trial]) -> None:
    """Queue failed trials once more."""
    for trial in failures:
        run.trial_tried_again(trial.index)


def _short(trial: Trial) -> float | None:
    """What a trial reached at its first length; None if it failed or has not ended."""
    return trial.accuracy if trial.short is None else trial.short.accuracy


def _predicted(proposals: Candidates, place: int) -> Prediction | None:
    """What the strategy foresaw of a proposal, if it did."""
    notes = {
        name: float(proposals.notes[f"predicted_{name}"][place])
        for name in ("mean", "std")
        if f"predicted_{name}" in proposals.notes
    }
    if "mean" not in notes or not all(map(math.isfinite, notes.values())):
        return None
    return Prediction(**notes)


class _Clock:
    """Time spent on the search in all sittings, kept in the store."""

    def __init__(self, run: Run, limit: float | None) -> None:
        self._run, self._limit = run, limit
        self._before = run.setting("search_seconds", float, 0.0)
        self._started = monotonic()

    @property
    def spent(self) -> float:
        return self._before + monotonic() - self._started

    @property
    def is_over(self) -> bool:
        return self._limit is not None and self.spent >= self._limit

    def tick(self) -> None:
        self._run.set_setting("search_seconds", self.spent)

    @contextmanager
    def spending(self, on: str) -> Iterator[None]:
        """Add the time of a block to the setting `ON_seconds`."""
        started = monotonic()
        yield
        name = f"{on}_seconds"
        spent = self._run.setting(name, float, 0.0) + monotonic() - started
        self._run.set_setting(name, spent)
