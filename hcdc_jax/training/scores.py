"""What a trained candidate is ranked by; failures are masked."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from hcdc_jax.problem import Problem, loss_and_accuracy
from hcdc_jax.training.train import all_finite
from hcdc_jax.types import Array, Batch, HParams, Params


class Scores(NamedTuple):
    """What a candidate is ranked by. Leading axis: candidates.

    Attributes:
      loss: validation loss after the last step; +inf where the candidate failed, so that no ranking prefers it.
      accuracy: validation accuracy in [0, 1]; 0 where the candidate failed, NaN where the loss has none, see
        `problem.LossOfLogits`.
      status: True where training and validation stayed finite.
    """

    loss: Array
    accuracy: Array
    status: Array


def score(problem: Problem, params: Params, hparams: HParams, batch: Batch) -> Scores:
    """Scores one trained candidate on one batch."""
    return scores_of(params, *loss_and_accuracy(problem, params, hparams, batch))


def scores_of(params: Params, loss: Array, accuracy: Array) -> Scores:
    """The scores of a network with these parameters, loss and accuracy; masked if parameters or loss are not finite."""
    status = jnp.isfinite(loss) & all_finite(params)
    return Scores(jnp.where(status, loss, jnp.inf), jnp.where(status, accuracy, 0.0), status)
