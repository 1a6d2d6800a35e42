"""Kernels of infinitely wide fully connected ReLU networks, in closed form (Cho and Saul 2009; arXiv 1806.07572)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from hcdc_jax.types import Array

Kernel: TypeAlias = Callable[[Array, Array], Array]
"""`kernel(a [n, ...], b [m, ...]) -> [n, m]`, positive semidefinite where a is b."""


class Covariance(NamedTuple):
    """What one layer hands to the next.

    Attributes:
      nngp: [n, m], covariance of the outputs at initialisation.
      ntk: [n, m], tangent kernel of the outputs.
      left: [n], variances of the first inputs' outputs.
      right: [m], of the second's.
    """

    nngp: Array
    ntk: Array
    left: Array
    right: Array


@functools.cache
def fully_connected(
    depth: int = 1, *, weight_std: float = 2.0**0.5, bias_std: float = 0.1, kind: str = "ntk", eps: float | None = None
) -> Kernel:
    """The kernel of a ReLU network with `depth` hidden layers in NTK parametrisation.

    A layer computes weight_std / sqrt(inputs) * W x + bias_std * b with standard normal W, b.

    Args:
      depth: hidden layers; 0 is the linear kernel.
      weight_std: of all layers.
      bias_std: of all layers.
      kind: "ntk", all layers trained, or "nngp", the last one alone.
      eps: inputs whose cosine is this close to 1 or -1 count as parallel, for there the slope of the angle is
        infinite; the rounding error of a cosine, 8 times the machine epsilon, by default.

    Raises:
      ValueError: another kind.
    """
    if kind not in ("ntk", "nngp"):
        raise ValueError(f"unknown kernel {kind!r}; known: ntk, nngp")

    def affine(covariance, ntk):
        scale, shift = weight_std**2, bias_std**2
        nngp, left, right = (scale * part + shift for part in (covariance.nngp, covariance.left, covariance.right))
        return Covariance(nngp, nngp + scale * ntk, left, right)

    def kernel(a, b):
        a, b = a.reshape(a.shape[0], -1), b.reshape(b.shape[0], -1)
        width = a.shape[1]
        products = jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST) / width
        raw = Covariance(products, jnp.zeros_like(products), (a * a).sum(1) / width, (b * b).sum(1) / width)
        covariance = affine(raw, raw.ntk)
        tolerance = 8 * float(jnp.finfo(products.dtype).eps) if eps is None else eps
        for _ in range(depth):
            active, slopes = _relu(covariance, tolerance)
            covariance = affine(active, slopes * covariance.ntk)
        return covariance.ntk if kind == "ntk" else covariance.nngp

    return kernel


def _relu(covariance: Covariance, eps: float) -> tuple[Covariance, Array]:
    """Covariance after ReLU of Gaussians, E[relu(u) relu(v)], and E[relu'(u) relu'(v)] (arc-cosine kernels)."""
    norms = jnp.sqrt(covariance.left)[:, None] * jnp.sqrt(covariance.right)[None]
    cosine = covariance.nngp / norms
    # The slope of the angle at cosine 1 is infinite, and times the zero slope of the cosine there it would be NaN.
    parallel = jnp.abs(cosine) > 1.0 - eps
    cosine = jnp.where(parallel, jax.lax.stop_gradient(jnp.sign(cosine)), cosine)
    sine = jnp.sqrt(jnp.where(parallel, 1.0, 1.0 - cosine**2)) * ~parallel
    angle = jnp.arctan2(sine, cosine)
    share = (jnp.pi - angle) / (2 * jnp.pi)
    active = norms * (sine / (2 * jnp.pi) + share * cosine)
    return Covariance(active, active, covariance.left / 2, covariance.right / 2), share
