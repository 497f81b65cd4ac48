"""A data set at a glance: some images of every class, as networks see them."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gemkit.survey import Survey

from .plots import DPI, INK, MUTED

MOST_CLASSES = 40
_LEAST_SIDE = 48  # pixels that an image is shown with


def contact_sheet(found: Survey) -> Figure:
    """A row a class: training images, then those of the parts that judge; the first 40 classes.

    Small images are shown larger, pixel by pixel.
    """
    parts = [part for part in ("training", "validation", "test") if part in found.samples]
    classes = min(len(found.class_names), MOST_CLASSES)
    height, width, channels = found.shape
    zoom = -(-_LEAST_SIDE // min(height, width))
    gap = 4
    columns = [max(1, int(found.samples[part][1][:classes].max())) for part in parts]
    high, wide = height * zoom + gap, width * zoom + gap
    total = sum(columns) * wide + (len(parts) - 1) * 4 * gap
    sheet = np.full((classes * high, total, 3), 255, dtype=np.uint8)
    starts, left = [], 0
    for part, count in zip(parts, columns, strict=True):
        starts.append(left)
        images, there = found.samples[part]
        for label in range(classes):
            for place in range(int(there[label])):
                pixels = images[label, place]
                shown = pixels[..., :3] if channels >= 3 else np.repeat(pixels[..., :1], 3, axis=2)
                large = shown.repeat(zoom, axis=0).repeat(zoom, axis=1)
                x, y = left + place * wide, label * high
                sheet[y : y + height * zoom, x : x + width * zoom] = large
        left += count * wide + 4 * gap
    figure = Figure(
        figsize=((total + 300) / DPI, (classes * high + 80) / DPI),
        dpi=DPI,
        facecolor="white",
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(sheet, interpolation="nearest")
    axes.spines[:].set_visible(False)
    axes.set_xticks(
        [start + count * wide / 2 for start, count in zip(starts, columns, strict=True)]
    )
    axes.set_xticklabels([f"{part}: {sum(found.images[part]):,}" for part in parts])
    axes.xaxis.tick_top()
    axes.set_yticks([label * high + high / 2 for label in range(classes)])
    axes.set_yticklabels(
        [
            f"{_short(found.class_names[label])}\n"
            + " / ".join(f"{found.images[part][label]:,}" for part in parts)
            for label in range(classes)
        ]
    )
    axes.tick_params(length=0, colors=INK, labelsize=8)
    if classes < len(found.class_names):
        axes.set_xlabel(f"the first {classes} of {len(found.class_names)} classes", color=MUTED)
    return figure


def _short(name: str) -> str:
    # Neither line breaks nor matplotlib's own marks for formulas.
    name = " ".join(name.replace("$", r"\$").split())
    return name if len(name) <= 24 else f"{name[:23]}…"
