"""The skeletons that a search tries around its cells: the one place to touch to add one.

Which suits depends on images and budget, so the search chooses it with the cell. All are small
changes of the preset (`gemkit.architecture.skeleton_for`), which comes first; what they were worth
stands in `docs/search.md`.
"""

from dataclasses import dataclass, replace

from gemkit.architecture import Skeleton, skeleton_for


@dataclass(frozen=True)
class Pattern:
    """What a skeleton has that the preset has not.

    Attributes:
        name: what people call it.
        stem: (stride, factor) of its convolutions where the first stage has half of the image's
            resolution. Where it has a quarter, a stem of one convolution gets a second of stride 2,
            and the first of two has stride 2; where it has all of it, only the last convolution
            stays, with stride 1.
    """

    name: str
    stem: tuple[tuple[int, float], ...]


TABLE = (
    Pattern("light stem", ((2, 1),)),
    Pattern("narrow stem", ((1, 0.5), (2, 1))),
)
"""Beside the preset. Their order decides their numbers, so new ones come last."""


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
    preset = replace(skeleton_for(input_shape, classes), any_width=any_width)
    found = [preset]
    for pattern in TABLE:
        stem = list(pattern.stem)
        halvings = preset.stem_strides.count(2)
        if halvings == 0:
            stem = [(1, stem[-1][1])]
        elif halvings > 1:
            stem = [(2, stem[0][1]), *(stem[1:] or stem)]
        strides, factors = zip(*stem, strict=True)
        skeleton = replace(preset, stem_strides=strides, stem_factors=factors)
        if skeleton not in found:
            found.append(skeleton)
    return tuple(found)
