"""The squared-exponential kernel of `surrogate`, of values and of gradients."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Kernel(NamedTuple):
    """Squared-exponential: a length scale for each coordinate [h], and the standard deviation of the process."""

    length: np.ndarray
    signal: float


def kernel_jet(a: np.ndarray, b: np.ndarray, length: np.ndarray, signal: float) -> np.ndarray:
    """Covariances of values and gradients of the process at `a` [m, h] with those at `b` [n, h].

    Returns:
      [m + m h, n + n h]: values first, then the gradients of the points one after the other.
    """
    (m, h), n = a.shape, len(b)
    scaled = (a[:, None] - b[None]) / length**2  # [m, n, h]
    value = values_between(a[:, None], b[None], Kernel(length, signal))
    cross = value[..., None] * scaled  # covariance with the gradient at b; at a the sign turns
    curvature = value[..., None, None] * (np.diag(length**-2.0) - scaled[..., :, None] * scaled[..., None, :])
    return np.block(
        [
            [value, cross.reshape(m, n * h)],
            [-cross.transpose(0, 2, 1).reshape(m * h, n), curvature.transpose(0, 2, 1, 3).reshape(m * h, n * h)],
        ]
    )


def values_between(a: np.ndarray, b: np.ndarray, kernel: Kernel) -> np.ndarray:
    """Covariances of values at a [..., h] and b [..., h], broadcast."""
    return kernel.signal**2 * np.exp(-0.5 * np.sum(((a - b) / kernel.length) ** 2, -1))
