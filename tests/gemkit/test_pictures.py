"""A picture becomes the same pixels on every way in, whatever its mode, depth and format."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, features

from gemkit import pictures
from gemkit.data import load
from gemkit.pictures import PictureError, fit_image, read_picture

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


NAMES = sorted(modes(np.random.default_rng(0)))
SUFFIX = {"PPM": ".pnm", "JPEG2000": ".jp2", "TIFF": ".tif"}


def routes(path: Path, shape: tuple[int, int, int]) -> dict[str, Array]:
    """The picture's pixels by every way in."""
    found = {
        "path": read_picture(path, shape),
        "content": read_picture(path.read_bytes(), shape),
    }
    with pictures.open_image(path) as image:
        found["opened"] = fit_image(image, shape)
    return found


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1))
def test_every_mode_and_depth_keeps_its_look(
    name: str, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    image, expected, formats = modes(np.random.default_rng(seed))[name]
    folder = tmp_path_factory.mktemp("picture")
    for format in formats:
        path = folder / f"a{SUFFIX.get(format, '.' + format.lower())}"
        options = {"lossless": True} if format == "WEBP" else {}
        image.save(path, format, **options)
        for route, pixels in routes(path, (3, SIDE, SIDE)).items():
            off = np.abs(pixels.astype(float) - expected).max()
            assert off <= 1.01, (format, route, off)


def test_training_and_prediction_read_the_same(tmp_path: Path, seed: int) -> None:
    """Of every mode in every format, photographs too: `load` gives what `read_picture` does."""
    rng = np.random.default_rng(seed)
    files: list[Path] = []
    for label in "ab":
        (tmp_path / label).mkdir()
    for place, (name, (image, _, formats)) in enumerate(modes(rng).items()):
        for format in formats:
            path = tmp_path / "ab"[place % 2] / f"{name} {format}{SUFFIX.get(format, '')}"
            if not path.suffix:
                path = path.with_name(f"{path.name}.{format.lower()}")
            image.resize((50, 37), Image.Resampling.NEAREST).save(path, format)
            files.append(path)
    lossy = [("JPEG", ".jfif"), ("JPEG", ".jpe"), ("WEBP", ".webp"), ("MPO", ".mpo"), ("JPEG", "")]
    if features.check("avif"):
        lossy.append(("AVIF", ".avif"))
    for place, (format, suffix) in enumerate(lossy):
        pixels = rng.integers(0, 256, (420, 640, 3), dtype=np.uint8)
        path = tmp_path / "ab"[place % 2] / f"photo{place}{suffix}"
        Image.fromarray(pixels).save(path, format)
        files.append(path)
    data = load(f"imagefolder:{tmp_path}@24")
    read = {pixels.tobytes() for pixels in np.concatenate([data.x_train, data.x_test])}
    assert len(data.x_train) + len(data.x_test) == len(files)
    for path in files:
        for route, pixels in routes(path, (3, 24, 24)).items():
            assert pixels.tobytes() in read, (path.name, route)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_pictures_are_turned_by_their_pixels(format: str, orientation: int, tmp_path: Path) -> None:
    """All eight orientations of the EXIF standard, beside NumPy's turns."""
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    upright = np.zeros((16, 24), dtype=np.uint8)
    upright[:8, :12], upright[8:, :12] = 255, 128
    stored = {
        1: upright, 2: np.fliplr(upright), 3: np.rot90(upright, 2), 4: np.flipud(upright),
        5: upright.T, 6: np.rot90(upright, 1), 7: np.rot90(upright, 2).T, 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{format.lower()}"
    Image.fromarray(np.ascontiguousarray(grey(stored))).save(path, format, exif=exif, quality=95)
    for pixels in routes(path, (1, 16, 24)).values():
        assert np.abs(pixels[..., 0].astype(int) - upright).mean() < 4


def jpeg_with(entries: list[tuple[bytes, bytes]]) -> bytes:
    """A JPEG of 60x40 pixels with EXIF entries after an orientation of 6, written by hand."""
    buffer = io.BytesIO()
    Image.new("RGB", (60, 40), (200, 30, 30)).save(buffer, "JPEG")
    plain = buffer.getvalue()
    count = len(entries) + 1
    body = struct.pack("<HHIHH", 0x112, 3, 1, 6, 0) + b"".join(entry for entry, _ in entries)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, count) + body + struct.pack("<I", 0)
    exif += b"".join(tail for _, tail in entries)
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]


ODD_METADATA = {
    "a fraction by zero": (struct.pack("<HHII", 0x11A, 10, 1, 38), struct.pack("<ii", -1, 0)),
    "text for a number": (struct.pack("<HHI4s", 0x11A, 2, 4, b"abc\0"), b""),
    "an offset beyond the end": (struct.pack("<HHII", 0x11A, 5, 1, 60_000), b""),
    "an unknown type": (struct.pack("<HHII", 0x9999, 77, 1, 3), b""),
}


@pytest.mark.parametrize("case", ODD_METADATA)
def test_metadata_that_cannot_be_written_do_not_matter(case: str, tmp_path: Path) -> None:
    content = jpeg_with([ODD_METADATA[case]])
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    for pixels in routes(path, (3, 60, 40)).values():  # 60 high: it was turned
        assert np.abs(pixels.astype(int) - (200, 30, 30)).max() < 12


def test_what_cannot_be_used_is_said_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jpg"
    Image.linear_gradient("L").convert("RGB").save(path, quality=95)
    whole = path.read_bytes()
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
    cases = [
        (whole[:400], "cut off"),
        (whole[:-2], "cut off"),
        (b"", "empty"),
        (b"GIF", "JPEG, PNG"),
    ]
    if not pictures.reads_heif():
        cases.append((heic, "install pillow-heif"))
    for content, reason in cases:
        path.write_bytes(content)
        for source, what in ((path, None), (content, "the upload")):
            with pytest.raises(PictureError, match=reason) as caught:
                read_picture(source, (3, 8, 8), what)
            assert str(caught.value).startswith(f"{what or path} cannot be used: ")
    path.write_bytes(whole)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 1000)
    with pytest.raises(PictureError, match="million pixels"):
        read_picture(path, (3, 8, 8))
    with pytest.raises(PictureError, match="no such file"):
        read_picture(tmp_path / "none.jpg", (3, 8, 8))
    with pytest.raises(PictureError, match="is a directory"):
        read_picture(tmp_path, (3, 8, 8))


def test_colour_of_12_bits_in_16_is_refused_instead_of_black(tmp_path: Path) -> None:
    """Pillow reads the upper 8 of 16 bits a channel; of 12-bit values these are nearly nothing."""
    values = np.random.default_rng(0).integers(0, 4096, (8, 8, 3))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    path = tmp_path / "deep.png"
    path.write_bytes(png(8, 8, 16, 2, rows))
    with pytest.raises(PictureError, match="16 bits a channel"):
        read_picture(path, (3, 8, 8))
    rows = b"".join(b"\0" + (row * 16).astype(">u2").tobytes() for row in values)
    path.write_bytes(png(8, 8, 16, 2, rows))
    np.testing.assert_array_equal(read_picture(path, (3, 8, 8)), values // 16)


def png(width: int, height: int, depth: int, kind: int, rows: bytes) -> bytes:
    import zlib

    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_grey_networks_see_grey(tmp_path: Path, seed: int) -> None:
    colour = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "a.png")
    expected = colour @ np.array([0.299, 0.587, 0.114])  # ITU-R 601, which Pillow documents
    found = read_picture(tmp_path / "a.png", (1, SIDE, SIDE))[..., 0]
    assert np.abs(found - expected).max() <= 1
