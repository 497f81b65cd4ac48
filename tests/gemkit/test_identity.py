"""Which data a result belongs to: from any folder, and after every kind of change."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gemkit.data import load
from gemkit.errors import UserError
from gemkit.identity import Identity, absolute, changes, of_arrays


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 2)):
        for name in ("cat", "dog"):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for row in range(count):
                pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{row}.bmp")
    return tmp_path / "photos"


def identity(root: Path) -> Identity:
    found = load(f"imagefolder:{root}@8").identity
    assert found is not None
    return found


def test_a_set_is_the_same_from_everywhere(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity(photos)
    assert before.training == (6, 6)
    assert before.test == (2, 2)
    monkeypatch.chdir(photos.parent)
    assert load("imagefolder:photos@8").identity == before
    assert Identity.from_json(before.to_json()) == before
    assert not changes(before, before)
    moved = Path(shutil.copytree(photos, photos.parent / "moved"))
    (change,) = changes(before, identity(moved))
    assert change.kind == "place"


def test_every_change_is_told(photos: Path) -> None:
    before = identity(photos)
    path = photos / "train" / "cat" / "0.bmp"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 255]))
    (change,) = changes(before, identity(photos))
    assert change.kind == "contents"
    path.unlink()
    (change,) = changes(before, identity(photos))
    assert change.kind == "counts"
    assert change.sentence == "11 training images, there were 12 (cat 6 -> 5)"
    for part in ("train", "test"):
        (photos / part / "dog").rename(photos / part / "wolf")
    change = changes(before, identity(photos))[0]
    assert change.kind == "classes"
    assert "'dog'" in change.sentence
    assert "'wolf'" in change.sentence
    turned = replace(before, class_names=before.class_names[::-1])
    assert changes(before, turned)[0].sentence == "the classes are in another order"


def test_arrays_have_an_identity_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (100, 8, 8, 3), dtype=np.uint8),
        "y_train": np.arange(100) % 3,
        "x_test": rng.integers(0, 256, (9, 8, 8, 3), dtype=np.uint8),
        "y_test": np.arange(9) % 3,
    }
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    before = load(f"npz:{path}").identity
    assert before is not None
    np.savez_compressed(path, **arrays)
    assert load(f"npz:{path}").identity == before
    np.savez(path, **arrays | {"y_train": np.arange(100)[::-1] % 3})
    found = load(f"npz:{path}").identity
    assert found is not None
    assert {change.kind for change in changes(before, found)} <= {"counts", "contents"}
    assert changes(before, found)
    assert load("digits").identity == load("digits").identity


def test_arrays_are_recognised_by_later_versions() -> None:
    """The digest is stored in runs: one that is computed otherwise would call all data changed."""
    labels = np.arange(192) % 3
    arrays = {
        "x_train": (np.arange(192 * 4) % 251).astype(np.uint8).reshape(192, 2, 2, 1),
        "jpeg": (np.arange(2**19) % 253).astype(np.uint8),  # more than all samples
    }
    found = of_arrays("npz:/a.npz", "abc", {"training": labels, "test": labels[:9]}, arrays)
    assert found.digest == "12ce1607d6945cf300ed83aad0f6d836"
    assert (found.training, found.test) == ((64, 64, 64), (3, 3, 3))


def test_names_without_a_path_stay_as_they_are() -> None:
    assert absolute("digits") == "digits"
    assert absolute("imagefolder:/a/b@32") == "imagefolder:/a/b@32"
    assert Path(absolute("npz:here.npz").removeprefix("npz:")).is_absolute()
    assert absolute("npz:there/../here.npz") == absolute("npz:here.npz")
    assert absolute("imagefolder:photos/") == absolute("imagefolder:./photos")


@pytest.mark.parametrize("spoil", [{"images": {}}, {"class_names": ["a"]}, {"digest": None}])
def test_a_damaged_record_is_refused(photos: Path, spoil: dict[str, object]) -> None:
    record = identity(photos).to_json() | spoil
    if "digest" in spoil:
        del record["digest"]
    with pytest.raises(UserError, match="damaged"):
        Identity.from_json(record)
