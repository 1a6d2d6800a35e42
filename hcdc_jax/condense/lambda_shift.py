"""A constant shift of the hyperparameters before training on S_train: h numbers in place of a synthetic S_val.

A small S_train wants other hyperparameters than the full data, often by about the same amount everywhere. The shift is
learned so that networks trained on S_train at lambda + shift order the m fully trained candidates, on the real
validation part, as their full trainings do. A rival of HCDC, and the smallest imaginable condensed validation set.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from hcdc_jax.condense.base import Condenser
from hcdc_jax.hypergradients import distances
from hcdc_jax.problem import Problem
from hcdc_jax.spaces import Space
from hcdc_jax.training.train import Training, train
from hcdc_jax.types import Array, Batch, HParams


class ShiftData(NamedTuple):
    """What the steps read.

    Attributes:
      hparams: [m, h] fully trained candidates.
      value: [m] their real validation losses.
      scale: [h] prior standard deviation of each hyperparameter.
      train_batch: S_train.
      val_batch: the real validation part.
      training: how candidates are trained on S_train.
      learning_rate: Adam step of the shift, in prior standard deviations; it falls to 0 over the `steps`.
    """

    hparams: HParams
    value: Array
    scale: Array
    train_batch: Batch
    val_batch: Batch
    training: Training
    learning_rate: Array


class ShiftState(NamedTuple):
    """The shift [h] in prior standard deviations, and its optimiser's state."""

    variables: Array
    opt_state: optax.OptState


class ShiftInfo(NamedTuple):
    """One step, before its update: `distances.value` between the losses of both sides."""

    distance: Array


@functools.cache
def lambda_shift(problem: Problem, space: Space, *, steps: int) -> Condenser:
    """The shift as a condenser; its state's `variables` are the shift [h], which starts at zero.

    A shift may leave the prior; what no model can be trained at is projected back (`Space.admit`). The rate falls along
    a cosine: an order of eight candidates turns over within a tenth of a standard deviation, and a constant rate ends
    on either side of it.

    Exact gradients by forward mode through the trainings on S_train: h + 1 trainings' worth per candidate, and no
    trajectory in memory. Every step trains from a new initialisation, so none of them is learned by heart. A candidate
    whose training or derivative is not finite has no say in that step.
    """
    decay = optax.cosine_decay_schedule(1.0, steps)

    def optimizer(data):
        return optax.adam(lambda step: data.learning_rate * decay(step))

    def init(key, variables, data):
        del key
        return ShiftState(variables, optimizer(data).init(variables))

    def step(key, state, data):
        def jet(hparams):
            def loss(shift):
                shifted = moved(space, hparams, data.scale * shift)
                params, _ = train(key, problem, shifted, data.train_batch, data.training)
                value = problem.val_loss(params, shifted, data.val_batch)
                return value, value

            return jax.jacfwd(loss, has_aux=True)(state.variables)

        slope, value = jax.lax.map(jet, data.hparams)
        usable = jnp.isfinite(value) & jnp.isfinite(slope).all(1)
        slope = jnp.where(usable[:, None], slope, 0.0)
        nothing = jnp.zeros_like(data.hparams)  # this distance reads values alone
        distance, weight = jax.value_and_grad(distances.value)(
            _at_the_mean_unless(usable, value), nothing, _at_the_mean_unless(usable, data.value), nothing
        )
        updates, opt_state = optimizer(data).update(weight @ slope, state.opt_state)
        return ShiftState(state.variables + updates, opt_state), ShiftInfo(distance)

    return Condenser(init, step)


def moved(space: Space, hparams: HParams, amount: Array) -> HParams:
    """A point [h], shifted, as far as models can be trained there.

    Points of one orbit have one loss, so the shift starts from the one that stands for all of them.
    """
    return space.admit(space.representative(hparams) + amount)


def _at_the_mean_unless(usable: Array, losses: Array) -> Array:
    """The losses [m], the others replaced by the geometric mean of the usable: distances of centred logs skip them."""
    logs = jnp.where(usable, jnp.log(jnp.where(usable, losses, 1.0)), 0.0)
    return jnp.where(usable, losses, jnp.exp(logs.sum() / jnp.maximum(usable.sum(), 1)))
