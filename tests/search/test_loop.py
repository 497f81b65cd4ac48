"""The search loop: the same again after a kill, nothing lost, stopped with a sentence."""

import itertools
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import cheap_trials
from cheap_trials import EVOLUTION, PLAN, SPACE, always_failing, begin, by_cell
from gemkit.errors import UserError
from gemkit.records import Prediction, Trial
from gemkit.search import loop
from gemkit.search.interfaces import Evaluate, Outcome, Strategy
from gemkit.search.loop import Plan
from gemkit.search.strategies import strategy
from gemkit.store import Run
from gemkit.workers import Workers


def here(count: int = 1) -> Workers:
    """Trials in threads of this process."""
    return Workers(lambda: ThreadPoolExecutor(count), count)


def results(trials: Sequence[Trial]) -> list[tuple[Any, ...]]:
    """What must be equal in two runs of one seed: everything but times."""
    return [
        (
            one.index,
            one.round,
            one.key,
            one.cell,
            one.width,
            one.macs,
            one.seed,
            one.epochs,
            one.state,
            one.accuracy,
            one.error,
            (one.predicted, one.short, one.long_error, one.tried_again),
        )
        for one in trials
    ]


def searched(
    path: Path,
    seed: int,
    plan: Plan,
    evaluate: Evaluate = by_cell,
    workers: Workers | None = None,
    chosen: Strategy = EVOLUTION,
) -> list[Trial]:
    """The trials of a search, by index."""
    with begin(path, seed) as run:
        loop.search(run, SPACE, chosen, evaluate, plan, workers or here())
        return run.trials()


def searched_trials(path: Path) -> list[Trial]:
    with Run.open(path) as run:
        return run.trials()


def test_one_seed_gives_one_search(tmp_path: Path, seed: int) -> None:
    first = searched(tmp_path / "a", seed, PLAN)
    assert results(first) == results(searched(tmp_path / "b", seed, PLAN))
    assert results(first) != results(searched(tmp_path / "c", seed + 1, PLAN))
    assert [one.index for one in first] == list(range(14))
    assert [one.round for one in first] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 2
    assert len({one.key for one in first}) == 14
    assert all(one.state == "done" for one in first)


def test_hand_made_cells_come_first(tmp_path: Path, seed: int) -> None:
    trials = searched(tmp_path / "a", seed, replace(PLAN, hand_made=3))
    made = SPACE.hand_made()
    assert [one.key for one in trials[:3]] == [key.decode() for key in made.keys[:3].tolist()]
    assert [one.round for one in trials[:4]] == [0, 0, 0, 1]
    assert len({one.key for one in trials}) == len(trials) == PLAN.trials


def test_results_decide_what_comes_next(tmp_path: Path, seed: int) -> None:
    plan = Plan(trials=12, per_round=4, epochs=2)
    one = searched(tmp_path / "a", seed, plan)
    other = searched(tmp_path / "b", seed, plan, cheap_trials.opposite)
    assert [trial.key for trial in one[:4]] == [trial.key for trial in other[:4]]
    assert [trial.key for trial in one[4:]] != [trial.key for trial in other[4:]]


def test_the_best_are_trained_longer_and_come_first(tmp_path: Path, seed: int) -> None:
    with begin(tmp_path / "run", seed) as run:
        ranked = loop.search(run, SPACE, strategy("random"), by_cell, PLAN, here())
        trials = run.trials()
    longer = [one for one in trials if one.epochs == 5]
    assert len(longer) == 3

    def factor(one: Trial) -> float:
        return (one.macs / SPACE.reference_macs) ** SPACE.exponent

    short = {one.index: one.short and one.short.accuracy for one in longer}
    short |= {one.index: one.accuracy for one in trials if one.epochs == 2}
    by_short = sorted(trials, key=lambda one: -short[one.index] * factor(one))
    assert {one.index for one in longer} == {one.index for one in by_short[:3]}
    assert {one.index for one in ranked[:3]} == {one.index for one in longer}
    scores = [(one.accuracy or 0) * factor(one) for one in ranked]
    assert scores[:3] == sorted(scores[:3], reverse=True)
    assert scores[3:] == sorted(scores[3:], reverse=True)
    # What the strategies learn from is of one length.
    assert loop.history(SPACE, trials).values.tolist() == [short[i] for i in range(14)]


def test_a_finished_search_does_nothing_more(tmp_path: Path, seed: int) -> None:
    first = searched(tmp_path / "run", seed, PLAN)
    again = searched(tmp_path / "run", seed, PLAN, always_failing)
    assert first == again


def test_interrupted_anywhere_it_ends_the_same(tmp_path: Path, seed: int) -> None:
    whole = results(searched(tmp_path / "whole", seed, PLAN))
    chance = random.Random(seed)

    class Cut(Exception):
        pass

    for turn in range(4):
        path, sittings = tmp_path / str(turn), 0
        while True:
            left = chance.randrange(1, 12)

            def count(trial: Trial) -> None:
                nonlocal left
                left -= 1
                if not left:
                    raise Cut

            with begin(path, seed) as run:
                try:
                    loop.search(run, SPACE, EVOLUTION, by_cell, PLAN, here(), count)
                except Cut:
                    sittings += 1
                    continue
                assert results(run.trials()) == whole
                break
        assert sittings


SCRIPT = """
import sys
from functools import partial
from pathlib import Path
import cheap_trials as shared
from gemkit.search import loop
from gemkit.workers import Workers

# Without a main guard: the workers must not run this script again.
with shared.begin(Path(sys.argv[1]), int(sys.argv[2])) as run:
    loop.search(
        run, shared.SPACE, shared.EVOLUTION, partial(shared.slowly, Path(sys.argv[3])),
        shared.PLAN, Workers.local(1),
        lambda trial: print(trial.state, trial.index, flush=True),
    )
print("ended", flush=True)
"""


def gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split(")")[1].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_killed_and_resumed_it_ends_the_same(tmp_path: Path, seed: int) -> None:
    whole = results(searched(tmp_path / "whole", seed, PLAN))
    (tmp_path / "pids").mkdir()
    chance = random.Random(seed)
    command = [
        *(sys.executable, "-c", SCRIPT),
        *(str(tmp_path / "run"), str(seed), str(tmp_path / "pids")),
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(cheap_trials.__file__).parent)}
    ends, kills = "", 0
    while ends != "ended":
        done = [] if not kills else Run.open(tmp_path / "run").trials()
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=environment
        ) as process:
            assert process.stdout is not None
            for _ in range(chance.randrange(6, 16)):
                ends = process.stdout.readline().strip()
            if ends == "ended" or not ends:
                assert process.wait() == 0
                break
            time.sleep(chance.random() * 0.1)
            process.kill()
            kills += 1
        with Run.open(tmp_path / "run") as run:
            after = {one.index: one for one in run.trials()}
        for one in done:  # what was finished stays finished
            if one.state == "done":
                assert after[one.index].accuracy == one.accuracy or after[one.index].short
    assert kills
    with Run.open(tmp_path / "run") as run:
        assert results(run.trials()) == whole
    workers = [int(entry.name) for entry in (tmp_path / "pids").iterdir()]
    assert 1 <= len(workers) <= kills + 1
    for _ in range(100):  # the killed search's workers end by themselves
        if all(map(gone, workers)):
            break
        time.sleep(0.1)
    assert all(map(gone, workers))


def test_a_slow_trial_keeps_nobody_waiting(tmp_path: Path, seed: int) -> None:
    plan = Plan(trials=14, per_round=3, epochs=2)
    others_done, ended = threading.Event(), 0
    pending: list[int] = []

    def first_is_slow(architecture: Any, seed: int, epochs: int) -> Outcome:
        if seed == loop.trial_seed(run.seed, 0):
            assert others_done.wait(60), "the others waited for the slow trial"
        return by_cell(architecture, seed, epochs)

    def count(trial: Trial) -> None:
        nonlocal ended
        ended += trial.state == "done"
        if ended == plan.trials - 1:
            others_done.set()

    def watched(space: Any, history: Any, count: int, rng: Any) -> Any:
        known = history.pending
        pending.append(0 if known is None else len(known))
        found = EVOLUTION(space, history, count, rng)
        assert known is None or not set(known.keys) & set(found.keys)
        return found

    with begin(tmp_path / "run", seed) as run:
        loop.search(run, SPACE, watched, first_is_slow, plan, here(2), count)
        trials = run.trials()
    assert [one.state for one in trials] == ["done"] * 14
    assert len({one.key for one in trials}) == 14
    # Every round but the first began beside the slow trial, and with that alone: the worker that
    # asks is free.
    assert pending == [0, 1, 1, 1, 1]


def test_rounds_that_wait_repeat_with_any_number_of_workers(tmp_path: Path, seed: int) -> None:
    plan = replace(PLAN, in_rounds=True)
    alone = results(searched(tmp_path / "alone", seed, plan))
    assert alone == results(searched(tmp_path / "usual", seed, PLAN))
    several = searched(tmp_path / "several", seed, plan, cheap_trials.at_random_speed, here(3))
    assert alone == results(several)


def test_failures_are_recorded_and_learned_from(tmp_path: Path, seed: int) -> None:
    plan = Plan(trials=16, per_round=4, epochs=2, failures=17)
    failing = partial(cheap_trials.failing, loop.trial_seed(seed, 0))
    trials = searched(tmp_path / "run", seed, plan, failing)
    failed = [one for one in trials if one.state == "failed"]
    even = {one.index for one in trials if one.cell.nodes % 2 == 0}
    assert {one.index for one in failed} == even - {0}
    assert all(one.error == "the loss is not finite" and one.accuracy is None for one in failed)
    values = loop.history(SPACE, trials).values
    assert [value != value for value in values] == [one.state == "failed" for one in trials]


def test_too_many_failures_end_the_search(tmp_path: Path, seed: int) -> None:
    plan = Plan(trials=30, per_round=2, epochs=2, failures=5)
    with pytest.raises(UserError, match=r"5 trials failed in a row.*nothing works"):
        searched(tmp_path / "run", seed, plan, always_failing)
    with Run.open(tmp_path / "run") as run:
        tried = [one.key for one in run.trials()[:5]]
        assert {one.state for one in run.trials()} == {"queued"}
    # The cause mended, it goes on, and no cell is lost.
    found = sorted(searched(tmp_path / "run", seed, plan), key=lambda one: one.index)
    assert len(found) == 30
    assert [one.key for one in found[:5]] == tried


def test_failures_that_are_the_cells_own_do_not_stop_a_search_for_good(
    tmp_path: Path, seed: int
) -> None:
    plan = Plan(trials=12, per_round=4, epochs=2, failures=3)
    ended: set[int] = set()
    for _ in range(20):
        with pytest.raises(UserError, match="failed in a row"):
            searched(tmp_path / "run", seed, plan, always_failing)
        with Run.open(tmp_path / "run") as run:
            now = {one.index for one in run.trials() if one.state == "failed"}
        assert ended <= now
        ended = now
        if len(ended) == 9:
            break
    assert len(ended) == 9


def test_a_failed_promotion_keeps_the_short_result(tmp_path: Path, seed: int) -> None:
    with begin(tmp_path / "run", seed) as run:
        short = loop.search(run, SPACE, EVOLUTION, by_cell, Plan(6, 3, 2), here())
        plan = Plan(6, 3, 2, promoted=2, promoted_epochs=6)
        long = loop.search(run, SPACE, EVOLUTION, always_failing, plan, here())
        noted = [one.long_error for one in run.trials()]
        again = loop.search(run, SPACE, EVOLUTION, always_failing, plan, here())
    kept = [(one.index, one.epochs, one.accuracy) for one in short]
    assert kept == [(one.index, one.epochs, one.accuracy) for one in long]
    assert kept == [(one.index, one.epochs, one.accuracy) for one in again]
    assert noted.count("nothing works") == 2


def test_a_trial_that_kills_its_process_has_failed(tmp_path: Path, seed: int) -> None:
    plan = Plan(trials=8, per_round=8, epochs=2, failures=9)
    dying = partial(cheap_trials.dying, loop.trial_seed(seed, 0))
    trials = searched(tmp_path / "run", seed, plan, dying, Workers.local(2), strategy("random"))
    for one in trials:
        deadly = int(one.key, 16) % 4 == 0 and one.index > 0
        assert one.state == ("failed" if deadly else "done")
        assert not deadly or "process died" in (one.error or "")


def test_time_ends_a_search_and_leaves_nothing_pending(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that goes on by a second at each look at it."""
    ticks = itertools.count()
    monkeypatch.setattr(loop, "monotonic", lambda: float(next(ticks)))
    plan = Plan(trials=500, per_round=50, epochs=2, seconds=100)
    trials = searched(tmp_path / "run", seed, plan, workers=here(2), chosen=strategy("random"))
    assert 1 <= len(trials) < 50
    assert {one.state for one in trials} == {"done"}
    assert searched(tmp_path / "run", seed, plan, always_failing) == trials


def test_time_that_was_over_before_a_trial_ended(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(loop, "monotonic", lambda: float(next(ticks)))
    with pytest.raises(UserError, match="before a trial ended"):
        searched(tmp_path / "run", seed, Plan(5, 5, 2, seconds=0.5))
    assert not searched_trials(tmp_path / "run")


def test_a_search_without_a_success_says_so_and_tries_again(tmp_path: Path, seed: int) -> None:
    plan = Plan(trials=3, per_round=2, epochs=2)
    for _ in range(3):  # however often
        with pytest.raises(UserError, match=r"every trial failed.*nothing works.*resume the"):
            searched(tmp_path / "run", seed, plan, always_failing)
        assert [one.state for one in searched_trials(tmp_path / "run")] == ["queued"] * 3
    assert [one.state for one in searched(tmp_path / "run", seed, plan)] == ["done"] * 3


def test_time_that_ends_a_promotion_keeps_the_short_result(tmp_path: Path, seed: int) -> None:
    with begin(tmp_path / "run", seed) as run:
        loop.search(run, SPACE, EVOLUTION, by_cell, Plan(4, 4, 2), here())
        before = run.trials()
        assert len(loop.promote(run, SPACE, Plan(4, 4, 2, 2, 6), before)) == 2
        loop.withdraw(run)
        after = run.trials()
    assert [(one.state, one.epochs, one.accuracy) for one in after] == [
        (one.state, one.epochs, one.accuracy) for one in before
    ]


def test_a_search_is_alone_in_its_folder(tmp_path: Path, seed: int) -> None:
    refused = []

    def intrude(trial: Trial) -> None:
        with pytest.raises(UserError, match="another process"):
            begin(tmp_path / "run", seed)
        with Run.open(tmp_path / "run") as reader:
            refused.append(reader.trials()[trial.index].state)

    with begin(tmp_path / "run", seed) as run:
        loop.search(run, SPACE, EVOLUTION, by_cell, Plan(2, 2, 2), here(), intrude)
    assert refused == ["running", "done"] * 2


def test_what_was_predicted_is_stored(tmp_path: Path, seed: int) -> None:
    def foreseeing(space: Any, history: Any, count: int, rng: Any) -> Any:
        import numpy as np

        found = space.sample(rng, count)
        mean = np.where(np.arange(count) == 1, np.nan, 0.5)
        return found.noted(predicted_mean=mean, predicted_std=np.full(count, 0.1))

    trials = searched(tmp_path / "run", seed, Plan(3, 3, 2), chosen=foreseeing)
    foreseen = Prediction(0.5, 0.1)
    assert [one.predicted for one in trials] == [foreseen, None, foreseen]


def test_dask_loses_nothing_when_a_worker_is_killed(tmp_path: Path, seed: int) -> None:
    distributed = pytest.importorskip("distributed")
    plan = Plan(trials=16, per_round=8, epochs=2, in_rounds=True)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        workers = Workers.dask(cluster.scheduler_address)
        assert workers.count == 2
        (tmp_path / "pids").mkdir()
        ended = 0

        def kill_one(trial: Trial) -> None:
            nonlocal ended
            ended += trial.state == "done"
            if ended == 4 and trial.state == "running":
                ended += 100
                os.kill(int(next((tmp_path / "pids").iterdir()).name), 9)

        with begin(tmp_path / "run", seed) as run:
            slowly = partial(cheap_trials.slowly, tmp_path / "pids")
            loop.search(run, SPACE, EVOLUTION, slowly, plan, workers, kill_one)
            trials = run.trials()
    assert ended >= 104
    assert [one.state for one in trials] == ["done"] * 16
    assert results(trials) == results(searched(tmp_path / "alone", seed, plan))


@pytest.mark.parametrize("given", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_a_plan_needs_something_to_do(given: tuple[int, int, int]) -> None:
    with pytest.raises(UserError, match="at least one"):
        Plan(*given)
