"""Labels that trained networks give to images, and what a network trained on them minimises (arXiv 1503.02531).

Such labels are class probabilities p at temperature 1. The logits that gave them are log p up to a constant, which no
loss here sees, so a loss softens the labels as it likes, and what is stored does not depend on the loss.
"""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from hcdc_jax.errors import check_name
from hcdc_jax.problem import Problem, ValLoss, weighted_mean
from hcdc_jax.types import Array, Batch, HParams, Params, PyTree


class SoftLoss(NamedTuple):
    """What is minimised on labels [n, num_classes] of teachers.

    Attributes:
      name: "kl", the divergence of softened probabilities times the square of the temperature, which keeps the size of
        its gradients (Hinton et al.); or "logit_mse", the mean square of differences of logits, both centred.
      temperature: divides the logits of both sides under "kl".
    """

    name: Literal["kl", "logit_mse"] = "kl"
    temperature: float = 2.0


def soft_label_loss(logits: Array, batch: Batch, loss: SoftLoss) -> Array:
    """Weighted mean over the examples of a batch with labels [n, num_classes]; 0 where they agree.

    Args:
      logits: [r, num_classes] with r >= n; rows beyond the n labelled ones are ignored.
      batch: labels are class probabilities at temperature 1.
      loss: what is measured.

    Raises:
      UserError: a loss of another name.
    """
    check_name("loss on labels of teachers", loss.name, ("kl", "logit_mse"))
    logits, taught = logits[: batch.labels.shape[0]], logits_of(batch.labels)
    if loss.name == "logit_mse":
        return weighted_mean(((centred(logits) - taught) ** 2).mean(-1), batch.weights)
    return weighted_mean(softened_divergence(logits, taught, loss.temperature), batch.weights)


@functools.cache
def either_loss(of_classes: ValLoss, of_teachers: SoftLoss) -> ValLoss:
    """The `loss(logits, batch)` that is one on labels [n] and another on labels [n, num_classes]."""

    def loss(logits, batch):
        if batch.labels.ndim == 1:
            return of_classes(logits, batch)
        return soft_label_loss(logits, batch, of_teachers)

    return loss


def softened_divergence(logits: Array, taught: Array, temperature: float) -> Array:
    """[n] T^2 KL(softmax(taught / T) || softmax(logits / T)) of logits [n, num_classes], see `SoftLoss`."""
    theirs, ours = (jax.nn.log_softmax(scores / temperature) for scores in (taught, logits))
    return temperature**2 * (jnp.exp(theirs) * (theirs - ours)).sum(-1)


def logits_of(probabilities: Array) -> Array:
    """The centred logits [..., c] behind probabilities [..., c]; a probability of 0 counts as the smallest above it."""
    return centred(jnp.log(jnp.maximum(probabilities, jnp.finfo(probabilities.dtype).tiny)))


def centred(logits: Array) -> Array:
    """Logits [..., c] less their mean."""
    return logits - logits.mean(-1, keepdims=True)


@functools.partial(jax.jit, static_argnames="problem")
def taught_labels(problem: Problem, params: Params, hparams: HParams, inputs: PyTree) -> Array:
    """What teachers say together: the softmax [n, num_classes] of the mean of their logits.

    Networks whose norm looks at the whole batch see these inputs as one.

    Args:
      problem: whose networks the teachers are.
      params: of the teachers, leading axis [k].
      hparams: of the teachers, leading axis [k].
      inputs: what they label.
    """

    def of_one(teacher: tuple[Params, HParams]) -> Array:
        params, hparams = teacher
        return problem.apply(params, hparams, inputs)

    return jax.nn.softmax(jax.lax.map(of_one, (params, hparams)).mean(0))
