"""The Gaussian process against scikit-learn's, against differences, and on functions that it should learn."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel
from sklearn.linear_model import RidgeCV

from hcdc_jax import spaces
from hcdc_jax.metrics import spearman
from hcdc_jax.search import surrogate
from hcdc_jax.search.surrogate import Prior, kernel_jet

# Of a standard deviation of 1 in each direction, so that points are in its units.
SPACE = spaces.box("cube", dict.fromkeys("abc", (-(3**0.5), 3**0.5)))
QUIET = Prior(value_noise=(np.log(1e-4), 0.1), gradient_noise=(np.log(1e-4), 0.1))
RNG = np.random.default_rng(0)
POINTS, QUERIES = RNG.normal(size=(8, 3)), RNG.normal(size=(40, 3))
LENGTH, SIGNAL = np.array([0.7, 1.5, 3.0]), 1.3


def smooth(x):
    return 2.0 + np.sin(x[:, 0]) + 0.3 * x[:, 1] ** 2 - 0.5 * x[:, 2]


def slopes(x):
    return np.stack([np.cos(x[:, 0]), 0.6 * x[:, 1], np.full(len(x), -0.5)], 1)


def predict(points, values, queries, *, gradients=None, prior=None, space=SPACE):
    return surrogate.predict(surrogate.fit(space, points, values, gradients, prior=prior), queries)[0]


def pinned(length: float, signal: float, value_noise: float, gradient_noise: float = 1.0) -> Prior:
    """These parameters, with hardly any freedom; the length is that in three dimensions."""
    return Prior(
        (np.log(length / 3**0.5), 1e-6, 1e-6), *((np.log(x), 1e-6) for x in (signal, value_noise, gradient_noise))
    )


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
    kernel = ConstantKernel(0.9**2, "fixed") * RBF([1.2] * 3, "fixed")
    process = GaussianProcessRegressor(kernel, alpha=noise**2, optimizer=None)
    expected, deviation = process.fit(POINTS, (values - values.mean()) / spread).predict(QUERIES, return_std=True)
    ours = surrogate.fit(SPACE, POINTS, values, prior=pinned(1.2, 0.9, noise))
    predicted, uncertainty = surrogate.predict(ours, QUERIES)
    np.testing.assert_allclose(predicted, values.mean() + spread * expected, atol=1e-4)
    np.testing.assert_allclose(uncertainty, spread * deviation, atol=1e-4)


def test_the_posterior_has_the_values_and_slopes_that_it_was_given():
    def mean(x):
        return predict(POINTS, smooth(POINTS), x, gradients=slopes(POINTS), prior=QUIET)

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
    partly = slopes(POINTS)
    partly[:2] = np.nan

    def mean(x):
        return predict(POINTS, smooth(POINTS), x, gradients=partly, prior=QUIET)

    shift = 1e-3 * np.eye(3)[0]
    slope = (mean(POINTS + shift) - mean(POINTS - shift)) / 2e-3
    np.testing.assert_allclose(slope[2:], slopes(POINTS)[2:, 0], atol=2e-2)
    np.testing.assert_allclose(mean(POINTS), smooth(POINTS), atol=1e-2)


@pytest.mark.parametrize("with_gradients", [False, True])
def test_left_out_predictions_are_those_of_a_process_that_never_saw_the_point(with_gradients):
    gradients = slopes(POINTS) if with_gradients else None
    process = surrogate.fit(SPACE, POINTS, smooth(POINTS), gradients)
    mean, deviation = surrogate.left_out(process)
    fitted = np.exp(process.log_params)
    # The same parameters in the units of the values; centre and spread of the others would differ.
    for i in (0, 5):
        rest = np.arange(len(POINTS)) != i
        jet = kernel_jet(POINTS, POINTS, fitted[:3], fitted[3])
        kept = np.flatnonzero(np.concatenate([rest, np.repeat(rest, 3) & with_gradients]))
        noise = np.diag(np.repeat([fitted[4] ** 2, fitted[5] ** 2], [8, 24])[kept])
        numbers = np.concatenate([smooth(POINTS) - process.centre, slopes(POINTS).ravel()])[kept] / process.spread
        cross = jet[i, kept] @ np.linalg.inv(jet[np.ix_(kept, kept)] + noise)
        np.testing.assert_allclose(mean[i], process.centre + process.spread * cross @ numbers, rtol=1e-5)
        variance = jet[i, i] - cross @ jet[kept, i] + fitted[4] ** 2
        np.testing.assert_allclose(deviation[i], process.spread * np.sqrt(variance), rtol=1e-5)


def even(x):
    return np.cos(x[:, 0] + 0.5 * x[:, 1]) + 0.3 * (x[:, 2] - x[:, 0]) ** 2


def slopes_of_even(x):
    return np.stack([(even(x + 1e-5 * e) - even(x - 1e-5 * e)) / 2e-5 for e in np.eye(3)], 1)


@pytest.mark.parametrize("with_gradients", [False, True])
def test_a_symmetry_is_exact_in_predictions_and_worth_as_many_points(with_gradients):
    symmetric = SPACE._replace(orbit=spaces.either_sign)
    queries = np.asarray(SPACE.sample(jax.random.key(1), 200))
    found = {True: [], False: []}
    for seed in range(6):
        points = np.asarray(SPACE.spread(seed, 8))
        gradients = slopes_of_even(points) if with_gradients else None
        for told in found:
            space = symmetric if told else SPACE
            predicted = predict(points, even(points), queries, gradients=gradients, space=space)
            found[told].append(spearman(even(queries), predicted))
            if told:
                mirrored = predict(points, even(points), -queries, gradients=gradients, space=space)
                np.testing.assert_allclose(predicted, mirrored, atol=1e-9)
    # What ranks wrong halves at least.
    assert 1 - np.mean(found[True]) < 0.5 * (1 - np.mean(found[False]))


def test_slopes_are_carried_along_an_orbit():
    """Observed at x, the slope of an even function is known at -x, too."""
    symmetric = SPACE._replace(orbit=spaces.either_sign)

    def mean(x):
        return predict(POINTS, even(POINTS), x, gradients=slopes_of_even(POINTS), prior=QUIET, space=symmetric)

    for i in range(3):
        shift = 1e-3 * np.eye(3)[i]
        slope = (mean(-POINTS + shift) - mean(-POINTS - shift)) / 2e-3
        np.testing.assert_allclose(slope, -slopes_of_even(POINTS)[:, i], atol=5e-2)


def test_slopes_of_permuted_hyperparameters_are_permuted():
    swapped = SPACE._replace(orbit=lambda x: jnp.stack([x, x[jnp.array([1, 2, 0])], x[jnp.array([2, 0, 1])]]))

    def cyclic(x):
        return np.sin(x).sum(1) + (x * np.roll(x, 1, 1)).sum(1) * 0.3

    gradients = np.stack([(cyclic(POINTS + 1e-5 * e) - cyclic(POINTS - 1e-5 * e)) / 2e-5 for e in np.eye(3)], 1)

    def mean(x):
        return predict(POINTS, cyclic(POINTS), x, gradients=gradients, prior=QUIET, space=swapped)

    np.testing.assert_allclose(mean(np.roll(POINTS, 1, 1)), cyclic(POINTS), atol=2e-2)
    shift = 1e-3 * np.eye(3)[0]
    slope = (mean(np.roll(POINTS, 1, 1) + shift) - mean(np.roll(POINTS, 1, 1) - shift)) / 2e-3
    np.testing.assert_allclose(slope, np.roll(gradients, 1, 1)[:, 0], atol=5e-2)


def test_many_coordinates_of_few_choices_are_learned_from_eight_points():
    """Eight cells of thirty one-hot coordinates and an additive target: one length scale for each was lost there."""
    space, found = spaces.get("nas_bench_201"), []
    for seed in range(40):
        cells = np.asarray(space.sample(jax.random.key(seed), 208))
        values = cells @ np.random.default_rng(seed).normal(size=30)
        found.append(spearman(values[8:], predict(cells[:8], values[:8], cells[8:], space=space)))
    assert np.mean(found) > 0.5, np.mean(found)
    assert len(np.unique(surrogate.groups_of(space))) == 6


def test_what_choices_add_up_to_is_learned_as_by_a_linear_model():
    """Sixteen cells: 0.026 below the linear model while length scales of choices were those of smooth coordinates."""
    space, ours, linear = spaces.get("nas_bench_201"), [], []
    for seed in range(1, 41, 2):  # the prior was chosen on even seeds
        cells = np.concatenate([space.spread(seed, 16), space.sample(jax.random.key(seed), 200)])
        values = cells @ np.random.default_rng(seed).normal(size=30)
        ours.append(spearman(values[16:], predict(cells[:16], values[:16], cells[16:], space=space)))
        model = RidgeCV(np.logspace(-3, 3, 13)).fit(cells[:16], values[:16])
        linear.append(spearman(values[16:], model.predict(cells[16:])))
    assert np.mean(ours) > np.mean(linear), (np.mean(ours), np.mean(linear))
