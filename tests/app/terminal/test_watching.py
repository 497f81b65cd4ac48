"""What is shown of a search while it runs."""

import io
from typing import Any

import pytest
from rich.console import Console

from gemkit.app.terminal import progress
from gemkit.app.terminal.watching import best_table, curve, watched
from gemkit.cell import Cell
from gemkit.records import Trial

CELL = Cell(("input", "conv1x1"), ((0, 1),))


def trial(index: int, accuracy: float | None = None, state: str = "done", **more: Any) -> Trial:
    return Trial(
        index, 0, f"{index:032x}", CELL, 8, 1000, 100, 4000, 0, 1,
        state=state, accuracy=accuracy, **more,
    )  # fmt: skip


def text(shown: Any) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(shown)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_the_curve_has_every_trial_at_its_height() -> None:
    accuracies = [0.5, 0.9, 0.1, None, 0.7]
    trials = [
        trial(i, value, "failed" if value is None else "done") for i, value in enumerate(accuracies)
    ]
    lines = text(curve(trials, height=9)).splitlines()
    assert lines[0] == "90.00 % ┤ ━━━━"
    assert lines[-1].rstrip() == "10.00 % ┤  ·"
    assert lines[4].rstrip() == "        ┤━"
    assert lines[2].rstrip() == "        ┤    ·"


def test_a_long_search_fits_the_width() -> None:
    trials = [trial(i, i / 1000) for i in range(1000)]
    lines = text(curve(trials, width=40, height=5)).splitlines()
    assert len(lines) == 5
    assert max(map(len, lines)) == len("99.90 % ┤") + 40


def test_a_curve_needs_two_points() -> None:
    assert text(curve([trial(0, 0.5)])).strip() == ""


def test_the_best_stand_first_and_the_running_last() -> None:
    trials = [trial(0, 0.5), trial(1, None, "running"), trial(2, 0.8), trial(3, None, "queued")]
    lines = text(best_table(trials)).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["2", "0", "1"]
    assert "running" in lines[3]


def test_improvements_are_said_where_there_is_no_terminal() -> None:
    console = Console(file=io.StringIO(), width=120)
    with watched(console, [], 3) as watch:
        watch(trial(0, None, "running"))
        watch(trial(0, 0.5))
        watch(trial(1, 0.4))
        watch(trial(2, None, "failed", error="the loss is not finite"))
    said = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(said) == 2
    assert "50.00 %, the best so far" in said[0]
    assert "failed: the loss is not finite" in said[1]


def test_how_far_it_is_is_said_from_time_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 40))  # seconds between two things to tell
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    console = Console(file=io.StringIO(), width=120)
    with watched(console, [], 6) as watch:
        watch(trial(0, 0.5))
        for index in range(1, 6):
            watch(trial(index, 0.4))
    said = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert said[1:] == ["  2 of 6 trials ended", "  4 of 6 trials ended", "  6 of 6 trials ended"]


def test_a_terminal_sees_the_table() -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    with watched(console, [trial(0, 0.5)], 3) as watch:
        watch(trial(1, 0.6))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "60.00 %" in shown
    assert "2/3" in shown
