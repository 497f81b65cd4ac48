"""What becomes of the options of a search."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import page_run
from gemkit.app.steps import search as step
from gemkit.budget import Budget
from gemkit.errors import UserError
from gemkit.records import Trial
from gemkit.search import loop
from gemkit.search.interfaces import Outcome
from gemkit.store import Run
from gemkit.workers import Workers


def found() -> list[Trial]:
    """What a search might have found."""
    return page_run.trials_of([page_run.chain(2)], np.random.default_rng(0))


def planned(monkeypatch: pytest.MonkeyPatch, out: Path, **options: Any) -> loop.Plan:
    """The plan of a search that trains nothing."""
    seen: list[loop.Plan] = []

    def search(*arguments: Any) -> list[Any]:
        seen.append(arguments[4])
        return found()

    monkeypatch.setattr(loop, "search", search)
    options = {"trials": 8, "console": Console(quiet=True), **options}
    with step.search(out=out, epochs=2, workers=1, **options):
        return seen[0]


def test_options_become_the_plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain = planned(monkeypatch, tmp_path / "plain")
    assert (plain.promoted, plain.in_rounds) == (0, False)
    plan = planned(monkeypatch, tmp_path / "run", promote=3, in_rounds=True)
    assert (plan.promoted, plan.promoted_epochs, plan.in_rounds) == (3, 6, True)
    other = planned(monkeypatch, tmp_path / "other", promote=1, promote_epochs=9)
    assert (other.promoted, other.promoted_epochs) == (1, 9)
    # What decides results is part of the configuration: no resuming with another promotion.
    with pytest.raises(UserError, match="promote was 3, now 2"):
        planned(monkeypatch, tmp_path / "run", promote=2, in_rounds=True, resume=True)


def test_few_images_are_not_searched_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One network is taken that a person would write down, and the reason said."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (420, 8, 8, 1), dtype=np.uint8)
    labels = np.arange(420) % 3
    np.savez(
        tmp_path / "few.npz",
        x_train=images[:360],
        y_train=labels[:360],
        x_test=images[360:],
        y_test=labels[360:],
    )
    plan = planned(
        monkeypatch,
        tmp_path / "few",
        data=f"npz:{tmp_path}/few.npz",
        trials=None,
        console=Console(width=300),
    )
    assert (plan.trials, plan.hand_made) == (1, 1)
    said = capfd.readouterr().out
    assert "no search: of 360 training images" in " ".join(said.split())
    plan = planned(monkeypatch, tmp_path / "some", data=f"npz:{tmp_path}/few.npz", trials=4)
    assert (plan.trials, plan.hand_made) == (4, 1)
    plan = planned(monkeypatch, tmp_path / "digits", trials=None)
    assert plan.trials == step.DEFAULT_TRIALS


def test_a_run_without_the_options_is_resumed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Runs made before the options were there have nothing of them in their configuration."""
    planned(monkeypatch, tmp_path / "run")
    config = Run.open(tmp_path / "run").config
    assert {config["promote"], config["promote_epochs"], config["in_rounds"]} == {None}
    planned(monkeypatch, tmp_path / "run", resume=True)


def test_a_round_looks_at_as_many_candidates_as_its_trials_are_worth() -> None:
    def count(strategy: str, macs: int | None, images: int, gpu: bool = False) -> int:
        budget = Budget(macs=macs)
        return step.candidates_of_a_round(strategy, budget, images, gpu).get("random", 0)

    assert count("nasgem", 3_000_000, 3 * 1000) == count("bo", None, 10**9) == 2_000
    assert count("bo+embedding", 20_000_000, 3 * 3750) == 15_000
    assert count("nasgem", 300_000_000, 3 * 45_000) == 1_000_000
    assert count("nasgem", 300_000_000, 3 * 45_000, gpu=True) == 81_000
    assert count("evolution+embedding", 3_000_000, 1000) == 0


def test_resume_needs_no_option_again(
    monkeypatch: pytest.MonkeyPatch, gemkit: Callable[..., tuple[int, str, str]]
) -> None:
    plans: list[loop.Plan] = []

    def search(*arguments: Any) -> list[Any]:
        plans.append(arguments[4])
        return found()

    monkeypatch.setattr(loop, "search", search)
    words = (
        "search --out begun --max-macs 200k --max-memory 100kB --nodes 7 --seed 5 --epochs 2 "
        "--trials 3 --strategy random --aggregation sum --promote 1 --in-rounds --workers 1"
    )
    assert gemkit(*words.split())[0] == 0
    config = Run.open("begun").config
    assert config["nodes"] == 7
    code, _, errors = gemkit("search", "--out", "begun", "--resume", "--workers", "1")
    assert code == 0, errors
    assert plans[0] == plans[1]
    assert Run.open("begun").config == config
    for changed in ("--nodes 8", "--max-macs 300k", "--epochs 4"):
        code, _, errors = gemkit("search", "--out", "begun", "--resume", *changed.split())
        assert code == 2
        assert "was begun with another configuration" in errors


def test_resume_begins_where_there_is_nothing(
    monkeypatch: pytest.MonkeyPatch, gemkit: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.setattr(loop, "search", lambda *_: found())
    assert gemkit("search", "--out", "fresh", "--nodes", "7", "--resume")[0] == 0
    assert Run.open("fresh").config["nodes"] == 7


def test_a_search_without_a_success_ends_with_code_2_and_tries_again(
    monkeypatch: pytest.MonkeyPatch, gemkit: Callable[..., tuple[int, str, str]]
) -> None:
    here = classmethod(lambda cls, count=1: cls(lambda: ThreadPoolExecutor(1), 1))
    monkeypatch.setattr(Workers, "local", here)
    monkeypatch.setattr(step, "run_trial", lambda *_: Outcome(None, "no such data", 0.1))
    words = "search --out failed --trials 2 --nodes 4 --max-macs 300k --strategy random --workers 1"
    for more in ("", " --resume"):
        code, _, errors = gemkit(*(words + more).split())
        assert code == 2
        assert "every trial failed, the last one because: no such data" in errors
    monkeypatch.setattr(step, "run_trial", lambda *_: Outcome(0.5, None, 0.1))
    assert gemkit(*words.split(), "--resume")[0] == 0
    with Run.open("failed") as run:
        assert [trial.state for trial in run.trials()] == ["done"] * 2
