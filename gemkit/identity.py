"""Which data a result belongs to: recorded once, compared by every later step.

    before = load("imagefolder:photos").identity
    ...
    for change in changes(before, load(before.data).identity):
        print(change.sentence)

A digest covers the names and sizes of all files and the contents of some, so that it takes
milliseconds for thousands of photos; a file that was edited without a change of its size can go
unnoticed.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from gemkit.errors import UserError
from gemkit.files import unreadable

_SAMPLES = 64
_SAMPLE_BYTES = 4096
_PATH_KINDS = ("imagefolder", "npz")


@dataclass(frozen=True)
class Identity:
    """By what a set of images is recognised.

    Attributes:
        data: as `gemkit.data.load` takes it, with an absolute path.
        class_names: in the order of the labels.
        training, validation, test: images of each class; no validation images are all zeros.
        digest: of the files' names and sizes and of a sample of their contents, or of arrays.
    """

    data: str
    class_names: tuple[str, ...]
    training: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]
    digest: str

    def to_json(self) -> dict[str, Any]:
        """As a run's configuration keeps it."""
        return {
            "data": self.data,
            "class_names": list(self.class_names),
            "images": {part: list(getattr(self, part)) for part in _PARTS},
            "digest": self.digest,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_json` gave.

        Raises:
            UserError: something is missing or of another kind.
        """
        try:
            names = tuple(str(name) for name in record["class_names"])
            counts = {part: tuple(map(int, record["images"][part])) for part in _PARTS}
            found = cls(str(record["data"]), names, digest=str(record["digest"]), **counts)
        except (KeyError, TypeError, ValueError):
            raise UserError("what is kept of the run's data is damaged") from None
        if any(len(count) != len(names) for count in counts.values()):
            raise UserError("what is kept of the run's data is damaged")
        return found


_PARTS: tuple[Literal["training", "validation", "test"], ...] = ("training", "validation", "test")


@dataclass(frozen=True)
class Change:
    """One difference between the data of a run and the data of now.

    Attributes:
        kind: `classes` (other names, or in another order: outputs would be named wrongly),
            `counts`, `contents` or `place`.
        sentence: for people, without a full stop.
    """

    kind: Literal["classes", "counts", "contents", "place"]
    sentence: str


def changes(before: Identity, now: Identity) -> tuple[Change, ...]:
    """What has changed, the gravest first; nothing where it is the same data at the same place."""
    found: list[Change] = []
    if before.class_names != now.class_names:
        found.append(Change("classes", _renamed(before.class_names, now.class_names)))
    else:
        for part in _PARTS:
            sentence = _counted(part, before, now)
            if sentence:
                found.append(Change("counts", sentence))
    if before.digest != now.digest and not found:
        what = "files have" if before.data.startswith("imagefolder:") else "arrays have"
        found.append(
            Change("contents", f"as many images of the same classes, but some {what} changed")
        )
    if before.data != now.data:
        found.append(Change("place", f"it was {before.data}, now it is {now.data}"))
    return tuple(found)


def absolute(spec: str) -> str:
    """The data's name with an absolute path, so that it means the same from any folder."""
    kind, colon, place = spec.partition(":")
    if not colon or kind not in _PATH_KINDS or not place:
        return spec
    return f"{kind}:{os.path.abspath(os.path.expanduser(place))}"


def of_files(
    spec: str,
    class_names: Sequence[str],
    root: Path,
    parts: Mapping[str, tuple[Sequence[Path], NDArray[np.int64]]],
) -> Identity:
    """The identity of images in files.

    Args:
        parts: `training`, `test` and perhaps `validation` -> files below `root`, and labels.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part, (files, _) in sorted(parts.items()):
        sampled = set(_evenly(len(files)))
        for row, path in enumerate(files):
            try:
                size = path.stat().st_size
                name = os.fsencode(path.relative_to(root).as_posix())
                digest.update(b"%s\0%s\0%d\n" % (part.encode(), name, size))
                if row in sampled:
                    with path.open("rb") as file:
                        digest.update(file.read(_SAMPLE_BYTES))
                        file.seek(max(0, size - _SAMPLE_BYTES))
                        digest.update(file.read(_SAMPLE_BYTES))
            except OSError as error:
                raise unreadable(error, path) from None
    labels = {part: found for part, (_, found) in parts.items()}
    return _identity(spec, class_names, labels, digest.hexdigest())


def of_arrays(
    spec: str,
    class_names: Sequence[str],
    labels: Mapping[str, NDArray[np.int64]],
    arrays: Mapping[str, NDArray[Any]],
) -> Identity:
    """The identity of images in arrays, of which some rows are looked at.

    Args:
        labels: `training`, `test` and perhaps `validation` -> labels.
        arrays: by name: images, or the bytes of pictures.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, array in sorted({**arrays, **labels}.items()):
        digest.update(f"{name} {array.shape} {array.dtype}\n".encode())
        if array.size <= _SAMPLES * _SAMPLE_BYTES and array.ndim == 1:
            digest.update(np.ascontiguousarray(array).tobytes())
            continue
        step = _SAMPLE_BYTES if array.ndim == 1 else 1
        for row in _evenly(len(array)):
            digest.update(np.ascontiguousarray(array[row : row + step]).tobytes())
    return _identity(spec, class_names, labels, digest.hexdigest())


def _identity(
    spec: str, class_names: Sequence[str], labels: Mapping[str, NDArray[np.int64]], digest: str
) -> Identity:
    nothing = np.zeros(0, dtype=np.int64)
    counts = {
        part: tuple(
            np.bincount(labels.get(part, nothing), minlength=len(class_names)).astype(int).tolist()
        )
        for part in _PARTS
    }
    return Identity(absolute(spec), tuple(class_names), digest=digest, **counts)


def _evenly(count: int) -> list[int]:
    """Some of `count` rows, first and last among them."""
    rows = np.linspace(0, max(count - 1, 0), min(count, _SAMPLES)).round().astype(int)
    return [int(row) for row in rows]


def _renamed(before: tuple[str, ...], now: tuple[str, ...]) -> str:
    gone = [name for name in before if name not in now]
    new = [name for name in now if name not in before]
    if not gone and not new:
        return "the classes are in another order"
    said = [
        f"{word} {_listed(names)}" for word, names in (("without", gone), ("with", new)) if names
    ]
    return f"{len(now)} classes, {' and '.join(said)}; there were {len(before)}"


def _counted(
    part: Literal["training", "validation", "test"], before: Identity, now: Identity
) -> str:
    then, found = getattr(before, part), getattr(now, part)
    if then == found:
        return ""
    changed = [
        f"{name} {a:,} -> {b:,}"
        for name, a, b in zip(before.class_names, then, found, strict=True)
        if a != b
    ]
    return (
        f"{sum(found):,} {part} images, there were {sum(then):,} ({_listed(changed, quote=False)})"
    )


def _listed(names: Sequence[str], quote: bool = True) -> str:
    shown = [repr(name) if quote else name for name in names[:5]]
    return ", ".join(shown) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
