"""One line of the table of `make bench`."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One measurement beside its reference.

    Attributes:
        name: what was measured, with sample sizes.
        ours: our figure.
        reference: the other's figure in the same unit; None where the bar is absolute.
        unit: unit of both figures.
        bar: what the ratio (or, without reference, our figure) must reach; None for a goal.
        higher: whether more is better, for `ours`.
        note: what a reader should know (samples, what did not run).
    """

    name: str
    ours: float | None
    reference: float | None
    unit: str
    bar: float | None
    higher: bool = False
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times better ours is than the reference."""
        if self.ours is None or not self.reference:
            return None
        return self.ours / self.reference if self.higher else self.reference / self.ours

    @property
    def holds(self) -> bool | None:
        """Whether the bar is reached; None where there is none or nothing was measured."""
        if self.bar is None or self.ours is None:
            return None
        if self.reference is not None:
            return self.ratio is not None and self.ratio >= self.bar
        return self.ours >= self.bar if self.higher else self.ours <= self.bar

    def to_json(self) -> dict[str, Any]:
        """The names that programs read."""
        return {
            "name": self.name,
            "ours": self.ours,
            "reference": self.reference,
            "ratio": self.ratio,
            "unit": self.unit,
            "bar": self.bar,
            "holds": self.holds,
            "note": self.note,
        }
