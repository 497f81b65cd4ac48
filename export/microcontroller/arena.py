"""Where each activation lies in one array, so that what is alive at once does not overlap."""

from collections.abc import Sequence
from dataclasses import dataclass

from gemkit.cost import Step


@dataclass(frozen=True)
class Arena:
    """Places in one array.

    Attributes:
        offsets: where each buffer begins.
        size: of the array; `gemkit.cost.peak_memory` of the steps is the least it could be.
    """

    offsets: dict[str, int]
    size: int


@dataclass(frozen=True)
class _Buffer:
    name: str
    size: int
    first: int
    last: int

    def meets(self, other: "_Buffer") -> bool:
        return self.first <= other.last and other.first <= self.last


def arena(steps: Sequence[Step]) -> Arena:
    """Place the buffers of steps: the best of several orders, each buffer at the lowest free place.

    The largest first is what TensorFlow Lite does; the order in which they are written is better
    for long chains.
    """
    last = {name: index for index, step in enumerate(steps) for name in step.reads}
    found = [
        _Buffer(name, size, index, last.get(name, len(steps)))
        for index, step in enumerate(steps)
        for name, size in step.writes
    ]
    orders = (
        sorted(found, key=lambda one: (-one.size, one.first)),
        found,
        sorted(found, key=lambda one: (one.first - one.last, -one.size)),
        sorted(found, key=lambda one: -one.size * (one.last - one.first + 1)),
    )
    return min((_placed(order) for order in orders), key=lambda one: one.size)


def _placed(order: Sequence[_Buffer]) -> Arena:
    placed: list[tuple[int, _Buffer]] = []
    for one in order:
        place = 0
        for start, other in sorted(
            ((start, other) for start, other in placed if one.meets(other)),
            key=lambda pair: pair[0],
        ):
            if place + one.size <= start:
                break
            place = max(place, start + other.size)
        placed.append((place, one))
    return Arena(
        {one.name: start for start, one in placed},
        max(start + one.size for start, one in placed),
    )
