"""Trainings that pause and go on: what a rung of successive halving and a step of gradient descent need."""

from __future__ import annotations

from typing import NamedTuple

import jax
import optax

from hcdc_jax.problem import Problem
from hcdc_jax.train import Training, optimizer_of
from hcdc_jax.types import Array, Batch, HParams, Params, PyTree


class Trainee(NamedTuple):
    """A network in training.

    Attributes:
      params: as far as it has come.
      opt_state: of its optimiser.
    """

    params: Params
    opt_state: PyTree


def begin(key: Array, problem: Problem, hparams: HParams, training: Training) -> Trainee:
    """The network before its first step, initialised as `train` does with the same key."""
    params = problem.init(key, hparams)
    return Trainee(params, optimizer_of(training).init(params))


def advance(
    problem: Problem, hparams: HParams, trainee: Trainee, batch: Batch, training: Training, steps: int | Array
) -> Trainee:
    """Takes `steps` more steps; pure. From `begin`, n steps and then m are the n + m steps of `train`.

    Args:
      problem: what is trained.
      hparams: the candidate; it may have moved since the last call.
      trainee: where to go on.
      batch: the training examples.
      training: optimiser and rate; its length is not read.
      steps: may be traced, so that calls of different lengths share one program; such a loop has no reverse mode.
    """
    optimizer = optimizer_of(training)

    def step(_, trainee: Trainee) -> Trainee:
        gradient = jax.grad(problem.train_loss)(trainee.params, hparams, batch)
        updates, opt_state = optimizer.update(gradient, trainee.opt_state, trainee.params)
        params: Params = optax.apply_updates(trainee.params, updates)
        return Trainee(params, opt_state)

    return jax.lax.fori_loop(0, steps, step, trainee)
