"""What a training step is given: images that were shuffled, changed at random and normalised.

Images stay uint8 until a batch is taken; augmentation is a few tensor operations a batch on the
device. What changes them is set by `gemkit.recipe.Recipe`.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gemkit.recipe import Recipe
from gemkit.views import Lessons

_READERS, _AHEAD = 2, 4  # threads that read batches from disk, and how many batches ahead
_ON_DEVICE_BYTES = 4 * 2**30  # larger data sets go to the GPU batch by batch
_PIXELS_AT_ONCE = 2**23  # values that one operation of augmentation changes on a GPU


class Normalisation:
    """uint8 images (n, h, w, c) -> normalised float images (n, c, h, w) in a layout."""

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        layout: torch.memory_format,
    ) -> None:
        self._layout = layout
        self._mean = torch.tensor(mean, dtype=torch.float32, device=device) * 255
        self._scale = 1 / (torch.tensor(std, dtype=torch.float32, device=device) * 255)

    def __call__(self, images: Tensor) -> Tensor:
        normal = (images.float() - self._mean) * self._scale
        # clone, because `contiguous` leaves an image of one channel with its old strides.
        return normal.permute(0, 3, 1, 2).clone(memory_format=self._layout)


class Batches:
    """Shuffled, augmented batches, whose random numbers follow from each epoch's seed."""

    def __init__(
        self,
        x: NDArray[np.uint8],
        y: NDArray[np.int64],
        recipe: Recipe,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        layout: torch.memory_format = torch.channels_last,
    ) -> None:
        self._recipe, self._device = recipe, device
        self._normalise = Normalisation(mean, std, device, layout)
        self._array = x
        self._images: Tensor | None = None
        if device.type == "cuda" and x.nbytes <= _ON_DEVICE_BYTES:
            self._images = torch.from_numpy(np.array(x)).to(device)
        self._labels = torch.from_numpy(np.array(y)).to(device)
        self._flip = x.shape[3] == 3 if recipe.flip is None else recipe.flip
        self._order_rng = torch.Generator()
        self._rng = torch.Generator(device) if device.type == "cuda" else self._order_rng

    def epoch(
        self, batch: int, steps: int, seed: int, rank: int = 0, ranks: int = 1, own_seed: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """`steps` batches of different images; what does not fill a batch is left out.

        Of several processes each takes every `ranks`-th image of a batch, and augments with
        random numbers of its `own_seed`.
        """
        self._order_rng.manual_seed(seed)
        order = torch.randperm(len(self._labels), generator=self._order_rng)
        if ranks > 1 or self._rng is not self._order_rng:
            self._rng.manual_seed(own_seed if ranks > 1 else seed)
        if self._images is not None:  # at once, since every copy makes the GPU wait
            order = order.to(self._device)
        parts = [order[step * batch : (step + 1) * batch][rank::ranks] for step in range(steps)]
        size = len(parts[0])
        for rows, images in self._read(self._joined(parts)):
            images = self._cut(self._normalise(self._moved(images)))
            labels = self._labels[rows]
            yield from zip(torch.split(images, size), torch.split(labels, size), strict=True)

    def _joined(self, parts: list[Tensor]) -> list[Tensor]:
        """Several batches in one where images lie on the GPU, which small operations leave idle."""
        if self._images is None:
            return parts
        pixels = len(parts[0]) * math.prod(self._array.shape[1:])
        many = max(1, _PIXELS_AT_ONCE // pixels)
        return [torch.cat(parts[at : at + many]) for at in range(0, len(parts), many)]

    def _read(self, parts: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows and images of every batch on the device; those from disk are read ahead."""
        if self._images is not None:
            for rows in parts:
                yield rows, self._images[rows]
            return

        def pixels(part: Tensor) -> Tensor:
            return torch.from_numpy(np.asarray(self._array[part.numpy()]))

        if type(self._array) is np.ndarray:
            for part in parts:
                yield part.to(self._device), pixels(part).to(self._device)
            return
        with ThreadPoolExecutor(_READERS) as readers:
            coming = deque(readers.submit(pixels, part) for part in parts[:_AHEAD])
            for place, part in enumerate(parts):
                images = coming.popleft().result()
                if place + _AHEAD < len(parts):
                    coming.append(readers.submit(pixels, parts[place + _AHEAD]))
                yield part.to(self._device), images.to(self._device)

    def _moved(self, images: Tensor) -> Tensor:
        """Shift and mirror by choosing, for every image, which rows and columns it shows."""
        count, height, width = images.shape[:3]
        down, across = (round(self._recipe.crop * side) for side in (height, width))
        if not (down or across or self._flip):
            return images
        rows = self._shifted(count, height, down)
        columns = self._shifted(count, width, across)
        if self._flip:
            mirrored = self._uniform(count) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        each = torch.arange(count, device=self._device)[:, None, None]
        return images[each, rows[:, :, None], columns[:, None, :]]

    def _shifted(self, count: int, side: int, most: int) -> Tensor:
        shift = self._integers(-most, most + 1, count)
        places = (torch.arange(side, device=self._device) + shift).abs()
        return (side - 1) - ((side - 1) - places).abs()  # reflected at both ends

    def _integers(self, low: int, high: int, count: int) -> Tensor:
        """Random whole numbers from low to below high, (count, 1)."""
        return torch.randint(low, high, (count, 1), generator=self._rng, device=self._device)

    def _uniform(self, count: int) -> Tensor:
        """Random numbers from 0 to below 1, (count, 1)."""
        return torch.rand(count, 1, generator=self._rng, device=self._device)

    def _cut(self, images: Tensor) -> Tensor:
        """Blank a square around a point that is uniform over the image, as far as it is inside."""
        count, _, height, width = images.shape
        square = round(self._recipe.cutout * min(height, width))
        if not square:
            return images
        covered = []
        for length in (height, width):
            first = self._integers(0, length, count) - square // 2
            at = torch.arange(length, device=self._device)
            covered.append((first <= at) & (at < first + square))
        return images.masked_fill((covered[0][:, :, None] & covered[1][:, None, :])[:, None], 0)


class TaughtBatches(Batches):
    """Batches of views of images, each with the class shares that a teacher saw in that view.

    Beside what the recipe says the views are not changed: the student sees what the teacher saw.
    """

    def __init__(
        self,
        lessons: Lessons,
        recipe: Recipe,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        layout: torch.memory_format = torch.channels_last,
    ) -> None:
        unlabelled = np.zeros(len(lessons), np.int64)
        super().__init__(lessons.images[0], unlabelled, recipe, mean, std, device, layout)
        self._lessons = lessons
        self._shares = torch.from_numpy(lessons.shares.astype(np.float32)).to(device)
        self._views = torch.empty(0)
        if self._images is not None:
            self._images = None
            if sum(images.nbytes for images in lessons.images) <= _ON_DEVICE_BYTES:
                self._views = torch.from_numpy(np.stack(lessons.images)).to(device)

    def epoch(
        self, batch: int, steps: int, seed: int, rank: int = 0, ranks: int = 1, own_seed: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """As of `Batches`; every image in a view drawn at random."""
        self._order_rng.manual_seed(seed)
        count = len(self._lessons)
        order = torch.randperm(count, generator=self._order_rng)
        views = torch.randint(len(self._lessons.images), (count,), generator=self._order_rng)
        self._rng.manual_seed(own_seed if ranks > 1 else seed)
        for step in range(steps):
            rows = order[step * batch : (step + 1) * batch][rank::ranks]
            seen = views[rows]
            pixels = None
            if not len(self._views):
                pixels = self._lessons.pixels(rows.numpy(), seen.numpy())
            rows, seen = rows.to(self._device), seen.to(self._device)
            if pixels is None:
                images = self._views[seen, rows]
            else:
                images = torch.from_numpy(pixels).to(self._device)
            images = self._cut(self._normalise(self._moved(images)))
            yield images, self._shares[seen, rows]
