"""A run knows its data: what they were, whether they still are, and the pictures that it keeps.

    dataset = for_training(run, None)        the whole data, which must not have changed
    dataset = for_files(run, None)           what files are made and judged with

What later steps need of the pictures lies in the run, in `pictures.npz`: the test images, and the
training images that int8 is calibrated with. So a run whose photographs have been moved, renamed
or lost still exports, with the classes that its networks learned.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np

from gemkit.data import Dataset, load
from gemkit.errors import UserError
from gemkit.export.quantize import CALIBRATION_IMAGES, CHOICE_IMAGES
from gemkit.files import read_arrays, write_bytes
from gemkit.identity import Change, Identity, absolute, changes
from gemkit.records import DataInfo
from gemkit.store import Run, is_run

from .runs import about, data_of

PICTURES = "pictures.npz"
MOST_BYTES = 64_000_000
"""Pictures that take more, as arrays, are not kept."""
NAMES = ("data", "identity")
"""In a configuration; `configuration` compares them, more finely than text by text."""
_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def configuration(path: Path, data: str, dataset: Dataset) -> dict[str, Any]:
    """What the configuration of the run in `path` says of its data, which exist already or not.

    Raises:
        UserError: the run was begun with other data, or these have changed since.
    """
    now = dataset.identity
    wanted = {"data": absolute(data), "identity": None if now is None else now.to_json()}
    if not is_run(path):
        return wanted
    with Run.open(path) as run:
        begun = run.config
    before = begun.get("identity")
    if before is not None and now is not None:
        found = _grave(Identity.from_json(before), now)
        if found and absolute(str(begun["data"])) == absolute(data):
            raise UserError(_sentence(path, found))
        same = not found
    else:  # runs of version 0.1 know the name alone, as it was typed
        same = absolute(str(begun["data"])) == absolute(data)
    if not same:
        raise UserError(
            f"{path} was begun with another configuration: data was {begun['data']}, now {data}. "
            "Resume with the same options or choose another --out"
        )
    return {"data": begun["data"], "identity": before}


def remembered(run: Run) -> Identity | None:
    """The data that a run's networks are trained on; None of runs made before this was kept."""
    known = run.setting("identity", dict[str, Any])
    return None if known is None else Identity.from_json(known)


def remember(run: Run, data: str, dataset: Dataset) -> None:
    """Store what a run's networks are trained on, and where it lies now."""
    run.set_setting("data", about(dataset))
    run.set_setting("identity", None if dataset.identity is None else dataset.identity.to_json())
    if absolute(data) != data_of(run):
        run.set_setting("final_data", absolute(data))


def check_unchanged(run: Run, dataset: Dataset) -> None:
    """Make sure that data are what a run's networks are trained on, wherever they lie now.

    Raises:
        UserError: they are not; the sentence says what changed.
    """
    before = remembered(run)
    if before is not None and dataset.identity is not None:
        found = _grave(before, dataset.identity)
        if found:
            raise UserError(_sentence(run.path, found))


def is_same(run: Run, dataset: Dataset, data: str) -> bool:
    """Whether data are those that a run's networks are trained on."""
    before = remembered(run)
    if before is None or dataset.identity is None:
        return absolute(data) == absolute(data_of(run))
    return not _grave(before, dataset.identity)


def keep_pictures(run: Run, dataset: Dataset) -> None:
    """Keep in the run what later steps need of its pictures, where that is at most MOST_BYTES."""
    count = min(len(dataset.y_train), CALIBRATION_IMAGES + CHOICE_IMAGES)
    path, size = run.path / PICTURES, dataset.x_train[:1].nbytes
    if size * (count + len(dataset.y_test)) > MOST_BYTES:
        path.unlink(missing_ok=True)
        return
    # A stratified sample would be another than the one that whole data give: any will do.
    chosen = np.sort(np.random.default_rng(0).permutation(len(dataset.y_train))[:count])
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        x_train=dataset.x_train[chosen],
        y_train=dataset.y_train[chosen],
        x_test=dataset.x_test[:],
        y_test=dataset.y_test,
    )
    write_bytes(path, buffer.getvalue())


def kept_pictures(run: Run) -> Dataset | None:
    """The pictures that a run keeps, of its training images a sample; None where it keeps none.

    Raises:
        UserError: the file is damaged.
    """
    path, known = run.path / PICTURES, run.setting("data", DataInfo)
    if not path.is_file() or known is None or known.input_shape is None or not known.mean:
        return None
    arrays = read_arrays(path)
    shape = (*known.input_shape[1:], known.input_shape[0])
    if not set(_ARRAYS) <= set(arrays) or any(
        arrays[name].shape[1:] != shape or arrays[name].dtype != np.uint8
        for name in ("x_train", "x_test")
    ):
        raise UserError(f"{path} does not hold the pictures of this run: it is damaged; remove it")
    return Dataset(
        name=known.name,
        **{name: arrays[name] for name in _ARRAYS},
        class_names=known.class_names,
        mean=known.mean,
        std=known.std,
        note=known.note,
        identity=remembered(run),
    )


def for_training(run: Run, dataset: Dataset | None) -> Dataset:
    """A run's whole data: those given or loaded now, which must not have changed.

    Raises:
        UserError: they are not there, or have changed.
    """
    dataset = dataset or load(data_of(run))
    check_unchanged(run, dataset)
    return dataset


def for_files(run: Run, data: str | None, dataset: Dataset | None) -> Dataset:
    """What a run's files are made and judged with: the pictures it keeps, else its data.

    Args:
        data: where the data lie now, if not where they were.
        dataset: the data, where they are loaded already.

    Raises:
        UserError: the data are needed and not there, or have changed.
    """
    found = kept_pictures(run)
    if found is not None and data is None:
        return found
    if data is not None:
        dataset = load(data)
    elif dataset is None:
        try:
            dataset = load(data_of(run))
        except UserError as error:
            raise UserError(
                f"{error}; {run.path} keeps no pictures of its own, which take more than "
                f"{MOST_BYTES // 1_000_000} MB: say with --data where its data are now"
            ) from None
    check_unchanged(run, dataset)
    return dataset


def _grave(before: Identity, now: Identity) -> tuple[Change, ...]:
    """What has changed but the place."""
    return tuple(change for change in changes(before, now) if change.kind != "place")


def _sentence(path: Path, found: tuple[Change, ...]) -> str:
    what = "; ".join(change.sentence for change in found)
    return (
        f"the data of {path} have changed since it was begun: {what}. Put them back as they were, "
        "or search anew with another --out"
    )
