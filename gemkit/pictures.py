"""Pictures in files: brought to the size that a network takes, decoded in threads, kept decoded."""

import contextlib
import functools
import io
import math
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from gemkit.errors import UserError
from gemkit.files import data_folder, replacing
from gemkit.machine import usable_cores

if TYPE_CHECKING:
    from PIL import Image

Images = NDArray[np.uint8]

_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
_CACHED_FROM = 10_000  # images; fewer are decoded again in about a second
_CACHED_FROM_BYTES = 2**30
_LEFT_OVER_AFTER = 3600.0  # seconds without a write
_STREAMED_FROM = 16 * 2**30  # bytes when decoded


def fit_image(image: "Image.Image", input_shape: tuple[int, int, int]) -> Images:
    """Bring one picture to what a network takes: (height, width, channels) uint8.

    Turned as its EXIF orientation says, converted to grey or RGB, resized so that it covers the
    network's input, and cropped at the centre.

    Args:
        input_shape: (channels, height, width); channels 1 or 3.
    """
    from PIL import Image, ImageOps

    channels, height, width = input_shape
    if channels not in (1, 3):
        raise UserError(f"a picture has 1 or 3 channels, the network takes {channels}")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits a pixel, which `convert` would clip
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8).reshape(height, width, channels)


def open_image(source: "Path | io.BytesIO") -> "Image.Image":
    """Open a picture, of the formats that pictures come in alone: others can start programs.

    Raises what Pillow raises.
    """
    from PIL import Image

    Image.init()
    return Image.open(source, formats=[name for name in _FORMATS if name in Image.OPEN])


def _decode_into(target: Images, row: int, content: bytes | Path, what: str) -> None:
    """Decode one picture into `target[row]`."""
    height, width, channels = target.shape[1:]
    try:
        with open_image(io.BytesIO(content) if isinstance(content, bytes) else content) as image:
            if isinstance(content, bytes) and image.size != (width, height):
                raise ValueError(
                    f"it is {image.height}x{image.width} pixels, the first is {height}x{width}"
                )
            # A JPEG much larger than what is needed can be decoded at a fraction of its size.
            image.draft("RGB" if channels == 3 else "L", (2 * width, 2 * height))
            target[row] = fit_image(image, (channels, height, width))
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(content, bytes) or reason.startswith("cannot identify"):
            reason = re.sub(r"cannot identify image file.*", "no readable picture", reason)
        raise UserError(f"{what} cannot be used: {reason}") from None


class StreamedImages:
    """Images that are decoded when they are asked for; reads like an array (n, h, w, c) uint8.

    An index is a row, a slice or an array of rows. Threads decode, one per core.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self,
        shape: tuple[int, int, int, int],
        content: Callable[[int], tuple[bytes | Path, str]],
    ) -> None:
        self.shape = shape
        self.nbytes = self.size = math.prod(shape)
        self._content = content

    @functools.cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(usable_cores())

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Images:
        chosen = np.arange(len(self))[rows]
        images = np.empty((chosen.size, *self.shape[1:]), dtype=np.uint8)

        def some(places: NDArray[np.intp]) -> None:
            for place in places.tolist():
                row = int(chosen.flat[place])
                _decode_into(images, place, *self._content(row))

        parts = np.array_split(np.arange(chosen.size), min(chosen.size, 2 * usable_cores()) or 1)
        for _ in self._pool.map(some, parts):
            pass
        return images if chosen.ndim else images[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        images = self[:]
        return images if dtype is None else images.astype(dtype)


def decoded(
    key: str,
    shape: tuple[int, int, int, int],
    content: Callable[[int], tuple[bytes | Path, str]],
) -> Images:
    """Decode many pictures in threads; large sets are kept decoded in the data folder.

    Kept sets are mapped from the disk, so that they need not fit the memory and processes share
    them. Sets that would take more than 16 GiB decoded are decoded batch by batch instead.

    Args:
        key: changes whenever the pictures do.
        shape: (n, height, width, channels).
        content: row -> (encoded bytes or path, name of the row for people).
    """

    def fill(target: Images) -> None:
        def some(rows: range) -> None:
            for row in rows:
                _decode_into(target, row, *content(row))

        # Blocks, not a row each: handing over a task costs as much as decoding a small picture.
        blocks = [range(start, min(start + 256, shape[0])) for start in range(0, shape[0], 256)]
        with ThreadPoolExecutor(usable_cores()) as pool:
            for _ in pool.map(some, blocks):
                pass

    if math.prod(shape) > _STREAMED_FROM:
        return cast(Images, StreamedImages(shape, content))
    if shape[0] < _CACHED_FROM and math.prod(shape) < _CACHED_FROM_BYTES:
        images = np.empty(shape, dtype=np.uint8)
        fill(images)
        return images
    path = data_folder() / "decoded" / f"{key}.npy"
    try:
        kept: Images = np.load(path, mmap_mode="r", allow_pickle=False)
        if kept.shape == shape and kept.dtype == np.uint8:
            return kept
    except (OSError, ValueError, EOFError):
        pass
    _remove_left_over(path)
    with replacing(path) as temporary:
        fresh = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        fill(fresh)
        fresh.flush()
        del fresh
    loaded: Images = np.load(path, mmap_mode="r", allow_pickle=False)
    return loaded


def _remove_left_over(path: Path) -> None:
    """Remove what processes that were killed while they decoded into `path` have left."""
    for other in path.parent.glob(f".{path.name}.*"):
        with contextlib.suppress(OSError):
            if time.time() - other.stat().st_mtime > _LEFT_OVER_AFTER:
                other.unlink()


def jpeg_quality(image: "Image.Image") -> str:
    """`JPEG q75` and the like: the quality setting whose standard table the picture carries."""
    table = getattr(image, "quantization", {}).get(0)
    if image.format != "JPEG" or not table:
        return str(image.format)
    # The first entry of the standard table is 16 and scales with 50 / q below and 2 - q / 50
    # above q = 50 (Independent JPEG Group); the mean over the whole table tells close ones apart.
    from PIL import Image

    best, least = 0, float("inf")
    for quality in range(1, 101):
        sample = io.BytesIO()
        Image.new("RGB", (8, 8)).save(sample, "JPEG", quality=quality)
        sample.seek(0)
        with Image.open(sample) as standard:
            tables = getattr(standard, "quantization", {})
        difference = sum(abs(a - b) for a, b in zip(tables[0], table, strict=True))
        if difference < least:
            best, least = quality, difference
    return f"JPEG q{best}" if least == 0 else f"JPEG of about q{best}"
