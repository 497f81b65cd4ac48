"""A picture becomes the same pixels on every way in, whatever its mode, depth and format."""

import contextlib
import gc
import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, features

from awkward_pictures import SIDE, SUFFIX, Array, grey, modes, write_all
from gemkit import pictures
from gemkit.data import load
from gemkit.pictures import PictureError, fit_image, read_picture

NAMES = sorted(modes(np.random.default_rng(0)))


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
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    files = write_all(folders, np.random.default_rng(seed))
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


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are listed on Linux")
def test_files_are_closed(tmp_path: Path) -> None:
    """Pictures of several frames too, which Pillow leaves open for the next one."""
    frames = [Image.new("P", (8, 8), value) for value in (0, 9)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "b.gif").write_bytes((tmp_path / "a.gif").read_bytes()[:-30])
    kept = []
    gc.disable()
    try:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            kept.append(read_picture(tmp_path / "a.gif", (3, 8, 8)))
            with contextlib.suppress(PictureError):
                kept.append(read_picture(tmp_path / "b.gif", (3, 8, 8)))
        assert len(os.listdir("/proc/self/fd")) <= before
    finally:
        gc.enable()


def test_content_without_a_name_is_not_printed() -> None:
    with pytest.raises(PictureError, match=r"^the picture cannot be used: "):
        read_picture(b"\x89PNG and nothing", (3, 8, 8))


def test_grey_networks_see_grey(tmp_path: Path, seed: int) -> None:
    colour = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "a.png")
    expected = colour @ np.array([0.299, 0.587, 0.114])  # ITU-R 601, which Pillow documents
    found = read_picture(tmp_path / "a.png", (1, SIDE, SIDE))[..., 0]
    assert np.abs(found - expected).max() <= 1
