"""Regularisers that stand for random perturbations of training, so that a training loss stays one smooth function."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from hcdc_jax.types import Array


def expected_dropout(rate: Array | float, inputs: Array, kernel: Array, logits: Array, weights: Array) -> Array:
    """What dropout before a linear layer adds to the mean cross-entropy, in expectation and to second order.

    The inputs a of the layer are multiplied by independent x_u = m_u / (1 - p), m_u = 0 with chance p and 1 otherwise,
    of mean 1 and variance v = p / (1 - p). That moves the logits z = a W + b by dz = sum_u (x_u - 1) a_u W_u with

        E dz = 0,   Cov dz = v sum_u a_u^2 W_u W_u^T.

    The Hessian of the cross-entropy in the logits is diag(q) - q q^T with q = softmax(z), whatever the label, so

        E loss(z + dz) = loss(z) + v / 2 sum_u a_u^2 (sum_c q_c W_uc^2 - (sum_c q_c W_uc)^2) + third order in dz:

    the variance of the outgoing weights of each unit under the predicted classes (Wager, Wang and Liang,
    arXiv 1307.1493). It is the same for masks drawn per example and for masks shared by all, and it is smooth in
    the rate, where sampled masks are neither smooth nor the same from step to step.

    Args:
      rate: p in [0, 1).
      inputs: a [n, width], without dropout.
      kernel: W [width, num_classes].
      logits: z [n, num_classes], without dropout.
      weights: [n], of the examples in the mean.

    Returns:
      A scalar, to be added to the loss without dropout.
    """
    chances = jax.nn.softmax(logits)
    mean = jnp.matmul(chances, kernel.T, precision=jax.lax.Precision.HIGHEST)
    square = jnp.matmul(chances, kernel.T**2, precision=jax.lax.Precision.HIGHEST)
    losses = 0.5 * rate / (1.0 - rate) * (inputs**2 * (square - mean**2)).sum(-1)
    return jnp.vdot(losses, weights) / weights.sum()


def expected_dropout_of_amounts(
    rate: Array | float, inputs: Array, kernel: Array, outputs: Array, weights: Array
) -> Array:
    """What dropout before a linear layer adds to the mean squared error, in expectation; no approximation.

    In the notation of `expected_dropout`, E (z + dz - y)^2 = (z - y)^2 + v sum_u a_u^2 W_u^2.

    Args:
      rate: see `expected_dropout`.
      inputs: see `expected_dropout`.
      kernel: W [width, 1].
      outputs: z [n, 1]; not needed, here as the logits are there.
      weights: see `expected_dropout`.
    """
    del outputs
    squares = jnp.matmul(inputs**2, kernel**2, precision=jax.lax.Precision.HIGHEST)[:, 0]
    return rate / (1.0 - rate) * jnp.vdot(squares, weights) / weights.sum()
