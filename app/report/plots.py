"""Pictures: accuracy against cost, the course of a search, what a network mistakes.

Every function returns a matplotlib figure made without pyplot, so that nothing is shared between
figures and no window can open. `save` writes one as PNG or SVG. `cell_plots` draws cells.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from gemkit.errors import UserError
from gemkit.files import replacing
from gemkit.operations import TABLE
from gemkit.records import Epoch

INK = "#22303c"
MUTED = "#77838f"
GRID = "#e4e8ec"
COLOURS = {"input": INK} | {operation.name: operation.colour for operation in TABLE}
LIMIT = "#c8352b"
FOUND = "#1f8a70"
BASELINE = "#8e5ea2"
DPI = 150


@dataclass(frozen=True)
class Point:
    """One network in a picture of accuracy against cost; `error` is half an interval."""

    name: str
    cost: float
    accuracy: float
    error: float = 0.0


def _plot(width: float = 7.0, height: float = 4.4) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _quiet(axes)
    return figure, axes


def _quiet(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=INK, labelsize=9, length=3)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _titled(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold", pad=10)
    axes.set_xlabel(x, fontsize=10, color=INK)
    axes.set_ylabel(y, fontsize=10, color=INK)


def _budget_line(axes: Axes, limit: float, text: str) -> None:
    low, high = axes.get_xlim()
    axes.set_xlim(low, max(high, limit + (max(high, limit) - low) * 0.04))
    axes.axvline(limit, color=LIMIT, linewidth=1.4, linestyle=(0, (5, 3)))
    axes.annotate(
        text,
        (limit, 0.02),
        xycoords=("data", "axes fraction"),
        xytext=(-4, 0),
        textcoords="offset points",
        rotation=90,
        ha="right",
        va="bottom",
        fontsize=8.5,
        color=LIMIT,
    )


def tradeoff_figure(
    title: str,
    x_label: str,
    trials: Sequence[Point],
    models: Sequence[Point],
    baselines: Sequence[Point],
    limit: tuple[float, str] | None = None,
    front: bool = False,
) -> Figure:
    """Accuracy against a cost: trials (proxy), delivered models and baselines (test set).

    Args:
        limit: the budget on this cost and its text.
        front: draw the line below which another network is both cheaper and more accurate.
    """
    figure, axes = _plot()
    if front:
        _draw_front(axes, [*models, *baselines])
    if trials:
        axes.scatter(
            [point.cost for point in trials],
            [point.accuracy for point in trials],
            s=26,
            color=MUTED,
            alpha=0.55,
            edgecolors="white",
            linewidths=0.5,
            label="trials (validation part of the proxy task)",
            zorder=2,
        )
    for points, colour, marker, size, label in (
        (models, FOUND, "o", 70, "delivered networks (test set)"),
        (baselines, BASELINE, "D", 52, "baselines (test set, same recipe)"),
    ):
        if points:
            axes.scatter(
                [point.cost for point in points],
                [point.accuracy for point in points],
                s=size,
                color=colour,
                marker=marker,
                edgecolors="white",
                linewidths=0.8,
                label=label,
                zorder=3,
            )
            axes.errorbar(
                [point.cost for point in points],
                [point.accuracy for point in points],
                [point.error for point in points],
                fmt="none",
                ecolor=colour,
                elinewidth=1,
                alpha=0.45,
                zorder=2.5,
            )
    axes.margins(0.08, 0.12)
    axes.autoscale_view()
    _cut_below(axes, [point.accuracy for point in (*trials, *models, *baselines)])
    if limit is not None:
        _budget_line(axes, *limit)
    _spread_labels(axes, [*models, *baselines], {p.name for p in baselines})
    _titled(axes, title, x_label, "accuracy")
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
    if trials or models or baselines:
        figure.legend(
            loc="outside lower center", ncol=2, frameon=False, fontsize=8.5, labelcolor=INK
        )
    return figure


def _draw_front(axes: Axes, points: Sequence[Point]) -> None:
    """The Pareto front of lower cost and higher accuracy, as steps."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost, -point.accuracy)):
        if not best or point.accuracy > best[-1].accuracy:
            best.append(point)
    axes.step(
        [point.cost for point in best] + [max(point.cost for point in points)],
        [point.accuracy for point in best] + [best[-1].accuracy],
        where="post",
        color=MUTED,
        linewidth=1,
        linestyle=(0, (4, 3)),
        zorder=1,
        label="Pareto front",
    )


def _cut_below(axes: Axes, accuracies: Sequence[float]) -> None:
    """Leave far worse accuracies out of the picture, and say how many, so that the best spread."""
    if len(accuracies) < 8:
        return
    best, middle = max(accuracies), float(np.median(accuracies))
    lowest = best - 3 * max(best - middle, 0.005)
    hidden = sum(value < lowest for value in accuracies)
    if not hidden:
        return
    span = best - lowest
    axes.set_ylim(lowest - 0.08 * span, best + 0.1 * span)
    axes.annotate(
        f"{hidden} below {100 * (lowest - 0.08 * span):.3g} %: not shown",
        (0.01, 0.01),
        xycoords="axes fraction",
        fontsize=8,
        color=MUTED,
        va="bottom",
    )


def _spread_labels(axes: Axes, points: Sequence[Point], second: set[str]) -> None:
    """Name the points: to the left in the right half, and clear of the names before."""
    low, high = axes.get_xlim()
    taken: list[tuple[bool, float, float]] = []
    for point in sorted(points, key=lambda point: -point.accuracy):
        x, y = axes.transData.transform((point.cost, point.accuracy))
        right = point.cost < low + 0.6 * (high - low)
        offset = 0.0
        for step in (0, -13, 13, -26, 26, -39, 39):
            offset = step
            if all(
                side != right or abs(y + step - other) > 12 or abs(x - place) > 110
                for side, place, other in taken
            ):
                break
        taken.append((right, x, y + offset))
        axes.annotate(
            point.name,
            (point.cost, point.accuracy),
            xytext=(7 if right else -7, offset * 0.72),
            textcoords="offset points",
            fontsize=8,
            ha="left" if right else "right",
            va="center",
            color=BASELINE if point.name in second else FOUND,
            zorder=4,
        )


def progress_figure(
    accuracies: Sequence[float | None], rounds: Sequence[int] | None = None
) -> Figure:
    """Accuracy of every trial in order and the best so far; a failed trial is None."""
    figure, axes = _plot()
    index = np.arange(1, len(accuracies) + 1)
    values = np.array([np.nan if value is None else value for value in accuracies], dtype=float)
    done = ~np.isnan(values)
    axes.scatter(
        index[done],
        values[done],
        s=26,
        color=MUTED,
        alpha=0.6,
        edgecolors="white",
        linewidths=0.5,
        label="trial",
        zorder=2,
    )
    if done.any():
        best = np.fmax.accumulate(np.where(done, values, -np.inf))
        shown = np.isfinite(best)
        axes.step(
            index[shown],
            best[shown],
            where="post",
            color=FOUND,
            linewidth=2.0,
            label="best so far",
            zorder=3,
        )
        for place in index[~done]:
            axes.plot(
                [place],
                [0.03],
                marker="x",
                color=LIMIT,
                markersize=6,
                clip_on=False,
                transform=axes.get_xaxis_transform(),
                label="failed" if place == index[~done][0] else None,
            )
    if rounds is not None and len(rounds) == len(index):
        for place in np.nonzero(np.diff(np.asarray(rounds)))[0]:
            axes.axvline(place + 1.5, color=GRID, linewidth=1.6, zorder=1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
    title = "Course of the search" + (" (grey lines: rounds)" if rounds is not None else "")
    _titled(axes, title, "trial", "accuracy on the proxy's validation part")
    if done.any():
        _cut_below(axes, values[done].tolist())
        figure.legend(
            loc="outside lower center", ncol=3, frameon=False, fontsize=8.5, labelcolor=INK
        )
    return figure


def curves_figure(curves: Mapping[str, Sequence[Epoch]]) -> Figure:
    """Loss after every epoch, by network."""
    figure, axes = _plot()
    for place, (name, curve) in enumerate(curves.items()):
        axes.plot(
            [entry.epoch for entry in curve],
            [entry.loss for entry in curve],
            color=(FOUND, BASELINE, COLOURS["conv1x1"], COLOURS["sep3x3"], MUTED)[place % 5],
            linestyle=("-", "--", ":")[place // 5 % 3],
            linewidth=1.6,
            marker="o" if len(curve) < 3 else None,
            label=name,
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _titled(axes, "Learning curves of the final training", "epoch", "training loss")
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    return figure


def confusion_figure(
    confusion: Sequence[Sequence[int]], class_names: Sequence[str], title: str
) -> Figure:
    """Shares of each class (row) by what the network said (column)."""
    counts = np.array(confusion, dtype=float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    count = len(counts)
    figure, axes = _plot(max(5.2, 0.42 * min(count, 24) + 2), max(4.6, 0.4 * min(count, 24) + 1.4))
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    bar = figure.colorbar(picture, ax=axes, shrink=0.8)
    bar.outline.set_visible(False)
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.grid(False)
    if count <= 24:
        axes.set_xticks(range(count), class_names, rotation=60, ha="right", fontsize=8)
        axes.set_yticks(range(count), class_names, fontsize=8)
        for row, column in zip(*np.nonzero(counts), strict=True):
            axes.text(
                column,
                row,
                f"{counts[row, column]:.0f}",
                ha="center",
                va="center",
                fontsize=7,
                color="white" if shares[row, column] > 0.5 else INK,
            )
    _titled(axes, title, "said", "is")
    return figure


def images_figure(
    images: Sequence[np.ndarray[Any, Any]], texts: Sequence[str], title: str
) -> Figure:
    """Images (height, width, 1 or 3) uint8 with a text below each."""
    columns = 6
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(8.4, 1.75 * rows + 0.5), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
    for place in range(rows * columns):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.set_axis_off()
        if place < len(images):
            axes.imshow(images[place].squeeze(), cmap="gray", vmin=0, vmax=255)
            axes.text(
                0.5, -0.06, texts[place], ha="center", va="top", fontsize=7, color=INK,
                transform=axes.transAxes,
            )  # fmt: skip
    return figure


def predicted_figure(
    measured: ArrayLike, mean: ArrayLike, deviation: ArrayLike, title: str
) -> Figure:
    """Predicted against measured accuracies with 90 % intervals (those parts that an accuracy can
    have), beside the diagonal."""
    measured, mean, deviation = (
        np.asarray(values, dtype=float) for values in (measured, mean, deviation)
    )
    figure, axes = _plot(5.2, 4.8)
    axes.errorbar(
        measured,
        mean,
        yerr=[
            mean - np.maximum(mean - 1.645 * deviation, 0),
            np.maximum(np.minimum(mean + 1.645 * deviation, 1), mean) - mean,
        ],
        fmt="o",
        markersize=5,
        color=COLOURS["conv1x1"],
        ecolor="#b7cbe3",
        elinewidth=1.2,
        markeredgecolor="white",
        markeredgewidth=0.5,
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
    low, high = min(measured.min(), mean.min()), max(measured.max(), mean.max())
    margin = (high - low) * 0.06 or 0.01
    axes.plot(
        [low - margin, high + margin],
        [low - margin, high + margin],
        color=MUTED,
        linewidth=1.2,
        linestyle=(0, (5, 3)),
    )
    inside = float(np.mean(np.abs(measured - mean) <= 1.645 * deviation))
    _titled(axes, title, "measured accuracy", "predicted accuracy, before it was measured")
    axes.annotate(
        f"{100 * inside:.0f} % of {len(measured)} inside their 90 % interval",
        (0.02, 0.97),
        xycoords="axes fraction",
        va="top",
        fontsize=9,
        color=INK,
    )
    return figure


def embedding_figure(
    points: ArrayLike, values: ArrayLike, title: str, label: str, best: int | None = None
) -> Figure:
    """A 2-D map of embeddings coloured by a value; NaN values (failed trials) are crosses.

    Args:
        points: (n, 2), for instance from `project`.
    """
    points, values = np.asarray(points, dtype=float), np.asarray(values, dtype=float)
    figure, axes = _plot(6.2, 4.8)
    known = ~np.isnan(values)
    shown = axes.scatter(
        points[known, 0],
        points[known, 1],
        c=values[known],
        cmap="viridis",
        # A few values far below the others would leave one colour for these.
        vmin=np.quantile(values[known], 0.05) if known.any() else None,
        s=42 if len(points) < 500 else 14,
        edgecolors="white",
        linewidths=0.6 if len(points) < 500 else 0.2,
        zorder=2,
    )
    axes.scatter(points[~known, 0], points[~known, 1], marker="x", color=LIMIT, s=30, zorder=2)
    if best is not None:
        axes.scatter(
            points[best, 0],
            points[best, 1],
            s=170,
            facecolors="none",
            edgecolors=LIMIT,
            linewidths=1.6,
            zorder=3,
        )
        axes.annotate(
            "best",
            points[best],
            xytext=(11, 8),
            textcoords="offset points",
            color=LIMIT,
            fontsize=9,
        )
    bar = figure.colorbar(shown, ax=axes, shrink=0.9, extend="min")
    bar.set_label(label, fontsize=9, color=INK)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, colors=INK)
    _titled(axes, title, "first principal component", "second principal component")
    axes.tick_params(labelbottom=False, labelleft=False, length=0)
    axes.grid(False)
    axes.margins(0.1)
    return figure


_SERIES = ("#1f8a70", "#2f74c0", "#e07b39", "#8e5ea2", "#c8352b", "#6b7a2e", "#22303c", "#b08a2e")


Curves = Mapping[str, Mapping[str, Sequence[float | None]]]
"""Columns of numbers by name; those of a column that a figure needs."""


def _draw_lines(
    axes: Axes, curves: Curves, x: str, y: str, least: float = -np.inf, **style: Any
) -> None:
    """A line of column `y` over column `x` for each name, with its interval `low` to `high`."""
    for (name, curve), colour in zip(curves.items(), itertools.cycle(_SERIES)):
        places = np.asarray(curve[x], dtype=float)
        values, low, high = (
            np.maximum(np.asarray(curve[column], dtype=float), least)
            for column in (y, "low", "high")
        )
        axes.fill_between(places, low, high, color=colour, alpha=0.12, linewidth=0)
        axes.plot(places, values, color=colour, linewidth=1.8, label=name, **style)


def regret_figure(curves: Curves, metric: str) -> Figure:
    """Mean regret of strategies by number of queries, with 95 % intervals, on a log scale.

    Args:
        curves: per strategy `queries`, `regret`, `low`, `high`; None where there is no value.
    """
    figure, axes = _plot(7.4, 4.8)
    known = (value for curve in curves.values() for value in curve["regret"])
    least = min((value for value in known if value is not None and value > 0), default=1e-3)
    _draw_lines(axes, curves, "queries", "regret", least / 2)
    axes.set_yscale("log")
    _titled(axes, "Regret: how far the best cell found is from the best", "queries", metric)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return figure


def strategies_figure(curves: Curves, title: str, label: str) -> Figure:
    """The best accuracy so far by number of trials, one line a strategy.

    Args:
        curves: per strategy `queries`, `best`, and the interval `low` to `high` of its mean.
    """
    figure, axes = _plot(7.4, 4.8)
    _draw_lines(axes, curves, "queries", "best")
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _titled(axes, title, "trials", label)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="lower right")
    return figure


def correlation_figure(found: Curves) -> Figure:
    """Kendall's tau of predictors by number of measured cells, with 95 % intervals.

    Args:
        found: per predictor `samples`, `kendall_tau`, `low`, `high`.
    """
    figure, axes = _plot(6.6, 4.4)
    _draw_lines(axes, found, "samples", "kendall_tau", marker="o", markersize=5)
    axes.set_xscale("log")
    samples = sorted({float(count or 0) for one in found.values() for count in one["samples"]})
    axes.set_xticks(samples, [f"{count:g}" for count in samples])
    axes.minorticks_off()
    _titled(axes, "Rank correlation of the predictors", "measured cells", "Kendall's tau")
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="lower right")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure beside its place and rename it; `.png` (`DPI`) or `.svg`.

    Raises:
        UserError: the file cannot be written, or its name ends otherwise.
    """
    kind = Path(path).suffix.lower().lstrip(".")
    if kind not in ("png", "svg"):
        raise UserError(f"{path}: a picture's name must end in .png or .svg")
    with replacing(Path(path)) as temporary:
        figure.savefig(temporary, format=kind, dpi=DPI)
