"""Views of images: crops, mirrorings and changes of colour that a teacher and its student share.

The student is to learn what the teacher says of exactly what the student sees, for long (Beyer et
al. 2022, "Knowledge distillation: A good teacher is patient and consistent"). So a bank of views
is made once: of every image the whole and a number of random crops, each small as the student
takes it, and the teacher's outputs for the same crop in the teacher's size.

A bank is a folder of `VIEW.npy` (images) and `VIEW-outputs.npy`; each is written whole, so an
interrupted bank goes on with the next view.
"""

import hashlib
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from scipy.special import softmax

from gemkit.errors import UserError
from gemkit.files import explain, read_json, replacing, write_json
from gemkit.machine import usable_cores
from gemkit.pictures import Images
from gemkit.teachers import Teacher

VIEWS = 16
"""Views of an image."""
MOST_BYTES = 4 * 2**30
"""What a bank may take on disk; of larger sets fewer views are made."""
_LEAST_SHARE, _ASPECT = 0.3, 4 / 3  # of a crop's area, and its longest form
_COLOURED, _COLOUR = 0.6, 0.35  # share of views with changed colours, and how far at most
_BLOCK = 64
_SHARES, _BANK = "shares.npy", "bank.json"


@dataclass(frozen=True)
class Lessons:
    """What a student is shown: views of images, and the classes that its teacher sees in them.

    Attributes:
        images: one array (n, h, w, c) uint8 a view.
        shares: (views, n, classes), the teacher's share for each class, adding up to 1.
    """

    images: tuple[Images, ...]
    shares: NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.images[0])

    def pixels(self, rows: NDArray[np.int64], views: NDArray[np.int64]) -> Images:
        """Some images (m, h, w, c), each in one view."""
        found = np.empty((len(rows), *self.images[0].shape[1:]), np.uint8)
        for view in np.unique(views):
            places = np.flatnonzero(views == view)
            found[places] = self.images[view][rows[places]]
        return found


class LargeView:
    """One view of images as a teacher sees it, cut anew whenever some are asked for.

    Behaves like an array (n, side, side, c) uint8 of which rows are taken.
    """

    def __init__(self, images: Images, view: int, teacher: Teacher) -> None:
        self._images, self._view, self._teacher = images, view, teacher
        self.shape = (len(images), teacher.side, teacher.side, teacher.channels)
        self.nbytes = math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Images:
        given = np.arange(len(self))[rows]
        shape = (self._images.shape[3], 1, 1)
        seen = [
            _seen(self._images[row], row, self._view, shape, self._teacher)[1]
            for row in np.atleast_1d(given)
        ]
        return np.stack(seen) if given.ndim else seen[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)


def write_lessons(folder: Path, bank: Path, logits: Sequence[NDArray[Any]]) -> None:
    """Keep what a teacher sees in the views of a bank, one array (n, classes) of logits a view."""
    shares = [softmax(one.astype(np.float32), axis=1).astype(np.float16) for one in logits]
    _write(folder / _SHARES, np.stack(shares))
    write_json(folder / _BANK, {"bank": str(bank.resolve())})


def read_lessons(folder: Path) -> Lessons:
    """Open what `write_lessons` kept, and the bank's images.

    Raises:
        UserError: they are not there, or damaged.
    """
    bank = Path(read_json(folder / _BANK)["bank"])
    try:
        shares = np.load(folder / _SHARES, allow_pickle=False)
        images = [
            np.load(_images_file(bank, view), mmap_mode="r", allow_pickle=False)
            for view in range(len(shares))
        ]
    except (OSError, ValueError, EOFError):
        raise UserError(
            f"the views that the teacher saw are not whole in {bank}: remove {folder} and run the "
            "same command again"
        ) from None
    return Lessons(tuple(images), shares)


def bank_folder(
    data_folder: Path, teacher: Teacher, sources: Sequence[Images], shape: tuple[int, int, int]
) -> Path:
    """Where the bank of a teacher, of images and of a student's input lies; it changes with each.

    Args:
        shape: channels, height and width, as the student takes them.
    """
    digest = hashlib.blake2b(repr((teacher.digest, teacher.side, shape)).encode(), digest_size=12)
    for images in sources:
        digest.update(repr(images.shape).encode())
        for row in range(0, len(images), max(1, len(images) // 1000)):
            digest.update(np.ascontiguousarray(images[row]).tobytes())
    return data_folder / "views" / digest.hexdigest()


def affordable_views(images: int, shape: tuple[int, int, int]) -> int:
    """How many views of so many images a bank may hold: `VIEWS`, or fewer of a large set."""
    return max(2, min(VIEWS, MOST_BYTES // max(images * math.prod(shape), 1)))


def make_bank(
    folder: Path,
    teacher: Teacher,
    sources: Sequence[Images],
    shape: tuple[int, int, int],
    views: int = VIEWS,
    progress: Callable[[int], None] | None = None,
) -> tuple[NDArray[Any], ...]:
    """Make the views that are not there yet; gives the teacher's outputs (n, d), one array a view.

    Args:
        sources: images (n, side, side, c) uint8, larger than the student's where there are such;
            the rows of all parts count on.
        shape: channels, height and width, as the student takes them.
        progress: called with the number of images done, of `views` times all.

    Raises:
        UserError: the disk is too small or cannot be written.
    """
    total = sum(len(images) for images in sources)
    small = total * math.prod(shape)
    done = [view for view in range(views) if _outputs_file(folder, view).is_file()]
    _check_room(folder, (views - len(done)) * small)
    count = len(done) * total
    if progress is not None:
        progress(count)
    with ThreadPoolExecutor(usable_cores()) as pool:
        for view in range(views):
            if view in done:
                continue
            channels, height, width = shape
            images = np.empty((total, height, width, channels), np.uint8)
            outputs: list[NDArray[np.float16]] = []
            blocks = _blocks(sources, view, shape, teacher, pool)
            for place, (shown, seen) in blocks:
                images[place : place + len(shown)] = shown
                outputs.append(teacher.outputs(seen).astype(np.float16))
                count += len(shown)
                if progress is not None:
                    progress(count)
            _write(_images_file(folder, view), images)
            _write(_outputs_file(folder, view), np.concatenate(outputs))
    return tuple(np.load(_outputs_file(folder, view)) for view in range(views))


def _images_file(folder: Path, view: int) -> Path:
    return folder / f"{view}.npy"


def _outputs_file(folder: Path, view: int) -> Path:
    return folder / f"{view}-outputs.npy"


def _check_room(folder: Path, wanted: int) -> None:
    there = next(parent for parent in folder.parents if parent.is_dir())
    free = shutil.disk_usage(there).free
    if wanted > free:
        raise UserError(
            f"the views of the images take {wanted / 1e9:.1f} GB, {there} has {free / 1e9:.1f} GB "
            "left: free some, or let the variable GEMKIT_DATA name a folder on another disk"
        )


def _write(path: Path, array: NDArray[Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.save(file, array, allow_pickle=False)
    except OSError as error:
        raise explain(error, path) from None


def outputs_of(teacher: Teacher, images: Images) -> NDArray[np.float32]:
    """A teacher's outputs (n, d) for whole images (n, h, w, c) uint8 of any size."""
    shape = (images.shape[3], *images.shape[1:3])
    with ThreadPoolExecutor(usable_cores()) as pool:
        blocks = _blocks([images], 0, shape, teacher, pool)
        return np.concatenate([teacher.outputs(seen) for _, (_, seen) in blocks])


def _blocks(
    sources: Sequence[Images],
    view: int,
    shape: tuple[int, int, int],
    teacher: Teacher,
    pool: ThreadPoolExecutor,
) -> Iterator[tuple[int, tuple[Images, Images]]]:
    """A view of all images, some at a time, as the student and as the teacher see it."""
    first = 0
    for images in sources:
        for start in range(0, len(images), _BLOCK):
            part = images[start : start + _BLOCK]
            rows = range(first + start, first + start + len(part))
            pairs = list(
                pool.map(lambda row, pixels: _seen(pixels, row, view, shape, teacher), rows, part)
            )
            yield rows[0], (np.stack([a for a, _ in pairs]), np.stack([b for _, b in pairs]))
        first += len(images)


def _seen(
    pixels: Images, row: int, view: int, shape: tuple[int, int, int], teacher: Teacher
) -> tuple[Images, Images]:
    """One image in one view, for the student and for the teacher."""
    channels, height, width = shape
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    box: tuple[float, float, float, float] = (0.0, 0.0, float(image.width), float(image.height))
    if view:
        image, box = _changed(image, np.random.default_rng((row, view)))
    small = image.convert("L" if channels == 1 else "RGB").resize(
        (width, height), Image.Resampling.BILINEAR, box=box
    )
    large = image.convert("L" if teacher.channels == 1 else "RGB").resize(
        (teacher.side, teacher.side), Image.Resampling.BICUBIC, box=box
    )
    return (
        np.asarray(small, np.uint8).reshape(height, width, channels),
        np.asarray(large, np.uint8).reshape(teacher.side, teacher.side, teacher.channels),
    )


def _changed(
    image: Image.Image, rng: np.random.Generator
) -> tuple[Image.Image, tuple[float, float, float, float]]:
    """Colours changed and mirrored at random, and the box of a random crop."""
    side = min(image.size)
    area = side * side * rng.uniform(_LEAST_SHARE, 1)
    form = math.exp(rng.uniform(-math.log(_ASPECT), math.log(_ASPECT)))
    width, height = (min(math.sqrt(area * one), side) for one in (form, 1 / form))
    left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
    if rng.random() < _COLOURED:
        for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = change(image).enhance(rng.uniform(1 - _COLOUR, 1 + _COLOUR))
    if image.mode == "RGB" and rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image, (left, top, left + width, top + height)
