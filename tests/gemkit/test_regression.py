import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.stats import spearmanr
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from gemkit import regression
from gemkit.regression import Warp, fit


def problem(seed: int, count: int = 80) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 3))
    return x, np.sin(x[:, 0]) + 0.5 * x[:, 1] + 0.05 * rng.normal(size=count)


def test_posterior_is_that_of_scikit_learn_at_the_learned_scales(seed: int) -> None:
    x, y = problem(seed)
    new = np.random.default_rng(seed + 1).normal(size=(50, 3))
    process = fit(x, y)
    scaling = process.scalings[0]
    kernel = ConstantKernel(process.amplitudes[0]) * Matern(1.0, nu=2.5) + WhiteKernel(
        process.noise
    )
    oracle = GaussianProcessRegressor(kernel, alpha=1e-8, optimizer=None)
    oracle.fit(scaling(x), (y - process.target_mean) / process.target_scale)
    mean, std = oracle.predict(scaling(new), return_std=True)
    ours_mean, ours_std = process.predict(new)
    unit = process.target_scale
    np.testing.assert_allclose(ours_mean, mean * unit + process.target_mean, atol=2e-3 * unit)
    np.testing.assert_allclose(ours_std, std * unit, rtol=0.01)
    quiet = process.predict(new, noise=False)[1]
    np.testing.assert_allclose(quiet**2 + process.noise * unit**2, ours_std**2, rtol=1e-3)


def test_gradient_of_the_evidence(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one = regression.Problem(
        [rng.normal(size=(20, 5)) / 2, rng.normal(size=(20, 3))],
        [rng.normal(size=(5, 2)), np.eye(3)],
        rng.normal(size=20),
        (False, True),
    )
    theta = one.start + 0.3 * rng.normal(size=len(one.start))
    numeric = approx_fprime(theta, lambda t: one(t)[0], 1e-6)
    np.testing.assert_allclose(one(theta)[1], numeric, rtol=1e-3, atol=1e-3)


def test_covariance_agrees_with_the_deviations(seed: int) -> None:
    x, y = problem(seed)
    new = np.random.default_rng(seed + 1).normal(size=(30, 3))
    process = fit({"a": x, "b": x[:, :1]}, y, linear=("b",))
    _, std = process.latent({"a": new, "b": new[:, :1]})
    covariance = process.covariance({"a": new, "b": new[:, :1]})
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), std, rtol=0.02, atol=1e-3)
    assert np.linalg.eigvalsh(covariance).min() > -1e-4


def test_learns_which_group_matters(seed: int) -> None:
    rng = np.random.default_rng(seed)
    useful, noise = rng.normal(size=(150, 2)), rng.normal(size=(150, 2))
    y = np.sin(useful[:, 0]) + useful[:, 1]
    process = fit({"useful": useful[:100], "noise": noise[:100]}, y[:100])
    mean, _ = process.predict({"useful": useful[100:], "noise": noise[100:]})
    assert spearmanr(mean, y[100:])[0] > 0.9


def test_traits_switch_columns_off(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.random((260, 12)) < 0.4).astype(float)
    kind = np.repeat(np.eye(3), 4, axis=0)
    y = x[:, :4].sum(axis=1) ** 1.5
    columns = {"x": "common"}
    plain = fit({"x": x[:60]}, y[:60], columns=columns)
    told = fit({"x": x[:60]}, y[:60], columns=columns, traits={"x": kind})
    errors = [np.mean((p.predict({"x": x[60:]})[0] - y[60:]) ** 2) for p in (plain, told)]
    assert errors[1] < errors[0]
    assert told.evidence > plain.evidence


def test_a_linear_group_is_ridge_regression(seed: int) -> None:
    rng = np.random.default_rng(seed)
    covered = []
    for _ in range(6):
        x = rng.integers(0, 6, size=(300, 4)).astype(float)
        y = x @ [1.0, 5.0, 0.2, 3.0] + 0.3 * rng.normal(size=300)
        process = fit({"x": x[:60]}, y[:60], linear=("x",))
        mean, std = process.predict({"x": x[60:]})
        assert np.sqrt(np.mean((mean - y[60:]) ** 2)) < 0.45
        covered.append(np.mean(np.abs(mean - y[60:]) <= 1.645 * std))
    # The noise is estimated from 60 values, so a single fit's coverage varies by several points.
    assert 0.8 < np.mean(covered) <= 1.0, covered


@pytest.mark.parametrize("side", ["left", "right"])
def test_warps_increase_and_invert(side: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = 90 - rng.gamma(1.0, 5.0, size=40)
    warp = Warp.of(values, side, 0.3)
    grid = np.linspace(values.min() - 30, values.max() + 30, 500)
    assert (np.diff(warp(grid)) > 0).all()
    np.testing.assert_allclose(warp.inverse(warp(grid)), grid, rtol=1e-9)
    step = 1e-6 * np.ptp(values)
    inner = np.sort(values)[1:-1]
    slopes = (warp(inner + step) - warp(inner - step)) / (2 * step)
    edge = np.log(1 / (0.3 * warp.spread))
    outer = values.min() if side == "left" else values.max()
    sign = -1 if side == "left" else 1
    last = (warp(np.array([outer])) - warp(np.array([outer - step * sign * -1]))) / (
        step * sign * -1
    )
    assert np.isclose(
        warp.log_slope(values), np.log(slopes).sum() + edge + np.log(np.abs(last)).item(), atol=1e-2
    )


def test_intervals_hold_what_they_say(seed: int) -> None:
    inside = []
    for trial in range(6):
        x, y = problem(seed + trial, 360)
        process = fit(x[:60], y[:60], warp=("left", 0.3))
        mean, deviation = process.latent(x[60:], noise=True)
        inside.append(np.mean(np.abs(process.warp(y[60:]) - mean) <= 1.645 * deviation))
    assert 0.78 < np.mean(inside) < 0.98


def test_edge_cases(seed: int) -> None:
    x, y = problem(seed, 12)
    constant = fit({"x": x, "one": np.ones((12, 2))}, np.full(12, 3.0))
    mean, std = constant.predict({"x": x, "one": np.ones((12, 2))})
    np.testing.assert_allclose(mean, 3.0, atol=1e-3)
    assert np.isfinite(std).all()
    single = fit(x[:1], y[:1])
    assert np.isfinite(single.predict(x)[0]).all()
    twice = fit(np.concatenate([x, x]), np.concatenate([y, y]))
    assert np.isfinite(twice.predict(x)[1]).all()
    assert fit(x, y).predict(x[:0])[0].shape == (0,)
    for features, targets in ((x, y[:5]), (x * np.nan, y), (x[:0], y[:0]), (x[:, 0], y)):
        with pytest.raises(ValueError, match=r"features|targets"):
            fit(features, targets)
    with pytest.raises(ValueError, match="lack the groups"):
        fit({"a": x}, y).predict({"b": x})


def test_the_same_input_gives_the_same_process(seed: int) -> None:
    x, y = problem(seed)
    first, second = fit(x, y), fit(x, y)
    np.testing.assert_array_equal(first.predict(x)[0], second.predict(x)[0])
    warm = fit(x, y, start=first.parameters, iterations=2)
    assert warm.evidence >= first.evidence - 1e-6


def test_scales_that_lose_all_distances_are_refused(seed: int) -> None:
    """Weights of e^17.5 leave the distances between rows that are nearly equal to rounding: no
    likelihood there, and a fit that begins there begins again elsewhere."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(rng.normal(size=(30, 6)), 4, axis=0) + 1e-8 * rng.normal(size=(120, 6))
    y = rows.sum(axis=1) - rows.sum(axis=1).mean()
    problem = regression.Problem([rows], [np.full((6, 1), 5.0)], y, (False,))
    low, high = np.transpose(problem.bounds)
    extreme = np.array([high[0], low[1], low[2], high[3]])
    value, gradient = problem(extreme)
    assert value == regression.REFUSED
    assert not gradient.any()
    assert problem(problem.start)[0] < value
    fitted = fit({"x": rows}, y, traits={"x": np.full((6, 1), 5.0)}, start=extreme)
    assert np.isfinite(fitted.predict({"x": rows})[0]).all()
