"""Kernel inducing points (KIP, arXiv 2011.00050): images on which kernel ridge regression predicts the real data.

An infinitely wide network, trained on the synthetic images to convergence, is kernel ridge regression with its tangent
kernel; its error on real images is differentiated through the solve. No network is trained.

The published ridge of 1e-6 needs float64: run the driver under `jax.enable_x64(True)`. In float32 a ridge below 1e-4
leaves the kernel of a hundred images indefinite to rounding, and the loss becomes NaN.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hcdc_jax.condense.base import Condenser, descend, learned_fields
from hcdc_jax.condense.class_batches import ClassPool, draw_per_class
from hcdc_jax.condense.kernels import Kernel, KernelDraw
from hcdc_jax.containers import Container
from hcdc_jax.types import Array, Batch, Variables


class KIPData(NamedTuple):
    """What the steps read.

    Attributes:
      pool: the real images.
      learning_rate: Adam step size of the synthetic images; KIP has 0.04.
      ridge: added to the diagonal of the kernel, in units of its mean; KIP has 1e-6.
    """

    pool: ClassPool
    learning_rate: float | Array = 0.04
    ridge: float | Array = 1e-6


class KIPState(NamedTuple):
    """Carried from step to step: the container's variables and their optimiser's state."""

    variables: Variables
    opt_state: optax.OptState


class KIPInfo(NamedTuple):
    """One step, before its update.

    Attributes:
      distance: half the mean squared error of the regression on real images.
      accuracy: share of them whose largest prediction is their class.
    """

    distance: Array
    accuracy: Array


def centred_labels(labels: Array, num_classes: int, dtype: Any) -> Array:
    """Regression targets [n, num_classes]: one-hot labels, or class probabilities, less 1 / num_classes."""
    if labels.ndim == 1:
        labels = jax.nn.one_hot(labels, num_classes, dtype=dtype)
    return labels.astype(dtype) - 1.0 / num_classes


def ridge_regression(
    kernel: Kernel, support: Array, targets: Array, inputs: Array, ridge: float | Array, weights: Array | None = None
) -> Array:
    """Predictions K_ts (K_ss + ridge tr(K_ss) / n I)^-1 y_s (arXiv 2011.00050, Eq. 7).

    Args:
      kernel: of the network.
      support: synthetic images [n, ...].
      targets: y_s [n, num_classes].
      inputs: where to predict, [m, ...].
      ridge: in units of the mean of the kernel's diagonal.
      weights: [n], of the support; a point of weight w counts as w points, one of weight 0 as none.

    Returns:
      [m, num_classes].
    """
    gram = kernel(support, support)
    damping = ridge * jnp.trace(gram) / gram.shape[0]
    root = jnp.ones(gram.shape[0], gram.dtype) if weights is None else jnp.sqrt(weights).astype(gram.dtype)
    gram = root[:, None] * gram * root[None] + damping * jnp.eye(gram.shape[0], dtype=gram.dtype)
    solved = jax.scipy.linalg.solve(gram, root[:, None] * targets, assume_a="pos")
    return jnp.matmul(kernel(inputs, support), root[:, None] * solved, precision=jax.lax.Precision.HIGHEST)


@functools.cache
def kip(
    draw: KernelDraw, container: Container, *, num_classes: int, batch_size: int = 5000, learn_labels: bool = False
) -> Condenser:
    """Kernel inducing points as a condenser.

    Args:
      draw: the kernel of each step, such as `kernels.always(kernels.fully_connected(1))`.
      container: stores the synthetic images.
      num_classes: number of classes.
      batch_size: real images per step, equally many of each class.
      learn_labels: move the labels as well; they must be floats [n, num_classes] then.
    """
    per_class = max(batch_size // num_classes, 1)

    def moved(variables):
        return learned_fields(variables) | ({"labels": variables.labels} if learn_labels else {})

    def init(key, variables, data):
        del key
        return KIPState(variables, optax.adam(data.learning_rate).init(moved(variables)))

    def step(key, state, data):
        key_real, key_kernel = jax.random.split(key)
        real = draw_per_class(key_real, data.pool, per_class)
        real = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), real)

        def loss(fields):
            support = container.decode(state.variables._replace(**fields))
            return regression_loss(draw(key_kernel), support, real, data.ridge, num_classes)

        (value, accuracy), gradient = jax.value_and_grad(loss, has_aux=True)(moved(state.variables))
        variables, opt_state = descend(optax.adam(data.learning_rate), gradient, state.opt_state, state.variables)
        return KIPState(variables, opt_state), KIPInfo(value, accuracy)

    return Condenser(init, step)


def regression_loss(
    kernel: Kernel, support: Batch, real: Batch, ridge: float | Array, num_classes: int
) -> tuple[Array, Array]:
    """Half the mean squared error of the regression on `support`, over real images and classes; and its accuracy."""
    dtype = support.inputs.dtype
    targets = centred_labels(support.labels, num_classes, dtype)
    predicted = ridge_regression(kernel, support.inputs, targets, real.inputs, ridge, support.weights)
    errors = ((predicted - centred_labels(real.labels, num_classes, dtype)) ** 2).mean(1)
    hits = (predicted.argmax(1) == real.labels).astype(dtype)
    return 0.5 * jnp.vdot(errors, real.weights) / real.weights.sum(), jnp.vdot(hits, real.weights) / real.weights.sum()
