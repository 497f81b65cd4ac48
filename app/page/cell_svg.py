"""A cell as SVG for the page: layered, with what each node is, reads and costs.

Two drawings are made of each cell, one that runs from left to right and one that runs downwards
for narrow screens; the page's style sheet shows the one that fits. Colours are the page's own
variables, so that the drawing follows its dark mode.
"""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from html import escape

from gemkit.budget import format_count
from gemkit.cell import Cell
from gemkit.operations import BY_NAME, TABLE

from .. import formatting
from ..report.cell_layout import RESIDUAL, Layout, layout
from .shares import Shares, Times

_SCALE = 66.0
"""Pixels per unit (an inch) of the layout."""
_MARGIN = 26.0
_LEAST = 0.68
"""How far a drawing is made smaller to fit; narrower screens scroll it, so that one can read it."""
_RADIUS = 11.5


def cell_svg(cell: Cell, shares: Shares | None = None, times: Times | None = None) -> str:
    """Both drawings of a cell as HTML."""
    placed = layout(cell)
    notes = node_notes(cell, shares, times)
    as_json = {str(node): lines for node, lines in notes.items()}
    drawings = "".join(
        f'<div class="gk-scroll {name}">{_svg(cell, placed, down=down)}</div>'
        for name, down in (("gk-across", False), ("gk-down", True))
    )
    return (
        f'<div class="gk-cell" data-notes="{escape(json.dumps(as_json), quote=True)}">'
        f"{drawings}{_LEGEND}</div>"
    )


@functools.lru_cache(maxsize=256)
def thumbnail(cell: Cell) -> str:
    """A drawing to be seen small, without texts."""
    placed = layout(cell)
    width, height = placed.width * _SCALE + 2 * _MARGIN, placed.height * _SCALE + 2 * _MARGIN
    output = len(placed.positions) - 1
    marks = []
    for segment in placed.segments:
        (x, y), (to_x, to_y) = (_across(placed, *end) for end in (segment.start, segment.end))
        middle = (x + to_x) / 2
        marks.append(
            f'<path class="gk-line" d="M{x:.1f} {y:.1f}C{middle:.1f} {y:.1f} {middle:.1f} '
            f'{to_y:.1f} {to_x:.1f} {to_y:.1f}"/>'
        )
    for index, place in enumerate(placed.positions):
        x, y = _across(placed, *map(float, place))
        own = "" if index in (0, output) else _OWN[cell.operations[index]]
        marks.append(f'<circle class="gk-spot"{own} cx="{x:.1f}" cy="{y:.1f}" r="{_RADIUS}"/>')
    return (
        f'<svg class="gk-small" role="img" aria-label="a cell of '
        f'{formatting.number(cell.nodes, "step")}" viewBox="0 0 {width:.0f} {height:.0f}">'
        f"{''.join(marks)}</svg>"
    )


_STYLE = """\
svg{color:#3a4b5a}.gk-line{fill:none;stroke:currentColor;stroke-width:1.5;opacity:.55}
.gk-rest{stroke-dasharray:5 4}.gk-tip{fill:currentColor}
.gk-node text{font:700 11px monospace;text-anchor:middle;fill:#fff}
.gk-node rect,.gk-node circle{fill:currentColor}
.gk-node .gk-leaf{fill:none;stroke:#3a4b5a;stroke-width:1.6}"""


def standalone(cell: Cell) -> str:
    """A drawing as an SVG file of its own, on white, for programs that know no variables."""
    drawing = _svg(cell, layout(cell), down=False)
    drawing = re.sub(r' style="--gk-own:([^"]+)"', r' color="\1"', drawing)
    head, bracket, rest = drawing.partition(">")
    paper = '<rect width="100%" height="100%" fill="#fff"/>'
    return f"{head}{bracket}<style>{_STYLE}</style>{paper}{rest}"


def _across(placed: Layout, x: float, y: float) -> tuple[float, float]:
    return x * _SCALE + _MARGIN, (placed.height - y) * _SCALE + _MARGIN


_OWN = {"input": ""} | {one.name: f' style="--gk-own:{one.colour}"' for one in TABLE}
"""The colour of what belongs to a node, for the style sheet."""
_KEYS = (
    *(
        (f"gk-operation{' gk-round' * one.is_separable}", _OWN[one.name], one.label)
        for one in TABLE
    ),
    ("gk-ring", "", "leaf: feeds the output"),
    ("gk-dash", "", "cell input, projected"),
)
_LEGEND = '<p class="gk-legend">{}</p>'.format(
    "".join(f'<span><i class="gk-key {key}"{own}></i> {text}</span>' for key, own, text in _KEYS)
)


def _reads(nodes: Sequence[int]) -> str:
    return ", ".join("the cell input" if node == 0 else str(node) for node in nodes)


def node_notes(
    cell: Cell, shares: Shares | None, times: Times | None
) -> Mapping[int, list[tuple[str, str]]]:
    """What is said of each node: pairs of name and text; node -1 is the output."""
    notes: dict[int, list[tuple[str, str]]] = {}
    shapes = ""
    if shares is not None:
        shapes = ", then ".join(" × ".join(map(str, shape)) for shape in shares.shapes)
    for node in range(1, len(cell.operations)):
        lines = [
            (f"node {node}", BY_NAME[cell.operations[node]].label),
            ("reads", _reads(cell.predecessors[node])),
        ]
        if shares is not None:
            part = shares.nodes[node] / shares.total
            lines.append(("output", shapes))
            lines.append(
                ("MACs", f"{format_count(shares.nodes[node])} ({formatting.percent(part, 1)})")
            )
        if times is not None and node < len(times.nodes):
            lines.append(("time", formatting.percent(times.nodes[node], 1)))
        notes[node] = lines
    read_by = _reads(cell.successors[0])
    notes[0] = [("cell input", "what the cell before it gave, or the stem"), ("read by", read_by)]
    notes[-1] = [
        ("output", "1×1 convolution of the leaves, plus one of the cell input"),
        ("leaves", _reads(cell.leaves)),
    ]
    if shares is not None:
        part = shares.output / shares.total
        notes[-1].append(("MACs", f"{format_count(shares.output)} ({formatting.percent(part, 1)})"))
    if times is not None:
        notes[-1].append(("time", formatting.percent(times.output, 1)))
    return notes


def _svg(cell: Cell, placed: Layout, *, down: bool) -> str:
    long, wide = placed.width * _SCALE + 2 * _MARGIN, placed.height * _SCALE + 2 * _MARGIN

    def point(x: float, y: float) -> tuple[float, float]:
        along, across = _across(placed, x, y)
        return (across, along) if down else (along, across)

    output = len(placed.positions) - 1
    leaves = set(cell.leaves)
    arrowhead = f"gk-tip-{'down' if down else 'across'}"  # what is hidden lends no arrowhead
    parts = []
    for segment in placed.segments:
        start, end = point(*segment.start), point(*segment.end)
        axis = 1 if down else 0
        tip = list(end)
        if segment.to_node >= 0:
            tip[axis] -= _RADIUS + (
                9 if segment.to_node in leaves or segment.to_node == output else 5
            )
        middle = (start[axis] + tip[axis]) / 2
        first, second = [*start], [*tip]
        first[axis] = second[axis] = middle
        rest = segment.owner == RESIDUAL
        kind = " gk-rest" if rest else ""
        own = "" if rest else _OWN[cell.operations[segment.owner]]
        arrow = f' marker-end="url(#{arrowhead})"' if segment.to_node >= 0 else ""
        target = "" if segment.to_node < 0 else f' data-to="{_name(segment.to_node, output)}"'
        parts.append(
            f'<path class="gk-line{kind}"{own} data-from="{segment.owner}"{target}{arrow} '
            f'd="M{_pair(start)}C{_pair(first)} {_pair(second)} {_pair(tip)}"/>'
        )
    for index, (x, y) in enumerate(placed.positions):
        parts.append(_node(cell, index, output, point(float(x), float(y))))
    width, height = (wide, long) if down else (long, wide)
    label = f"a cell of {formatting.number(cell.nodes, 'node')}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="group" aria-label="{label}" '
        f'width="{width:.0f}" height="{height:.0f}" style="min-width:{_LEAST * width:.0f}px" '
        f'viewBox="0 0 {width:.0f} {height:.0f}">'
        f'<defs><marker id="{arrowhead}" viewBox="0 0 6 6" refX="1" refY="3" markerWidth="6" '
        'markerHeight="6" markerUnits="userSpaceOnUse" orient="auto">'
        '<path d="M0 0L6 3L0 6z" class="gk-tip"/></marker></defs>'
        f"{''.join(parts)}</svg>"
    )


def _name(node: int, output: int) -> int:
    return -1 if node == output else node


def _pair(point: Sequence[float]) -> str:
    return f"{point[0]:.1f} {point[1]:.1f}"


def _node(cell: Cell, index: int, output: int, place: tuple[float, float]) -> str:
    x, y = place
    name = _name(index, output)
    if index in (0, output):
        text = "in" if index == 0 else "out"
        spoken = "cell input" if index == 0 else "output"
        kind, own = " gk-end", ""
        shape = f'<rect x="{x - 17:.1f}" y="{y - 11:.1f}" width="34" height="22" rx="6"/>'
    else:
        text = str(index)
        operation = BY_NAME[cell.operations[index]]
        spoken = f"node {index}: {operation.label}, reads {_reads(cell.predecessors[index])}"
        kind, own = "", _OWN[operation.name]
        ring = ""
        if index in cell.leaves:
            ring = f'<circle class="gk-leaf" cx="{x:.1f}" cy="{y:.1f}" r="{_RADIUS + 4}"/>'
        if not operation.is_separable:
            side = _RADIUS - 1
            shape = (
                f'<rect x="{x - side:.1f}" y="{y - side:.1f}" width="{2 * side}" '
                f'height="{2 * side}" rx="4"/>'
            )
        else:
            shape = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{_RADIUS}"/>'
        shape = ring + shape
    return (
        f'<g class="gk-node{kind}"{own} tabindex="0" role="img" aria-label="{escape(spoken)}" '
        f'data-node="{name}">{shape}'
        f'<text x="{x:.1f}" y="{y + 4:.1f}">{text}</text></g>'
    )
