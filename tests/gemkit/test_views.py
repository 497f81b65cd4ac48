"""Views: what student and teacher see is the same, made once, and made on after an interruption."""

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemkit.errors import UserError
from gemkit.teachers import Teacher
from gemkit.views import (
    Lessons,
    affordable_views,
    bank_folder,
    make_bank,
    outputs_of,
    read_lessons,
    write_lessons,
)

SHAPE = (3, 8, 8)


def averaging(channels: int = 3, fails_after: int = 10**9) -> Teacher:
    """A teacher whose outputs are each channel's mean; it gives up after so many images."""
    seen = [0]

    def outputs(images: np.ndarray) -> np.ndarray:
        seen[0] += len(images)
        if seen[0] > fails_after:
            raise KeyboardInterrupt
        return images.mean((1, 2)).astype(np.float32)

    return Teacher("averaging", 16, channels, outputs, False, "digest")


def smooth(seed: int, count: int, side: int = 32) -> np.ndarray:
    """Images of one colour each, with a gradient that a crop shows a part of."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(20, 120, (count, 1, 1, 3))
    ramp = np.linspace(0, 100, side)[None, :, None, None]
    return np.broadcast_to(colours + ramp, (count, side, side, 3)).astype(np.uint8)


def test_student_and_teacher_see_the_same(tmp_path: Path, seed: int) -> None:
    outputs = make_bank(tmp_path / "bank", averaging(), [smooth(seed, 5)], SHAPE, views=6)
    logits = [np.zeros((5, 3)) for _ in outputs]
    write_lessons(tmp_path / "lessons", tmp_path / "bank", logits)
    lessons = read_lessons(tmp_path / "lessons")
    assert len(lessons) == 5
    assert len(lessons.images) == len(outputs) == 6
    for shown, said in zip(lessons.images, outputs, strict=True):
        np.testing.assert_allclose(shown.mean((1, 2)), said, atol=2.5)
    # The crops differ from one another, so the agreement above says something.
    assert np.std([one.mean() for one in lessons.images]) > 0.5
    np.testing.assert_allclose(lessons.shares, 1 / 3, atol=1e-3)


def test_an_interrupted_bank_goes_on_to_the_same(tmp_path: Path, seed: int) -> None:
    sources = [smooth(seed, 5), smooth(seed + 1, 3)]
    whole = make_bank(tmp_path / "whole", averaging(), sources, SHAPE, views=4)
    with pytest.raises(KeyboardInterrupt):
        make_bank(tmp_path / "cut", averaging(fails_after=20), sources, SHAPE, views=4)
    counts: list[int] = []
    again = make_bank(tmp_path / "cut", averaging(), sources, SHAPE, 4, counts.append)
    assert counts[0] == 16  # two of four views were there
    assert counts[-1] == 32
    for one, other in zip(whole, again, strict=True):
        np.testing.assert_array_equal(one, other)
    for view in range(4):
        first, second = (np.load(tmp_path / name / f"{view}.npy") for name in ("whole", "cut"))
        np.testing.assert_array_equal(first, second)


def test_the_first_view_is_the_whole_image(tmp_path: Path, seed: int) -> None:
    images = smooth(seed, 4, side=8)
    make_bank(tmp_path, averaging(), [images], SHAPE, views=2)
    np.testing.assert_array_equal(np.load(tmp_path / "0.npy"), images)
    expected = images.mean((1, 2))
    np.testing.assert_allclose(outputs_of(averaging(), images), expected, atol=1.5)


def test_grey_images_and_a_teacher_of_colour(tmp_path: Path, seed: int) -> None:
    grey = smooth(seed, 3)[..., :1]
    outputs = make_bank(tmp_path, averaging(), [grey], (1, 8, 8), views=3)
    assert np.load(tmp_path / "2.npy").shape == (3, 8, 8, 1)
    for said in outputs:
        np.testing.assert_allclose(said[:, 0], said[:, 2], atol=1e-2)


def test_pixels_are_those_of_row_and_view(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (3, 7, 2, 2, 1), dtype=np.uint8)
    lessons = Lessons(tuple(images), np.zeros((3, 7, 2), np.float16))
    rows, views = rng.integers(0, 7, 20), rng.integers(0, 3, 20)
    np.testing.assert_array_equal(lessons.pixels(rows, views), images[views, rows])


def test_every_input_has_a_folder_of_its_own(tmp_path: Path) -> None:
    images = smooth(0, 4)
    other = images.copy()
    other[2, 3, 3] += 1
    folders = {
        bank_folder(tmp_path, averaging(), [images], SHAPE),
        bank_folder(tmp_path, averaging(), [other], SHAPE),
        bank_folder(tmp_path, averaging(), [images], (3, 9, 9)),
        bank_folder(tmp_path, averaging(), [images, other], SHAPE),
    }
    assert len(folders) == 4


def test_a_large_set_has_fewer_views() -> None:
    assert affordable_views(3_000, (3, 64, 64)) == 16
    assert affordable_views(50_000, (3, 64, 64)) == 4 * 2**30 // (50_000 * 3 * 64 * 64) == 6
    assert affordable_views(10_000_000, (3, 64, 64)) == 2


def test_a_disk_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")

    def full(path: Any) -> Any:
        return usage(10**9, 10**9, 100)

    monkeypatch.setattr(shutil, "disk_usage", full)
    with pytest.raises(UserError, match="GEMKIT_DATA"):
        make_bank(tmp_path / "bank", averaging(), [smooth(0, 5)], SHAPE)
    assert not (tmp_path / "bank").exists()


def test_lessons_whose_views_are_gone(tmp_path: Path) -> None:
    outputs = make_bank(tmp_path / "bank", averaging(), [smooth(0, 3)], SHAPE, views=2)
    write_lessons(tmp_path / "lessons", tmp_path / "bank", outputs)
    (tmp_path / "bank" / "1.npy").write_bytes(b"cut")
    with pytest.raises(UserError, match="remove"):
        read_lessons(tmp_path / "lessons")
