"""What a look at a data set finds, beside what was put into it by hand."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gemkit.data import check_learnable, load
from gemkit.errors import UserError
from gemkit.folder_tree import SKIP_LIST
from gemkit.survey import skip_unusable, survey


def fill(folder: Path, count: int, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = rng.integers(0, 256, (9 + number, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


@pytest.fixture
def awkward(tmp_path: Path, seed: int) -> Path:
    """40 cats and 10 dogs, with every fault that a look should find, once."""
    rng = np.random.default_rng(seed)
    root = tmp_path / "set"
    for part, count in (("train", (40, 10)), ("test", (4, 0))):
        for name, many in zip(("cat", "dog"), count, strict=True):
            fill(root / part / name, many, rng)
    cats, dogs = root / "train" / "cat", root / "train" / "dog"
    shutil.copy(root / "test" / "cat" / "0.png", cats / "leak.png")
    Image.open(root / "test" / "cat" / "1.png").save(cats / "leak.bmp")
    Image.open(cats / "3.png").save(dogs / "cat.tif")
    Image.new("RGB", (8, 8), (9, 9, 9)).save(cats / "black.png")
    (dogs / "0.png").write_bytes((dogs / "0.png").read_bytes()[:60])
    (dogs / "1.png").write_bytes(b"")
    return root


def test_every_fault_is_found(awkward: Path) -> None:
    found = survey(f"imagefolder:{awkward}@8")
    assert found.images == {"training": (42, 11), "test": (4, 0)}
    assert found.one_colour == {"training": 1, "test": 0}
    assert found.alike == 1
    assert found.ambiguous == 2  # the picture and its copy
    assert {Path(one.what).name for one in found.unusable} == {"0.png", "1.png"}
    assert found.stored is not None
    assert found.stored[0] == (8, 8)
    assert found.stored[2] == (12, 9 + 39)
    assert found.constant_answer == ("cat", 1.0)
    warnings = " | ".join(found.warnings())
    for word in (
        "uneven",
        "no test images of 'dog'",
        "fewer than 20",
        "one colour: 1",
        "two parts: 1",
        "other files: 1",
        "two classes: 2",
        "cannot be used: 2",
    ):
        assert word in warnings
    record = found.to_json()
    assert record["warnings"] == found.warnings()
    assert [Path(copy["left_out"]).name for copy in record["copies"]] == ["leak.png"]
    images, there = found.samples["training"]
    assert there.tolist() == [8, 8]
    assert images.shape == (2, 8, 8, 8, 3)


def test_unusable_pictures_are_left_out_for_good(awkward: Path) -> None:
    spec = f"imagefolder:{awkward}@8"
    with pytest.raises(UserError, match="2 pictures cannot be used"):
        load(spec)
    assert skip_unusable(survey(spec)) == awkward / SKIP_LIST
    data = load(spec)
    assert len(data.y_train) == 42 + 11 - 2
    assert f"2 listed in {SKIP_LIST}" in data.note
    assert skip_unusable(survey(spec)) is None
    (awkward / "train" / "cat" / "5.png").write_bytes(b"")
    skip_unusable(survey(spec))
    assert len((awkward / SKIP_LIST).read_text().split()) == 3


@pytest.mark.parametrize(
    "name", [b"bare", b"caf\xe9.png", b"new\nline.png", b" a.png", b"\xef\xbb\xbf.png"]
)
def test_any_name_can_be_left_out(name: bytes, awkward: Path) -> None:
    spec = f"imagefolder:{awkward}@8"
    (awkward / "train" / "cat" / os.fsdecode(name)).write_bytes(b"GIF89a but no picture")
    assert len(survey(spec).unusable) == 3
    skip_unusable(survey(spec))
    assert survey(spec).unusable == ()


def test_what_is_seen_is_what_is_trained_on(awkward: Path) -> None:
    spec = f"imagefolder:{awkward}@8"
    skip_unusable(survey(spec))
    found, data = survey(spec), load(spec)
    trained = {pixels.tobytes() for pixels in data.x_train}
    assert {pixels.tobytes() for pixels in found.samples["training"][0][0]} <= trained


def test_arrays_are_looked_at_too() -> None:
    found, digits = survey("digits"), load("digits")
    assert found.images["test"] == tuple(np.bincount(digits.y_test))
    name, right = found.constant_answer
    assert right == pytest.approx(np.mean(digits.y_test == int(name)))
    assert found.stored is None
    assert not any("uneven" in warning for warning in found.warnings())


def test_a_set_of_one_colour_cannot_be_learnt(tmp_path: Path) -> None:
    x = np.full((30, 6, 6, 3), 7, dtype=np.uint8)
    y = np.arange(30) % 2
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    data = load(f"npz:{tmp_path / 'a.npz'}")
    with pytest.raises(UserError, match=r"of one colour \(7, 7, 7\)"):
        check_learnable(data)
    data.x_train[29, 5, 5, 0] = 8
    check_learnable(data)


def test_images_in_arrays_are_looked_at(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    arrays = {
        f"x_{part}": rng.integers(0, 256, (40, 6, 6, 3), np.uint8) for part in ("train", "test")
    }
    labels = {f"y_{part}": np.arange(40) % 2 for part in ("train", "test")}
    arrays["x_train"][39] = 7
    arrays["x_train"][5] = arrays["x_test"][9]
    arrays["x_train"][11] = arrays["x_train"][20]  # of classes 1 and 0
    np.savez(tmp_path / "a.npz", **arrays, **labels)
    found = survey(f"npz:{tmp_path / 'a.npz'}", samples=3)
    assert found.one_colour == {"training": 1, "test": 0}
    assert (found.alike, found.ambiguous) == (1, 2)
    images, counts = found.samples["training"]
    assert counts.tolist() == [3, 3]
    np.testing.assert_array_equal(images[1], arrays["x_train"][1:6:2])
