"""Pictures of cells: layered graphs from the input on the left to the output on the right.

As in `plots`, every function returns a matplotlib figure made without pyplot.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, FancyBboxPatch, Patch, PathPatch, Polygon
from matplotlib.path import Path as Outline

from gemkit.cell import Cell
from gemkit.operations import BY_NAME, TABLE

from .cell_layout import RESIDUAL, Segment, layout
from .plots import COLOURS, INK, MUTED

_RADIUS = 0.17


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _curve(start: tuple[float, float], end: tuple[float, float]) -> Outline:
    """A line that leaves and arrives level."""
    middle = (start[0] + end[0]) / 2
    return Outline(
        [start, (middle, start[1]), (middle, end[1]), end],
        [Outline.MOVETO, Outline.CURVE4, Outline.CURVE4, Outline.CURVE4],
    )


def draw_cell(axes: Axes, cell: Cell) -> tuple[float, float]:
    """Draw a cell into axes whose unit is one inch; returns the width and height taken."""
    placed = layout(cell)
    reaches = [_reach(cell, node) for node in range(len(placed.positions))]
    for segment in placed.segments:
        axes.add_patch(_line(cell, segment, reaches))
    for node, (x, y) in enumerate(placed.positions):
        if node:
            axes.add_patch(_arrow_head(x - reaches[node], y))
        for shape in _shapes(cell, node, x, y):
            axes.add_patch(shape)
        axes.text(
            x,
            y - 0.005,
            _text(cell, node),
            color="white",
            fontsize=8,
            ha="center",
            va="center_baseline",
            fontweight="bold",
            zorder=4,
        )
    axes.set_xlim(-0.4, placed.width + 0.4)
    axes.set_ylim(-0.35, placed.height + 0.35)
    axes.set_aspect("equal")
    axes.axis("off")
    return placed.width + 0.8, placed.height + 0.7


def _is_end(cell: Cell, node: int) -> bool:
    """Whether a node of the drawing is the cell's input or, after the last node, its output."""
    return node in (0, len(cell.operations))


def _text(cell: Cell, node: int) -> str:
    return ("out" if node else "in") if _is_end(cell, node) else str(node)


def _reach(cell: Cell, node: int) -> float:
    """How far a node's shape reaches to the left and right."""
    if _is_end(cell, node):
        return 0.22
    if node in cell.leaves:
        return 0.065 + _RADIUS
    return _RADIUS if BY_NAME[cell.operations[node]].is_separable else 0.86 * _RADIUS


def _line(cell: Cell, segment: Segment, reaches: Sequence[float]) -> PathPatch:
    """A part of the way from a node to those that read it."""
    style: dict[str, Any]
    if segment.owner == RESIDUAL:
        style = {"edgecolor": MUTED, "linestyle": (0, (4, 3)), "linewidth": 1.2}
    else:
        colour = COLOURS[cell.operations[segment.owner]]
        style = {"edgecolor": colour, "linewidth": 1.3, "alpha": 0.55}
    start, end = segment.start, segment.end
    if segment.from_node >= 0:
        start = (start[0] + reaches[segment.from_node], start[1])
    if segment.to_node >= 0:
        end = (end[0] - reaches[segment.to_node] - 0.07, end[1])
    return PathPatch(_curve(start, end), facecolor="none", capstyle="round", zorder=1, **style)


def _arrow_head(tip: float, y: float) -> Polygon:
    return Polygon(
        [(tip - 0.085, y + 0.05), (tip - 0.085, y - 0.05), (tip, y)],
        facecolor=INK,
        edgecolor="none",
        zorder=2,
    )


def _shapes(cell: Cell, node: int, x: float, y: float) -> Iterator[Patch]:
    """What a node looks like: a disc where it is separable, else a square; leaves wear a ring."""
    if _is_end(cell, node):
        yield FancyBboxPatch(
            (x - 0.2, y - 0.15),
            0.4,
            0.3,
            boxstyle="round,pad=0.02,rounding_size=0.06",
            facecolor=COLOURS["input"],
            edgecolor="none",
            zorder=3,
        )
        return
    if node in cell.leaves:
        yield Circle((x, y), _RADIUS + 0.055, facecolor="white", edgecolor=INK, lw=1.4, zorder=2)
    operation = BY_NAME[cell.operations[node]]
    style: dict[str, Any] = {"facecolor": operation.colour, "edgecolor": "white", "lw": 0.8}
    if operation.is_separable:
        yield Circle((x, y), _RADIUS, zorder=3, **style)
        return
    side = _RADIUS * 0.86
    yield FancyBboxPatch(
        (x - side, y - side),
        2 * side,
        2 * side,
        boxstyle="round,pad=0,rounding_size=0.05",
        zorder=3,
        **style,
    )


def _add_cell_legend(figure: Figure) -> None:
    def mark(label: str, colour: str, marker: str, **more: Any) -> Line2D:
        return Line2D(
            [], [], linestyle="none", marker=marker, color=colour, markersize=9, label=label, **more
        )

    handles = [
        *(
            mark(one.label, one.colour, "o" if one.is_separable else "s", markeredgecolor="white")
            for one in TABLE
        ),
        mark("leaf: feeds the output", "white", "o", markeredgecolor=INK, markeredgewidth=1.4),
        Line2D([], [], color=MUTED, linestyle=(0, (4, 3)), lw=1.2, label="cell input, projected"),
    ]
    figure.legend(
        handles=handles,
        loc="lower center",
        ncol=len(handles),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handletextpad=0.4,
        columnspacing=1.6,
        borderaxespad=0.1,
    )


def cell_figure(cell: Cell, title: str = "", subtitle: str = "") -> Figure:
    """A cell as a layered graph from its input (left) to its output (right).

    Every line carries the output of the node where it begins and branches off to each node that
    reads it. Legible at thirty nodes; the figure grows with the cell.
    """
    placed = layout(cell)
    head = 0.62 if subtitle else (0.42 if title else 0.0)
    foot = 0.36
    width = max(placed.width + 0.8, 7.4)
    height = placed.height + 0.7 + head + foot
    figure = _figure(width, height)
    axes = figure.add_axes(
        (
            (width - placed.width - 0.8) / 2 / width,
            foot / height,
            (placed.width + 0.8) / width,
            (placed.height + 0.7) / height,
        )
    )
    draw_cell(axes, cell)
    if title:
        figure.text(
            0.16 / width,
            1 - 0.14 / height,
            title,
            fontsize=12,
            color=INK,
            fontweight="bold",
            va="top",
        )
    if subtitle:
        figure.text(0.16 / width, 1 - 0.39 / height, subtitle, fontsize=9.5, color=MUTED, va="top")
    _add_cell_legend(figure)
    return figure


def best_cells_figure(cells: Sequence[tuple[Cell, str]]) -> Figure:
    """Several cells below one another, each with a caption line."""
    sizes = [layout(cell) for cell, _ in cells]
    caption = 0.34
    width = max(7.4, *(placed.width + 0.8 for placed in sizes))
    heights = [placed.height + 0.7 + caption for placed in sizes]
    height = sum(heights) + 0.4
    figure = _figure(width, height)
    top = height
    for (cell, text), placed, taken in zip(cells, sizes, heights, strict=True):
        figure.text(
            0.16 / width,
            (top - 0.1) / height,
            text,
            fontsize=10.5,
            color=INK,
            fontweight="bold",
            va="top",
        )
        axes = figure.add_axes(
            (0.02, (top - taken) / height, (placed.width + 0.8) / width, (taken - caption) / height)
        )
        draw_cell(axes, cell)
        top -= taken
    _add_cell_legend(figure)
    return figure
