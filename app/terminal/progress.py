"""What a person sees while a step runs: sentences, and a bar where there is a terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .. import formatting

_A_MINUTE = 60.0

Advance = Callable[..., None]
"""Called with `completed=N`, `note=...` or `total=N` to move a bar."""


def default_console() -> Console:
    """Where the Python functions report when nobody says where: a terminal's standard error."""
    return console_for(stderr=True, quiet=not sys.stderr.isatty())


def console_for(**options: Any) -> Console:
    """A console that prints names as they are: brackets and colons in them are no markup."""
    return Console(markup=False, emoji=False, highlight=False, **options)


def counter(console: Console) -> Progress:
    """A bar with numbers and the time left, not yet shown; its tasks need a `note`."""
    return Progress(
        TextColumn("  {task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def now_and_then(console: Console) -> Callable[[str], None]:
    """Prints what it is given where there is no terminal for a bar, but once a minute at most."""
    last = [time.monotonic()]

    def say(text: str) -> None:
        if not console.is_terminal and time.monotonic() - last[0] >= _A_MINUTE:
            last[0] = time.monotonic()
            console.print(f"  {text}")

    return say


@contextmanager
def bar(console: Console, text: str, total: int) -> Iterator[Advance]:
    """A progress bar with the time left; without a terminal a line a minute."""
    progress, say = counter(console), now_and_then(console)
    # Before version 14.3 of rich even a bar that is disabled ends with an empty line.
    with progress if console.is_terminal else nullcontext():
        task = progress.add_task(text, total=total, note="")

        def advance(
            completed: int | None = None, note: str | None = None, total: int | None = None
        ) -> None:
            progress.update(task, completed=completed, total=total)
            if note is not None:
                progress.update(task, note=note)
            if completed is not None:
                whole = progress.tasks[0].total or 1
                say(f"{text}: {formatting.percent(completed / whole, 0)}")

        yield advance
