"""How image condensers train networks on the way: relays, experts and students, all by plain gradient descent."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from hcdc_jax.augment import Augmentation, augment
from hcdc_jax.problem import Problem
from hcdc_jax.train import Trainee, Training, optimizer_of, take_step
from hcdc_jax.types import Array, Batch, HParams, Params


@functools.cache
def augmented(problem: Problem, augmentation: Augmentation | None) -> Problem:
    """The problem whose training sees augmented images: one operation per step, with parameters for each image.

    What the problem itself does to its batches comes after it. Without an augmentation, the problem as it is.
    """
    if augmentation is None:
        return problem

    def perturb(key, hparams, batch):
        key_augment, key_rest = jax.random.split(key)
        batch = batch._replace(inputs=augment(key_augment, augmentation, batch.inputs))
        return batch if problem.perturb is None else problem.perturb(key_rest, hparams, batch)

    return problem._replace(perturb=perturb)


def even_batches(num_examples: int, batch_size: int) -> tuple[int, int]:
    """(batches per epoch, size of each): as few as `batch_size` allows, equally large.

    What does not divide, fewer examples than there are batches, is left out of that epoch.
    """
    per_epoch = -(-num_examples // batch_size)
    return per_epoch, num_examples // per_epoch


def train_from(
    key: Array, problem: Problem, params: Params, hparams: HParams, batch: Batch, training: Training
) -> Params:
    """`train` from given parameters; differentiable in them, in the batch and in the learning rate.

    Args:
      key: for the order of mini-batches and what perturbs them.
      problem: what is trained.
      params: where training starts.
      hparams: one candidate.
      batch: the training examples.
      training: optimiser and length.

    Returns:
      The parameters after the last step.
    """

    def step(trainee, _):
        return take_step(problem, hparams, trainee, batch, training)

    if training.remat:
        step = jax.checkpoint(step, prevent_cse=False)
    trainee = Trainee(params, optimizer_of(training).init(params), key, jnp.zeros((), jnp.int32))
    return jax.lax.scan(step, trainee, length=training.steps)[0].params
