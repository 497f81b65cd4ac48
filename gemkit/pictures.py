"""Pictures in files: read in one way everywhere, decoded in threads, kept decoded.

`read_picture` is the one way from a file to the pixels that a network takes. Training, `predict`,
the page and calibration all read with it:

- the first picture of a file is taken, turned as its EXIF orientation says;
- deep greys become 8 bits: integers by the bits that the file's largest value needs (12-bit
  values in a 16-bit file fill the range), floats by 0..1, or by the file's own range outside it;
- transparent places are laid on white;
- the picture is resized so that it covers the network's input, and cropped at the centre.
"""

import contextlib
import functools
import importlib.util
import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from gemkit.errors import UserError
from gemkit.files import data_folder, replacing
from gemkit.machine import usable_cores

Images = NDArray[np.uint8]

MAX_PIXELS = 2**26
"""Pictures with more pixels are refused: they could fill the memory."""
HEIF_SUFFIXES = frozenset((".heic", ".heif", ".hif"))
"""Ends of the names of files that are read only where pillow-heif is installed."""
SUFFIXES = HEIF_SUFFIXES | {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib",
    ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".avif", ".avifs", ".jp2", ".j2k",
    ".jpf", ".jpx", ".j2c", ".jpc", ".pcx", ".qoi",
}  # fmt: skip
"""Ends of the names of files that are taken for pictures, in small letters."""

_FORMATS = (
    "PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000", "PCX",
    "QOI", "HEIF",
)  # fmt: skip
_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*", b"P6\n", b"P5\n", b"BM")
_DEPTHS = (8, 10, 12, 14, 16, 20, 24, 32)  # bits a pixel that cameras and files have
_LEAST_OF_16_BITS = 16  # of 256: what stays of a value of 12 bits when the lower 8 are cut off
_READING = 2  # changes with what pictures are read to, so that no older copy is taken
CACHED_FROM = 10_000  # images; fewer are decoded again in about a second
CACHED_FROM_BYTES = 2**30
CACHED_FROM_ENCODED_BYTES = 2**27  # of large photographs few take long
_LEFT_OVER_AFTER = 3600.0  # seconds without a write
STREAMED_FROM = 16 * 2**30  # bytes when decoded


class PictureError(UserError):
    """A picture that cannot be used: `reason` says why, `what` which."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what} cannot be used: {reason}")
        self.what, self.reason = what, reason


class PicturesError(UserError):
    """Several pictures of a set that cannot be used, all of them in `failures`."""

    def __init__(self, failures: Sequence[PictureError]) -> None:
        self.failures = tuple(failures)
        shown = "; ".join(str(failure) for failure in failures[:5])
        more = f"; and {len(failures) - 5} more" if len(failures) > 5 else ""
        super().__init__(shown + more)


def read_picture(
    source: Path | bytes, input_shape: tuple[int, int, int], what: str | None = None
) -> Images:
    """Read a picture as a network takes it: (height, width, channels) uint8.

    Args:
        source: a file's path or its content.
        input_shape: (channels, height, width); channels 1 or 3.
        what: what the picture is called in an error; the path, or `the picture`, if None.

    Raises:
        PictureError: it is missing, no picture, damaged or far too large.
        UserError: the network takes another number of channels.
    """
    named = "the picture" if isinstance(source, bytes) else str(source)
    with _opened(source, what or named) as image:
        return fit_image(image, input_shape)


def stored_size(path: Path) -> tuple[int, int]:
    """(width, height) of a picture as it is stored; its pixels are not decoded.

    Raises:
        PictureError: it is missing or no picture.
    """
    with _opened(path, str(path)) as image:
        width, height = image.size
        return width, height


def fit_image(image: Image.Image, input_shape: tuple[int, int, int]) -> Images:
    """Bring a picture that Pillow opened to what a network takes; as `read_picture`.

    Raises:
        UserError: the network takes another number of channels.
        ValueError: the picture has no 8 bits that it could be shown with.
        and what Pillow raises of damaged files.
    """
    channels, height, width = input_shape
    if channels not in (1, 3):
        raise UserError(f"a picture has 1 or 3 channels, the network takes {channels}")
    image = _on_white(_eight_bits(_upright(image))).convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8).reshape(height, width, channels)


def open_image(source: "Path | io.BytesIO") -> Image.Image:
    """Open a picture, of the formats that pictures come in alone: others can start programs.

    Raises what Pillow raises.
    """
    _register_heif()
    Image.init()
    return Image.open(source, formats=[name for name in _FORMATS if name in Image.OPEN])


def looks_like_a_picture(path: Path) -> bool:
    """Whether a file begins as pictures of the formats that are read do."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError:
        return False
    return start.startswith(_STARTS) or start[8:12] == b"WEBP" or start[4:12] == b"ftypavif"


def reads_heif() -> bool:
    """Whether HEIC and HEIF files can be read: pillow-heif is installed."""
    return importlib.util.find_spec("pillow_heif") is not None


@functools.cache
def _register_heif() -> None:
    if reads_heif():
        import pillow_heif

        pillow_heif.register_heif_opener()


@contextlib.contextmanager
def _opened(source: Path | bytes, what: str) -> Iterator[Image.Image]:
    """The picture in a file, open for as long as the block lasts; every error is explained."""
    too_large = f"it has more than {MAX_PIXELS // 10**6} million pixels: make it smaller"
    try:
        with open_image(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            if image.width * image.height > MAX_PIXELS:
                raise PictureError(what, too_large)
            yield image
    except (MemoryError, UserError):
        raise
    except FileNotFoundError:
        raise PictureError(what, "there is no such file") from None
    except Image.DecompressionBombError:
        raise PictureError(what, too_large) from None
    except UnidentifiedImageError:
        raise PictureError(what, _unidentified(source)) from None
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        raise PictureError(what, _reason(error)) from None


def _unidentified(source: Path | bytes) -> str:
    start = source[:12] if isinstance(source, bytes) else b""
    if isinstance(source, Path):
        with contextlib.suppress(OSError), source.open("rb") as file:
            start = file.read(12)
    if not start:
        return "it is empty"
    if start[4:8] == b"ftyp" and start[8:11] in (b"hei", b"hev", b"mif", b"msf"):
        return "it is a HEIC picture: install pillow-heif to read these"
    return "no picture that can be read (JPEG, PNG and so on)"


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = " ".join(str(error).split()) or type(error).__name__
    if "truncated" in text.lower() or "broken data stream" in text:
        return "it is cut off, its end is missing"
    return f"it is damaged ({text[:1].lower()}{text[1:]})"


def _upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF orientation says.

    Only the pixels are turned. Pillow's `exif_transpose` writes the metadata anew as well, which
    fails for values that are read but cannot be written.
    """
    # Before the pixels are there PNG does not know its orientation, and TIFF turns itself.
    deep = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    image.load()
    if deep and image.mode in ("LA", "RGB", "RGBA", "RGBX", "CMYK"):
        bands = image.getextrema()
        if (
            max(high for _, high in bands[: len("RGB") if len(bands) > 2 else 1])
            < _LEAST_OF_16_BITS
        ):
            raise ValueError(
                "of 16 bits a channel only the lower ones are used, of which Pillow reads none: "
                "save it with 8 bits"
            )
    try:
        orientation = image.getexif().get(0x0112)
    except Exception:  # metadata may be damaged in any way
        orientation = None
    turned = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    if isinstance(orientation, int) and orientation in turned:
        return image.transpose(turned[orientation])
    return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pictures of more than 8 bits as grey ones of 8, L*a*b* as RGB, others as they are."""
    if image.mode == "LAB":
        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return cast(Image.Image, ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB"))
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    levels = _levels(values)
    clear = image.info.get("transparency")
    if isinstance(clear, int | float):
        levels[values == clear] = 255
    return Image.fromarray(levels)


def _levels(values: NDArray[Any]) -> Images:
    """Grey values of any kind as 0..255."""
    floating = values.dtype.kind == "f"
    finite = values[np.isfinite(values)] if floating else values
    if finite.size == 0:
        raise ValueError("none of its values is a number")
    low, high = float(finite.min()), float(finite.max())
    if low < 0 or (floating and high > 1):
        bottom, top = low, max(high, low + 1e-9)
    elif floating:
        bottom, top = 0.0, 1.0
    else:
        bits = next((bits for bits in _DEPTHS if high < 2**bits), 32)
        bottom, top = 0.0, float(2**bits - 1)
    # What is no number is black.
    shares = (np.nan_to_num(values.astype(np.float32), nan=bottom) - bottom) / (top - bottom)
    levels: Images = np.rint(255 * shares.clip(0, 1)).astype(np.uint8)
    return levels


def _on_white(image: Image.Image) -> Image.Image:
    """Transparent places laid on white."""
    if not image.has_transparency_data:
        return image
    if image.mode == "La":
        image = image.convert("LA")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image)


def _decode_into(target: Images, row: int, content: bytes | Path, what: str) -> None:
    """Decode one picture into `target[row]`; encoded ones must have its size."""
    height, width, channels = target.shape[1:]
    with _opened(content, what) as image:
        if isinstance(content, bytes) and image.size != (width, height):
            size = f"{image.height}x{image.width}"
            raise PictureError(what, f"it is {size} pixels, the first is {height}x{width}")
        target[row] = fit_image(image, (channels, height, width))


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

        def content(place: int) -> tuple[bytes | Path, str]:
            return self._content(int(chosen.flat[place]))

        block = max(1, math.ceil(chosen.size / (2 * usable_cores())))
        _decode_all(images, content, self._pool, block)
        return images if chosen.ndim else images[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        images = self[:]
        return images if dtype is None else images.astype(dtype)


class _SelectedImages:
    """Some rows of images that do not lie in memory; reads like an array (n, h, w, c) uint8."""

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, images: Images, rows: NDArray[np.intp]) -> None:
        self._images, self._rows = images, rows
        self.shape = (len(rows), *images.shape[1:])
        self.nbytes = self.size = math.prod(self.shape)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Any) -> Images:
        images: Images = self._images[self._rows[rows]]
        return images

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)


def selected(images: Images, rows: NDArray[np.intp]) -> Images:
    """Some rows of images, in that order; what lies on the disk stays there until asked for."""
    if type(images) is np.ndarray:
        return images[rows]
    return cast(Images, _SelectedImages(images, rows))


def _decode_all(
    target: Images,
    content: Callable[[int], tuple[bytes | Path, str]],
    pool: ThreadPoolExecutor,
    block: int,
) -> None:
    """Decode pictures into all rows of `target`, in blocks of so many: handing over a task costs
    as much as decoding a small picture.

    Raises:
        PictureError: one cannot be used.
        PicturesError: several cannot.
    """
    failures: dict[int, PictureError] = {}

    def some(start: int) -> None:
        for row in range(start, min(start + block, len(target))):
            try:
                _decode_into(target, row, *content(row))
            except PictureError as error:
                failures[row] = error

    for _ in pool.map(some, range(0, len(target), block)):
        pass
    if failures:
        found = [failures[row] for row in sorted(failures)]
        raise found[0] if len(found) == 1 else PicturesError(found)


def decoded(
    key: str,
    shape: tuple[int, int, int, int],
    content: Callable[[int], tuple[bytes | Path, str]],
    encoded_bytes: int,
) -> Images:
    """Decode many pictures in threads; large sets are kept decoded in the data folder.

    Kept sets are mapped from the disk, so that they need not fit the memory and processes share
    them. Sets that would take more than 16 GiB decoded are decoded batch by batch instead.

    Args:
        key: changes whenever the pictures do.
        shape: (n, height, width, channels).
        content: row -> (encoded bytes or path, name of the row for people).
        encoded_bytes: of all pictures together.

    Raises:
        PictureError, PicturesError: some cannot be used.
    """

    def fill(target: Images) -> None:
        with ThreadPoolExecutor(usable_cores()) as pool:
            _decode_all(target, content, pool, 64)

    if math.prod(shape) > STREAMED_FROM:
        return cast(Images, StreamedImages(shape, content))
    if (
        shape[0] < CACHED_FROM
        and math.prod(shape) < CACHED_FROM_BYTES
        and encoded_bytes < CACHED_FROM_ENCODED_BYTES
    ):
        images = np.empty(shape, dtype=np.uint8)
        fill(images)
        return images
    path = data_folder() / "decoded" / f"{key}-{_READING}.npy"
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


def jpeg_quality(image: Image.Image) -> str:
    """`JPEG q75` and the like: the quality setting whose standard table the picture carries."""
    table = getattr(image, "quantization", {}).get(0)
    if image.format != "JPEG" or not table:
        return str(image.format)
    # The first entry of the standard table is 16 and scales with 50 / q below and 2 - q / 50
    # above q = 50 (Independent JPEG Group); the mean over the whole table distinguishes close ones.
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
