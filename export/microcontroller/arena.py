"""Where each activation lies in one array, so that what is alive at once does not overlap."""

from collections.abc import Sequence
from dataclasses import dataclass

from gemkit.cost import Step, peak_memory

_TRIES = 200


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

    The largest first is what TensorFlow Lite does. What reaches highest is then placed earlier,
    again and again, until nothing is wasted or _TRIES are over.
    """
    last = {name: index for index, step in enumerate(steps) for name in step.reads}
    found = [
        _Buffer(name, size, index, last.get(name, len(steps)))
        for index, step in enumerate(steps)
        for name, size in step.writes
    ]
    least = peak_memory(steps)
    best: Arena | None = None
    for order in (sorted(found, key=lambda one: (-one.size, one.first)), found):
        for _ in range(_TRIES):
            placed = _placed(order)
            if best is None or placed.size < best.size:
                best = placed
            if best.size == least:
                return best
            highest = max(order, key=lambda one: placed.offsets[one.name] + one.size)
            index = order.index(highest)
            order = [*order[: index // 2], highest, *order[index // 2 : index], *order[index + 1 :]]
    assert best is not None
    return best


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
