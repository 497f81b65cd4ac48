"""What a comparison is of, and how far apart two of its networks are."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import t

from gemkit.baselines import BASELINES, DIFFERENTIABLE, TORCHVISION

FOUND, NARROW, RANDOM = "found", "narrow", "random"


def names() -> tuple[str, ...]:
    """All that can be compared."""
    return (FOUND, NARROW, RANDOM, *BASELINES)


def kind(name: str) -> str:
    """What kind of network a name stands for."""
    if name in (FOUND, NARROW, RANDOM):
        return name
    if name in TORCHVISION:
        return "torchvision"
    return "differentiable" if name in DIFFERENTIABLE else "random wiring"


def mean_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Mean and its 95 % interval by Student's t; no interval for one value alone."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None, None
    half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return mean, mean - half, mean + half


def better_by(ours: Mapping[int, float], theirs: Mapping[int, float]) -> dict[str, Any] | None:
    """By how much one network is better than another, seed by seed; None without common seeds."""
    common = [seed for seed in theirs if seed in ours]
    if not common:
        return None
    mean, low, high = mean_interval([ours[seed] - theirs[seed] for seed in common])
    return {"mean": mean, "interval": None if low is None else [low, high], "seeds": common}
