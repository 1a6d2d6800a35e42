"""The Gaussian process against scikit-learn's, against differences, and on functions that it should learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel

from hcdc_jax.surrogate import Prior, kernel_jet, predict

RNG = np.random.default_rng(0)
POINTS, QUERIES = RNG.normal(size=(8, 3)), RNG.normal(size=(40, 3))
LENGTH, SIGNAL = np.array([0.7, 1.5, 3.0]), 1.3


def smooth(x):
    return 2.0 + np.sin(x[:, 0]) + 0.3 * x[:, 1] ** 2 - 0.5 * x[:, 2]


def slopes(x):
    return np.stack([np.cos(x[:, 0]), 0.6 * x[:, 1], np.full(len(x), -0.5)], 1)


def pinned(prior: Prior) -> Prior:
    """The same means with hardly any freedom."""
    return Prior(*((mean, 1e-6) for mean, _ in prior))


def test_covariances_of_gradients_are_those_of_differences():
    a, b, step = POINTS[:2], QUERIES[:3], 1e-4
    jet = kernel_jet(a, b, LENGTH, SIGNAL)

    def value(a, b):
        return kernel_jet(a, b, LENGTH, SIGNAL)[: len(a), : len(b)]

    for i in range(3):
        shift = step * np.eye(3)[i]
        at_b = (value(a, b + shift) - value(a, b - shift)) / (2 * step)
        at_a = (value(a + shift, b) - value(a - shift, b)) / (2 * step)
        np.testing.assert_allclose(jet[:2, 3 + i :: 3], at_b, atol=1e-7)
        np.testing.assert_allclose(jet[2 + i :: 3, :3], at_a, atol=1e-7)
        for j in range(3):
            other = step * np.eye(3)[j]
            both = (
                value(a + shift, b + other) - value(a + shift, b - other)
                - value(a - shift, b + other) + value(a - shift, b - other)
            ) / (4 * step**2)  # fmt: skip
            np.testing.assert_allclose(jet[2 + i :: 3, 3 + j :: 3], both, atol=1e-6)


def test_values_alone_are_predicted_as_by_scikit_learn():
    values, noise = smooth(POINTS), 0.1
    spread = values.std()
    prior = Prior((np.log(1.2), 1.0), (np.log(0.9), 1.0), (np.log(noise), 1.0), (0.0, 1.0))
    kernel = ConstantKernel(0.9**2, "fixed") * RBF([1.2] * 3, "fixed")
    process = GaussianProcessRegressor(kernel, alpha=noise**2, optimizer=None)
    expected = process.fit(POINTS, (values - values.mean()) / spread).predict(QUERIES)
    predicted = predict(POINTS, values, QUERIES, prior=pinned(prior))
    np.testing.assert_allclose(predicted, values.mean() + spread * expected, atol=1e-4)


def test_the_posterior_has_the_values_and_slopes_that_it_was_given():
    quiet = Prior(value_noise=(np.log(1e-4), 0.1), gradient_noise=(np.log(1e-4), 0.1))

    def mean(x):
        return predict(POINTS, smooth(POINTS), x, gradients=slopes(POINTS), prior=quiet)

    np.testing.assert_allclose(mean(POINTS), smooth(POINTS), atol=1e-2)
    for i in range(3):
        shift = 1e-3 * np.eye(3)[i]
        slope = (mean(POINTS + shift) - mean(POINTS - shift)) / 2e-3
        np.testing.assert_allclose(slope, slopes(POINTS)[:, i], atol=2e-2)


def test_gradients_help():
    truth = smooth(QUERIES)
    errors = [
        np.abs(predict(POINTS, smooth(POINTS), QUERIES, gradients=g) - truth).mean() for g in (slopes(POINTS), None)
    ]
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("with_gradients", [False, True])
def test_few_points_and_equal_values_give_finite_predictions(count, with_gradients):
    points = POINTS[:count]
    gradients = np.zeros_like(points) if with_gradients else None
    predicted = predict(points, np.full(count, 2.0), QUERIES, gradients=gradients)
    np.testing.assert_allclose(predicted, 2.0, atol=1e-6)


def test_one_point_with_its_slope_ranks_along_it():
    slope = np.array([[1.0, -2.0, 0.5]])
    predicted = predict(np.zeros((1, 3)), np.array([2.0]), 0.5 * QUERIES, gradients=slope)
    along = QUERIES @ slope[0]
    assert np.corrcoef(predicted, along)[0, 1] > 0.9


def test_predictions_follow_the_unit_of_the_values():
    once = predict(POINTS, smooth(POINTS), QUERIES, gradients=slopes(POINTS))
    scaled = predict(POINTS, 10 * smooth(POINTS) - 3, QUERIES, gradients=10 * slopes(POINTS))
    np.testing.assert_allclose(scaled, 10 * once - 3, rtol=1e-4)


def test_gradients_that_were_not_observed_are_left_out():
    unknown = np.full_like(POINTS, np.nan)
    without = predict(POINTS, smooth(POINTS), QUERIES)
    np.testing.assert_array_equal(predict(POINTS, smooth(POINTS), QUERIES, gradients=unknown), without)
    partly, quiet = slopes(POINTS), Prior(value_noise=(np.log(1e-4), 0.1), gradient_noise=(np.log(1e-4), 0.1))
    partly[:2] = np.nan

    def mean(x):
        return predict(POINTS, smooth(POINTS), x, gradients=partly, prior=quiet)

    shift = 1e-3 * np.eye(3)[0]
    slope = (mean(POINTS + shift) - mean(POINTS - shift)) / 2e-3
    np.testing.assert_allclose(slope[2:], slopes(POINTS)[2:, 0], atol=2e-2)
    np.testing.assert_allclose(mean(POINTS), smooth(POINTS), atol=1e-2)
