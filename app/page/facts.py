"""What the page shows of one network, as HTML: figures, drawing, mistakes, costs, files, code."""

import contextlib
import functools
import threading
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gemkit.cell import Cell
from gemkit.errors import UserError
from gemkit.export import exporter, snippets
from gemkit.export.card import interval
from gemkit.records import Epoch, Model, Network, TrialSummary

from .. import formatting
from ..hints import command
from . import cell_svg
from .shares import Shares, Times

if TYPE_CHECKING:
    from .content import DrawnCell, PageRun

_MOST_CLASSES = 20
"""A matrix of more classes cannot be read."""
_NO_CELL = '<p class="gk-note">A known network: it is not made of one cell to draw.</p>'
_DRAWING = threading.Lock()
"""Of many threads only one computes at a time: more would only keep the server from answering."""


def html(shown: "PageRun", id: str) -> str:
    """Everything about what is selected."""
    content = shown.content
    entry, trial = content.network(id), content.by_id.get(id)
    if entry is None and trial is None:
        return f'<p class="gk-empty">There is nothing called {escape(id)} in this run.</p>'
    folds = [
        _fold("cell", "The cell that the network repeats", _drawing(shown, id), is_open=True),
        _fold("cost", "Where the work goes", _parts(shown.drawn_cell(id))),
    ]
    if entry is not None:
        names = content.data.class_names if content.data else ()
        folds += [
            _fold(
                "classes",
                "Right and wrong, class by class",
                _classes(entry, names),
                is_open=shown.drawn_cell(id) is None,
            ),
            _fold("mistakes", "Its worst mistakes", _mistakes(shown, entry, names)),
            _fold("curve", "How it learned", _curve(entry.curve)),
            _fold("code", "Code", _code(shown, id)),
            _fold("files", "All files, with SHA-256", _files(shown, id)),
        ]
    return (
        f'<div class="gk-facts" data-id="{escape(id)}">{_head(shown, id, entry, trial)}'
        f"{_take(shown, id)}{''.join(folds)}</div>"
    )


def _fold(name: str, title: str, content: str, *, is_open: bool = False) -> str:
    if not content:
        return ""
    return (
        f'<details class="gk-fold" data-name="{name}"{" open" if is_open else ""}>'
        f"<summary>{title}</summary><div>{content}</div></details>"
    )


def _head(shown: "PageRun", id: str, entry: Network | None, trial: TrialSummary | None) -> str:
    content = shown.content
    figures = entry or trial
    assert figures is not None
    if entry is None:
        what, right = "tried briefly", "of validation pictures right"
    elif isinstance(entry, Model):
        what, right = "found by this search, trained in full", "of test pictures right"
    else:
        what, right = "known network, trained the same way", "of test pictures right"
    images = content.data.test if content.data else None
    if entry is not None and entry.accuracy is not None and images:
        low, high = (100 * end for end in interval(entry.accuracy, images))
        right += f", 95 % interval {low:.1f} to {high:.1f} %"
    tiles = [
        (formatting.percent(figures.accuracy), right),
        (formatting.count(figures.macs), "multiply-accumulates a picture (MACs)"),
        (formatting.count(figures.params), "parameters"),
        (formatting.size(figures.peak_memory_bytes), "of memory for activations"),
    ]
    if entry is not None and entry.latency_ms is not None:
        tiles.append((formatting.latency(entry.latency_ms), "a picture (median, one thread)"))
    there = content.latency(entry) if entry else figures.latency_ms
    if there is not None and (content.device is not None or entry is None):
        where = f" on {content.device}" if content.device else ""
        tiles.append((formatting.latency(there), f"a picture{where}, predicted"))
    boxes = "".join(
        f"<div><b>{escape(value)}</b><span>{escape(text)}</span></div>" for value, text in tiles
    )
    note = ""
    if entry is not None and trial is not None and trial.accuracy is not None:
        epochs = formatting.number(trial.epochs, "pass", "passes")
        note = (
            f'<p class="gk-note">When it was tried as design {trial.index + 1}: '
            f"{formatting.percent(trial.accuracy)} of validation pictures after {epochs}.</p>"
        )
    elif trial is not None and trial.state == "failed":
        note = f'<p class="gk-note">This design failed: {escape(str(trial.error))}</p>'
    name = escape(content.name(id))
    small = what if name == id else f"{what} <code>{escape(id)}</code>"
    return f'<h3>{name} <small>{small}</small></h3><div class="gk-tiles">{boxes}</div>{note}'


def _take(shown: "PageRun", id: str) -> str:
    """What can be done with it."""
    missing, files = shown.missing(id), shown.files(id)
    note, links = "", []
    if missing is not None:
        warn = " gk-warn" if files else ""
        note = f'<p class="gk-note{warn}">{escape(missing)}</p>'
    else:
        links.append(shown.download_link(id))
        links.append(f'<a class="gk-button" href="#id={escape(id)}&amp;tab=try">Try it</a>')
    links.append(f'<button class="gk-button" data-compare="{escape(id)}">Compare</button>')
    return f'{note}<p class="gk-take">{"".join(links)}</p>'


def _files(shown: "PageRun", id: str) -> str:
    files = shown.files(id)
    if not files:
        return ""
    rows = "".join(
        f'<tr><td><a download href="run/files/{escape(id)}/{file.name}">{file.name}</a>'
        f"<span>{escape(file.description)}</span></td><td>{formatting.size(file.size)}</td>"
        f'<td><code title="SHA-256: {file.sha256}">{file.sha256[:12]}…</code>'
        f'<button class="gk-copy" data-copy="{file.sha256}" '
        f'aria-label="copy the SHA-256 of {file.name}">copy</button></td></tr>'
        for file in files
    )
    best, note = shown.content.fastest_files.get(id), ""
    if best is not None:
        note = formatting.fastest_file(best).replace("the fastest", "Here, the fastest", 1)
    elif shown.chooses_by_time and sum(file.name.endswith(".onnx") for file in files) > 1:
        ask = f"<code>{escape(command('bench', shown.asked))}</code>"
        note = f"Which of its ONNX files is the fastest here has not been measured yet: {ask}"
    fastest = note and f'<p class="gk-note">{note}</p>'
    return (
        '<div class="gk-wide"><table class="gk-table gk-files"><thead><tr><th>file</th>'
        f"<th>size</th><th>SHA-256</th></tr></thead><tbody>{rows}</tbody></table></div>"
        f'<p class="gk-take"><a class="gk-button" download href="run/zip/{escape(id)}.zip">'
        f"All in one (zip)</a></p>{fastest}"
    )


# ---- the cell, and what its parts cost


def cell(shown: "PageRun", id: str) -> str:
    """The drawing of a cell; empty for a known network, which is not made of one."""
    drawn = shown.drawn_cell(id)
    if drawn is None:
        return ""
    with _DRAWING:
        drawing = _drawn(drawn.cell, drawn.apart, shown.times(id))
    return (
        f"<p>{formatting.number(drawn.cell.nodes, 'convolution')}, "
        f"{formatting.number(len(drawn.cell.edges), 'connection')}. Each line carries what a step "
        f"computed to those that read it; point at one to see what it does and costs.</p>{drawing}"
    )


def _drawing(shown: "PageRun", id: str) -> str:
    """The cell, and ways to take it along."""
    drawing, there = cell(shown, id), f"run/cells/{escape(id)}"
    if not drawing:
        return ""
    return (
        f'{drawing}<p class="gk-take"><button class="gk-button" data-enlarge>Enlarge</button>'
        f'<a class="gk-button" download href="{there}.svg">Drawing (SVG)</a>'
        f'<a class="gk-button" download href="{there}.json">Cell (JSON)</a></p>'
    )


@functools.lru_cache(maxsize=1024)
def _drawn(cell: Cell, apart: Shares | None, times: Times | None) -> str:
    return cell_svg.cell_svg(cell, apart, times)


def _parts(drawn: "DrawnCell | None") -> str:
    apart = None if drawn is None else drawn.apart
    if apart is None:
        return ""
    most = max(macs for _, macs in apart.parts)
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td><div class="gk-bar"><i style="width:'
        f'{100 * macs / most:.1f}%"></i></div></td><td>{formatting.count(macs)}</td>'
        f"<td>{formatting.percent(macs / apart.total, 1)}</td></tr>"
        for name, macs in apart.parts
    )
    return (
        '<p class="gk-note">Multiply-accumulates of each part.</p><div class="gk-wide">'
        f'<table class="gk-table gk-parts"><tbody>{rows}</tbody></table></div>'
    )


# ---- what it gets right and wrong


def _classes(network: Network, names: Sequence[str]) -> str:
    """Accuracy by class, and which class is taken for which."""
    matrix = np.array(network.confusion, dtype=int)
    if not matrix.size or len(names) != len(matrix):
        return ""
    totals = np.maximum(matrix.sum(axis=1), 1)
    order = np.argsort(np.diag(matrix) / totals, kind="stable")
    rows = "".join(
        f'<tr><td>{escape(names[row])}</td><td><div class="gk-bar"><i style="width:'
        f'{100 * matrix[row, row] / totals[row]:.1f}%"></i></div></td>'
        f"<td>{formatting.percent(matrix[row, row] / totals[row], 1)}</td>"
        f"<td>{matrix[row, row]} of {totals[row]}</td></tr>"
        for row in order
    )
    return (
        f'<div class="gk-wide"><table class="gk-table gk-parts"><tbody>{rows}</tbody></table></div>'
        f"{_matrix(matrix, names) if len(matrix) <= _MOST_CLASSES else ''}"
    )


def _matrix(matrix: np.ndarray, names: Sequence[str]) -> str:
    most = max(int(matrix.max()), 1)
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    rows = ""
    for index, (name, line) in enumerate(zip(names, matrix, strict=True)):
        cells = "".join(
            f'<td class="{"gk-right" if column == index else "gk-wrong"}" '
            f'style="--gk-share:{100 * np.sqrt(value / most):.0f}%">{value or ""}</td>'
            for column, value in enumerate(line)
        )
        rows += f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'
    return (
        '<p class="gk-note">Each row is a class, each column what the network said.</p>'
        f'<div class="gk-wide"><table class="gk-matrix"><thead><tr><td></td>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _mistakes(shown: "PageRun", network: Network, names: Sequence[str]) -> str:
    """The wrong answers that it was surest of, with the pictures where the run kept them."""
    if not network.mistakes or not names:
        return ""
    strip = any(file.name == "mistakes.png" for file in shown.files(network.id))
    count = len(network.mistakes)
    boxes = ""
    for place, one in enumerate(network.mistakes):
        picture = ""
        if strip:
            at = 0 if count == 1 else 100 * place / (count - 1)
            picture = (
                f'<i style="background-image:url(run/files/{escape(network.id)}/mistakes.png);'
                f'background-size:{100 * count}% 100%;background-position:{at:.3f}% 0"></i>'
            )
        said, right = (escape(names[number]) for number in (one.predicted, one.label))
        boxes += (
            f"<li>{picture}<span>said <b>{said}</b>, is <b>{right}</b></span>"
            f"<small>{formatting.percent(one.probability, 0)} sure</small></li>"
        )
    return f'<ul class="gk-mistakes">{boxes}</ul>'


def _curve(curve: Sequence[Epoch]) -> str:
    """The training loss by epoch as SVG."""
    if len(curve) < 2:
        return ""
    losses = [epoch.loss for epoch in curve]
    low, high = min(losses), max(losses)
    points = " ".join(
        f"{34 + 300 * place / (len(losses) - 1):.1f},"
        f"{10 + 110 * (high - loss) / ((high - low) or 1):.1f}"
        for place, loss in enumerate(losses)
    )
    return (
        '<svg class="gk-svgplot" viewBox="0 0 344 142" role="img" aria-label="training loss by '
        f'epoch: from {losses[0]:.3g} to {losses[-1]:.3g}"><polyline points="{points}" fill="none" '
        'stroke="var(--gk-accent)" stroke-width="2"/>'
        f'<text x="30" y="14" text-anchor="end">{high:.2g}</text>'
        f'<text x="30" y="122" text-anchor="end">{low:.2g}</text>'
        f'<text x="34" y="138">1</text><text x="334" y="138" text-anchor="end">{len(losses)}</text>'
        '<text x="184" y="138" text-anchor="middle">passes over the pictures</text></svg>'
        '<p class="gk-note">The error on the training pictures, as training goes on.</p>'
    )


# ---- programs


def _code(shown: "PageRun", id: str) -> str:
    """A program in each language that runs the network's file, ready to be copied."""
    file = shown.file_to_take(id)
    if file is None:
        return ""
    with contextlib.suppress(UserError):  # a damaged file is reported elsewhere
        return _programs(file.path, file.path.stat().st_mtime_ns, file.called(shown.stem(id)))
    return ""


@functools.lru_cache(maxsize=256)
def _programs(path: Path, changed: int, file: str) -> str:
    info = exporter.read_info(path)
    folds = ""
    for name, needs, program in (
        ("Python", "pip install onnxruntime numpy pillow", snippets.python_lines),
        ("JavaScript", "npm install onnxruntime-web", snippets.javascript_lines),
        ("C++", "onnxruntime's C++ API", snippets.cpp_lines),
    ):
        if info.precision == "fp16" and name != "Python":
            continue  # they fill arrays of 32 bits
        folds += (
            f'<details name="gk-code" data-language="{name}"{" open" * (name == "Python")}>'
            f"<summary>{name} <small>{needs}</small></summary>"
            f'<button class="gk-button" data-copy-code aria-label="copy the {name} program">Copy'
            f'</button><pre tabindex="0" aria-label="{name} program">'
            f"{escape(program(info, file))}</pre></details>"
        )
    return f'<p class="gk-note">{escape(snippets.input_text(info))}</p>{folds}'


# ---- two side by side


def pair(shown: "PageRun", first: str, second: str) -> str:
    """Two networks side by side, with differences, as HTML."""
    content = shown.content
    sides = [content.network(id) or content.by_id.get(id) for id in (first, second)]
    one, other = sides
    if one is None or other is None:
        return '<p class="gk-empty">One of the two is not in this run.</p>'
    names = [escape(content.name(id)) for id in (first, second)]
    rows = ""
    for label, value, text in (
        ("right", "accuracy", formatting.percent),
        ("MACs", "macs", formatting.count),
        ("parameters", "params", formatting.count),
        ("memory", "peak_memory_bytes", formatting.size),
        ("time for one picture", "latency_ms", formatting.latency),
    ):
        values = [getattr(side, value) for side in sides]
        rows += (
            f'<tr><th scope="row">{label}</th><td>{text(values[0])}</td><td>{text(values[1])}</td>'
            f"<td>{_difference(value, *values)}</td></tr>"
        )
    note = ""
    if isinstance(one, TrialSummary) != isinstance(other, TrialSummary):
        note = (
            '<p class="gk-note gk-warn">One was trained briefly and judged on validation pictures, '
            "the other in full and on test pictures: the two shares cannot be compared.</p>"
        )
    drawings = "".join(
        f"<div><h4>{name}</h4>{cell(shown, id) or _NO_CELL}</div>"
        for name, id in zip(names, (first, second), strict=True)
    )
    return (
        f'<div class="gk-wide"><table class="gk-table gk-pairs"><thead><tr><td></td>'
        f'<th scope="col">{names[0]}</th><th scope="col">{names[1]}</th>'
        f'<th scope="col">difference</th></tr></thead><tbody>{rows}</tbody></table></div>{note}'
        f'<div class="gk-two">{drawings}</div>'
    )


def _difference(name: str, first: float | None, second: float | None) -> str:
    if name == "latency_ms":
        first, second = (getattr(value, "p50", None) for value in (first, second))
    if first is None or second is None:
        return formatting.NONE
    if name == "accuracy":
        return f"{100 * (second - first):+.2f} points"
    return f"{100 * (second / first - 1):+.0f} %" if first else formatting.NONE
