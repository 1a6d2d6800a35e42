"""A Gaussian process on a few scores of a space, with or without their gradients: it learns the response surface.

It is told what the space knows of itself: that points of one orbit have one loss (`Space.orbit`), and which coordinates
belong to one categorical choice (`Space.choices`).
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize
from threadpoolctl import ThreadpoolController

from hcdc_jax.search.kernel import Kernel, kernel_jet, values_between
from hcdc_jax.spaces import Space

NUM_STARTS = 4
"""Starts of the fit: the marginal likelihood of a handful of points has several maxima."""
AT_ONCE = 2048
"""Queries predicted in one go: bounds the memory of their covariances with what was observed."""


class Prior(NamedTuple):
    """Normal priors on the logarithms of the kernel's parameters: mean and standard deviation, of lengths two of them.

    Inputs are in standard deviations of the search space and outputs are standardised, so one prior serves all spaces.
    A handful of points does not determine the parameters: without a prior the likelihood often ends at a length scale
    of zero or infinity.

    Attributes:
      length: of each length scale, in a space of one hyperparameter. Distances grow with the root of the number h of
        coordinates, so log(h) / 2 is added: else points of a space of many would know nothing of each other
        (Hvarfner et al., arXiv 2402.02229). The first deviation is common to all length scales, the second each one's
        own: a handful of points tells how rough a function is, and hardly in which of many directions.
      signal: of the standard deviation of the function.
      value_noise: of the standard deviation of the noise on values, which are seeds apart.
      gradient_noise: the same on gradients, which come from truncated solves besides.
      choice: of the length scales of categorical choices: what is added to their mean, and each one's own deviation in
        place of the other. What choices do to a loss nearly adds up, which long length scales say; of sixteen cells of
        six choices, shorter ones learn less than a linear model does (benchmarks/RESULTS.md).
    """

    length: tuple[float, float, float] = (math.log(2.0) - 0.5 * math.log(3.0), 0.6, 0.35)
    signal: tuple[float, float] = (0.0, 0.7)
    value_noise: tuple[float, float] = (np.log(0.05), 0.7)
    gradient_noise: tuple[float, float] = (np.log(0.2), 0.7)
    choice: tuple[float, float] = (1.5, 0.2)


class Trend(NamedTuple):
    """A function known beforehand, of which the unknown one may hold a multiple.

    Its coefficient has the prior N(0, 1) in units of the spread of the values: it is free to vanish, and uncertain
    where the observed points say nothing of it.

    Attributes:
      values: [m] at the observed points, in units in which it varies by about 1 over all that will be predicted.
      slopes: [m, h] in the hyperparameters; NaN where they are not known, and slopes observed there are not read.
    """

    values: np.ndarray
    slopes: np.ndarray


class Observed(NamedTuple):
    """What is known of a function on a space, in standard deviations of the space and of the values.

    Attributes:
      orbits: [m k, h] all points of the orbits of the m observed ones.
      read_out: [n, m k (1 + h)] makes the n observed numbers, values first, of values and gradients at these points;
        [n, m k] where no gradient was observed.
      numbers: [n].
      trend: [n] the same numbers of the trend; 0 without one.
      owner: [n] which of the m points each belongs to.
      is_slope: [n].
    """

    orbits: np.ndarray
    read_out: np.ndarray
    numbers: np.ndarray
    trend: np.ndarray
    owner: np.ndarray
    is_slope: np.ndarray


class Process(NamedTuple):
    """A fitted Gaussian process.

    Attributes:
      space: what it is a function on.
      observed: what it was fitted to.
      log_params: a length scale for each group of coordinates, the signal, and the noise of values and of gradients.
      groups: [h] whose length scale a coordinate has.
      centre: of the values.
      spread: of the values.
      factor: lower Cholesky factor of the covariance of what was observed.
      weights: [n] that covariance's inverse times the observed numbers.
      log_posterior: of the parameters, up to a constant.
    """

    space: Space
    observed: Observed
    log_params: np.ndarray
    groups: np.ndarray
    centre: float
    spread: float
    factor: np.ndarray
    weights: np.ndarray
    log_posterior: float


def fit(
    space: Space,
    points: ArrayLike,
    values: ArrayLike,
    gradients: ArrayLike | None = None,
    *,
    trend: Trend | None = None,
    prior: Prior | None = None,
) -> Process:
    """A Gaussian process with a squared-exponential kernel, its parameters at the maximum of their posterior.

    The kernel is that of f(x) = sum_i g(x_i) / sqrt(k) over the k points x_i of the orbit of x, which has the same
    value at all of them (Ginsbourger et al. 2012, "Argumentwise invariant kernels for the approximation of invariant
    functions"). Gradients are further observations of the same process (Rasmussen & Williams 2006, section 9.4).

    Args:
      space: in whose standard deviations distances are measured, and whose symmetries and choices are kept.
      points: [m, h] hyperparameters.
      values: [m].
      gradients: [m, h] slopes of the values with respect to `points`, or None; NaN where they were not observed. Not
        read where the space has none (`Space.has_slope`).
      trend: what the function may hold a multiple of, on top of the process.
      prior: of the kernel's parameters.
    """
    prior = prior or Prior()
    values = np.asarray(values, np.float64)
    scale = np.asarray(space.prior_std)
    slopes = np.full(np.shape(points), np.nan)
    if gradients is not None:
        known = jax.vmap(space.has_slope)(jnp.asarray(points))
        slopes = np.where(known, scale * np.asarray(gradients, np.float64), np.nan)
    if trend is None:
        trend = Trend(np.zeros(len(values)), np.zeros_like(slopes))
    slopes = np.where(np.isnan(trend.slopes), np.nan, slopes)
    there = ~np.isnan(slopes)
    centre, spread = float(values.mean()), max(float(values.std()), 1e-12)  # equal values: any scale will do
    if there.any():
        # Of one point, or of equal values, the slopes alone tell how far the process moves.
        # The median, since a single slope may have exploded.
        spread = max(spread, 0.3 * float(np.median(np.abs(slopes[there]))))
    observed = _observe(space, np.asarray(points), (values - centre) / spread, slopes / spread)
    trend_numbers = np.concatenate([trend.values, (scale * trend.slopes)[there]])
    observed = observed._replace(trend=trend_numbers)
    groups = groups_of(space)
    # Threads that wait for one another over matrices of this size take ten to eighty times as long on a busy machine.
    with _threads().limit(limits=1, user_api="blas"):
        log_params, log_posterior = _most_probable(observed, groups, prior)
    covariance = _covariance(observed, _jet(observed, _kernel_of(log_params, groups)), log_params)
    factor = np.linalg.cholesky(covariance)
    weights = cho_solve((factor, True), observed.numbers)
    return Process(space, observed, log_params, groups, centre, spread, factor, weights, log_posterior)


def predict(process: Process, queries: ArrayLike, trend: ArrayLike | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean and standard deviation of the function, without noise, at `queries` [n, h]: two arrays [n].

    Args:
      process: fitted.
      queries: [n, h] hyperparameters.
      trend: [n] values of the trend there, if it was fitted with one.
    """
    queries, parts = np.asarray(queries), []
    trend = np.zeros(len(queries)) if trend is None else np.asarray(trend, np.float64)
    kernel = _kernel_of(process.log_params, process.groups)
    for begin in range(0, len(queries), AT_ONCE):
        orbits = _orbits(process.space, queries[begin : begin + AT_ONCE])  # [b, k, h]
        b, k, _ = orbits.shape
        cross = _covariances(np.concatenate(orbits), process.observed, kernel).reshape(b, k, -1).sum(1) / math.sqrt(k)
        here = trend[begin : begin + AT_ONCE]
        cross += here[:, None] * process.observed.trend
        own = values_between(orbits[:, :, None], orbits[:, None], kernel).sum((1, 2)) / k + here**2
        explained = solve_triangular(process.factor, cross.T, lower=True)
        parts.append((cross @ process.weights, np.sqrt(np.maximum(own - (explained**2).sum(0), 0.0))))
    mean, deviation = map(np.concatenate, zip(*parts, strict=True))
    return process.centre + process.spread * mean, process.spread * deviation


def left_out(process: Process) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each observed value, predicted without all that was observed at its point.

    The parameters stay those of the fit to everything. Noise is included: these are predictions of observations.

    Returns:
      Two arrays [m].
    """
    observed = process.observed
    precision = cho_solve((process.factor, True), np.eye(len(observed.numbers)))
    mean, deviation = [], []
    for point in np.unique(observed.owner):
        mine = np.flatnonzero(observed.owner == point)  # its value first (Rasmussen & Williams 2006, section 5.4.2)
        covariance = np.linalg.inv(precision[np.ix_(mine, mine)])
        mean.append(observed.numbers[mine[0]] - covariance[0] @ process.weights[mine])
        deviation.append(math.sqrt(covariance[0, 0]))
    return process.centre + process.spread * np.array(mean), process.spread * np.array(deviation)


def noise_of(process: Process) -> float:
    """Standard deviation of the noise on values."""
    return process.spread * float(np.exp(process.log_params[-2]))


def power_law(given: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    """Offset and exponent of the least-squares line from one array [m] of log losses to another.

    Where those given are all the same, or run against those wanted, the exponent is 0: they say nothing.
    """
    if not given.size:
        return 0.0, 0.0
    centred = given - given.mean()
    exponent = max(float(centred @ wanted / max(centred @ centred, 1e-12)), 0.0)
    return float(wanted.mean() - exponent * given.mean()), exponent


def _covariances(points: np.ndarray, observed: Observed, kernel: Kernel) -> np.ndarray:
    """Of the values of the process at points [q, h] with what was observed: [q, n]."""
    value = values_between(points[:, None], observed.orbits[None], kernel)
    if not observed.is_slope.any():
        return value @ observed.read_out.T
    slope = value[..., None] * ((points[:, None] - observed.orbits[None]) / kernel.length**2)
    return np.concatenate([value, slope.reshape(len(points), -1)], 1) @ observed.read_out.T


def groups_of(space: Space) -> np.ndarray:
    """[h] whose length scale each coordinate has: one for all of a categorical choice, else one each; from 0 on."""
    groups = np.arange(len(space.hparam_names))
    for choice in space.choices:
        groups[list(choice)] = groups[choice[0]]
    return np.unique(groups, return_inverse=True)[1]


@functools.cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()


@functools.cache
def _orbit_maps(space: Space):
    """Of points [n, h]: all of their orbits [n, k, h], and the Jacobians [n, k, h, h] of the maps that lead there."""
    return jax.jit(jax.vmap(space.equivalents)), jax.jit(jax.vmap(jax.jacfwd(space.equivalents)))


def _orbits(space: Space, points: np.ndarray) -> np.ndarray:
    """[n, k, h] in standard deviations of the space."""
    if space.orbit is None:
        return np.asarray(points, np.float64)[:, None] / np.asarray(space.prior_std)
    return np.asarray(_orbit_maps(space)[0](jnp.asarray(points)), np.float64) / np.asarray(space.prior_std)


def _observe(space: Space, points: np.ndarray, values: np.ndarray, slopes: np.ndarray) -> Observed:
    (m, h), orbits = points.shape, _orbits(space, points)
    k, there = orbits.shape[1], ~np.isnan(slopes)
    if space.orbit is None:
        jacobian = np.broadcast_to(np.eye(h), (m, 1, h, h))
    else:
        scale = np.asarray(space.prior_std)
        jacobian = np.asarray(_orbit_maps(space)[1](jnp.asarray(points)), np.float64) * scale / scale[:, None]
    # f(x) = sum_i g(x_i) / sqrt(k), and its gradient is sum_i J_i^T grad g(x_i) / sqrt(k).
    of_values, of_slopes = np.zeros((m, m, k)), np.zeros((m, h, m, k, h))
    here = np.arange(m)
    of_values[here, here] = 1.0
    of_slopes[here, :, here] = jacobian.transpose(0, 3, 1, 2)
    of_values, of_slopes = of_values.reshape(m, m * k), of_slopes.reshape(m * h, m * k * h)[there.ravel()]
    read_out = of_values
    if there.any():
        read_out = np.block(
            [[of_values, np.zeros((m, m * k * h))], [np.zeros((there.sum(), m * k)), of_slopes]]
        )  # fmt: skip
    return Observed(
        orbits=orbits.reshape(m * k, h),
        read_out=read_out / math.sqrt(k),
        numbers=np.concatenate([values, slopes[there]]),
        trend=np.zeros(m + there.sum()),
        owner=np.concatenate([here, np.repeat(here, there.sum(1))]),
        is_slope=np.arange(m + there.sum()) >= m,
    )


def _kernel_of(log_params: np.ndarray, groups: np.ndarray) -> Kernel:
    return Kernel(np.exp(log_params[:-3])[groups], float(np.exp(log_params[-3])))


def _noise(observed: Observed, log_params: np.ndarray) -> np.ndarray:
    """[n] variances."""
    return np.exp(2 * np.where(observed.is_slope, log_params[-1], log_params[-2]))


def _jet(observed: Observed, kernel: Kernel) -> np.ndarray:
    if observed.is_slope.any():
        return kernel_jet(observed.orbits, observed.orbits, *kernel)
    return values_between(observed.orbits[:, None], observed.orbits[None], kernel)


def _covariance(observed: Observed, jet: np.ndarray, log_params: np.ndarray) -> np.ndarray:
    """[n, n] of what was observed."""
    of_process = observed.read_out @ jet @ observed.read_out.T
    return of_process + np.outer(observed.trend, observed.trend) + np.diag(_noise(observed, log_params))


def _length_slopes(weights: np.ndarray, observed: Observed, kernel: Kernel, jet: np.ndarray) -> np.ndarray:
    """[h] derivatives of sum(weights * jet), weights symmetric and constant, in the logarithms of the length scales."""
    points, length = observed.orbits, kernel.length
    count, h = points.shape
    scaled = (points[:, None] - points[None]) / length**2
    stretch = scaled**2 * length**2  # what a value's logarithm gains
    value = jet[:count, :count]
    product = weights * jet
    if len(jet) == count:
        return np.einsum("ab,abd->d", product, stretch)
    to_slopes = product[:count, count:].reshape(count, count, h)
    between = product[count:, count:].reshape(count, h, count, h)
    of_pairs = product[:count, :count] + 2 * to_slopes.sum(-1) + between.sum((1, 3))
    curvature_weights = weights[count:, count:].reshape(count, h, count, h)
    along = np.einsum("adbe,abe->abd", curvature_weights, scaled)
    along += np.einsum("aebd,abe->abd", curvature_weights, scaled)
    return (
        np.einsum("ab,abd->d", of_pairs, stretch)
        - 4 * to_slopes.sum((0, 1))
        - 2 * np.einsum("adbd,ab->d", curvature_weights, value) / length**2
        + 2 * np.einsum("ab,abd,abd->d", value, scaled, along)
    )


def _prior_moments(prior: Prior, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the log parameters."""
    mean_length, common, own = prior.length
    longer, own_of_choice = prior.choice
    is_choice = np.bincount(groups) > 1
    others = np.array([prior.signal, prior.value_noise, prior.gradient_noise])
    lengths = mean_length + 0.5 * math.log(len(groups)) + np.where(is_choice, longer, 0.0)
    mean = np.concatenate([lengths, others[:, 0]])
    covariance = np.diag(np.concatenate([np.where(is_choice, own_of_choice, own), others[:, 1]]) ** 2)
    covariance[: len(lengths), : len(lengths)] += common**2
    return mean, covariance


def _most_probable(observed: Observed, groups: np.ndarray, prior: Prior) -> tuple[np.ndarray, float]:
    """The log parameters at the maximum of their posterior, and its logarithm there."""
    mean, covariance = _prior_moments(prior, groups)
    std, tightness = np.sqrt(np.diag(covariance)), np.linalg.inv(covariance)

    def negative_log_posterior(log_params: np.ndarray) -> tuple[float, np.ndarray]:
        kernel, noise = _kernel_of(log_params, groups), _noise(observed, log_params)
        jet = _jet(observed, kernel)
        factor = cho_factor(_covariance(observed, jet, log_params), lower=True)
        alpha = cho_solve(factor, observed.numbers)
        value = 0.5 * observed.numbers @ alpha + np.log(np.diag(factor[0])).sum()
        inner = cho_solve(factor, np.eye(len(alpha))) - np.outer(alpha, alpha)  # twice the slope in the covariance
        outer = observed.read_out.T @ inner @ observed.read_out
        of_noise = np.diag(inner) * noise
        slope = np.concatenate(
            [
                0.5 * np.bincount(groups, _length_slopes(outer, observed, kernel, jet)),
                [np.sum(outer * jet), of_noise[~observed.is_slope].sum(), of_noise[observed.is_slope].sum()],
            ]
        )
        pull = tightness @ (log_params - mean)
        return float(value + 0.5 * (log_params - mean) @ pull), slope + pull

    draws = np.random.default_rng(0).multivariate_normal(np.zeros(len(mean)), covariance, NUM_STARTS - 1)
    # Four prior standard deviations bound the search where the covariance is still well conditioned.
    bounds = np.stack([mean - 4 * std, mean + 4 * std], 1)
    fits = [
        minimize(negative_log_posterior, np.clip(start, *bounds.T), jac=True, method="L-BFGS-B", bounds=bounds)
        for start in [mean, *(mean + draws)]
    ]
    best = min(fits, key=lambda fit: fit.fun)
    return best.x, -float(best.fun)
