"""Images in NumPy's .npz files: as pixels, or as the bytes of pictures."""

import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemkit.errors import UserError
from gemkit.files import read_arrays
from gemkit.pictures import Images, decoded, jpeg_quality, open_image
from gemkit.splits import Labels

MAX_CHANNELS = 16
_USUAL_CHANNELS = (1, 3, 4)

_CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
_PARTS = {"training": "train", "test": "test", "validation": "validation"}


@dataclass(frozen=True)
class StoredImages:
    """What a file holds.

    Attributes:
        name: what results on it are called.
        class_names: one a class.
        images, labels: by part: `training`, `test` and, where the file has it, `validation`.
        note: how the images were stored, if that is known.
    """

    name: str
    class_names: tuple[str, ...]
    images: dict[str, Images]
    labels: dict[str, Labels]
    note: str


def read_npz(path: Path) -> StoredImages:
    """Read a file of images.

    Raises:
        UserError: it is missing or damaged, or an array is of another kind; the sentence names it.
    """
    path = Path(os.path.expanduser(path))
    arrays = read_arrays(path)
    encoded = "train_bytes" in arrays
    keys = {
        part: key
        for part, key in _PARTS.items()
        if part != "validation" or "y_validation" in arrays
    }
    needed = [f"y_{key}" for key in keys.values()]
    for key in keys.values():
        needed += [f"{key}_bytes", f"{key}_offsets"] if encoded else [f"x_{key}"]
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise UserError(
            f"{path} lacks {', '.join(missing)}: it needs x_train, y_train, x_test and y_test, "
            "or train_bytes, train_offsets, test_bytes and test_offsets instead of the images"
        )
    names = _class_names(path, arrays.get("class_names"))
    labels = {part: _labels(path, f"y_{key}", arrays[f"y_{key}"]) for part, key in keys.items()}
    if not names:
        names = tuple(str(label) for label in range(int(labels["training"].max()) + 1))
    note, shape = "", None
    images: dict[str, Images] = {}
    for part, key in keys.items():
        if encoded:
            images[part], note, shape = _encoded(path, key, arrays, shape)
        else:
            images[part] = _pixels(path, f"x_{key}", arrays[f"x_{key}"])
        if images[part].shape[1:] != images["training"].shape[1:]:
            raise UserError(
                f"{path}: training images are {_size(images['training'])}, {part} images "
                f"{_size(images[part])}; they must be alike"
            )
    for part, key in keys.items():
        if len(images[part]) != len(labels[part]):
            raise UserError(
                f"{path}: {len(images[part])} images and {len(labels[part])} labels for {key}"
            )
        _check_classes(path, f"y_{key}", labels[part], names, complete=part == "training")
    unused = sorted(set(arrays) - set(needed) - {"class_names", "name"})
    name = _npz_name(path, arrays.get("name"), names, images["training"], note)
    if unused:
        left_out = f"not used: {', '.join(unused[:5])}{' and more' if len(unused) > 5 else ''}"
        note = f"{note}; {left_out}" if note else left_out
    return StoredImages(name, names, images, labels, note)


def _class_names(path: Path, names: NDArray[Any] | None) -> tuple[str, ...]:
    if names is None:
        return ()
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise UserError(f"{path}: class_names must be a list of texts")
    texts = [
        name.decode(errors="replace") if isinstance(name, bytes) else name
        for name in names.tolist()
    ]
    for place, text in enumerate(texts):
        if not text.strip() or text in texts[:place]:
            raise UserError(f"{path}: class name {place} ({text!r}) is empty or given twice")
    return tuple(texts)


def _labels(path: Path, key: str, labels: NDArray[Any]) -> Labels:
    if labels.ndim != 1:
        raise UserError(f"{path}: {key} has shape {labels.shape}, it must be (n,)")
    if len(labels) == 0:
        raise UserError(f"{path}: {key} is empty")
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        raise UserError(f"{path}: {key} holds NaN at row {int(np.argmax(np.isnan(labels)))}")
    if labels.dtype.kind not in "iu":
        raise UserError(f"{path}: {key} holds {labels.dtype} values, labels must be integers")
    if labels.min() < 0:
        row = int(np.argmax(labels < 0))
        raise UserError(f"{path}: {key} holds {labels[row]} at row {row}, labels begin with 0")
    if labels.max() >= 100_000:
        row = int(np.argmax(labels >= 100_000))
        raise UserError(f"{path}: {key} holds {labels[row]} at row {row}, which is no class index")
    return labels.astype(np.int64)


def _check_classes(
    path: Path, key: str, labels: Labels, names: tuple[str, ...], complete: bool
) -> None:
    if labels.max() >= len(names):
        row = int(np.argmax(labels >= len(names)))
        raise UserError(
            f"{path}: {key} holds {labels[row]} at row {row}, the classes are 0 to {len(names) - 1}"
        )
    if not complete:
        return
    sizes = np.bincount(labels, minlength=len(names))
    if (sizes > 0).sum() < 2:
        raise UserError(f"{path}: {key} holds one class only, at least two are needed")
    if (sizes == 0).any():
        empty = int(np.argmax(sizes == 0))
        raise UserError(f"{path}: class {empty} ({names[empty]}) has no training images")


def _pixels(path: Path, key: str, images: NDArray[Any]) -> Images:
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        row = int(np.argwhere(~np.isfinite(images))[0][0])
        raise UserError(f"{path}: {key} holds NaN or infinity at row {row}")
    if images.dtype != np.uint8:
        raise UserError(
            f"{path}: {key} holds {images.dtype} values, images must be uint8 from 0 to 255"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4:
        raise UserError(
            f"{path}: {key} has shape {images.shape}, it must be (n, height, width) or "
            "(n, height, width, channels)"
        )
    if 0 in images.shape:
        raise UserError(f"{path}: {key} is empty, its shape is {images.shape}")
    if images.shape[1] in _USUAL_CHANNELS and min(images.shape[2:]) > max(_USUAL_CHANNELS):
        raise UserError(
            f"{path}: {key} has shape {images.shape}, which looks like channels first; channels "
            f"come last: save {key}.transpose(0, 2, 3, 1)"
        )
    if images.shape[-1] > MAX_CHANNELS:
        raise UserError(
            f"{path}: {key} has shape {images.shape}, which means {images.shape[-1]} channels, "
            f"at most {MAX_CHANNELS} are possible; channels come last"
        )
    return np.ascontiguousarray(images)


def _encoded(
    path: Path, part: str, arrays: dict[str, NDArray[Any]], shape: tuple[int, int, int] | None
) -> tuple[Images, str, tuple[int, int, int]]:
    """Decode `PART_bytes`; all pictures have the size of the first training picture."""
    content, offsets = arrays[f"{part}_bytes"], arrays[f"{part}_offsets"]
    if content.dtype != np.uint8 or content.ndim != 1:
        raise UserError(f"{path}: {part}_bytes must be a flat array of uint8")
    if offsets.ndim != 1 or offsets.dtype.kind not in "iu" or len(offsets) < 2:
        raise UserError(f"{path}: {part}_offsets must be a flat array of n + 1 integers")
    bounds = offsets.astype(np.int64)
    wrong = np.flatnonzero((np.diff(bounds) <= 0) | (bounds[:-1] < 0) | (bounds[1:] > len(content)))
    if len(wrong):
        raise UserError(
            f"{path}: {part}_offsets at row {wrong[0]} ({bounds[wrong[0]]} to "
            f"{bounds[wrong[0] + 1]}) do not lie inside the {len(content)} bytes of {part}_bytes"
        )

    def picture(row: int) -> tuple[bytes, str]:
        return content[bounds[row] : bounds[row + 1]].tobytes(), f"{path}: {part} image {row}"

    first, what = picture(0)
    try:
        with open_image(io.BytesIO(first)) as image:
            quality = jpeg_quality(image)
            if shape is None:
                shape = (image.height, image.width, 1 if image.mode == "L" else 3)
    except Exception:
        raise UserError(f"{what} cannot be decoded: no readable picture") from None

    key = hashlib.sha256(repr(shape).encode())
    key.update(bounds.tobytes())
    key.update(content.tobytes())
    images = decoded(
        f"npz-{key.hexdigest()[:24]}", (len(bounds) - 1, *shape), picture, len(content)
    )
    return images, f"decoded from {quality}", shape


def _npz_name(
    path: Path,
    given: NDArray[Any] | None,
    names: tuple[str, ...],
    images: Images,
    note: str,
) -> str:
    """The name in the file; else CIFAR-10's copy by its classes and size; else the file's name."""
    if given is not None:
        if given.ndim != 0 or given.dtype.kind != "U" or not str(given).strip():
            raise UserError(f"{path}: name must be one text")
        return str(given).strip()
    if names == _CIFAR10_CLASSES and images.shape[1:] == (32, 32, 3):
        kind = note.removeprefix("decoded from ")
        return f"CIFAR-10 ({kind} copy)" if kind else "CIFAR-10 (copy)"
    return path.stem


def _size(images: Images) -> str:
    height, width, channels = images.shape[1:]
    return f"{height}x{width}x{channels}"
