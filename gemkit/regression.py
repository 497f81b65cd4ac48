"""Regression with uncertainty: an exact Gaussian process whose scales are learned.

Features come in named groups (an embedding, path features, counts, ...). The kernel is a sum with
one Matern-5/2 term a group, each with its own amplitude and length scale, so that the data decide
how much every group matters. Accuracy and latency are both predicted with it. Source: ours.

    process = fit({"embedding": vectors, "counts": counts}, accuracies)
    mean, std = process.predict({"embedding": new_vectors, "counts": new_counts})
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
Features = Mapping[str, ArrayLike] | ArrayLike

_CHUNK = 2048
_ONE_THREAD_TO = 1000  # rows
_JITTER = 1e-8
REFUSED = 1e10
"""Negative log likelihood of scales whose kernel matrix cannot be factored."""
_QUANTILES = np.array([-1.64, -1.04, -0.67, -0.39, -0.13, 0.13, 0.39, 0.67, 1.04, 1.64])
"""Ten equally probable values of a standard normal variable."""
_ROOT5 = float(np.sqrt(5.0))

# Priors of the logarithms of the learned scales, as (mean, standard deviation). Features are scaled
# such that two random rows are at distance sqrt(2), targets such that their variance is 1.
_LENGTH_PRIOR = (0.7, 0.8)
_AMPLITUDE_PRIOR = (-0.5, 1.2)
_NOISE_PRIOR = (-3.5, 1.5)
_SLOPE_PRIOR = (0.0, 1.0)


@dataclass(frozen=True)
class _Scaling:
    """Standardises one group of features: constant columns go, the mean row norm becomes 1."""

    keep: NDArray[np.intp]
    mean: FloatArray
    scale: FloatArray

    @staticmethod
    def of(rows: FloatArray, weights: str) -> _Scaling:
        spread = rows.std(axis=0)
        keep = np.flatnonzero(spread > 1e-12 * np.maximum(1.0, np.abs(rows).max(axis=0)))
        spread = spread[keep]
        if weights == "common":
            spread = np.full(len(keep), np.sqrt(np.mean(spread**2))) if len(keep) else spread
        return _Scaling(keep, rows.mean(axis=0)[keep], spread * np.sqrt(max(1, len(keep))))

    def __call__(self, rows: FloatArray) -> FloatArray:
        return (rows[:, self.keep] - self.mean) / self.scale


@dataclass(frozen=True)
class Warp:
    """An increasing map of targets onto a scale on which they look normal.

    With `side` "left" (a long tail of small values, as accuracies have) it is
    -log((edge - value) / spread + offset), edge being the largest target; beyond the edge it goes
    on in a straight line. "right" is the mirror image (latencies); "none" changes nothing.
    """

    side: str = "none"
    offset: float = 1.0
    edge: float = 0.0
    spread: float = 1.0

    @staticmethod
    def of(targets: FloatArray, side: str, offset: float) -> Warp:
        edge = float(targets.max() if side == "left" else targets.min())
        spread = abs(edge - float(np.median(targets))) or float(np.ptp(targets)) or 1.0
        return Warp(side, offset, edge, spread)

    def __call__(self, values: FloatArray) -> FloatArray:
        if self.side == "none":
            return np.asarray(values, dtype=float)
        sign = 1.0 if self.side == "left" else -1.0
        gap = sign * (self.edge - values) / self.spread
        curved = -np.log(np.maximum(gap, 0.0) + self.offset)
        return np.asarray(
            sign * np.where(gap < 0, -np.log(self.offset) - gap / self.offset, curved)
        )

    def inverse(self, scores: FloatArray) -> FloatArray:
        if self.side == "none":
            return np.asarray(scores, dtype=float)
        sign = 1.0 if self.side == "left" else -1.0
        z = sign * scores
        top = -np.log(self.offset)
        gap = np.where(z > top, (top - z) * self.offset, np.exp(-np.minimum(z, top)) - self.offset)
        return np.asarray(self.edge - sign * gap * self.spread)

    def log_slope(self, targets: FloatArray) -> float:
        """Sum of the logarithms of the map's slope at the targets it was made from."""
        if self.side == "none":
            return 0.0
        gap = np.abs(self.edge - targets) / self.spread
        return float(-np.log((gap + self.offset) * self.spread).sum())


@dataclass(frozen=True)
class GaussianProcess:
    """A fitted process; see `fit`."""

    names: tuple[str, ...]
    linear: tuple[bool, ...]
    scalings: tuple[_Scaling, ...]
    rows: tuple[FloatArray, ...]
    amplitudes: FloatArray
    noise: float
    weights: FloatArray
    inverse_factor: FloatArray
    warp: Warp
    target_mean: float
    target_scale: float
    parameters: FloatArray
    evidence: float

    def predict(self, features: Features, noise: bool = True) -> tuple[FloatArray, FloatArray]:
        """Mean (n,) and standard deviation (n,) at new rows, in the targets' unit.

        With `noise`, the deviation is that of a new measurement; without, that of the function
        behind the measurements.
        """
        return self.in_units(*self.latent(features, noise))

    def in_units(self, latent: FloatArray, deviation: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and deviation on the scale of `warp` as mean and deviation of the values."""
        if self.warp.side == "none":
            return latent, deviation
        values = self.warp.inverse(latent[:, None] + deviation[:, None] * _QUANTILES)
        return values.mean(axis=1), values.std(axis=1)

    def latent(self, features: Features, noise: bool = False) -> tuple[FloatArray, FloatArray]:
        """Mean and deviation on the scale of `warp`, on which the process is normal."""
        groups = _groups(features)
        missing = [name for name in self.names if name not in groups]
        if missing:
            raise ValueError(f"features lack the groups {missing} the process was fitted on")
        count = len(groups[self.names[0]])
        mean = np.empty(count)
        variance = np.empty(count)
        inverse_factor = self.inverse_factor.T.astype(np.float32)
        with _suitable_threads(len(self.weights)):
            for start in range(0, count, _CHUNK):
                part = slice(start, start + _CHUNK)
                scaled = self._scaled({name: groups[name][part] for name in self.names})
                cross = self._cross(scaled)
                mean[part] = cross @ self.weights
                solved = cross @ inverse_factor
                variance[part] = self._prior(scaled) - np.einsum("ij,ij->i", solved, solved)
        variance = np.maximum(variance, 1e-12) + (self.noise if noise else 0.0)
        return (
            self.target_mean + self.target_scale * mean,
            self.target_scale * np.sqrt(variance),
        )

    def covariance(self, features: Features) -> FloatArray:
        """Covariance (n, n) of the function behind the measurements, on the scale of `warp`."""
        scaled = self._scaled(_groups(features))
        prior: FloatArray = np.zeros((len(scaled[0]),) * 2)
        for g, rows in enumerate(scaled):
            prior += self.amplitudes[g] * _kernel(rows, rows, self.linear[g])
        solved = self._cross(scaled) @ self.inverse_factor.T
        return np.asarray(self.target_scale**2 * (prior - solved @ solved.T))

    def _scaled(self, groups: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
        """Rows as the kernel sees them; in single precision, which is several times faster and far
        more exact than any measurement."""
        return [
            scale(groups[name]).astype(np.float32)
            for name, scale in zip(self.names, self.scalings, strict=True)
        ]

    def _prior(self, scaled: list[NDArray[np.float32]]) -> FloatArray:
        """Variance before anything was measured (n,)."""
        variance = np.zeros(len(scaled[0]))
        for g, rows in enumerate(scaled):
            own = np.einsum("ij,ij->i", rows, rows) if self.linear[g] else 1.0
            variance += self.amplitudes[g] * own
        return variance

    def _cross(self, scaled: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Covariance of new rows with the fitted ones, (n, fitted)."""
        cross: NDArray[np.float32] = np.zeros((len(scaled[0]), len(self.weights)), dtype=np.float32)
        for g, rows in enumerate(scaled):
            kernel = _kernel(rows, self.rows[g].astype(np.float32), self.linear[g])
            cross += np.float32(self.amplitudes[g]) * kernel
        return cross


def _kernel(a: NDArray[Any], b: NDArray[Any], linear: bool) -> NDArray[Any]:
    return np.asarray(a @ b.T) if linear else _matern(_squared_distances(a, b))


def _groups(features: Features) -> dict[str, FloatArray]:
    named = features if isinstance(features, Mapping) else {"features": features}
    groups = {name: np.asarray(rows, dtype=float) for name, rows in named.items()}
    lengths = {len(rows) for rows in groups.values()}
    if not groups or len(lengths) != 1 or any(rows.ndim != 2 for rows in groups.values()):
        raise ValueError("features must be arrays (n, d) of the same n")
    return groups


def _squared_distances(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    squared = a @ b.T
    squared *= -2.0
    squared += np.einsum("ij,ij->i", a, a)[:, None]
    squared += np.einsum("ij,ij->i", b, b)[None, :]
    return np.asarray(np.maximum(squared, 0.0, out=squared))


def _matern(squared: NDArray[Any]) -> NDArray[Any]:
    """Matern-5/2 of squared distances, which are overwritten."""
    t = np.sqrt(squared, out=squared)
    t *= _ROOT5
    decay = np.exp(-t)
    t *= t / 3.0 + 1.0
    t += 1.0
    t *= decay
    return np.asarray(t)


def fit(
    features: Features,
    targets: ArrayLike,
    *,
    columns: Mapping[str, str] | None = None,
    traits: Mapping[str, ArrayLike] | None = None,
    linear: Collection[str] = (),
    warp: str | tuple[str, float] | Warp = "none",
    iterations: int = 60,
    start: FloatArray | None = None,
) -> GaussianProcess:
    """Fit a Gaussian process and its scales by maximum marginal likelihood with weak priors.

    Args:
        features: groups of rows, name -> (n, d), or one array (n, d).
        targets: (n,), finite.
        columns: per group "own" (each column gets variance 1; the default) or "common" (columns
            keep their relative spread, as suits an embedding or rare binary features).
        traits: per group a matrix (d, q) that describes the columns; the logarithm of a column's
            weight is then a learned linear function of its traits. With the identity every column
            has its own length scale; with, say, the operations that occur in a path, few numbers
            decide which paths matter.
        linear: names of groups that act as in a linear model (a sum of independent effects)
            instead of through distances.
        warp: a pair (side, offset) of `Warp`, or "none", "left", "right" (offset 0.3).
        iterations: the most steps of the optimiser (L-BFGS).
        start: `parameters` of an earlier fit with the same groups and traits to start from.

    Costs O(n^3) a step: about 0.05 s for 100 rows, 1 s for 500 on one core.
    Raises ValueError for empty, ragged or non-finite input.
    """
    groups = _groups(features)
    y = _checked_targets(targets, groups)
    wanted = _Targets.of(y, warp)
    columns, traits = columns or {}, traits or {}
    scalings, rows, described = {}, [], []
    for name, values in groups.items():
        scalings[name] = scaling = _Scaling.of(values, columns.get(name, "own"))
        rows.append(scaling(values))
        matrix = np.asarray(traits.get(name, np.empty((values.shape[1], 0))), dtype=float)
        described.append(matrix[scaling.keep])
    problem = Problem(rows, described, wanted.values, tuple(name in linear for name in groups))
    with _suitable_threads(len(y)):
        return _solved(problem, _most_likely(problem, start, iterations), scalings, wanted)


def _suitable_threads(rows: int) -> AbstractContextManager[Any]:
    """Let BLAS compute with one thread for a while where a process has few rows.

    For matrices of a hundred rows several threads gain little, and where the machine has other work
    they wait for each other in loops: searches on a table then took nearly three times as long.
    """
    if rows > _ONE_THREAD_TO:
        return nullcontext()
    limited: AbstractContextManager[Any] = _blas().limit(limits=1, user_api="blas")
    return limited


@cache
def _blas() -> Any:
    import scipy.linalg  # noqa: F401 -- has a BLAS of its own, which must be loaded to be found
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _checked_targets(targets: ArrayLike, groups: Mapping[str, FloatArray]) -> FloatArray:
    """One finite number for every row of the features, which are finite too.

    Raises:
        ValueError: it is not so.
    """
    y = np.asarray(targets, dtype=float)
    if y.ndim != 1 or len(y) != len(next(iter(groups.values()))) or not len(y):
        raise ValueError("targets must be one number for every row of the features")
    if not np.isfinite(y).all() or not all(np.isfinite(rows).all() for rows in groups.values()):
        raise ValueError("features and targets must be finite")
    return y


@dataclass(frozen=True)
class _Targets:
    """Targets as the process is fitted to them: warped, of mean 0 and variance 1."""

    values: FloatArray
    warp: Warp
    mean: float
    scale: float
    log_slope: float

    @staticmethod
    def of(targets: FloatArray, warp: str | tuple[str, float] | Warp) -> _Targets:
        if isinstance(warp, str):
            warp = (warp, 0.3)
        if not isinstance(warp, Warp):
            warp = Warp.of(targets, *warp)
        values = warp(targets)
        mean = float(values.mean())
        scale = float(values.std()) or 1.0
        return _Targets((values - mean) / scale, warp, mean, scale, warp.log_slope(targets))


def _most_likely(problem: Problem, start: FloatArray | None, iterations: int) -> Any:
    """What the optimiser finds, from `start` if it suits and, if that fails, from the priors."""
    from scipy.optimize import minimize

    if start is not None and len(start) == len(problem.start):
        first = np.clip(start, *np.transpose(problem.bounds))
    else:
        first = problem.start
    for begin in (first, problem.start):
        found = minimize(
            problem,
            begin,
            jac=True,
            method="L-BFGS-B",
            bounds=problem.bounds,
            options={"maxiter": iterations},
        )
        if found.fun < REFUSED:
            break
    return found


def _solved(
    problem: Problem, found: Any, scalings: Mapping[str, _Scaling], wanted: _Targets
) -> GaussianProcess:
    """The process with the scales that were found."""
    from scipy.linalg import cho_factor, solve_triangular

    y, linear = problem.y, problem.linear
    amplitudes, noise, weights = problem.unpack(found.x)
    rows = [own * weight for own, weight in zip(problem.rows, weights, strict=True)]
    kernel = np.zeros((len(y), len(y)))
    for g, own in enumerate(rows):
        kernel += amplitudes[g] * _kernel(own, own, linear[g])
    kernel[np.diag_indices(len(y))] += noise + _JITTER
    factor, _ = cho_factor(kernel, lower=True)
    inverse_factor = solve_triangular(factor, np.eye(len(y)), lower=True)
    return GaussianProcess(
        names=tuple(scalings),
        linear=linear,
        scalings=tuple(
            replace(scaling, scale=scaling.scale / weight)
            for scaling, weight in zip(scalings.values(), weights, strict=True)
        ),
        rows=tuple(rows),
        amplitudes=amplitudes,
        noise=noise,
        weights=inverse_factor.T @ (inverse_factor @ y),
        inverse_factor=inverse_factor,
        warp=wanted.warp,
        target_mean=wanted.mean,
        target_scale=wanted.scale,
        parameters=found.x,
        evidence=-float(found.fun) + wanted.log_slope - len(y) * float(np.log(wanted.scale)),
    )


class Problem:
    """Minus the logarithm of marginal likelihood times priors, with its gradient.

    The parameters are, in this order, the logarithms of the amplitudes, of the lengths and of the
    noise variance, then the slopes on each group's traits.
    """

    def __init__(
        self,
        rows: list[FloatArray],
        traits: list[FloatArray],
        y: FloatArray,
        linear: tuple[bool, ...],
    ) -> None:
        self.rows, self.traits, self.y, self.linear = rows, traits, y, linear
        self.groups = len(rows)
        slopes = sum(matrix.shape[1] for matrix in traits)
        amplitude = (_AMPLITUDE_PRIOR[0] - np.log(self.groups), _AMPLITUDE_PRIOR[1])
        priors = np.array(
            [amplitude] * self.groups
            + [_LENGTH_PRIOR] * self.groups
            + [_NOISE_PRIOR]
            + [_SLOPE_PRIOR] * slopes
        )
        self.start, self.deviations = priors[:, 0].copy(), priors[:, 1]
        self.means = self.start.copy()
        self.bounds = (
            [(-9.0, 4.0)] * self.groups
            + [(-2.5, 4.0)] * self.groups
            + [(-8.0, 1.5)]
            + [(-6.0, 3.0)] * slopes
        )
        self.diagonal = np.diag_indices(len(y))

    def unpack(self, theta: FloatArray) -> tuple[FloatArray, float, list[FloatArray]]:
        """Amplitudes (groups,), noise variance, and the weight of every column of every group."""
        amplitudes = np.exp(theta[: self.groups])
        noise = float(np.exp(theta[2 * self.groups]))
        weights, place = [], 2 * self.groups + 1
        for g, matrix in enumerate(self.traits):
            slopes = theta[place : place + matrix.shape[1]]
            weights.append(np.exp(matrix @ slopes - theta[self.groups + g]))
            place += matrix.shape[1]
        return amplitudes, noise, weights

    def __call__(self, theta: FloatArray) -> tuple[float, FloatArray]:
        from scipy.linalg.lapack import dpotrf, dpotri

        amplitudes, noise, weights = self.unpack(theta)
        n = len(self.y)
        kernel = np.zeros((n, n))
        terms, slopes, scaled = [], [], []
        for g, rows in enumerate(self.rows):
            scaled.append(rows * weights[g])
            if self.linear[g]:
                terms.append(amplitudes[g] * (scaled[g] @ scaled[g].T))
                slopes.append(terms[g])
                kernel += terms[g]
                continue
            t = np.sqrt(_squared_distances(scaled[g], scaled[g])) * _ROOT5
            decay = np.exp(-t)
            decay *= amplitudes[g]
            terms.append((1.0 + t + t * t / 3.0) * decay)
            slopes.append((1.0 + t) * decay)
            kernel += terms[g]
        kernel[self.diagonal] += noise + _JITTER
        factor, info = dpotrf(kernel, lower=1, clean=1)
        if info:  # distances between rows of extreme scale are lost to cancellation
            return REFUSED, np.zeros(len(theta))  # the line search takes a smaller step
        inverse, _ = dpotri(factor, lower=1)
        inverse += np.tril(inverse, -1).T
        solved = inverse @ self.y
        value = 0.5 * float(self.y @ solved) + float(np.log(np.diag(factor)).sum())
        pull = inverse - np.outer(solved, solved)
        gradient = np.empty(len(theta))
        gradient[2 * self.groups] = 0.5 * noise * np.trace(pull)
        place = 2 * self.groups + 1
        for g, rows in enumerate(scaled):
            gradient[g] = 0.5 * np.vdot(pull, terms[g])
            width = self.traits[g].shape[1]
            if self.linear[g]:
                by_column = amplitudes[g] * np.einsum("ij,ij->j", rows, pull @ rows)
                gradient[self.groups + g] = -by_column.sum()
                gradient[place : place + width] = by_column @ self.traits[g]
                place += width
                continue
            # d kernel / d squared distance = -5/6 slope; summed over all pairs, per column.
            force = slopes[g] * pull
            by_column = (-5.0 / 3.0) * (
                force.sum(axis=1) @ rows**2 - np.einsum("ij,ij->j", rows, force @ rows)
            )
            gradient[self.groups + g] = -by_column.sum()
            gradient[place : place + width] = by_column @ self.traits[g]
            place += width
        offset = (theta - self.means) / self.deviations
        return value + 0.5 * float(offset @ offset), gradient + offset / self.deviations
