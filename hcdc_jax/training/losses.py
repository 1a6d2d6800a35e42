"""Losses of networks whose outputs are no class scores, and what counts as right under them."""

from __future__ import annotations

import jax.numpy as jnp
import optax

from hcdc_jax.errors import UserError
from hcdc_jax.problem import share_right, weighted_mean
from hcdc_jax.types import Array, Batch


def squared_loss(outputs: Array, batch: Batch) -> Array:
    """Weighted mean over the examples of |output - label|^2, the sum over the k targets of an example.

    Args:
      outputs: [r, k] or, of one target, [r], with r >= n; rows beyond the n labelled ones are ignored.
      batch: labels [n, k] or [n], and weights [n].

    Raises:
      UserError: networks and labels have different numbers of targets.
    """
    outputs, labels = _side_by_side(outputs, batch)
    return weighted_mean(jnp.square(outputs - labels).sum(1), batch.weights)


def binary_loss(outputs: Array, batch: Batch) -> Array:
    """Weighted mean over the examples of the mean sigmoid cross-entropy of their k yes-or-no labels.

    Args:
      outputs: logits [r, k] or, of one label, [r], with r >= n; rows beyond the n labelled ones are ignored.
      batch: labels [n, k] or [n] in [0, 1], and weights [n].

    Raises:
      UserError: networks and labels have different numbers of labels.
    """
    outputs, labels = _side_by_side(outputs, batch)
    return weighted_mean(optax.sigmoid_binary_cross_entropy(outputs, labels).mean(1), batch.weights)


def share_of_labels(outputs: Array, batch: Batch) -> Array:
    """Weighted mean share of yes-or-no labels that are right where a chance above 0.5 says yes, see `binary_loss`."""
    outputs, labels = _side_by_side(outputs, batch)
    return weighted_mean(((outputs > 0) == (labels > 0.5)).mean(1, dtype=outputs.dtype), batch.weights)


def no_accuracy(outputs: Array, batch: Batch) -> Array:
    """NaN: of numbers that are near or far none is right or wrong."""
    del batch
    return jnp.full((), jnp.nan, outputs.dtype)


def share_of_classes(outputs: Array, batch: Batch) -> Array:
    """`share_right` where labels [n] are class numbers and outputs [r, k] may be their scores; NaN elsewhere."""
    of_classes = jnp.issubdtype(batch.labels.dtype, jnp.integer) and batch.labels.ndim == 1
    if of_classes and outputs.ndim == 2 and outputs.shape[1] > 1:
        return share_right(outputs, batch)
    return no_accuracy(outputs, batch)


def _side_by_side(outputs: Array, batch: Batch) -> tuple[Array, Array]:
    """Outputs and labels of the labelled examples, both [n, k] and of one type."""
    n = batch.labels.shape[0]
    outputs, labels = outputs[:n].reshape(n, -1), batch.labels.reshape(n, -1)
    if outputs.shape != labels.shape:
        raise UserError(
            f"the network gives {outputs.shape[1]} numbers for an example and its label has {labels.shape[1]}; "
            "let them be as many"
        )
    return outputs, labels.astype(outputs.dtype)
