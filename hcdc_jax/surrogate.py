"""A Gaussian process on a few scores, with or without their gradients: the rival that learns the response surface."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

NUM_STARTS = 4
"""Starts of the fit: the marginal likelihood of a handful of points has several maxima."""


class Prior(NamedTuple):
    """Normal priors (mean, standard deviation) on the logarithms of the kernel's parameters.

    Inputs are in standard deviations of the search space and outputs are standardised, so one prior serves all spaces.
    A handful of points does not determine the parameters: without a prior the likelihood often ends at a length scale
    of zero or infinity.

    Attributes:
      length: of each input's length scale.
      signal: of the standard deviation of the function.
      value_noise: of the standard deviation of the noise on values, which are seeds apart.
      gradient_noise: the same on gradients, which come from truncated solves besides.
    """

    length: tuple[float, float] = (np.log(2.0), 0.7)
    signal: tuple[float, float] = (0.0, 0.7)
    value_noise: tuple[float, float] = (np.log(0.05), 0.7)
    gradient_noise: tuple[float, float] = (np.log(0.2), 0.7)


def predict(
    points: np.ndarray,
    values: np.ndarray,
    queries: np.ndarray,
    *,
    gradients: np.ndarray | None = None,
    prior: Prior | None = None,
) -> np.ndarray:
    """Posterior mean of a Gaussian process at `queries`: [n].

    Squared-exponential kernel with one length scale per input; kernel parameters at the maximum of the posterior.
    Gradients enter as further observations of the same process (Rasmussen & Williams 2006, section 9.4).

    Args:
      points: [m, h], in units of the standard deviation of the space.
      values: [m].
      queries: [n, h].
      gradients: [m, h] slopes of the values with respect to `points`, or None; NaN where they were not observed.
      prior: of the kernel's parameters.
    """
    prior = prior or Prior()
    points, queries, values = (np.asarray(x, np.float64) for x in (points, queries, values))
    centre, spread = values.mean(), max(values.std(), 1e-12)  # equal values: any scale will do
    slopes = np.full(points.shape, np.nan) if gradients is None else np.asarray(gradients, np.float64)
    there = ~np.isnan(slopes)
    if there.any():
        # Of one point, or of equal values, the slopes alone tell how far the process moves.
        spread = max(spread, 0.1 * float(np.sqrt(np.mean(slopes[there] ** 2))))
    observed = np.concatenate([values - centre, slopes[there]]) / spread
    places = np.concatenate([np.arange(len(values)), len(values) + np.flatnonzero(there)])
    log_params = _fit(points, observed, prior, places)
    covariance = _covariance(points, log_params, places)
    weights = cho_solve(cho_factor(covariance, lower=True), observed)
    cross = kernel_jet(queries, points, *_kernel_of(log_params))[: len(queries), places]
    return centre + spread * (cross @ weights)


def kernel_jet(a: np.ndarray, b: np.ndarray, length: np.ndarray, signal: float) -> np.ndarray:
    """Covariances of values and gradients of the process at `a` [m, h] with those at `b` [n, h].

    Returns:
      [m + m h, n + n h]: values first, then the gradients of the points one after the other.
    """
    (m, h), n = a.shape, len(b)
    scaled = (a[:, None] - b[None]) / length**2  # [m, n, h]
    value = signal**2 * np.exp(-0.5 * np.sum(scaled * (a[:, None] - b[None]), -1))
    cross = value[..., None] * scaled  # covariance with the gradient at b; at a the sign turns
    curvature = value[..., None, None] * (np.diag(length**-2.0) - scaled[..., :, None] * scaled[..., None, :])
    return np.block(
        [
            [value, cross.reshape(m, n * h)],
            [-cross.transpose(0, 2, 1).reshape(m * h, n), curvature.transpose(0, 2, 1, 3).reshape(m * h, n * h)],
        ]
    )


def _kernel_of(log_params: np.ndarray) -> tuple[np.ndarray, float]:
    return np.exp(log_params[:-3]), float(np.exp(log_params[-3]))


def _covariance(points: np.ndarray, log_params: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Of what is observed: the places among values and gradients, in the order of `kernel_jet`."""
    m, h = points.shape
    noise = np.exp(2 * np.concatenate([np.full(m, log_params[-2]), np.full(m * h, log_params[-1])]))[places]
    return kernel_jet(points, points, *_kernel_of(log_params))[np.ix_(places, places)] + np.diag(noise)


def _fit(points: np.ndarray, observed: np.ndarray, prior: Prior, places: np.ndarray) -> np.ndarray:
    """The kernel's log parameters at the maximum of their posterior: h length scales, signal, both noises."""
    h = points.shape[1]
    mean, std = np.array([*[prior.length] * h, prior.signal, prior.value_noise, prior.gradient_noise]).T

    def negative_log_posterior(log_params: np.ndarray) -> float:
        covariance = _covariance(points, log_params, places)
        factor = cho_factor(covariance, lower=True)
        fit = 0.5 * observed @ cho_solve(factor, observed) + np.log(np.diag(factor[0])).sum()
        return float(fit + 0.5 * np.sum(((log_params - mean) / std) ** 2))

    offsets = np.random.default_rng(0).normal(size=(NUM_STARTS - 1, len(mean)))
    # Four prior standard deviations bound the search where the covariance is still well conditioned.
    bounds = np.stack([mean - 4 * std, mean + 4 * std], 1)
    fits = [
        minimize(negative_log_posterior, np.clip(start, *bounds.T), method="L-BFGS-B", bounds=bounds)
        for start in [mean, *(mean + std * offsets)]
    ]
    return min(fits, key=lambda fit: fit.fun).x
