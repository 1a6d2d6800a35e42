"""Gradient descent on the hyperparameters from several starts at once, as HCDC (arXiv 2405.17535) searches filters."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hcdc_jax.errors import UserError, check_name
from hcdc_jax.hypergradients.fixed_networks import unrolled_hypergradient
from hcdc_jax.hypergradients.implicit import hypergradient
from hcdc_jax.hypergradients.linear_solver import LinearSolver
from hcdc_jax.hypergradients.solvers import neumann
from hcdc_jax.problem import Problem
from hcdc_jax.search.base import EvaluateFn, History, Report, ignore, score_all, seed_of
from hcdc_jax.spaces import Space
from hcdc_jax.training.train import Trainee, Training, advance, all_finite, begin, train
from hcdc_jax.types import Array, Batch, Params, PyTree

Sensitivity: TypeAlias = Literal["implicit", "unroll"]

# Adam with a short memory: descents take tens of steps, of which the usual averages over ten and a thousand would spend
# the most on overshooting.
_ADAM = optax.scale_by_adam(b1=0.5, b2=0.9)


class Objective(NamedTuple):
    """A differentiable view of what `evaluate_fn` scores.

    Attributes:
      problem: what is trained.
      train: trained on.
      val: its loss is descended.
      training: optimiser and length.
    """

    problem: Problem
    train: Batch
    val: Batch
    training: Training


class _Descent(NamedTuple):
    """One start on its way down.

    Attributes:
      hparams: [h], where it is.
      trainee: the network there; None where hypergradients are unrolled, which train anew.
      moments: state of Adam.
    """

    hparams: Array
    trainee: Trainee | None
    moments: PyTree


class _Data(NamedTuple):
    """What is traced in a step of descent."""

    train: Batch
    val: Batch
    training: Training


class _Method(NamedTuple):
    """What is static in it."""

    problem: Problem
    space: Space
    solver: LinearSolver
    direct: bool
    sensitivity: Sensitivity


def hypergradient_search(
    key: Array,
    space: Space,
    evaluate_fn: EvaluateFn,
    num: int,
    *,
    objective: Objective,
    starts: int = 8,
    learning_rate: float = 0.3,
    inner_steps: int | None = None,
    solver: LinearSolver = neumann(20),
    direct: bool = True,
    sensitivity: Sensitivity = "implicit",
    batch_size: int | None = None,
    report: Report = ignore,
) -> History:
    """Descends the validation loss of the trained network from starts that fill the prior evenly.

    Each start takes projected Adam steps in units of the prior standard deviation, all starts under one `vmap`. The
    network at a start is trained in full once; after every step it goes on from where it was. Losses of such networks
    are not those of fresh ones, so all points on the way are scored by `evaluate_fn` in the end, like the candidates of
    any other search. A hypergradient that diverged moves nothing, and none moves discrete choices or what is not active
    (`Space.has_slope`): each start keeps the options that it was drawn with.

    Args:
      key: of starts and initialisation.
      space: what is searched; its `project` keeps every step inside.
      evaluate_fn: scores a batch; see `search.base`.
      num: candidates at most: the points of all starts, num // starts of each.
      objective: what is descended.
      starts: descents side by side, by a Sobol sequence; fewer if `num` does not suffice for one point each.
      learning_rate: of Adam, in prior standard deviations per step; falls to 0 by a half cosine, so that a descent
        covers about half of learning_rate * num / starts.
      inner_steps: training steps after each step; a tenth of a training by default.
      solver: approximate inverse of the training Hessian.
      direct: include the direct term of the hypergradient.
      sensitivity: "implicit" differentiation at the trained network; or "unroll", reverse mode through a whole training
        at every step, for hyperparameters that act on the way only, such as a learning rate.
      batch_size: of the scoring, as in `random_search`.
      report: told how many candidates are done; half of `num` when all steps are taken.

    Returns:
      The points step by step, at each step those of all starts.

    Raises:
      UserError: an unknown sensitivity, or a space without hypergradients.
    """
    check_name("sensitivity", sensitivity, get_args(Sensitivity))
    if len(space.discrete) == len(space.hparam_names):
        raise UserError(
            f"no hyperparameter of the space {space.name!r} has a hypergradient, all are choices that are not relaxed: "
            "search it by another method, or relax one"
        )
    starts = min(starts, num)
    points = num // starts
    if inner_steps is None:
        inner_steps = math.ceil(objective.training.steps / 10)
    method = _Method(objective.problem, space, solver, direct, sensitivity)
    data = _Data(objective.train, objective.val, objective.training)
    key_starts, key_init = jax.random.split(key)
    descent = _begin(key_init, method, space.spread(seed_of(key_starts), starts), data)
    visited = [np.asarray(descent.hparams)]
    for point in range(1, points):
        rate = learning_rate * 0.5 * (1 + math.cos(math.pi * (point - 1) / (points - 1)))
        descent = _step(key_init, method, descent, data, rate, inner_steps)
        visited.append(np.asarray(descent.hparams))
        report(starts * (point + 1) // 2)
    done = starts * points // 2
    return score_all(evaluate_fn, np.concatenate(visited), batch_size, lambda scored: report(done + (scored + 1) // 2))


@functools.partial(jax.jit, static_argnames="method")
def _begin(key: Array, method: _Method, hparams: Array, data: _Data) -> _Descent:
    def one(hparams: Array) -> _Descent:
        trainee = None
        if method.sensitivity == "implicit":
            trainee = begin(key, method.problem, hparams, data.training)
            trainee = advance(method.problem, hparams, trainee, data.train, data.training, data.training.steps)
        return _Descent(hparams, trainee, _ADAM.init(hparams))

    return jax.vmap(one)(hparams)


@functools.partial(jax.jit, static_argnames="method")
def _step(key: Array, method: _Method, descent: _Descent, data: _Data, rate: Array, inner_steps: Array) -> _Descent:
    std = jnp.asarray(method.space.prior_std)

    def one(descent: _Descent) -> _Descent:
        slope = jnp.where(method.space.has_slope(descent.hparams), std * _slope(key, method, descent, data), 0.0)
        update, moments = _ADAM.update(slope, descent.moments)
        hparams = method.space.project(descent.hparams - rate * std * jnp.asarray(update))
        trainee = descent.trainee
        if trainee is not None:
            trainee = advance(method.problem, hparams, trainee, data.train, data.training, inner_steps)
        return _Descent(hparams, trainee, moments)

    return jax.vmap(one)(descent)


def _slope(key: Array, method: _Method, descent: _Descent, data: _Data) -> Array:
    """The hypergradient [h] where the descent is; zero where it cannot be trusted."""
    problem, hparams = method.problem, descent.hparams
    if descent.trainee is None:
        training = dataclasses.replace(data.training, remat=True)

        def fit(hparams: Array) -> Params:
            return train(key, problem, hparams, data.train, training)[0]

        g, _ = unrolled_hypergradient(fit, problem.val_loss, hparams, data.val)
        return jnp.where(all_finite(g), g, 0.0)
    g, info = hypergradient(
        problem.train_loss, problem.val_loss, descent.trainee.params, hparams, data.train, data.val,
        solver=method.solver, direct=method.direct,
    )  # fmt: skip
    return jnp.where(info.diverged, 0.0, g)
