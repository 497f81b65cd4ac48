"""`gemkit data`: look at a data set before anything is trained on it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from gemkit.survey import Survey, skip_unusable, survey

from ..hints import command
from ..report import plots
from ..report.contact_sheet import contact_sheet

if TYPE_CHECKING:
    from rich.console import Console

_NAMED = 10  # files of one kind, on the terminal


def show_data(spec: str, out: Path | None, skip: bool, console: "Console") -> dict[str, Any]:
    """Print what a data set holds and what may mislead.

    Args:
        spec: as `gemkit.data.load` takes it.
        out: where a picture with images of every class is written; None writes none.
        skip: list the pictures that cannot be read in the folder, to be left out from now on.

    Returns:
        what was found, for programs.

    Raises:
        UserError: the data cannot be read, or the picture cannot be written.
    """
    found = survey(spec)
    listed = skip_unusable(found) if skip else None
    if listed is not None:
        console.print(f"{len(found.unusable):,} unusable pictures are listed in {listed}")
        found = survey(spec)
    console.print(f"data: {found.data}")
    if found.plan is not None:
        console.print(found.plan.line())
    _print_classes(found, console)
    _print_sizes(found, console)
    _print_files(found, console)
    name, right = found.constant_answer
    console.print(f"Always answering {name!r} is right for {100 * right:.1f} % of the test images.")
    for warning in found.warnings():
        console.print(f"warning: {warning}", style="yellow")
    if out is not None:
        plots.save(contact_sheet(found), out)
        console.print(f"images of every class: {out}")
    elif found.unusable and found.plan is not None:
        console.print(f"next: {command('data', spec, '--skip-unusable')}")
    else:
        console.print(f"next: {command('data', spec, '--out', 'images.png')}")
    return found.to_json()


def _print_classes(found: Survey, console: "Console") -> None:
    table = Table("class", box=None, header_style="bold")
    for part in found.images:
        table.add_column(part, justify="right")
    for label, name in enumerate(found.class_names):
        table.add_row(name, *(f"{counts[label]:,}" for counts in found.images.values()))
    table.add_section()
    table.add_row("all", *(f"{sum(counts):,}" for counts in found.images.values()))
    console.print(table)


def _print_sizes(found: Survey, console: "Console") -> None:
    height, width, channels = found.shape
    stored = ""
    if found.stored is not None:
        smallest, median, largest = (f"{w}x{h}" for w, h in found.stored)
        stored = f"stored with {smallest} to {largest} pixels (median {median}), "
    colours = {1: "grey", 3: "in colour"}.get(channels, f"{channels} channels")
    console.print(f"{stored}seen with {width}x{height}, {colours}")


def _print_files(found: Survey, console: "Console") -> None:
    """The files that are not used, by reason."""
    if found.plan is None:
        return
    root = found.plan.root

    def shown(path: Path | str) -> str:
        return Path(path).relative_to(root).as_posix()

    kinds = [(some.reason, [shown(path) for path in some.files]) for some in found.plan.skipped]
    copies = [
        f"{shown(one.left_out)} (the same as {shown(one.same_as)})" for one in found.plan.copies
    ]
    kinds.append(("left out, since they judge", copies))
    kinds.append(("cannot be used", [f"{shown(one.what)}: {one.reason}" for one in found.unusable]))
    for reason, files in kinds:
        if files:
            console.print(f"{reason}: {len(files):,}", style="bold")
            for name in files[:_NAMED]:
                console.print(f"  {name}")
            if len(files) > _NAMED:
                console.print(f"  and {len(files) - _NAMED:,} more (all with --json)")
