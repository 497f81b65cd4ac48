"""Pictures without labels: copies of test images are found by what they show."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gemkit.data import load
from gemkit.errors import UserError
from gemkit.unlabelled import read_unlabelled


def picture(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for place, name in enumerate(("a", "b")):
        for number in range(4):
            picture(tmp_path / "photos" / "train" / name / f"{number}.png", 10 * place + number)
        picture(tmp_path / "photos" / "test" / name / "t.png", 100 + place)
    return tmp_path / "photos"


def test_what_is_known_is_left_out_and_counted(photos: Path, tmp_path: Path) -> None:
    more = tmp_path / "more"
    fresh = [picture(more / "deep" / "x.png", 200), picture(more / "y.bmp", 201)]
    more_copies = {"test/a/t.png": "one.png", "test/b/t.png": "two.png", "train/a/0.png": "k.png"}
    for source, name in more_copies.items():
        shutil.copy(photos / source, more / name)
    # The same pixels in a file of another kind, and a picture that is there twice.
    Image.open(photos / "test" / "a" / "t.png").save(more / "again.bmp")
    shutil.copy(fresh[1], more / "z.bmp")
    (more / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (more / "notes.txt").write_text("no picture")
    found = read_unlabelled(more, load(f"imagefolder:{photos}@8"))
    assert set(found.files) == set(fresh)
    assert (found.tests, found.known, found.unusable) == (3, 2, 1)


def test_a_folder_of_test_images_alone(photos: Path) -> None:
    with pytest.raises(UserError, match="no picture that is new: of 2, 2 are test images"):
        read_unlabelled(photos / "test", load(f"imagefolder:{photos}@8"))


def test_no_folder_and_grey_images(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        read_unlabelled(tmp_path / "none", load(f"imagefolder:{photos}@8"))
    with pytest.raises(UserError, match="no colour images"):
        read_unlabelled(photos, load("digits"))
