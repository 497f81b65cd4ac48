"""Pictures without labels, which a teacher can make use of."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gemkit.data import Dataset, read_files
from gemkit.errors import UserError
from gemkit.files import is_folder
from gemkit.pictures import SUFFIXES, Images, PictureError, PicturesError


@dataclass(frozen=True)
class Unlabelled:
    """The pictures of a folder that may be learnt from.

    Attributes:
        files: in the order of their paths.
        tests, known, unusable: how many were left out because they show the same as a test (or
            validation) image, the same as a training image or another of the folder, or cannot be
            read.
    """

    files: tuple[Path, ...]
    tests: int
    known: int
    unusable: int


def read_unlabelled(folder: Path, dataset: Dataset) -> Unlabelled:
    """Look through a folder and all below it.

    Pictures are compared by their pixels, as `dataset` brings them to its size: copies are found
    under any name, but not where they were changed.

    Raises:
        UserError: no such folder, or it holds no picture that may be used.
    """
    folder = Path(os.path.expanduser(folder))
    if not is_folder(folder):
        raise UserError(f"{folder} is no folder: --unlabelled needs a folder of pictures")
    files = sorted(
        Path(root, name)
        for root, _, names in os.walk(folder)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
    )
    if dataset.x_train.shape[3] != 3:
        raise UserError(f"--unlabelled: {dataset.name} has no colour images, pictures have")
    found = len(files)
    files, pixels = _readable(files, dataset.x_train.shape[1])
    tests = set(_digests(dataset.x_test))
    if dataset.x_validation is not None:
        tests |= set(_digests(dataset.x_validation))
    seen = set(_digests(dataset.x_train))
    kept, left_out = [], 0
    for path, digest in zip(files, _digests(pixels), strict=True):
        if digest in tests:
            left_out += 1
        elif digest not in seen:
            seen.add(digest)
            kept.append(path)
    if not kept:
        raise UserError(
            f"{folder} holds no picture that is new: of {found:,}, {left_out:,} are test images "
            f"and {len(files) - left_out:,} known already"
        )
    return Unlabelled(tuple(kept), left_out, len(files) - left_out - len(kept), found - len(files))


def _readable(files: Sequence[Path], size: int) -> tuple[list[Path], Images]:
    """The files that can be read, and their pixels."""
    if not files:
        return [], np.empty((0, size, size, 3), np.uint8)
    try:
        return list(files), read_files(files, size)
    except PictureError as error:
        bad = {error.what}
    except PicturesError as error:
        bad = {failure.what for failure in error.failures}
    return _readable([path for path in files if str(path) not in bad], size)


def _digests(images: NDArray[np.uint8]) -> Iterable[bytes]:
    for row in range(len(images)):
        yield hashlib.blake2b(np.ascontiguousarray(images[row]).tobytes(), digest_size=16).digest()
