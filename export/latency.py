"""Latency of any cell and width from a few measured ones; ours.

    model = fit_latency(skeleton, [cells], budget=budget)   # measures 100 networks, a minute
    mean, std = model.predict(cells, widths)           # milliseconds, for a million at once
    model.safe(cells, widths)                          # with a margin: a search's latency budget
    save_model(model, path); model = load_model(path)

A network's time is modelled as a sum of costs of its kernels (`latency_features`). Runtimes work on
blocks of channels, so each cost has a rate of its own for channels that are multiples of 8, of 4,
or neither. The rates are not negative and fit relative errors; a Gaussian process
(`gemkit.regression`) corrects the rest and gives the uncertainty of a prediction.

Weights do not matter for latency, so what is measured is the graph of `onnx_builder.py`.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import ArrayLike

from gemkit.architecture import MAX_WIDTH, MIN_WIDTH, Architecture, Skeleton, smallest
from gemkit.budget import Budget, is_number
from gemkit.cell import AGGREGATIONS, Cell, CellArrays
from gemkit.cost import largest_widths
from gemkit.errors import UserError
from gemkit.files import check_format, read_json, write_json
from gemkit.machine import versions
from gemkit.regression import GaussianProcess, fit

from . import timing
from .latency_features import RATES, STEPS, FloatArray, features
from .onnx_builder import build_onnx

Measure = Callable[[Sequence[Architecture]], Sequence[float]]
"""Milliseconds of each architecture: p50, batch 1, one thread."""

SAMPLES = 100
"""Networks measured by default."""
LEAST = 10
"""Networks without which nothing is fitted."""
MARGIN = 1.5
"""Standard deviations that a `safe` prediction lies above the mean."""
WIDEST = 64
"""Largest width measured where no budget ends it before."""
_KIND, _FORMAT = "gemkit latency model", 2
LEARNED_ROUNDS, LEARNED_SECONDS = 3, 0.03
"""Least number of rounds of a measurement, and how long each of their visits runs a network."""
_RIDGE = 1e-2
_CHUNK = 8192


def _groups(found: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Features of the Gaussian process: what the rates may get wrong."""
    width = found["width"]
    work = [np.log1p(values) for name, values in found.items() if "@" in name]
    blocks = [width % size == 0 for size in (2, 4, 8, 16)]
    return {
        "work": np.stack(work, axis=1),
        "blocks": np.stack([*blocks, np.log(width), found["summed"]], axis=1).astype(np.float64),
    }


@dataclass(frozen=True)
class Measured:
    """One measured network: its cell, width and p50 in milliseconds."""

    cell: Cell
    width: int
    latency_ms: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "cell": self.cell.to_json(),
            "width": self.width,
            "latency_ms": self.latency_ms,
        }

    @classmethod
    def from_json(cls, value: Any, where: str = "measurement") -> "Measured":
        """Read what `to_json` wrote.

        Raises:
            UserError: `value` is no measurement; the sentence begins with `where`.
        """
        if not isinstance(value, dict):
            raise UserError(f"{where} must be an object with cell, width and latency_ms")
        width, time = value.get("width"), value.get("latency_ms")
        if not isinstance(width, int) or not MIN_WIDTH <= width <= MAX_WIDTH:
            raise UserError(f"{where}: width {width!r} is not possible")
        if not (is_number(time) and time > 0):
            raise UserError(f"{where}: latency_ms {time!r} is no positive number")
        return cls(Cell.from_json(value.get("cell"), f"{where}: cell").pruned(), width, float(time))


@dataclass(frozen=True)
class LatencyModel:
    """A fitted predictor, for the networks of one skeleton on one device.

    Attributes:
        skeleton: of all networks.
        measured: what it was fitted on; a model is stored as this and fitted again when read.
        device: what was measured on: `machine`, `versions`, `provider`, `threads`.
        rates: milliseconds per unit of each feature in `RATES`.
        correction: of the logarithm of the time, on top of the rates.
        prior: the predictor of a device that was measured before, where one was given.
        over_prior: of the logarithm of the time, on top of what that one predicts.
    """

    skeleton: Skeleton
    measured: tuple[Measured, ...]
    device: dict[str, Any]
    rates: FloatArray
    correction: GaussianProcess
    prior: "LatencyModel | None" = None
    over_prior: GaussianProcess | None = None

    @classmethod
    def fit(
        cls,
        skeleton: Skeleton,
        measured: Sequence[Measured],
        device: Mapping[str, Any],
        prior: "LatencyModel | None" = None,
    ) -> "LatencyModel":
        """Fit to measurements of at least ten networks.

        Args:
            prior: predicts another device; then the prediction is the geometric mean of two: of
                one learned from the measurements alone, and of the prior's as the measurements
                correct it. It helps where few networks were measured.

        Raises:
            UserError: they are too few or no positive numbers, or the prior is for other networks.
        """
        from scipy.optimize import nnls

        if len(measured) < LEAST:
            raise UserError(
                f"{len(measured)} measured networks are too few: at least {LEAST} are needed"
            )
        times = np.array([one.latency_ms for one in measured], dtype=np.float64)
        if not (np.isfinite(times) & (times > 0)).all():
            raise UserError("a measured latency is no positive number of milliseconds")
        found = _features_of(skeleton, [(one.cell, one.width) for one in measured])
        matrix = np.stack([found[name] for name in RATES], axis=1)
        stepped = matrix @ STEPS
        scale = stepped.max(axis=0)
        scale[scale == 0] = 1
        # Relative errors, with a small ridge: rates that the data cannot separate share.
        rows = np.vstack([stepped / scale / times[:, None], _RIDGE * np.eye(len(scale))])
        steps = nnls(rows, np.r_[np.ones(len(times)), np.zeros(len(scale))])[0] / scale
        rates = STEPS @ steps
        base = np.maximum(matrix @ rates, 1e-9)
        groups = _groups(found)
        own = cls(skeleton, tuple(measured), dict(device), rates, fit(groups, np.log(times / base)))
        if prior is None:
            return own
        if prior.skeleton != skeleton:
            raise UserError("the prior was measured for other images or classes")
        over_prior = fit(groups, np.log(times / prior._predict(found)[0]))
        return replace(own, prior=prior, over_prior=over_prior)

    def predict(self, cells: CellArrays, widths: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation in milliseconds, (n,) each, of pruned cells at widths."""
        width = np.broadcast_to(np.asarray(widths), (len(cells),))
        mean, std = np.empty(len(cells)), np.empty(len(cells))
        for start in range(0, len(cells), _CHUNK):
            part = slice(start, start + _CHUNK)
            mean[part], std[part] = self._predict(features(cells[part], self.skeleton, width[part]))
        return mean, std

    def _predict(self, found: Mapping[str, FloatArray]) -> tuple[FloatArray, FloatArray]:
        base: FloatArray = sum(
            (rate * found[name] for rate, name in zip(self.rates, RATES, strict=True) if rate),
            np.full(len(found["constant"]), 1e-9),
        )
        groups = _groups(found)
        log, deviation = self.correction.predict(groups)
        log = log + np.log(base)
        if self.prior is not None and self.over_prior is not None:
            other, its_deviation = self.over_prior.predict(groups)
            log = (log + other + np.log(self.prior._predict(found)[0])) / 2
            deviation = (deviation + its_deviation) / 2
        mean = np.exp(log)
        return mean, mean * np.expm1(deviation)

    def safe(self, cells: CellArrays, widths: ArrayLike) -> FloatArray:
        """Milliseconds that a measurement is unlikely to exceed: mean + MARGIN deviations."""
        mean, std = self.predict(cells, widths)
        return mean + MARGIN * std

    def quote(self, cells: CellArrays, widths: ArrayLike) -> list[tuple[float, float]]:
        """For each network its predicted p50 and what `safe` says, in milliseconds."""
        mean, std = self.predict(cells, widths)
        return [(float(m), float(m + MARGIN * s)) for m, s in zip(mean, std, strict=True)]

    def of(self, architecture: Architecture) -> tuple[float, float]:
        """Mean and deviation of one network that has the same cell in all stages."""
        cells = CellArrays.from_cells([architecture.cells[0]])
        mean, std = self.predict(cells, architecture.width)
        return float(mean[0]), float(std[0])

    def smallest_safe_ms(self) -> float:
        """What `safe` says of the smallest network: no tighter budget can be kept."""
        network = smallest(self.skeleton)
        cells = CellArrays.from_cells([network.cells[0]])
        return float(self.safe(cells, network.width)[0])

    def to_json(self) -> dict[str, Any]:
        """Plain values; what was measured, not what was fitted."""
        value = {
            "kind": _KIND,
            "format": 1,
            "skeleton": self.skeleton.to_json(),
            "device": self.device,
            "measured": [one.to_json() for one in self.measured],
        }
        if self.prior is not None:  # which format 1 does not have
            value |= {"format": _FORMAT, "prior": self.prior.to_json()}
        return value

    @classmethod
    def from_json(cls, value: Any, where: str = "latency model") -> "LatencyModel":
        """Read what `to_json` wrote, and fit.

        Raises:
            UserError: `value` is no latency model; the sentence begins with `where`.
        """
        if not isinstance(value, dict) or value.get("kind") != _KIND:
            raise UserError(f"{where} is no latency model of gemkit's")
        check_format(value.get("format"), _FORMAT, where)
        device, rows = value.get("device"), value.get("measured")
        if not is_device(device) or not isinstance(rows, list):
            raise UserError(f"{where}: 'device' must be an object and 'measured' a list")
        skeleton = Skeleton.from_json(value.get("skeleton"), f"{where}: skeleton")
        measured = [
            Measured.from_json(row, f"{where}: measurement {i}") for i, row in enumerate(rows)
        ]
        before = value.get("prior")
        prior = None if before is None else cls.from_json(before, f"{where}: prior")
        try:
            return cls.fit(skeleton, measured, device, prior)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None


def is_device(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a value read from a file can be the `device` of a model."""
    return isinstance(value, dict) and all(
        isinstance(value.get(name, {}), dict) for name in ("machine", "versions")
    )


def _features_of(skeleton: Skeleton, networks: Sequence[tuple[Cell, int]]) -> dict[str, FloatArray]:
    """Features of networks of both aggregations, in their order."""
    found: dict[str, FloatArray] = {}
    for aggregation in AGGREGATIONS:
        places = [i for i, (cell, _) in enumerate(networks) if cell.aggregation == aggregation]
        if not places:
            continue
        cells = CellArrays.from_cells([networks[i][0] for i in places])
        values = features(cells, skeleton, [networks[i][1] for i in places])
        for name, column in values.items():
            found.setdefault(name, np.zeros(len(networks)))[places] = column
    return found


def cross_validate(model: LatencyModel) -> dict[str, float] | None:
    """How well each network is predicted by a model fitted without it and a fifth of the others.

    Of few networks each is left out alone.

    Returns:
        `within_10_percent` (a fraction), `median_error` (of the measured value) and `spearman`;
        None where too few networks were measured to leave one out.
    """
    from scipy.stats import spearmanr

    count = len(model.measured)
    if count <= LEAST:
        return None
    order = np.random.default_rng(0).permutation(count)
    truth, found = np.empty(count), np.empty(count)
    for part in np.array_split(order, 5 if 0.8 * count > LEAST else count):
        left_out = set(part.tolist())
        rest = [one for index, one in enumerate(model.measured) if index not in left_out]
        fitted = LatencyModel.fit(model.skeleton, rest, model.device, model.prior)
        for index in part:
            one = model.measured[index]
            truth[index] = one.latency_ms
            found[index] = fitted.of(Architecture((one.cell,), model.skeleton, one.width))[0]
    errors = np.abs(found / truth - 1)
    rank = float(spearmanr(truth, found).statistic) if np.ptp(truth) > 0 else 0.0
    return {
        "within_10_percent": float((errors <= 0.1).mean()),
        "median_error": float(np.median(errors)),
        "spearman": rank,
    }


def save_model(model: LatencyModel, path: Path | str) -> None:
    """Write a model as JSON, whole or not at all."""
    write_json(Path(path), model.to_json())


def load_model(path: Path | str) -> LatencyModel:
    """Read a model.

    Raises:
        UserError: the file is missing or no latency model; the sentence names it.
    """
    return LatencyModel.from_json(read_json(Path(path)), str(path))


def measure_here(
    architectures: Sequence[Architecture],
    progress: Callable[[float], None] | None = None,
) -> list[float]:
    """p50 in milliseconds of untrained networks here: batch 1, one thread, CPU provider.

    All are measured in turn, round by round (`timing`), and levelled.
    """
    with tempfile.TemporaryDirectory(prefix="gemkit-latency-") as folder:
        paths = write_drafts(architectures, Path(folder))
        found = timing.measure(
            [str(path) for path in paths],
            rounds=LEARNED_ROUNDS,
            seconds=LEARNED_SECONDS,
            progress=progress,
        )
    times = levelled([one["calm_ms"] for one in found], [one["latency_ms"]["p50"] for one in found])
    return [float(time) for time in times]


def write_drafts(architectures: Sequence[Architecture], folder: Path) -> list[Path]:
    """Write the networks with random weights as `0.onnx`, `1.onnx`, ...; their paths."""
    paths = [folder / f"{index}.onnx" for index in range(len(architectures))]
    for index, (path, architecture) in enumerate(zip(paths, architectures, strict=True)):
        path.write_bytes(build_onnx(architecture, seed=index).SerializeToString())
    return paths


def levelled(calm: ArrayLike, p50: ArrayLike) -> FloatArray:
    """Medians of many networks without the noise that hit each of them differently.

    Other work on the machine moves a network's median more than its fastest moments. So networks
    are compared by the latter, raised by one factor for all: the median of how far the medians lie
    above. On a calm machine that is the median itself within noise.
    """
    low, middle = np.asarray(calm, dtype=np.float64), np.asarray(p50, dtype=np.float64)
    return low * np.median(middle / low)


def plan(
    skeleton: Skeleton,
    pools: Sequence[CellArrays],
    *,
    budget: Budget | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
) -> list[Architecture]:
    """Networks worth measuring: the smallest, random ones, and those unlike the others.

    Widths are log-uniform up to the largest within the budget (WIDEST without one), a third of
    them multiples of 8, a third of 4. Half are a random sample of what the search will ask for;
    the other half are chosen one by one as the farthest, in the logarithms of their features,
    from all chosen before.

    Args:
        pools: pruned cells to choose from, several times `samples`; one batch per aggregation.

    Raises:
        UserError: too few networks fit the budget.
    """
    rng = np.random.default_rng(seed)
    pool = [network for cells in pools for network in _widths(rng, cells, skeleton, budget)]
    if len(pool) < samples:
        raise UserError("too few networks fit the budget to learn their latency: raise the budget")
    pool = [pool[index] for index in rng.permutation(len(pool))]
    found = _features_of(skeleton, pool)
    rows = np.log1p(np.stack([found[name] for name in RATES], axis=1))
    spread = rows.std(axis=0)
    rows = rows[:, spread > 0] / spread[spread > 0]
    chosen = list(range(samples // 2))
    distance = np.full(len(rows), np.inf)
    for index in chosen:
        distance = np.minimum(distance, ((rows - rows[index]) ** 2).sum(axis=1))
    while len(chosen) < samples - 1:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, ((rows - rows[chosen[-1]]) ** 2).sum(axis=1))
    return [
        smallest(skeleton),
        *(Architecture((pool[i][0],), skeleton, pool[i][1]) for i in chosen),
    ]


def _widths(
    rng: np.random.Generator, cells: CellArrays, skeleton: Skeleton, budget: Budget | None
) -> list[tuple[Cell, int]]:
    """The cells that fit a budget at all, each with a random width that fits."""
    widest = np.full(len(cells), WIDEST)
    if budget is not None and any((budget.macs, budget.params, budget.memory_bytes)):
        widest = np.minimum(largest_widths(cells, skeleton, budget), MAX_WIDTH)
    low, high = np.log(MIN_WIDTH), np.log(np.maximum(widest, MIN_WIDTH) + 0.5)
    widths = np.exp(low + (high - low) * rng.random(len(cells)))
    block = rng.choice([1, 4, 8], len(cells))
    widths = np.maximum(MIN_WIDTH, block * np.floor(widths / block)).astype(int)
    fits = np.flatnonzero(widest >= MIN_WIDTH)
    return [(cells.cell(int(i)), int(widths[i])) for i in fits]


def fit_latency(
    skeleton: Skeleton,
    pools: Sequence[CellArrays],
    *,
    budget: Budget | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
    measure: Measure | None = None,
    progress: Callable[[float], None] | None = None,
) -> LatencyModel:
    """Measure networks on this machine and fit a predictor.

    Args:
        pools, budget: of the networks that will be asked for; see `plan`.
        samples: how many are measured, each in about half a second of processor time.
        measure: measures instead of this machine.
        progress: called with the share done.

    Raises:
        UserError: too few networks fit the budget.
    """
    architectures = plan(skeleton, pools, budget=budget, samples=samples, seed=seed)
    if measure is not None:
        times = measure(architectures)
    else:
        times = measure_here(architectures, progress=progress)
    measured = [
        Measured(one.cells[0], one.width, float(time))
        for one, time in zip(architectures, times, strict=True)
    ]
    return LatencyModel.fit(skeleton, measured, this_device())


def this_device() -> dict[str, Any]:
    """What latencies measured here belong to."""
    return {
        "machine": timing.describe_machine(),
        "versions": versions() | timing.versions(),
        "provider": "CPUExecutionProvider",
        "threads": 1,
    }
