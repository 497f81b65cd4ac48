"""The page's "Speed": what was measured of all networks, and measuring again."""

import subprocess
import sys
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gemkit.export import timing
from gemkit.records import Latency, Measurement, Model, Network

from .. import formatting
from .parts import Part

if TYPE_CHECKING:
    from .content import PageRun

_TIMEOUT = 900


class Entry(NamedTuple):
    """A network, what the page calls it, and one of its measurements."""

    name: str
    network: Network
    measured: Measurement


def measurements(shown: "PageRun") -> list[Entry]:
    """All measurements of a run's networks and baselines."""
    content = shown.content
    return [
        Entry(content.name(network.id), network, one)
        for network in content.networks
        for one in network.measurements
    ]


def choices(found: Iterable[Entry], name: str) -> list[str]:
    """The values of one condition, as texts."""
    values = {getattr(one.measured, name) for one in found}
    return [str(value) for value in sorted(values)]


def table(found: Iterable[Entry], provider: str, precision: str, threads: str, batch: str) -> str:
    """The measurements under some conditions, fastest first, as HTML; "all" is no condition."""
    wanted = (
        ("provider", provider),
        ("precision", precision),
        ("threads", threads),
        ("batch", batch),
    )
    rows = [
        one
        for one in found
        if all(
            value in ("all", None) or str(getattr(one.measured, name)) == value
            for name, value in wanted
        )
    ]
    if not rows:
        return '<p class="gk-empty">Nothing was measured under these conditions.</p>'
    rows.sort(key=lambda row: row.measured.latency_ms.p50 / row.measured.batch)
    most = max(_tail(row.measured.latency_ms) for row in rows)
    body = "".join(_row(row, most) for row in rows)
    lines = [
        *(f"{row.name}: {note}" for row in rows for note in row.measured.notes or ()),
        *sorted({_machine(row.measured) for row in rows}),
    ]
    notes = "".join(f"<br>{escape(text)}" for text in lines)
    return (
        '<div class="gk-wide"><table class="gk-table gk-lat"><thead><tr><th>network</th>'
        f"<th>p50</th><th>calls between 0 and {_ms(most)}</th><th>p90</th><th>p95</th><th>p99</th>"
        "<th>images/s</th><th>file</th><th>precision</th><th>provider</th><th>threads</th>"
        f"<th>batch</th></tr></thead><tbody>{body}</tbody></table></div>"
        '<p class="gk-note">Milliseconds for one call. p50: the median, also the line in the '
        "picture; p99: 99 of 100 calls are faster. The higher the hill, the more calls took that "
        f"long. Measured in turn, round by round, after warm-up.{notes}</p>"
    )


def _tail(latency: Latency) -> float:
    """How far to the right a measurement is drawn: one call of a hundred may take very long."""
    return min(latency.p99 or latency.p50, 3 * latency.p50)


def _ms(value: float) -> str:
    return formatting.latency(Latency(value))


_BINS, _HEIGHT = 60, 22


def _spread(one: Measurement, most: float) -> str:
    """How the calls of a measurement spread over the time from 0, as SVG; its percentiles as bars
    where it was made before the whole spread was kept."""
    latency = one.latency_ms
    middle = _BINS * latency.p50 / most
    if not one.distribution_ms:
        shape = f'<rect x="0" y="8" width="{_BINS * _tail(latency) / most:.2f}" height="6"/>'
    else:
        places = np.linspace(0, most, _BINS + 1)
        shares = np.interp(
            places, one.distribution_ms, np.array(timing.DISTRIBUTION) / 100, left=0, right=1
        )
        heights = np.diff(shares)
        heights = _HEIGHT * heights / (heights.max() or 1)
        line = " ".join(f"L{x} {_HEIGHT - y:.1f}h1" for x, y in enumerate(heights))
        shape = f'<path d="M0 {_HEIGHT}{line}V{_HEIGHT}z"/>'
    return (
        f'<svg class="gk-spread" viewBox="0 0 {_BINS} {_HEIGHT}" preserveAspectRatio="none" '
        f'aria-hidden="true">{shape}<path class="gk-median" d="M{middle:.2f} 0V{_HEIGHT}"/></svg>'
    )


def _row(entry: Entry, most: float) -> str:
    network, one = entry.network, entry.measured
    latency = one.latency_ms
    kind = "" if isinstance(network, Model) else ' class="gk-base"'
    file = (one.onnx or "model.onnx").rpartition("/")[2]
    percentiles = "".join(
        f"<td>{formatting.latency(latency, part)}</td>" for part in ("p90", "p95", "p99")
    )
    return (
        f'<tr data-id="{escape(network.id)}"{kind}><td>{escape(entry.name)}</td>'
        f"<td>{formatting.latency(latency)}</td><td>{_spread(one, most)}</td>{percentiles}"
        f"<td>{one.throughput:,.0f}</td><td>{escape(file)}</td><td>{escape(one.precision)}</td>"
        f"<td>{escape(one.provider.removesuffix('ExecutionProvider'))}</td>"
        f"<td>{one.threads}</td>"
        f"<td>{one.batch}</td></tr>"
    )


def _machine(one: Measurement) -> str:
    machine, versions = one.machine, one.versions
    version = versions.get("onnxruntime") or versions.get("onnxruntime-gpu") or "unknown"
    parts = [
        str(machine.get("processor") or "unknown processor"),
        f"{machine.get('cores', '?')} cores",
        f"onnxruntime {version}",
    ]
    if one.date:
        parts.append(one.date[:10])
    return ", ".join(parts)


def when(found: Iterable[Entry]) -> str:
    """When the latest of some measurements was made, for people; nothing where none says it."""
    dates = (one.measured.date for one in found)
    latest = max(filter(None, dates), default="")
    return f"last measured {latest[:16].replace('T', ' ')} UTC" if latest else ""


def measure_again(shown: "PageRun") -> str:
    """Measure the run's files anew in a process of its own; one sentence about how it went."""
    command = [sys.executable, "-m", "gemkit.app", "bench", str(shown.folder)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return f"measuring took more than {formatting.duration(_TIMEOUT)} and was ended"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        return f"not measured: {last.removeprefix('gemkit: ')}"
    return f"measured just now on {shown.computer}"


_CONDITIONS = {"provider": "all", "precision": "all", "threads": "1", "batch": "1"}
"""What a measurement was made under, and what is shown at first."""


def _box_choices(found: Sequence[Entry], name: str) -> list[str]:
    return ["all", *choices(found, name)]


def tab(shown: "PageRun", measuring: bool) -> Part:
    """The tab's layout; gives what of it follows the run."""
    import gradio as gr

    def read(*values: str | None) -> tuple[Any, ...]:
        found = measurements(shown)
        updates, kept = [], []
        for name, value in zip(_CONDITIONS, values, strict=True):
            possible = _box_choices(found, name)
            kept.append(value if value in possible else "all")
            updates.append(gr.update(choices=possible, value=kept[-1]))
        return (*updates, _table_or_hint(shown, found, kept), when(found))

    found = measurements(shown)
    with gr.Row():
        boxes = []
        for name, start in _CONDITIONS.items():
            possible = _box_choices(found, name)
            boxes.append(
                gr.Dropdown(
                    possible,
                    value=start if start in possible else "all",
                    label=name,
                    min_width=120,
                    elem_id=f"latency-{name}",
                )
            )
    shown_table = gr.HTML(
        _table_or_hint(shown, found, [str(box.value) for box in boxes]),
        apply_default_css=False,
        elem_id="latency-table",
    )
    measured_when = gr.Markdown(when(found), elem_id="latency-when")

    def changed(*values: str) -> str:
        return _table_or_hint(shown, measurements(shown), values)

    for box in boxes:
        box.change(
            changed, boxes, [shown_table], queue=False, show_progress="hidden",
            api_visibility="private",
        )  # fmt: skip
    if measuring:

        def again(*values: str) -> tuple[str, str]:
            outcome_text = measure_again(shown)
            return outcome_text, _table_or_hint(shown, measurements(shown), values)

        button = gr.Button(f"Measure again on {shown.computer}", elem_id="measure-again", size="sm")
        outcome = gr.Markdown(elem_id="latency-outcome")
        button.click(
            again, boxes, [outcome, shown_table], concurrency_limit=1, api_visibility="private"
        ).then(None, js="() => { gemkit.look(); }")
    return Part(boxes, [*boxes, shown_table, measured_when], read)


def _table_or_hint(shown: "PageRun", found: Sequence[Entry], values: Sequence[str]) -> str:
    """The table under these conditions, or how to get one."""
    if found:
        return table(found, *values)
    return (
        '<p class="gk-empty">Nothing has been measured yet. The command is: gemkit bench '
        f"{escape(shown.asked)}</p>"
    )
