"""Images to learn from: what can be read, and the part of it that the search may see.

A data set is named by a short text: `digits`, `cifar10`, `cifar100`, `imagefolder:PATH`,
`imagefolder:PATH@SIZE` or `npz:FILE`. Whatever the source, `load` returns the same `Dataset` of
uint8 images. Nothing here reads a pickle. `gemkit.cifar` gets CIFAR's archives and
`gemkit.pictures` decodes pictures; what they download or decode once lies in the data folder.

`final_split` keeps some training images from every training: by them the networks of a run are
compared. `proxy_split` divides a part of the others for the trials of a search.
"""

import gzip
import hashlib
import importlib.util
import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gemkit import cifar
from gemkit.errors import UserError
from gemkit.files import is_folder
from gemkit.folders import read_folder
from gemkit.identity import Identity, of_arrays, of_files
from gemkit.npz import StoredImages, read_npz
from gemkit.pictures import (
    Images,
    PictureError,
    PicturesError,
    StreamedImages,
    decoded,
    selected,
)
from gemkit.splits import SPLIT_SEED, Labels, stratified, test_part

SOURCES = ("digits", "cifar10", "cifar100", "imagefolder:PATH", "npz:FILE")
FOLDER_IMAGE_SIZE = 64
"""Pixels to which `imagefolder:PATH` brings every image where no `@SIZE` is given."""
_PROXY_SHARE, _PROXY_LEAST, _VALIDATION_SHARE = 0.1, 1000, 0.25
_PROXY_LEAST_OF_A_CLASS = 4
_HELD_OUT_SHARE, _HELD_OUT_LEAST, _HELD_OUT_MOST = 0.1, 200, 10_000
_HELD_OUT_MOST_OF_FEW = 0.2
_STATISTICS_OF = 10_000  # images, of a set that is streamed


@dataclass(frozen=True)
class Dataset:
    """Images with their classes, divided into training and test.

    Attributes:
        name: what results on it are called, e.g. `CIFAR-10 (JPEG q75 copy)`.
        x_train, x_test: (n, height, width, channels) uint8.
        y_train, y_test: (n,) int64, indices into `class_names`.
        class_names: one name a class.
        mean, std: one value a channel, of the training images scaled to 0..1.
        note: what a reader of the results should know besides the name; may be empty.
        x_validation, y_validation: what trials of the search and final networks are judged by,
            likewise; None where shares of the training images do it.
        identity: by which it is recognised later; None of images that no source was named for.
    """

    name: str
    x_train: Images
    y_train: Labels
    x_test: Images
    y_test: Labels
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    note: str = ""
    x_validation: Images | None = None
    y_validation: Labels | None = None
    identity: Identity | None = None

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width), as networks take it."""
        height, width, channels = self.x_train.shape[1:]
        return channels, height, width

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


@dataclass(frozen=True)
class Split:
    """What networks train on and what they are judged by; arrays as in `Dataset`."""

    x_train: Images
    y_train: Labels
    x_validation: Images
    y_validation: Labels


def load(spec: str) -> Dataset:
    """Read a data set.

    Args:
        spec: `digits` (the handwritten digits that scikit-learn carries), `cifar10`, `cifar100`
            (binary version; looked for in the data folder, then downloaded),
            `imagefolder:PATH` (one folder a class, below `train/` or directly in PATH; images
            are brought to 64x64 pixels, to N x N with `@N` after the path) or `npz:FILE`
            (`x_train`, `y_train`, `x_test`, `y_test`, optional `class_names`, `name` and
            `x_validation`, `y_validation`; or encoded images as `train_bytes` and
            `train_offsets`, likewise for the other parts).

    Raises:
        UserError: unknown name, missing files or bad content, with the file's or row's name.
    """
    source, colon, place = spec.partition(":")
    if not colon and source == "digits":
        return _identified(spec, _digits())
    if not colon and source in cifar.ARCHIVES:
        return _identified(spec, _cifar(source))
    if colon and source in ("npz", "imagefolder"):
        if not place:
            raise UserError(f"{spec!r} names no path: write {source}:PATH")
        if source == "npz":
            return _npz(spec, read_npz(Path(place)))
        return _image_folder(place)
    if os.path.exists(spec):
        kind = "imagefolder" if os.path.isdir(spec) else "npz"
        raise UserError(f"what kind of data {spec!r} is, is not said: write {kind}:{spec}")
    raise UserError(f"unknown data {spec!r}: use one of {', '.join(SOURCES)}")


def _identified(spec: str, dataset: Dataset) -> Dataset:
    """The data set with the identity of its arrays."""
    labels = {"training": dataset.y_train, "test": dataset.y_test}
    images = {"training images": dataset.x_train, "test images": dataset.x_test}
    return replace(dataset, identity=of_arrays(spec, dataset.class_names, labels, images))


def final_split(dataset: Dataset) -> Split:
    """The images that final networks train on, and the hold-out by which they are compared.

    The hold-out is the data set's own validation images. Where there are none, it is a stratified
    tenth of the training images, at least 200 (but no more than a fifth) and at most 10,000;
    always the same ones, which no trial of a search sees either.
    """
    if dataset.x_validation is not None and dataset.y_validation is not None:
        return Split(dataset.x_train, dataset.y_train, dataset.x_validation, dataset.y_validation)
    judging = held_out(dataset)
    train = np.delete(np.arange(len(dataset.y_train)), judging)
    return Split(
        selected(dataset.x_train, train),
        dataset.y_train[train],
        dataset.x_train[judging],
        dataset.y_train[judging],
    )


def held_out(dataset: Dataset) -> NDArray[np.intp]:
    """Rows of the training images in the hold-out; none where the data have validation images."""
    if dataset.x_validation is not None:
        return np.empty(0, dtype=np.intp)
    total = len(dataset.y_train)
    least = min(_HELD_OUT_LEAST, math.floor(_HELD_OUT_MOST_OF_FEW * total))
    count = min(max(round(_HELD_OUT_SHARE * total), least), _HELD_OUT_MOST)
    return stratified(dataset.y_train, count, np.random.default_rng(SPLIT_SEED))


def larger_images(spec: str, dataset: Dataset, side: int) -> tuple[Images, Images]:
    """Training and test images with at least `side` pixels, where the source has larger pictures.

    Args:
        spec: what `dataset` was loaded from. Of a folder of images the same files are read again.

    Raises:
        UserError: the files have changed since.
    """
    kind, _, place = spec.partition(":")
    if kind != "imagefolder" or dataset.x_train.shape[1] >= side:
        return dataset.x_train, dataset.x_test
    root, _ = folder_and_size(place)
    plan = read_folder(root)
    if not np.array_equal(plan.training.labels, dataset.y_train):
        raise UserError(f"{root}: its pictures have changed while they were used")
    return read_files(plan.training.files, side), read_files(plan.test.files, side)


def proxy_split(dataset: Dataset, seed: int) -> Split:
    """The images that trials of the search train and are judged on; never test images.

    A stratified tenth of the training images, but no fewer than 1,000; all of them where fewer
    than twice that many would be left to choose from. A quarter of these is for validation, or
    they are judged by the data set's own validation images, of which no more are taken. The
    hold-out of `final_split` is none of them, unless the data set has validation images.

    Raises:
        UserError: all training images are of one colour.
    """
    check_learnable(dataset)
    rng = np.random.default_rng(seed)
    total = len(dataset.y_train)
    wanted = max(round(total * _PROXY_SHARE), _PROXY_LEAST)
    chosen = np.delete(np.arange(total), held_out(dataset))
    if len(chosen) >= 2 * wanted:
        labels = dataset.y_train[chosen]
        chosen = chosen[stratified(labels, wanted, rng, least=_PROXY_LEAST_OF_A_CLASS)]
    if dataset.x_validation is not None and dataset.y_validation is not None:
        judging = np.arange(len(dataset.y_validation))
        if len(judging) > wanted:
            judging = stratified(dataset.y_validation, wanted, rng, kept=0)
        train = rng.permutation(chosen)
        return Split(
            dataset.x_train[train],
            dataset.y_train[train],
            dataset.x_validation[judging],
            dataset.y_validation[judging],
        )
    count = round(len(chosen) * _VALIDATION_SHARE)
    part = stratified(dataset.y_train[chosen], count, rng, least=1)
    judged = np.zeros(len(chosen), dtype=bool)
    judged[part] = True
    train, validation = rng.permutation(chosen[~judged]), chosen[judged]
    return Split(
        dataset.x_train[train],
        dataset.y_train[train],
        dataset.x_train[validation],
        dataset.y_train[validation],
    )


def check_learnable(dataset: Dataset) -> None:
    """Make sure that the training images show anything.

    Raises:
        UserError: all of them are one colour, and the same.
    """
    images = dataset.x_train
    first = images[0][0, 0]
    step = max(1, 2**24 // images[0].size)
    for start in range(0, len(images), step):
        if (images[start : start + step] != first).any():
            return
    raise UserError(
        f"all training images of {dataset.name} are of one colour ({', '.join(map(str, first))}), "
        "nothing can be learnt from them: they may have been read or saved wrongly"
    )


def limited(dataset: Dataset, images: int | None) -> Dataset:
    """The data set with so many training images, drawn evenly from all classes; all for None.

    Always the same ones, with mean and deviation of their own; test images stay as they are.

    Raises:
        UserError: there are fewer, or fewer are asked for than two a class.
    """
    total, least = len(dataset.y_train), 2 * dataset.classes
    if images is None or images == total:
        return dataset
    if not least <= images <= total:
        raise UserError(
            f"{images} training images of {dataset.name}: use {least} (two a class) to {total}"
        )
    rng = np.random.default_rng(SPLIT_SEED)
    rows = stratified(dataset.y_train, images, rng, kept=0, least=2)
    chosen = dataset.x_train[rows]
    mean, deviation = _statistics(chosen)
    return replace(dataset, x_train=chosen, y_train=dataset.y_train[rows], mean=mean, std=deviation)


def _statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel, scaled to 0..1; a part at a time.

    Exact, but for images that are streamed: of these some ten thousand are looked at.
    """
    if isinstance(images, StreamedImages):
        images = images[:: math.ceil(len(images) / _STATISTICS_OF)]
    channels = images.shape[-1]
    counts = np.zeros((channels, 256), dtype=np.int64)
    step = max(1, 2**22 // images[0].size)
    for start in range(0, len(images), step):
        part = images[start : start + step]
        for channel in range(channels):
            counts[channel] += np.bincount(part[..., channel].ravel(), minlength=256)
    share = counts / counts.sum(axis=1, keepdims=True)
    levels = np.arange(256) / 255
    mean = share @ levels
    deviation = np.sqrt(np.maximum(share @ levels**2 - mean**2, 0))
    # A channel that never changes is left as it is instead of being divided by zero.
    deviation[deviation < 1e-3] = 1.0
    return tuple(mean.tolist()), tuple(deviation.tolist())


def _dataset(
    name: str,
    images: tuple[Images, Images],
    labels: tuple[Labels, Labels],
    class_names: Sequence[str],
    note: str = "",
) -> Dataset:
    mean, deviation = _statistics(images[0])
    return Dataset(
        name, images[0], labels[0], images[1], labels[1], tuple(class_names), mean, deviation, note
    )


# ---------------------------------------------------------------------------------- digits


def _digits() -> Dataset:
    pixels, labels = _digits_of_scikit_learn()
    images = np.rint(pixels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    test = test_part(labels)
    return _dataset(
        "digits",
        (images[~test], images[test]),
        (labels[~test], labels[test]),
        [str(digit) for digit in range(10)],
        "the 8x8 handwritten digits of scikit-learn, 1,437 for training and 360 for the test",
    )


def _digits_of_scikit_learn() -> tuple[NDArray[np.float64], Labels]:
    """Pixels (n, 64), 0 to 16, and labels.

    The file is read where scikit-learn keeps it, because importing scikit-learn takes seconds,
    in every process that trains; should it lie elsewhere one day, scikit-learn is asked.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None:
        raise UserError("the digits come with scikit-learn, which is missing: install it with pip")
    for folder in package.submodule_search_locations or ():
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            with gzip.open(path, "rt") as file:
                table = np.loadtxt(file, delimiter=",")
            return table[:, :-1], table[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return pixels, labels.astype(np.int64)


# ----------------------------------------------------------------------------------- CIFAR


def _cifar(source: str) -> Dataset:
    (x_train, y_train), (x_test, y_test), names = cifar.read(source)
    title = cifar.ARCHIVES[source].title
    return _dataset(title, (x_train, x_test), (y_train, y_test), names)


# ----------------------------------------------------------------------------- imagefolder


def folder_and_size(place: str) -> tuple[Path, int]:
    """The folder and the images' size that `PATH` or `PATH@SIZE` means.

    A folder whose name ends with `@` and digits is meant as a whole.

    Raises:
        UserError: there is no such folder, or the size is out of range.
    """
    path, at, digits = place.rpartition("@")
    size = FOLDER_IMAGE_SIZE
    if not at or not digits.isdecimal() or is_folder(Path(os.path.expanduser(place))):
        path = place
    elif len(digits) > 9 or not 4 <= int(digits) <= 1024:
        raise UserError(f"image size {digits[:9]} is out of range: use 4 to 1024 pixels")
    else:
        size = int(digits)
    root = Path(os.path.expanduser(path))
    if not is_folder(root):
        raise UserError(f"{root} is no folder: imagefolder:PATH needs one folder of images a class")
    return root, size


def _image_folder(place: str) -> Dataset:
    root, size = folder_and_size(place)
    plan = read_folder(root)
    images: dict[str, Images] = {}
    failures: list[PictureError] = []
    for name, part in plan.parts.items():
        try:
            images[name] = read_files(part.files, size)
        except PictureError as error:
            failures.append(error)
        except PicturesError as error:
            failures += error.failures
    if failures:
        raise _unusable(root, failures)
    dataset = _dataset(
        root.resolve().name,
        (images["training"], images["test"]),
        (plan.training.labels, plan.test.labels),
        plan.class_names,
        f"{plan.line()}; brought to {size}x{size} pixels",
    )
    if plan.validation is not None:
        dataset = replace(
            dataset, x_validation=images["validation"], y_validation=plan.validation.labels
        )
    parts = {name: (part.files, part.labels) for name, part in plan.parts.items()}
    identity = of_files(f"imagefolder:{place}", plan.class_names, root, parts)
    return replace(dataset, identity=identity)


def _unusable(root: Path, failures: Sequence[PictureError]) -> UserError:
    """All pictures that cannot be used in one sentence, the first five by name."""
    if len(failures) == 1:
        said = str(failures[0])
    else:
        named = []
        for failure in failures[:5]:
            name = failure.what.removeprefix(f"{root}{os.sep}")
            named.append(f"{name} ({failure.reason})")
        more = f" and {len(failures) - 5} more" if len(failures) > 5 else ""
        said = f"{root}: {len(failures):,} pictures cannot be used: {', '.join(named)}{more}"
    return UserError(
        f"{said}; mend or remove them, or leave them out with: "
        f"gemkit data {shlex.quote(f'imagefolder:{root}')} --skip-unusable"
    )


def read_files(files: Sequence[Path], size: int) -> Images:
    """Pictures as (n, size, size, 3) uint8.

    Raises:
        PictureError, PicturesError: some cannot be used.
    """
    digest = hashlib.sha256(str(size).encode())
    encoded = 0
    for path in files:
        try:
            state = path.stat()
        except OSError:  # a link that leads nowhere, which is said where it is decoded
            continue
        encoded += state.st_size
        # Not every name is UTF-8 on every disk.
        digest.update(os.fsencode(path.resolve()))
        digest.update(f"\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    return decoded(
        f"folder-{digest.hexdigest()[:24]}",
        (len(files), size, size, 3),
        lambda row: (files[row], str(files[row])),
        encoded,
    )


# ------------------------------------------------------------------------------------- npz


def _npz(spec: str, stored: StoredImages) -> Dataset:
    images, labels = stored.images, stored.labels
    dataset = _dataset(
        stored.name,
        (images["training"], images["test"]),
        (labels["training"], labels["test"]),
        stored.class_names,
        stored.note,
    )
    return replace(
        dataset,
        x_validation=images.get("validation"),
        y_validation=labels.get("validation"),
        identity=of_arrays(
            spec,
            stored.class_names,
            labels,
            {f"{part} images": found for part, found in images.items()},
        ),
    )
