"""The page's latency tab: what was measured, beside the baselines, and measuring again."""

import subprocess
import sys
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from gemkit.records import Latency, Measurement, Model, Network

from .. import formatting
from .parts import Part

if TYPE_CHECKING:
    from .content import PageRun

_TIMEOUT = 900


Entry = tuple[Network, Measurement]
"""A network and one of its measurements."""


def measurements(shown: "PageRun") -> list[Entry]:
    """All measurements of a run's networks and baselines."""
    return [(network, one) for network in shown.content.networks for one in network.measurements]


def choices(found: Iterable[Entry], name: str) -> list[str]:
    """The values of one condition, as texts."""
    values = {getattr(one, name) for _, one in found}
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
        (network, one)
        for network, one in found
        if all(value in ("all", None) or str(getattr(one, name)) == value for name, value in wanted)
    ]
    if not rows:
        return '<p class="gk-empty">Nothing was measured under these conditions.</p>'
    rows.sort(key=lambda row: row[1].latency_ms.p50 / row[1].batch)
    most = max(_tail(one.latency_ms) for _, one in rows)
    body = "".join(_row(network, one, most) for network, one in rows)
    machines = {_machine(one) for _, one in rows}
    notes = "".join(f"<br>{escape(text)}" for text in sorted(machines))
    return (
        '<div class="gk-wide"><table class="gk-table gk-lat"><thead><tr><th>network</th>'
        "<th>p50</th><th>file</th><th>precision</th><th>p50, pale: to p99</th><th>p90</th>"
        "<th>p95</th><th>p99</th><th>images/s</th><th>provider</th><th>threads</th><th>batch</th>"
        f"</tr></thead><tbody>{body}</tbody></table></div>"
        '<p class="gk-note">Milliseconds for one call. p50: the median; p99: 99 of 100 calls are '
        f"faster. Measured in turn, round by round, after warm-up.{notes}</p>"
    )


def _tail(latency: Latency) -> float:
    return latency.p50 if latency.p99 is None else latency.p99


def _row(network: Network, one: Measurement, most: float) -> str:
    latency = one.latency_ms
    kind = "" if isinstance(network, Model) else " gk-base"
    bars = "".join(
        f'<i class="{name}{kind}" style="width:{100 * value / most:.1f}%"></i>'
        for value, name in ((_tail(latency), "gk-tail"), (latency.p50, ""))
    )
    file = (one.onnx or "model.onnx").rpartition("/")[2]
    percentiles = "".join(
        f"<td>{formatting.latency(latency, part)}</td>" for part in ("p90", "p95", "p99")
    )
    notes = "".join(f"<small>{escape(note)}</small>" for note in one.notes or ())
    return (
        f"<tr><td>{escape(network.id)}{notes}</td>"
        f"<td>{formatting.latency(latency)}</td><td>{escape(file)}</td><td>{escape(one.precision)}</td>"
        f'<td><div class="gk-bar">{bars}</div></td>{percentiles}'
        f"<td>{one.throughput:,.0f}</td>"
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
    latest = max((one.date for _, one in found if one.date), default="")
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
        return (*updates, _told(shown, found, kept), when(found))

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
        _told(shown, found, [str(box.value) for box in boxes]),
        apply_default_css=False,
        elem_id="latency-table",
    )
    told = gr.Markdown(when(found), elem_id="latency-when")

    def changed(*values: str) -> str:
        return _told(shown, measurements(shown), values)

    for box in boxes:
        box.change(
            changed, boxes, [shown_table], queue=False, show_progress="hidden",
            api_visibility="private",
        )  # fmt: skip
    if measuring:

        def again(*values: str) -> tuple[str, str]:
            told_ = measure_again(shown)
            return told_, _told(shown, measurements(shown), values)

        button = gr.Button(f"Measure again on {shown.computer}", elem_id="measure-again", size="sm")
        outcome = gr.Markdown(elem_id="latency-outcome")
        button.click(
            again, boxes, [outcome, shown_table], concurrency_limit=1, api_visibility="private"
        ).then(None, js="() => { gemkit.look(); }")
    return Part(boxes, [*boxes, shown_table, told], read)


def _told(shown: "PageRun", found: Sequence[Entry], values: Sequence[str]) -> str:
    """The table under these conditions, or how to get one."""
    if found:
        return table(found, *values)
    return (
        '<p class="gk-empty">Nothing has been measured yet. The command is: gemkit bench '
        f"{escape(shown.asked)}</p>"
    )
