"""What a comparison is of, and how far apart two of its networks are."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import t

from gemkit.baselines import BASELINES, DIFFERENTIABLE, RESNETS, TORCHVISION
from gemkit.records import Latency, Machine, Scalar

FOUND, NARROW, RANDOM = "found", "narrow", "random"


@dataclass(frozen=True)
class Difference:
    """By how much one network is more accurate than another: mean over the seeds that both have
    and its 95 % interval, as fractions."""

    mean: float
    interval: tuple[float, float] | None
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class ComparedNetwork:
    """One network of a comparison.

    Attributes:
        latency_ms, peak_memory_bytes, onnx: of its file, where that was measured.
        accuracies: on the test set, by seed.
        accuracy, interval: their mean and its 95 % interval.
        found_better_by, narrow_better_by: the networks found against this one.
        errors: why trainings failed.
        seconds: of all its trainings.
        cells: the architectures of the seeds, as JSON; none of a known network.
    """

    id: str
    kind: str = ""
    macs: int = 0
    params: int = 0
    peak_memory_bytes: int | None = None
    latency_ms: Latency | None = None
    onnx: str | None = None
    accuracies: Mapping[str, float] = field(default_factory=dict)
    accuracy: float | None = None
    interval: tuple[float, float] | None = None
    found_better_by: Difference | None = None
    narrow_better_by: Difference | None = None
    errors: tuple[str, ...] = ()
    seconds: float = 0.0
    cells: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Comparison:
    """What `compare.json` holds: the networks, and how all of them were trained.

    Attributes:
        train, test: numbers of images.
        max_macs: each network is as wide as this allows.
        share: of it for the found network and random cells.
    """

    data: str
    train: int
    test: int
    max_macs: int
    recipe: Mapping[str, Scalar]
    networks: tuple[ComparedNetwork, ...]
    share: float = 1.0
    seeds: tuple[int, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    machine: Machine = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        """How long every network was trained."""
        return int(self.recipe["epochs"] or 0)


def names() -> tuple[str, ...]:
    """All that can be compared."""
    return (FOUND, NARROW, RANDOM, *BASELINES)


def kind(name: str) -> str:
    """What kind of network a name stands for."""
    if name in (FOUND, NARROW, RANDOM):
        return name
    if name in TORCHVISION:
        return "torchvision"
    if name in RESNETS:
        return "ResNet"
    return "differentiable" if name in DIFFERENTIABLE else "random wiring"


def mean_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Mean and its 95 % interval by Student's t; no interval for one value alone."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None, None
    half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return mean, mean - half, mean + half


def better_by(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference | None:
    """By how much one network is better than another, seed by seed; None without common seeds."""
    common = [seed for seed in theirs if seed in ours]
    if not common:
        return None
    mean, low, high = mean_interval([ours[seed] - theirs[seed] for seed in common])
    interval = None if low is None or high is None else (low, high)
    return Difference(mean, interval, tuple(common))
