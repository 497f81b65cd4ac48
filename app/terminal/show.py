"""`gemkit show` and `gemkit zoo`: a run as tables, a cell as text and picture, the zoo."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from gemkit.cell import Cell
from gemkit.errors import UserError
from gemkit.records import (
    TEACHER_SETTING,
    Compared,
    DataInfo,
    Model,
    Network,
    RunContent,
    TeacherInfo,
    Trial,
)
from gemkit.store import Run

from .. import formatting, zoo
from ..hints import command
from ..report import cell_plots, plots
from ..runs import find
from .tables import headed, table_of

_SHOWN = 20
_HEADS = ("network", "hold-out", "accuracy", "MACs", "params", "memory",
          "p50", "p90", "p99", "parity", "state")  # fmt: skip


def _networks(entries: Sequence[Network], width: int) -> tuple[Any, Any]:
    """Heads and rows of the networks, with as many columns as the terminal has room for."""
    left_out = {"p90"} if width >= 90 else {"p90", "p99", "parity"}
    if all(entry.state == "done" for entry in entries):
        left_out.add("state")
    if all(entry.holdout is None for entry in entries):
        left_out.add("hold-out")
    kept = [place for place, head in enumerate(_HEADS) if head not in left_out]
    rows = [[formatting.network_row(entry)[place] for place in kept] for entry in entries]
    return [_HEADS[place] for place in kept], rows


def show_run(folder: Path, console: Console, everything: bool = False) -> RunContent:
    """Print the networks and best trials of a run.

    Returns:
        all that the run holds.

    Raises:
        UserError: the folder holds no run or a damaged one.
    """
    with Run.open(folder) as run:
        content, info = run.content(), run.info
        data = run.setting("data", DataInfo)
        teacher = run.setting(TEACHER_SETTING, TeacherInfo)
        interrupted = not run.is_being_written() and any(
            trial.state in ("queued", "running") for trial in content.trials
        )
    trials, networks = content.trials, content.networks
    done = sum(trial.state == "done" for trial in trials)
    asked = max(info.config.get("trials") or 0, len(trials))
    console.print(
        *headed(folder),
        f"{data.name if data else info.config.get('data')}, {info.budget.describe()}; "
        f"{done} of {formatting.number(asked, 'trial')} done, seed {info.seed}",
    )
    if networks:
        heads, rows = _networks(networks, console.width)
        console.print(table_of("networks", heads, rows))
        for entry in networks:
            if (there := formatting.on_target(entry)) is not None:
                console.print(f"  {entry.id}: {there}")
        for id, file in content.fastest_files.items():
            console.print(f"  {id}: {formatting.fastest_file(file)}")
    if teacher is not None:
        console.print(formatting.teacher_line(teacher))
    if content.recommendation is not None:
        console.print(formatting.recommendation_line(content.recommendation))
    if trials:
        shown = formatting.best_trials(trials)
        if not everything:
            shown = shown[:_SHOWN]
        title = "trials" if len(shown) == len(trials) else f"best {len(shown)} trials"
        console.print(
            table_of(
                title, formatting.TRIAL_HEADS, [formatting.trial_row(trial) for trial in shown]
            )
        )
        if len(shown) < len(trials):
            console.print(f"{len(trials) - len(shown)} more: --all")
    if interrupted:
        console.print(
            "the search was interrupted; it goes on with: "
            + command("run", "--out", folder, "--resume")
        )
    if networks or trials:
        best = (networks or formatting.best_trials(trials))[0].id
        if content.recommendation is not None:
            best = content.recommendation.id
        look, page = command("show", folder, best), command("app", folder)
        console.print(f"next: {look}   or   {page}")
    else:
        again = command("search", "--out", folder, "--resume")
        console.print(f"no trials yet; next: {again}")
    return content


def show_cell(folder: Path, id: str, console: Console, out: Path | None = None) -> Trial | Network:
    """Print a cell's nodes and what it costs, and write its picture; of a baseline its cost alone.

    Args:
        out: the picture's place; by default `figures/ID.png` in the run.

    Returns:
        the trial or network.

    Raises:
        UserError: no such run or id, or there is no picture or it cannot be written.
    """
    with Run.open(folder) as run:
        content = run.content()
    others = (*content.baselines, *content.compared)
    entry = find(id, folder, content.models, content.trials, others)
    if not isinstance(entry, (Model, Trial)):
        if out is not None:
            raise UserError(f"--out: {entry.id} is a known network without a cell to draw")
        what = "a known network, to compare with; no one cell"
        if isinstance(entry, Compared):
            what = f"a training of {entry.network}, to compare with"
        console.print(*headed(entry.id), what)
        console.print(table_of("cost", ("", "value"), cost_rows(entry)))
        return entry
    path = out or Path(folder) / "figures" / f"{entry.id}.png"
    subtitle = formatting.cell_line(entry)
    plots.save(cell_plots.cell_figure(entry.cell, f"Cell {entry.id}", subtitle), path)
    console.print(*headed(entry.id), subtitle)
    console.print(table_of("cost", ("", "value"), cost_rows(entry)))
    console.print("nodes (what each reads; * feeds the output)")
    for line in text_drawing(entry.cell):
        console.print("  " + line)
    console.print(f"picture: {path}")
    return entry


def cost_rows(entry: Trial | Network) -> list[tuple[str, str]]:
    """What a network costs, as pairs of name and text."""
    counts = (("MACs", entry.macs), ("params", entry.params))
    latency = entry.latency_ms
    rows = [
        ("accuracy", formatting.percent(entry.accuracy)),
        *((name, f"{value:,}") for name, value in counts if value is not None),
        ("peak activation memory", formatting.size(entry.peak_memory_bytes)),
        *(
            (f"latency {part}", formatting.latency(latency, part))
            for part in ("p50", "p90", "p95", "p99")
            if latency is not None and getattr(latency, part) is not None
        ),
    ]
    if (there := formatting.on_target(entry)) is not None:
        rows.append(("on the target", there))
    return rows


def text_drawing(cell: Cell) -> list[str]:
    """A cell for the terminal: a line per node, sets of consecutive nodes as ranges."""
    lines = []
    for node in range(1, len(cell.operations)):
        mark = "*" if node in cell.leaves else " "
        reads = ", ".join(_ranges(cell.predecessors[node]))
        lines.append(f"{node:>3}{mark} {cell.operations[node]:<8} <- {reads}")
    return lines


def _ranges(nodes: tuple[int, ...]) -> list[str]:
    found: list[list[int]] = []
    for node in nodes:
        # The cell input is no node like the others and joins no range.
        if found and node == found[-1][1] + 1 and found[-1][0] != 0:
            found[-1][1] = node
        else:
            found.append([node, node])
    return [("in" if a == 0 else str(a)) if a == b else f"{a}-{b}" for a, b in found]


def show_zoo(console: Console) -> list[zoo.Card]:
    """Print what is shipped.

    Returns:
        the cards.
    """
    found = zoo.cards()
    if found:
        console.print(
            table_of("Networks that come with gemkit", zoo.HEADS, [zoo.row(c) for c in found])
        )
        console.print(f"next: gemkit export {zoo.PREFIX}{found[0].name} --out network.onnx")
    else:
        console.print("no networks come with this version of gemkit")
    return found


def show_zoo_network(name: str, console: Console) -> zoo.Card:
    """Print what the card of a network says.

    Returns:
        the card.

    Raises:
        UserError: no such network.
    """
    known = zoo.card(name)
    console.print(table_of(known.name, zoo.HEADS, [zoo.row(known)]))
    for text in (
        known.search["text"],
        f"Trained {known.training['text']}.",
        known.data_note,
        *known.limits,
    ):
        console.print(text)
    console.print(f"made with: {known.command}")
    console.print(f"next: gemkit export {zoo.PREFIX}{known.name} --out network.onnx")
    return known
