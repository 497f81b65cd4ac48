"""How tables and names are printed."""

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text


def table_of(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table for the terminal, its first column at the left and all others at the right."""
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
    return Text(str(name), "bold"), ""
