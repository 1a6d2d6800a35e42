"""Matching training trajectories (MTT, arXiv 2203.11932).

A student starts where an expert, trained on the real data, stood after some epoch, and takes a few steps on the
synthetic images; the images and the student's step size move so that it arrives where the expert stood some epochs
later. The gradient goes through all steps of the student.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from hcdc_jax.batches.augment import Augmentation
from hcdc_jax.condense.base import Condenser, ImageRates, MemoryRates, descend, image_optimizer, learned_fields
from hcdc_jax.condense.epoch_training import augmented, even_batches, train_from
from hcdc_jax.containers import Container
from hcdc_jax.errors import UserError
from hcdc_jax.problem import Problem
from hcdc_jax.training.train import Training, all_finite
from hcdc_jax.types import Array, Batch, HParams, Params, PyTree, Variables


class MTTData(NamedTuple):
    """What the steps read.

    Attributes:
      experts: [num_experts, snapshots, num_params], flat parameters after each epoch from 0 on; see `experts`.
      hparams: of the experts and the student.
      rates: of the synthetic images. MTT has 100 to 10,000: the loss is a ratio, and its slope in a pixel is small.
      step_size: of the student, at the start.
      step_size_rate: of gradient descent on its logarithm. A published rate r for the step size itself, from a start
        a, is the rate r / a^2 here.
      max_change: of the logarithm in one step, so that a single steep slope cannot run away with the step size.
      step_size_momentum: of the same gradient descent; MTT has 0.5.
    """

    experts: Array
    hparams: HParams
    rates: ImageRates | MemoryRates
    step_size: float | Array
    step_size_rate: float | Array
    max_change: float | Array = 0.1
    step_size_momentum: float | Array = 0.5


class MTTState(NamedTuple):
    """Carried from step to step.

    Attributes:
      variables: of the container.
      log_step_size: of the student; its exponential is positive whatever the steps do, where MTT's own step size
        turns negative now and then and ends the run.
      opt_state: of what the container learns, and of the logarithm.
    """

    variables: Variables
    log_step_size: Array
    opt_state: tuple[optax.OptState, optax.OptState]


class MTTInfo(NamedTuple):
    """One step, before its update.

    Attributes:
      distance: squared distance of student and expert over the expert's own; 1 for a student that stays where it is.
      step_size: of the student.
      skipped: 1 where the student diverged and the step was left out, else 0.
    """

    distance: Array
    step_size: Array
    skipped: Array


def trajectory_distance(end: PyTree, start: PyTree, target: PyTree) -> Array:
    """|end - target|^2 / |start - target|^2 over all parameters (arXiv 2203.11932, Eq. 2)."""

    def square(a, b):
        return jnp.stack(jax.tree.leaves(jax.tree.map(lambda x, y: jnp.sum((x - y) ** 2), a, b))).sum()

    return square(end, target) / square(start, target)


@functools.cache
def mtt(
    problem: Problem,
    container: Container,
    *,
    student_steps: int = 30,
    expert_epochs: int = 2,
    max_start: int = 20,
    batch_size: int | None = None,
    augmentation: Augmentation | None = None,
    remat: bool = True,
) -> Condenser:
    """Trajectory matching as a condenser.

    Args:
      problem: of the experts and the student.
      container: stores the synthetic images.
      student_steps: N, gradient steps of the student.
      expert_epochs: M, epochs of the expert that it has to make up for.
      max_start: T+, the student starts after epoch 0 ... T+ - 1.
      batch_size: synthetic images per step of the student; all by default.
      augmentation: of the student's batches, with parameters for each image.
      remat: store the student's parameters alone and recompute its activations; memory per step is then that of the
        parameters, for the time of one more forward pass.
    """
    student = augmented(problem, augmentation)

    def init(key, variables, data):
        del key
        _check_experts(problem, data, max_start - 1 + expert_epochs)
        fields = learned_fields(variables)
        log_step_size = jnp.log(jnp.asarray(data.step_size, jnp.result_type(*jax.tree.leaves(fields))))
        image_state = image_optimizer(data.rates).init(fields)
        return MTTState(variables, log_step_size, (image_state, _step_size_optimizer(data).init(log_step_size)))

    def match(learned, key, state, start, target, data):
        fields, log_step_size = learned
        batch: Batch = container.decode(state.variables._replace(**fields))
        count = batch.labels.shape[0]
        _, size = even_batches(count, min(batch_size or count, count))
        training = Training(jnp.exp(log_step_size), "sgd", student_steps, remat, size)
        end = train_from(key, student, start, data.hparams, batch, training)
        return trajectory_distance(end, start, target)

    def step(key, state, data):
        key_expert, key_start, key_student = jax.random.split(key, 3)
        expert = data.experts[jax.random.randint(key_expert, (), 0, data.experts.shape[0])]
        epoch = jax.random.randint(key_start, (), 0, max_start)
        start, target = (_unflatten(problem, data.hparams, expert[e]) for e in (epoch, epoch + expert_epochs))
        learned = learned_fields(state.variables), state.log_step_size
        # The loss is a ratio of small differences of parameters.
        with jax.default_matmul_precision("highest"):
            value, slopes = jax.value_and_grad(match)(learned, key_student, state, start, target, data)
        variables, image_state = descend(image_optimizer(data.rates), slopes[0], state.opt_state[0], state.variables)
        change, step_size_state = _step_size_optimizer(data).update(slopes[1], state.opt_state[1])
        moved = MTTState(variables, state.log_step_size + change, (image_state, step_size_state))
        finite = all_finite((value, slopes))
        state_after = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, state)
        return state_after, MTTInfo(value, jnp.exp(state.log_step_size), 1.0 - finite.astype(value.dtype))

    return Condenser(init, step)


def _step_size_optimizer(data: MTTData) -> optax.GradientTransformation:
    return optax.chain(optax.sgd(data.step_size_rate, data.step_size_momentum), optax.clip(data.max_change))


def _unflatten(problem: Problem, hparams: HParams, flat: Array) -> Params:
    # The values of this initialisation are not used, so the compiler leaves it out.
    template, unravel = ravel_pytree(problem.init(jax.random.key(0), hparams))
    return unravel(flat.astype(template.dtype))


def _check_experts(problem: Problem, data: MTTData, last_epoch: int) -> None:
    params = jax.eval_shape(problem.init, jax.random.key(0), data.hparams)
    num_params = sum(leaf.size for leaf in jax.tree.leaves(params))
    if data.experts.shape[2] != num_params:
        raise UserError(
            f"the expert buffer holds networks of {data.experts.shape[2]} parameters, the student has {num_params}; "
            "train experts of this network in a folder of their own"
        )
    if data.experts.shape[1] <= last_epoch:
        raise UserError(
            f"the expert buffer ends after {data.experts.shape[1] - 1} epochs; max_start - 1 + expert_epochs = "
            f"{last_epoch} are needed"
        )
