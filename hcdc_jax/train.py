"""Inner training: one network from initialisation to the last step, as one `lax.scan`."""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from hcdc_jax.problem import Problem
from hcdc_jax.types import Array, Batch, HParams, Params

OPTIMIZERS = {
    "adam": optax.adam,
    "sgd": optax.sgd,
    "momentum": functools.partial(optax.sgd, momentum=0.9),
}


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["learning_rate"], meta_fields=["optimizer", "steps", "remat"]
)
@dataclasses.dataclass(frozen=True)
class Training:
    """How a candidate is trained. Rates are traced: changing one compiles nothing.

    Attributes:
      learning_rate: step size of the optimiser.
      optimizer: a name in `OPTIMIZERS`.
      steps: number of full-batch steps.
      remat: recompute each step in the backward pass of `unroll`ed differentiation, which then stores the training
        state of every step but none of its activations.
    """

    learning_rate: float | Array = 0.01
    optimizer: str = "adam"
    steps: int = 200
    remat: bool = False


def optimizer_of(training: Training) -> optax.GradientTransformation:
    """The optimiser of the inner training; built inside traced code, since its rate is traced."""
    return OPTIMIZERS[training.optimizer](training.learning_rate)


class TrainInfo(NamedTuple):
    """What training leaves besides the parameters.

    Attributes:
      losses: [steps] training loss before each step.
    """

    losses: Array


def train(
    key: Array, problem: Problem, hparams: HParams, batch: Batch, training: Training | None = None
) -> tuple[Params, TrainInfo]:
    """Trains one candidate from a fresh initialisation; pure, so `vmap` over `hparams` or `key` is a sweep.

    Args:
      key: for the initialisation.
      problem: what is trained.
      hparams: one candidate.
      batch: the training examples, all of them in every step.
      training: optimiser and length.

    Returns:
      The parameters after the last step, and `TrainInfo`.
    """
    training = training or Training()
    optimizer = optimizer_of(training)

    def step(carry, _):
        params, opt_state = carry
        loss, gradient = jax.value_and_grad(problem.train_loss)(params, hparams, batch)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    if training.remat:
        step = jax.checkpoint(step, prevent_cse=False)
    params = problem.init(key, hparams)
    (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), length=training.steps)
    return params, TrainInfo(losses)


def all_finite(tree) -> Array:
    """True where every number of the tree is finite: the test that separates trained networks from diverged ones."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
