"""What `gemkit bench` prints."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from gemkit.records import Measurement

from .. import formatting
from .tables import table_of

_LEFT_OUT_FIRST = ("load", "size", "p90", "images/s", "provider")
"""Columns that a narrow terminal goes without, so that no other is cut."""


def print_measurements(found: Sequence[Measurement], console: Console) -> None:
    """Print measurements as a table, and what is to be known of them."""
    console.print(measurement_table(found, console.width))
    noisy = [one for one in found if one.noisy]
    if len(noisy) > 1:  # one sentence for all, since it is the machine's
        console.print(
            f"  noisy: in {len(noisy)} of {len(found)} measurements (~) p50 is not sure to a tenth "
            "or calls take far longer now and then; close what else runs here and measure again",
        )
    for one in found:
        for note in one.notes or ():
            if len(noisy) < 2 or not note.startswith("noisy"):
                console.print(f"  {one.model}: {note}")


def measurement_table(found: Sequence[Measurement], width: int) -> Table:
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
            one.provider.removesuffix("ExecutionProvider"),
            one.precision,
            str(one.threads),
            str(one.batch),
            ("~ " if one.noisy else "") + formatting.latency(one.latency_ms),
            *(formatting.latency(one.latency_ms, part) for part in ("p90", "p99")),
            f"{one.throughput:,.0f}",
            f"{one.load_ms:.1f} ms",
            formatting.size(one.file_bytes),
        )
        for one, model in zip(found, tails([one.model for one in found]), strict=True)
    ]
    kept = list(range(len(heads)))

    def wide(place: int) -> int:
        return max(len(text) for text in (heads[place], *(row[place] for row in rows)))

    for head in _LEFT_OUT_FIRST:
        if sum(wide(place) + 3 for place in kept) > width:
            kept.remove(heads.index(head))
    return table_of(
        "latency", [heads[place] for place in kept], [[row[n] for n in kept] for row in rows]
    )


def tails(names: Sequence[str]) -> list[str]:
    """The ends of paths, as long as those need that differ."""
    parts = [name.split("/") for name in names]
    most, different = max(map(len, parts), default=0), len(set(names))
    for length in range(1, most):
        found = ["/".join(part[-length:]) for part in parts]
        if len(set(found)) == different:
            return found
    return list(names)
