"""The search as it happens, in a terminal: the best trials as a table and the course as a curve."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gemkit.records import Trial

from .. import formatting
from .progress import counter, now_and_then

_ROWS, _HEIGHT, _WIDTH = 6, 7, 60

Watch = Callable[[Trial], None]
"""Called with every trial that starts or ends."""


@contextmanager
def watched(console: Console, trials: Sequence[Trial], total: int) -> Iterator[Watch]:
    """Show a search while it runs; without a terminal a sentence for each improvement.

    Args:
        trials: what the run holds already.
        total: how many trainings there will be.
    """
    known = {trial.index: trial for trial in trials}
    progress, say = counter(console), now_and_then(console)
    done = sum(trial.state in ("done", "failed") for trial in trials)
    bar = progress.add_task("trials", total=total, completed=done, note="")

    def shown() -> RenderableType:
        ordered = [known[index] for index in sorted(known)]
        return Group(best_table(ordered), curve(ordered), progress.get_renderable())

    def watch(trial: Trial) -> None:
        before = _best(known.values())
        known[trial.index] = trial
        if trial.state not in ("done", "failed"):
            return
        progress.update(bar, advance=1)
        if trial.accuracy is None:
            console.print(f"  trial {trial.index} ({trial.id}) failed: {trial.error}")
        elif not console.is_terminal and trial.accuracy > before:
            console.print(
                f"  trial {trial.index}: {formatting.percent(trial.accuracy)}, the best so far "
                f"({formatting.number(trial.cell.nodes, 'node')}, width {trial.width}, "
                f"{formatting.count(trial.macs)} MACs)"
            )
        say(f"{progress.tasks[0].completed:.0f} of {formatting.number(total, 'trial')} ended")

    if not console.is_terminal:
        yield watch
        return
    with Live(get_renderable=shown, console=console, refresh_per_second=4):
        yield watch


def best_table(trials: Sequence[Trial]) -> Table:
    """The best of the trials that ended, and those in progress."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("trial", justify="right")
    table.add_column("id")
    for name in ("accuracy", "predicted", "MACs", "params", "nodes", "width", "time"):
        table.add_column(name, justify="right")
    ended = formatting.best_trials(trial for trial in trials if trial.accuracy is not None)
    running = [trial for trial in trials if trial.state == "running"]
    for trial in (*ended[:_ROWS], *running[:_ROWS]):
        foreseen = None if trial.predicted is None else trial.predicted.mean
        known = trial.accuracy is not None
        table.add_row(
            str(trial.index),
            trial.id,
            formatting.percent(trial.accuracy) if known else "running",
            formatting.percent(foreseen),
            formatting.count(trial.macs),
            formatting.count(trial.params),
            str(trial.cell.nodes),
            str(trial.width),
            formatting.duration(trial.seconds) if known and trial.seconds else formatting.NONE,
            style="dim" if not known else "bold" if trial is ended[0] else "",
        )
    return table


def curve(trials: Sequence[Trial], width: int = _WIDTH, height: int = _HEIGHT) -> Text:
    """Accuracy by trial: a dot each, the best so far as a line; between the least and the most."""
    values = [trial.accuracy for trial in trials if trial.state in ("done", "failed")]
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return Text("")
    low, high = min(known), max(known)
    span = (high - low) or 1.0
    columns = min(width, len(values))
    grid = [[" "] * columns for _ in range(height)]

    def row(value: float) -> int:
        return height - 1 - round((value - low) / span * (height - 1))

    best = [0.0] * columns
    for place, value in enumerate(values):
        column = place * columns // len(values)
        best[column:] = [max(best[column], value or 0.0)] * (columns - column)
        if value is not None:
            grid[row(value)][column] = "·"
    for column, value in enumerate(best):
        if value >= low:
            grid[row(value)][column] = "━"
    labels = [formatting.percent(high), *[""] * (height - 2), formatting.percent(low)]
    wide = max(map(len, labels))
    lines = [f"{label:>{wide}} ┤{''.join(line)}" for label, line in zip(labels, grid, strict=True)]
    return Text("\n".join(lines))


def _best(trials: Iterable[Trial]) -> float:
    return max((trial.accuracy or 0.0 for trial in trials), default=0.0)
