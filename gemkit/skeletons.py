"""The skeletons that a search tries around its cells: the one place to touch to add one.

Which suits depends on images and budget, so the search chooses it with the cell. All are small
changes of the first, which `gemkit.architecture.skeleton_for` has always given: the figures are in
`docs/search.md`.
"""

from dataclasses import dataclass, replace

from gemkit.architecture import Skeleton, Stage, skeleton_for


@dataclass(frozen=True)
class Pattern:
    """What a skeleton has that the first has not.

    Attributes:
        name: as in reports.
        stem: (stride, factor) of its convolutions, for images whose first stage has half of their
            resolution; larger images begin with one more of stride 2 and the first's factor.
        repeats: cells of every stage.
        growth: the width factor of a stage as a multiple of that of the stage before.
        shortcut: as of `gemkit.architecture.Skeleton`.
    """

    name: str
    stem: tuple[tuple[int, float], ...]
    repeats: int = 1
    growth: float = 2
    shortcut: str = "projection"


TABLE = (
    Pattern("light stem", ((2, 1),)),
    Pattern("narrow stem", ((1, 0.5), (2, 1))),
    Pattern("two cells a stage", ((2, 1),), repeats=2, shortcut="identity"),
)
"""Beside the first. Their order decides their numbers, so new ones come last."""


def skeletons_for(
    input_shape: tuple[int, int, int], classes: int, any_width: bool = False
) -> tuple[Skeleton, ...]:
    """The skeletons that are tried for images of a size, each once; the preset comes first.

    Args:
        input_shape: channels, height and width of an image.
        any_width: channels need not be multiples that processors like.

    Raises:
        UserError: the image is too small, or there are fewer than two classes.
    """
    first = replace(skeleton_for(input_shape, classes), any_width=any_width)
    found = [first]
    for pattern in TABLE:
        skeleton = _made(pattern, first)
        if skeleton not in found:
            found.append(skeleton)
    return tuple(found)


def _made(pattern: Pattern, first: Skeleton) -> Skeleton:
    stem = list(pattern.stem)
    halvings = first.stem_strides.count(2)
    if halvings == 0:
        stem = [(1, factor) for _, factor in stem[-1:]]
    elif halvings > 1:
        stem = [(2, stem[0][1]), *stem] if stem[0][0] == 2 else [(2, stem[0][1]), *stem[1:]]
    stages = [
        Stage(_quarters(pattern.growth**number), pattern.repeats)
        for number in range(len(first.stages))
    ]
    return replace(
        first,
        stem_strides=tuple(stride for stride, _ in stem),
        stem_factors=tuple(factor for _, factor in stem),
        stages=tuple(stages),
        shortcut=pattern.shortcut,
    )


def _quarters(factor: float) -> float:
    whole = round(factor * 4) / 4
    return int(whole) if whole.is_integer() else whole
