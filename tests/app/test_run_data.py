"""What a run knows of its data when these are moved, changed or lost."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gemkit.app import run_data
from gemkit.budget import Budget
from gemkit.data import Dataset, load
from gemkit.errors import UserError
from gemkit.store import Run


def photos(folder: Path, seed: int, names: tuple[str, ...] = ("circle", "cross")) -> str:
    """A folder of a few random pictures of each class, as `--data` takes it."""
    rng = np.random.default_rng(seed)
    for name in names:
        (folder / name).mkdir(parents=True)
        for index in range(12):
            pixels = rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return f"imagefolder:{folder}@8"


@pytest.fixture
def data(tmp_path: Path, seed: int) -> str:
    return photos(tmp_path / "photos", seed)


@pytest.fixture
def run(tmp_path: Path, data: str) -> Run:
    """A run on the photos, open for writing."""
    path, dataset = tmp_path / "run", load(data)
    config = run_data.configuration(path, data, dataset)
    run = Run.create(path, {**config, "budget": Budget(macs=1).to_json(), "seed": 0})
    run_data.remember(run, data, dataset)
    return run


def assert_same_pictures(kept: Dataset, whole: Dataset) -> None:
    np.testing.assert_array_equal(kept.x_test, whole.x_test[:])
    np.testing.assert_array_equal(kept.y_test, whole.y_test)
    # All training images are few enough to be the sample.
    np.testing.assert_array_equal(kept.x_train, whole.x_train[:])
    assert (kept.class_names, kept.mean, kept.std) == (whole.class_names, whole.mean, whole.std)


def test_the_configuration_has_the_absolute_place_and_what_the_data_are(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = run_data.configuration(tmp_path / "new", "imagefolder:photos@8", load(data))
    assert found["data"] == data
    assert found["identity"]["class_names"] == ["circle", "cross"]
    assert sum(map(sum, found["identity"]["images"].values())) == 24
    assert len(found["identity"]["digest"]) >= 16


def test_data_that_only_moved_are_the_same(run: Run, data: str, tmp_path: Path) -> None:
    shutil.move(tmp_path / "photos", tmp_path / "elsewhere")
    moved = f"imagefolder:{tmp_path / 'elsewhere'}@8"
    dataset = load(moved)
    assert run_data.configuration(run.path, moved, dataset)["data"] == data
    run_data.check_unchanged(run, dataset)
    run_data.remember(run, moved, dataset)
    assert load(run_data.data_of(run)).classes == 2


@pytest.mark.parametrize("change", ["renamed", "removed", "edited"])
def test_data_that_changed_are_refused_with_what_changed(
    run: Run, data: str, tmp_path: Path, change: str
) -> None:
    folder = tmp_path / "photos"
    if change == "renamed":
        shutil.move(folder / "circle", folder / "zebra")
    elif change == "removed":
        for index in range(6):
            (folder / "cross" / f"{index}.png").unlink()
    else:
        Image.new("RGB", (9, 9), "red").save(folder / "cross" / "0.png")
        Image.new("RGB", (9, 9), "blue").save(folder / "cross" / "1.png")
    words = {"renamed": "zebra", "removed": "cross 1[0-9] ->", "edited": "files have changed"}
    for again in (
        lambda: run_data.configuration(run.path, data, load(data)),
        lambda: run_data.for_training(run, None),
    ):
        with pytest.raises(UserError, match=f"have changed since.*{words[change]}"):
            again()


def test_other_data_are_another_configuration(run: Run, tmp_path: Path, seed: int) -> None:
    other = photos(tmp_path / "others", seed + 1)
    with pytest.raises(UserError, match="begun with another configuration: data was"):
        run_data.configuration(run.path, other, load(other))


def test_files_are_made_with_the_pictures_of_the_run(run: Run, data: str, tmp_path: Path) -> None:
    whole = load(data)
    run_data.keep_pictures(run, whole)
    assert_same_pictures(run_data.for_files(run, None, None), whole)
    # A class of another name is nothing to networks that learned the old ones; neither are no data.
    shutil.move(tmp_path / "photos" / "circle", tmp_path / "photos" / "zebra")
    assert run_data.for_files(run, None, None).class_names == ("circle", "cross")
    shutil.rmtree(tmp_path / "photos")
    assert_same_pictures(run_data.for_files(run, None, None), whole)


def test_what_takes_too_much_is_asked_for(
    run: Run, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load(data)
    run_data.keep_pictures(run, whole)
    size = whole.x_test[:].nbytes + whole.x_train[:].nbytes
    monkeypatch.setattr(run_data, "MOST_BYTES", size)
    run_data.keep_pictures(run, whole)
    assert (run.path / run_data.PICTURES).is_file()
    monkeypatch.setattr(run_data, "MOST_BYTES", size - 1)
    run_data.keep_pictures(run, whole)
    assert not (run.path / run_data.PICTURES).exists()
    shutil.move(tmp_path / "photos", tmp_path / "elsewhere")
    with pytest.raises(UserError, match="say with --data where its data are now"):
        run_data.for_files(run, None, None)
    found = run_data.for_files(run, f"imagefolder:{tmp_path / 'elsewhere'}@8", None)
    np.testing.assert_array_equal(found.x_test[:], whole.x_test[:])


def test_damaged_pictures_are_refused(run: Run, data: str) -> None:
    run_data.keep_pictures(run, load(data))
    path = run.path / run_data.PICTURES
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"pictures\.npz"):
        run_data.for_files(run, None, None)


def test_a_run_of_version_0_1_goes_by_the_name(tmp_path: Path, data: str) -> None:
    config = {"data": data, "budget": Budget(macs=1).to_json(), "seed": 0}
    with Run.create(tmp_path / "old", config) as run:
        dataset = load(data)
        assert run_data.configuration(run.path, data, dataset) == {"data": data, "identity": None}
        run_data.check_unchanged(run, dataset)
        with pytest.raises(UserError, match="another configuration"):
            run_data.configuration(run.path, "digits", load("digits"))
