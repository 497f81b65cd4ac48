"""Pictures of every mode and depth, with the pixels that they should become."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, features

Array = np.ndarray
SIDE = 8
COLOUR = ("PNG", "TIFF", "WEBP", "PPM", "BMP", "QOI", "JPEG2000", "DIB")


def grey(values: Array) -> Array:
    """(h, w) -> (h, w, 3)."""
    return np.repeat(values[..., None], 3, axis=-1)


def on_white(colour: Array, alpha: Array) -> Array:
    opaque = alpha[..., None] / 255
    return colour * opaque + 255 * (1 - opaque)


def modes(rng: np.random.Generator) -> dict[str, tuple[Image.Image, Array, tuple[str, ...]]]:
    """By name: a picture, the pixels expected (h, w, 3) and formats that keep them exactly."""
    level = rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
    level[0, 0], level[0, 1] = 0, 255
    colour = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    alpha = rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
    wide = level.astype(np.int64)
    palette = Image.fromarray(colour).quantize(16)
    cleared = palette.copy()
    cleared.info["transparency"] = 3
    indices = np.asarray(palette)
    shown = np.asarray(palette.convert("RGB")).astype(float)
    bits = level > 127
    deep = np.rint(wide * 4095 / 255).astype(np.uint16)
    return {
        "1": (Image.fromarray(bits), grey(np.where(bits, 255, 0)), ("PNG", "TIFF", "PPM", "BMP")),
        "L": (Image.fromarray(level), grey(level), ("PNG", "TIFF", "PPM", "BMP", "PCX")),
        "LA": (
            Image.merge("LA", (Image.fromarray(level), Image.fromarray(alpha))),
            on_white(grey(level), alpha), ("PNG", "TIFF"),
        ),
        "RGB": (Image.fromarray(colour), colour, COLOUR),
        "RGBA": (
            Image.fromarray(np.dstack([colour, alpha])), on_white(colour, alpha),
            ("PNG", "TIFF", "QOI"),
        ),
        "P": (palette, shown, ("PNG", "TIFF", "GIF", "BMP")),
        "P with a clear colour": (
            cleared, np.where((indices == 3)[..., None], 255, shown), ("PNG", "GIF"),
        ),
        "CMYK": (
            Image.fromarray(colour).convert("CMYK"), colour, ("TIFF",),
        ),
        "16 bits": (
            Image.fromarray((wide * 257).astype(np.uint16)), grey(level), ("PNG", "TIFF", "PPM"),
        ),
        "12 of 16 bits": (Image.fromarray(deep), grey(level), ("PNG", "TIFF")),
        "10 of 32 bits": (
            Image.fromarray(np.rint(wide * 1023 / 255).astype(np.int32)), grey(level), ("TIFF",),
        ),
        "8 of 32 bits": (Image.fromarray(wide.astype(np.int32)), grey(level), ("TIFF",)),
        "signed": (Image.fromarray((wide * 10 - 1000).astype(np.int32)), grey(level), ("TIFF",)),
        "float to 1": (
            Image.fromarray((wide / 255).astype(np.float32)), grey(level), ("TIFF", "PPM"),
        ),
        "float to 3": (
            Image.fromarray((wide / 85).astype(np.float32)), grey(level), ("TIFF", "PPM"),
        ),
        "float with NaN": (
            Image.fromarray(np.where(bits, np.nan, wide / 255).astype(np.float32)),
            grey(np.where(bits, 0, level)), ("TIFF",),
        ),
        "signed float": (
            Image.fromarray((wide / 85 - 1.5).astype(np.float32)), grey(level), ("TIFF",),
        ),
    }  # fmt: skip


SUFFIX = {"PPM": ".pnm", "JPEG2000": ".jp2", "TIFF": ".tif"}
"""Ends of names that differ from their formats."""


def write_all(folders: Sequence[Path], rng: np.random.Generator) -> list[Path]:
    """Every mode in every format, 50x37 pixels, and larger lossy ones, spread over folders."""
    files: list[Path] = []

    def place(name: str) -> Path:
        files.append(folders[len(files) % len(folders)] / name)
        return files[-1]

    for name, (image, _, formats) in modes(rng).items():
        for format in formats:
            suffix = SUFFIX.get(format, f".{format.lower()}")
            large = image.resize((50, 37), Image.Resampling.NEAREST)
            large.save(place(f"{name} {format}{suffix}"), format)
    lossy = [("JPEG", ".jfif"), ("JPEG", ".jpe"), ("WEBP", ".webp"), ("MPO", ".mpo"), ("JPEG", "")]
    if features.check("avif"):
        lossy.append(("AVIF", ".avif"))
    for format, suffix in lossy:
        pixels = rng.integers(0, 256, (420, 640, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place(f"photo {len(files)}{suffix}"), format)
    return files
