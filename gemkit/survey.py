"""A look at a data set before anything is trained on it: what is there, and what may mislead."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemkit.data import folder_and_size, load
from gemkit.folder_tree import SKIP_LIST, skip_from_now_on
from gemkit.folders import FolderPlan, read_folder
from gemkit.identity import absolute
from gemkit.machine import usable_cores
from gemkit.pictures import Images, PictureError, read_picture, stored_size
from gemkit.splits import Labels

_BLOCK = 256  # images looked at at once
_UNEVEN = 3  # times as many images in the largest class as in the smallest
_TINY = 20  # training images of a class
_VAGUE = 0.03  # what the share of right answers may be off by, of 1


@dataclass(frozen=True)
class Survey:
    """What a look at a data set found.

    Attributes:
        data: its name, with an absolute path.
        class_names: in the order of the labels.
        images: part (`training`, `validation`, `test`) -> images of each class.
        shape: (height, width, channels) as networks see them.
        stored: smallest, median and largest (width, height) in files; None of arrays.
        plan: what the folder means; None of arrays.
        unusable: pictures that cannot be read.
        one_colour: part -> images of one colour only.
        alike: training images that look just like one that judges, though their files differ.
        ambiguous: training images that are in two classes.
        samples: part -> a few images of each class, (classes, k, height, width, channels), and
            how many of the k there are, (classes,).
    """

    data: str
    class_names: tuple[str, ...]
    images: dict[str, tuple[int, ...]]
    shape: tuple[int, int, int]
    stored: tuple[tuple[int, int], ...] | None
    plan: FolderPlan | None
    unusable: tuple[PictureError, ...]
    one_colour: dict[str, int]
    alike: int
    ambiguous: int
    samples: dict[str, tuple[Images, NDArray[np.int64]]]

    @property
    def constant_answer(self) -> tuple[str, float]:
        """The most frequent class of training, and the share of test images it is right for."""
        label = int(np.argmax(self.images["training"]))
        test = self.images["test"]
        return self.class_names[label], test[label] / max(sum(test), 1)

    def warnings(self) -> list[str]:
        """What may mislead, a sentence each without full stop."""
        training, test = self.images["training"], self.images["test"]
        name, right = self.constant_answer
        most, least = int(np.argmax(training)), int(np.argmin(training))
        found = []
        if training[most] >= _UNEVEN * training[least]:
            found.append(
                f"the classes are uneven: {training[most]:,} training images of {name!r}, "
                f"{training[least]:,} of {self.class_names[least]!r}; always answering {name!r} "
                f"would be right for {100 * right:.1f} % of the test images"
            )
        found += self._lacking()
        tiny = [self.class_names[label] for label, n in enumerate(training) if n < _TINY]
        if tiny:
            found.append(f"fewer than {_TINY} training images of {_listed(tiny)}")
        for part, count in self.one_colour.items():
            if count:
                found.append(f"{part} images of one colour: {count:,}")
        if self.plan is not None and self.plan.copies:
            found.append(
                f"the same files in two parts: {len(self.plan.copies):,}, which judge only"
            )
        if self.alike:
            found.append(
                f"training images that look just like one that judges, in other files: "
                f"{self.alike:,}"
            )
        if self.ambiguous:
            found.append(f"training images that are in two classes: {self.ambiguous:,}")
        if self.unusable:
            found.append(f"pictures that cannot be used: {len(self.unusable):,}")
        error = 1.96 * math.sqrt(0.25 / max(sum(test), 1))
        if error > _VAGUE:
            found.append(
                f"{sum(test):,} test images give an accuracy to about {100 * error:.0f} points"
            )
        if self.stored is not None and min(self.stored[1]) < min(self.shape[:2]):
            found.append(
                f"half of the images are smaller than the {self.shape[1]}x{self.shape[0]} pixels "
                "they are brought to"
            )
        return found

    def _lacking(self) -> Iterator[str]:
        for part in ("validation", "test"):
            counts = self.images.get(part)
            if counts:
                lacking = [self.class_names[label] for label, n in enumerate(counts) if not n]
                if lacking:
                    yield f"no {part} images of {_listed(lacking)}"

    def to_json(self) -> dict[str, Any]:
        """As `gemkit data --json` gives it."""
        name, right = self.constant_answer
        height, width, channels = self.shape
        plan = self.plan
        return {
            "data": self.data,
            "class_names": list(self.class_names),
            "images": {part: list(counts) for part, counts in self.images.items()},
            "input_shape": [channels, height, width],
            "stored_sizes": None
            if self.stored is None
            else dict(zip(("smallest", "median", "largest"), map(list, self.stored), strict=True)),
            "constant_answer": {"class": name, "accuracy": right},
            "skipped": []
            if plan is None
            else [
                {"reason": some.reason, "files": list(map(str, some.files))}
                for some in plan.skipped
            ],
            "copies": []
            if plan is None
            else [
                {"left_out": str(copy.left_out), "same_as": str(copy.same_as)}
                for copy in plan.copies
            ],
            "unusable": [{"file": one.what, "reason": one.reason} for one in self.unusable],
            "one_colour": self.one_colour,
            "alike": self.alike,
            "ambiguous": self.ambiguous,
            "remarks": [] if plan is None else list(plan.remarks),
            "warnings": self.warnings(),
        }


def survey(spec: str, samples: int = 8) -> Survey:
    """Look at all images of a data set, a block at a time.

    Args:
        spec: as `gemkit.data.load` takes it.
        samples: images of each class and part that are kept to be shown.

    Raises:
        UserError: the data cannot be read; single pictures that cannot do not matter.
    """
    kind, _, place = spec.partition(":")
    if kind == "imagefolder" and place:
        root, size = folder_and_size(place)
        plan = read_folder(root)
        parts = {name: (part.files, part.labels) for name, part in plan.parts.items()}
        return _surveyed(spec, plan.class_names, (size, size, 3), parts, plan, samples)
    data = load(spec)
    arrays: dict[str, tuple[Any, Labels]] = {
        "training": (data.x_train, data.y_train),
        "test": (data.x_test, data.y_test),
    }
    if data.x_validation is not None and data.y_validation is not None:
        arrays["validation"] = (data.x_validation, data.y_validation)
    channels, height, width = data.input_shape
    return _surveyed(spec, data.class_names, (height, width, channels), arrays, None, samples)


def skip_unusable(found: Survey) -> Path | None:
    """Leave the unusable pictures of a folder out from now on; the list's path, or None."""
    if found.plan is None or not found.unusable:
        return None
    skip_from_now_on(found.plan.root, [Path(one.what) for one in found.unusable])
    return found.plan.root / SKIP_LIST


def _surveyed(
    spec: str,
    class_names: tuple[str, ...],
    shape: tuple[int, int, int],
    parts: dict[str, tuple[Any, Labels]],
    plan: FolderPlan | None,
    samples: int,
) -> Survey:
    unusable: list[PictureError] = []
    sizes: list[tuple[int, int]] = []
    one_colour: dict[str, int] = {}
    seen: dict[bytes, set[tuple[str, int]]] = defaultdict(set)  # content -> part and label
    copies: dict[bytes, int] = defaultdict(int)  # content -> training images
    kept: dict[str, tuple[Images, NDArray[np.int64]]] = {}
    for part, (images, labels) in parts.items():
        shown = np.full((len(class_names), samples, *shape), 255, dtype=np.uint8)
        counts = np.zeros(len(class_names), dtype=np.int64)
        one_colour[part] = 0
        for start in range(0, len(labels), _BLOCK):
            block, rows = _block(images, start, shape, unusable, sizes)
            for pixels, row in zip(block, rows, strict=True):
                label = int(labels[row])
                if counts[label] < samples:
                    shown[label, counts[label]] = pixels
                    counts[label] += 1
                if (pixels == pixels[0, 0]).all():
                    one_colour[part] += 1
                    continue
                content = hashlib.blake2b(pixels.tobytes(), digest_size=16).digest()
                seen[content].add((part, label))
                copies[content] += part == "training"
        kept[part] = shown, counts
    judged = {
        content for content, places in seen.items() if any(part != "training" for part, _ in places)
    }
    classes_of = {
        content: {label for part, label in places if part == "training"}
        for content, places in seen.items()
    }
    return Survey(
        absolute(spec),
        class_names,
        {
            part: tuple(np.bincount(labels, minlength=len(class_names)).tolist())
            for part, (_, labels) in parts.items()
        },
        shape,
        _three(sizes) if plan is not None and sizes else None,
        plan,
        tuple(unusable),
        one_colour,
        sum(copies[content] for content in judged),
        sum(copies[content] for content, classes in classes_of.items() if len(classes) > 1),
        kept,
    )


def _block(
    images: Any,
    start: int,
    shape: tuple[int, int, int],
    unusable: list[PictureError],
    sizes: list[tuple[int, int]],
) -> tuple[Images, list[int]]:
    """Some images and their rows; what cannot be read is noted and left out."""
    if not isinstance(images, tuple):
        block = np.asarray(images[start : start + _BLOCK])
        return block, list(range(start, start + len(block)))
    height, width, channels = shape

    def read(path: Path) -> tuple[Images, tuple[int, int]] | PictureError:
        try:
            return read_picture(path, (channels, height, width)), stored_size(path)
        except PictureError as error:
            return error

    with ThreadPoolExecutor(usable_cores()) as pool:
        found = list(pool.map(read, images[start : start + _BLOCK]))
    usable, rows = [], []
    for row, one in enumerate(found, start):
        if isinstance(one, PictureError):
            unusable.append(one)
        else:
            usable.append(one[0])
            sizes.append(one[1])
            rows.append(row)
    return np.array(usable, dtype=np.uint8).reshape(-1, *shape), rows


def _three(sizes: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The smallest, median and largest of sizes, by their pixels."""
    ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    return ordered[0], ordered[len(ordered) // 2], ordered[-1]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")
