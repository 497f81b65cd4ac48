"""Budgets: what a network may cost at most, and how people write it."""

import re
import sys
from dataclasses import dataclass
from typing import Any, Self, TypeGuard

from gemkit.errors import UserError

_COUNTS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}
_MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_BYTES = {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_NUMBER = re.compile(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*([a-zµ]*)\s*", re.IGNORECASE)
PRECISIONS = {"fp32": 4, "fp16": 2, "int8": 1}
"""Bytes of one activation value, by precision."""
_LARGEST = sys.float_info.max


def _parse(text: str, units: dict[str, float], what: str, examples: str) -> float:
    match = _NUMBER.fullmatch(text)
    unit = match.group(2).lower().replace("µ", "u") if match else ""
    if match is None or unit not in units:
        raise UserError(f"{text!r} is no {what}: write it like {examples}")
    value = float(match.group(1)) * units[unit]
    if not 0 < value <= _LARGEST:
        raise UserError(f"{text!r} is no {what}: it must be greater than zero and finite")
    return value


def parse_count(text: str) -> int:
    """Read a count: `40M`, `500k`, `1.5G`, `120000`.

    Raises:
        UserError: the text is no count.
    """
    value = _parse(text, _COUNTS, "count", "40M, 500k or 120000")
    if value < 1:
        raise UserError(f"{text!r} is no count: it must be at least 1")
    return round(value)


def parse_latency_ms(text: str) -> float:
    """Read a duration with its unit, into milliseconds: `2ms`, `500us`, `0.1s`.

    Raises:
        UserError: the text is no duration or has no unit.
    """
    return _parse(text, _MILLISECONDS, "latency", "2ms, 500us or 0.1s (the unit is needed)")


def parse_bytes(text: str) -> int:
    """Read a size with its unit, into bytes: `256kB` (1,000 each), `256KiB` (1,024 each).

    Raises:
        UserError: the text is no size or has no unit.
    """
    value = _parse(text, _BYTES, "memory size", "256kB, 256KiB or 1MB (the unit is needed)")
    if value < 1:
        raise UserError(f"{text!r} is no memory size: it must be at least 1 B")
    return round(value)


def format_count(value: float) -> str:
    """A count as people write it: 3000000 -> `3M`, 98304 -> `98.3k`."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        # What rounds up to the next unit is written in it: 999,960 is 1M, not 1000k.
        if value >= size * 0.9995:
            return f"{_short(value / size)}{unit}"
    return _short(value)


def format_bytes(value: float) -> str:
    """A size in decimal units: 256000 -> `256 kB`."""
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= size * 0.9995:
            return f"{_short(value / size)} {unit}"
    return f"{_short(value)} B"


def format_latency(milliseconds: float) -> str:
    """A latency with its unit: 0.2 -> `0.2 ms`."""
    return f"{float(f'{milliseconds:.3g}'):g} ms"


def _short(value: float) -> str:
    text = f"{value:.3g}"
    return f"{float(text):.0f}" if "e" in text else text


@dataclass(frozen=True)
class Budget:
    """Hard limits on what a network costs; None where there is no limit.

    Attributes:
        macs: multiply-accumulates of convolutions and linear layers at batch 1.
        params: trainable parameters.
        latency_ms: p50 at batch 1, one thread, on the CPU provider of the target machine.
        memory_bytes: peak activation memory at batch 1.
        precision: the element type that memory and latency refer to (fp32, fp16, int8).
    """

    macs: int | None = None
    params: int | None = None
    latency_ms: float | None = None
    memory_bytes: int | None = None
    precision: str = "fp32"

    def __post_init__(self) -> None:
        for name in ("macs", "params", "latency_ms", "memory_bytes"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= _LARGEST:
                raise UserError(
                    f"budget {name} is {value!r}: it must be greater than zero and finite"
                )
        if self.precision not in PRECISIONS:
            raise UserError(
                f"unknown precision {self.precision!r}: use one of {', '.join(PRECISIONS)}"
            )

    def describe(self) -> str:
        """The limits in words, as they were understood."""
        parts = []
        if self.macs is not None:
            parts.append(f"at most {format_count(self.macs)} MACs")
        if self.params is not None:
            parts.append(f"at most {format_count(self.params)} params")
        if self.memory_bytes is not None:
            parts.append(
                f"at most {format_bytes(self.memory_bytes)} of activations ({self.precision})"
            )
        if self.latency_ms is not None:
            parts.append(f"at most {format_latency(self.latency_ms)} ({self.precision})")
        return ", ".join(parts) or "no limits"

    def to_json(self) -> dict[str, Any]:
        """Plain values, as in a run's configuration."""
        return {
            "macs": self.macs,
            "params": self.params,
            "latency_ms": self.latency_ms,
            "memory_bytes": self.memory_bytes,
            "precision": self.precision,
        }

    @classmethod
    def from_json(cls, value: Any, where: str = "budget") -> Self:
        """Read what `to_json` wrote.

        Raises:
            UserError: `value` is no budget; the sentence begins with `where`.
        """
        names = ("macs", "params", "latency_ms", "memory_bytes", "precision")
        if not isinstance(value, dict):
            raise UserError(f"{where}: a budget is a JSON object with {', '.join(names)}")
        for name, limit in value.items():
            if name not in names:
                raise UserError(f"{where}: unknown budget {name!r}; use {', '.join(names)}")
            if name == "precision":
                right = isinstance(limit, str)
            else:
                right = limit is None or is_number(limit)
            if not right:
                kind = "a name" if name == "precision" else "a number or null"
                raise UserError(f"{where}: {name} must be {kind}, not {limit!r}")
        try:
            return cls(**value)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value read from JSON is a finite number, which true and false are not.

    A whole number too large for a float is none either: it could not be calculated with.
    """
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return known and abs(value) <= _LARGEST
