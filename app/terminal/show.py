"""`gemkit show`: a run as tables, or one of its cells as text and picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemkit.cell import Cell
from gemkit.errors import UserError
from gemkit.store import Run

from .. import formatting

if TYPE_CHECKING:
    from rich.console import Console

_SHOWN = 20
_LEAST_TOLD = ("load", "size", "p90", "images/s", "provider")
"""Columns of measurements that a narrow terminal goes without, so that no other is cut."""
_COUNTS = (("MACs", "macs"), ("params", "params"))
_HEADS = ("network", "accuracy", "MACs", "params", "memory", "p50", "p90", "p99", "parity", "state")


def _networks(entries: Sequence[Mapping[str, Any]], width: int) -> tuple[Any, Any]:
    """Heads and rows of the networks, with as many columns as the terminal has room for."""
    left_out = {"p90"} if width >= 90 else {"p90", "parity"}
    if all(entry["state"] == "done" for entry in entries):
        left_out.add("state")
    kept = [place for place, head in enumerate(_HEADS) if head not in left_out]
    rows = [[formatting.model_row(entry)[place] for place in kept] for entry in entries]
    return [_HEADS[place] for place in kept], rows


def show_run(folder: Path, console: "Console", everything: bool = False) -> dict[str, Any]:
    """Print the models, baselines and best trials of a run.

    Returns:
        the run under the names that programs read.

    Raises:
        UserError: the folder holds no run or a damaged one.
    """
    with Run.open(folder) as run:
        content = run.to_json()
        data = run.setting("data", {})
        budget = run.budget
        interrupted = not run.is_being_written() and any(
            trial["state"] in ("queued", "running") for trial in content["trials"]
        )
    trials, networks = content["trials"], [*content["models"], *content["baselines"]]
    done = sum(trial["state"] == "done" for trial in trials)
    asked = max(content["run"]["config"].get("trials") or 0, len(trials))
    console.print(
        *headed(folder),
        f"{data.get('name', content['run']['config'].get('data'))}, "
        f"{budget.describe()}; {done} of {formatting.number(asked, 'trial')} done, "
        f"seed {content['run']['seed']}",
    )
    if networks:
        heads, rows = _networks(networks, console.width)
        console.print(table_of("networks", heads, rows))
        for entry in networks:
            if (there := formatting.on_target(entry)) is not None:
                console.print(f"  {entry['id']}: {there}")
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
            f"the search was interrupted; it goes on with: gemkit run --out {folder} --resume"
        )
    if networks or trials:
        best = (networks or formatting.best_trials(trials))[0]["id"]
        console.print(f"next: gemkit show {folder} {best}   or   gemkit app {folder}")
    else:
        console.print(f"no trials yet; next: gemkit search --out {folder} --resume")
    return content


def table_of(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    """A table for the terminal, its first column at the left and all others at the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False
    )
    for place, head in enumerate(heads):
        numeric = head not in ("network", "id", "state", "model", "provider", "precision")
        table.add_column(head, justify="right" if numeric and place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def headed(name: object) -> tuple[Any, str]:
    """What `print` is given to begin a line with a name in bold."""
    from rich.text import Text

    return Text(str(name), "bold"), ""


def tails(names: Sequence[str]) -> list[str]:
    """The ends of paths, as long as is needed to tell those apart that differ."""
    parts = [name.split("/") for name in names]
    most, different = max(map(len, parts), default=0), len(set(names))
    for length in range(1, most):
        found = ["/".join(part[-length:]) for part in parts]
        if len(set(found)) == different:
            return found
    return list(names)


def measurement_table(found: Sequence[Mapping[str, Any]], width: int) -> Any:
    """Measurements as a table for a terminal of that width; `~` marks what varied from round to
    round."""
    heads = (
        "model",
        "provider",
        "precision",
        "threads",
        "batch",
        "p50",
        "p90",
        "p99",
        "images/s",
        "load",
        "size",
    )
    rows = [
        (
            model,
            one["provider"].removesuffix("ExecutionProvider"),
            one["precision"],
            str(one["threads"]),
            str(one["batch"]),
            ("~ " if one.get("noisy") else "") + formatting.latency(one["latency_ms"]),
            *(formatting.latency(one["latency_ms"], part) for part in ("p90", "p99")),
            f"{one['throughput']:,.0f}",
            f"{one['load_ms']:.1f} ms",
            formatting.size(one["file_bytes"]),
        )
        for one, model in zip(found, tails([one["model"] for one in found]), strict=True)
    ]
    kept = list(range(len(heads)))

    def wide(place: int) -> int:
        return max(len(text) for text in (heads[place], *(row[place] for row in rows)))

    for head in _LEAST_TOLD:
        if sum(wide(place) + 3 for place in kept) > width:
            kept.remove(heads.index(head))
    return table_of(
        "latency", [heads[place] for place in kept], [[row[n] for n in kept] for row in rows]
    )


def find(content: dict[str, Any], id: str, where: Path) -> dict[str, Any]:
    """The model, or else the trial or baseline of a run that `id` names; its beginning is enough.

    Raises:
        UserError: nothing or more than one has that id.
    """
    for kind in ("models", "trials", "baselines"):
        entries = content.get(kind, ())
        found = {entry["id"]: entry for entry in entries if entry["id"].startswith(id)}
        if id in found:
            return dict(found[id])
        if len(found) > 1:
            raise UserError(f"{id!r} could be {' or '.join(sorted(found)[:4])}: write more of it")
        if found:
            return dict(next(iter(found.values())))
    known = [entry["id"] for entry in (content["models"] or content["trials"])][:5]
    hint = f"; there are {', '.join(known)}" if known else " (it has no trials yet)"
    raise UserError(f"{where} has no trial or model {id!r}{hint}")


def show_cell(folder: Path, id: str, console: "Console", out: Path | None = None) -> dict[str, Any]:
    """Print a cell's nodes and what it costs, and write its picture; of a baseline its cost alone.

    Args:
        out: the picture's place; by default `figures/ID.png` in the run.

    Returns:
        the model's, trial's or baseline's values.

    Raises:
        UserError: no such run or id, or there is no picture or it cannot be written.
    """
    with Run.open(folder) as run:
        content = run.to_json()
    entry = find(content, id, folder)
    if "cell" not in entry:
        if out is not None:
            raise UserError(f"--out: {entry['id']} is a known network without a cell to draw")
        console.print(*headed(entry["id"]), "a known network, to compare with; no one cell")
        console.print(table_of("cost", ("", "value"), cost_rows(entry)))
        return entry
    from ..report import cell_plots, plots

    cell = Cell.from_json(entry["cell"])
    path = out or Path(folder) / "figures" / f"{entry['id']}.png"
    subtitle = describe(entry, cell)
    plots.save(cell_plots.cell_figure(cell, f"Cell {entry['id']}", subtitle), path)
    console.print(*headed(entry["id"]), subtitle)
    console.print(table_of("cost", ("", "value"), cost_rows(entry)))
    console.print("nodes (what each reads; * feeds the output)")
    for line in text_drawing(cell):
        console.print("  " + line)
    console.print(f"picture: {path}")
    return entry


def describe(entry: dict[str, Any], cell: Cell) -> str:
    """One line about a cell."""
    return (
        f"{formatting.number(cell.nodes, 'node')}, {formatting.number(len(cell.edges), 'edge')}, "
        f"{formatting.number(len(cell.leaves), 'leaf', 'leaves')}, {cell.aggregation}; "
        f"width {entry['width']}"
    )


def cost_rows(entry: dict[str, Any]) -> list[tuple[str, str]]:
    """What a network costs, as pairs of name and text."""
    rows = [
        ("accuracy", formatting.percent(entry["accuracy"])),
        *((name, f"{entry[key]:,}") for name, key in _COUNTS if entry[key] is not None),
        ("peak activation memory", formatting.size(entry["peak_memory_bytes"])),
    ]
    latency = entry["latency_ms"] or {}
    rows += [
        (f"latency {part}", formatting.latency(latency, part))
        for part in sorted(latency)
        if part.startswith("p")
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
