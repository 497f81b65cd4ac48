"""Recipes: how a network is trained; `gemkit.train.train` carries them out."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from gemkit.budget import is_number
from gemkit.errors import UserError

_GONE = ("drop_path", "schedule", "augment", "mixup", "cutmix")


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step.
        learning_rate: its highest value.
        warmup: share of the steps over which the learning rate rises; then it falls as half a
            cosine.
        momentum: of SGD (Nesterov).
        weight_decay: share of a weight lost a step, times the learning rate.
        label_smoothing: share of the target spread over all classes.
        ema: length of the moving average of the weights, as a share of all steps; 0 for none.
        crop: images are shifted by up to this share of their side, reflected at the border.
        flip: whether images are mirrored left to right at random; None: colour images are.
        cutout: side of the square that is blanked, as a share of the image's side.
        least_steps: steps of the whole training at the least; of few images there are more epochs
            then (`lengthened`).
    """

    epochs: int
    batch_size: int = 32
    learning_rate: float = 0.2
    warmup: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-3
    label_smoothing: float = 0.1
    ema: float = 0.05
    crop: float = 0.125
    flip: bool | None = None
    cutout: float = 0.0
    least_steps: int = 0

    def __post_init__(self) -> None:
        def check(names: str, holds: Callable[[Any], bool], must: str) -> None:
            for name in names.split():
                value = getattr(self, name)
                if not holds(value):
                    raise UserError(f"{name} is {value!r}, it must {must}")

        def at_least(least: int) -> Callable[[Any], bool]:
            return lambda value: type(value) is int and value >= least

        check("epochs", at_least(1), "be a whole number >= 1")
        check("least_steps", at_least(0), "be a whole number >= 0")
        check("batch_size", at_least(2), "be a whole number >= 2")
        check("learning_rate", lambda value: is_number(value) and value > 0, "be above 0")
        check(
            "warmup momentum label_smoothing ema crop cutout",
            lambda value: is_number(value) and 0 <= value < 1,
            "be at least 0 and below 1",
        )
        check("weight_decay", lambda value: is_number(value) and value >= 0, "be 0 or more")
        check("flip", lambda value: value is None or type(value) is bool, "be true, false or null")

    def changed(self, epochs: int | None = None, batch_size: int | None = None) -> "Recipe":
        """This recipe with other values where they are not None; epochs that are given are kept to.

        The learning rate goes with the square root of the batch size, as it does from `standard`
        to `full`.
        """
        size = self.batch_size if batch_size is None else batch_size
        rate = self.learning_rate * math.sqrt(max(size, 1) / self.batch_size)
        return replace(
            self,
            epochs=self.epochs if epochs is None else epochs,
            least_steps=self.least_steps if epochs is None else 0,
            batch_size=size,
            learning_rate=float(f"{rate:.4g}"),
        )

    def lengthened(self, images: int) -> "Recipe":
        """This recipe with as many epochs as its `least_steps` ask for on so many images."""
        steps = max(1, images // self.batch_size)
        return replace(self, epochs=max(self.epochs, -(-self.least_steps // steps)), least_steps=0)

    def to_json(self) -> dict[str, Any]:
        """Plain values, as in a run's configuration."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any, where: str = "recipe") -> Self:
        """Read what `to_json` wrote.

        Raises:
            UserError: `value` is no recipe; the sentence begins with `where`.
        """
        names = [field.name for field in fields(cls)]
        if not isinstance(value, dict) or "epochs" not in value:
            raise UserError(f"{where}: a recipe is a JSON object with at least epochs")
        # What older versions could do besides; the runs that did it are still read.
        value = {name: one for name, one in value.items() if name not in _GONE}
        for name in value:
            if name not in names:
                raise UserError(f"{where}: unknown setting {name!r}; use {', '.join(names)}")
        try:
            return cls(**value)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None


RECIPES = {
    "proxy": Recipe(epochs=3),
    "standard": Recipe(epochs=16, least_steps=3400),
    "full": Recipe(epochs=200, batch_size=128, learning_rate=0.4, cutout=0.25),
    "taught": Recipe(epochs=16, batch_size=64, label_smoothing=0.0, crop=0.0, least_steps=6000),
}
"""`proxy`: a trial of the search. `standard`: the final training of a run, minutes on a CPU.
`full`: what a network to be published is trained with, hours on a CPU. `taught`: the final
training of a run with a teacher, whose views are changed already."""
_TRIAL_BEFORE_FULL = 9


def trial_epochs(recipe: str | None) -> int:
    """How long the trials of a search are trained, by the recipe that follows it.

    The longer networks are trained in the end, the less a short trial says of their order
    (measured, see docs/search.md).
    """
    return _TRIAL_BEFORE_FULL if recipe == "full" else RECIPES["proxy"].epochs
