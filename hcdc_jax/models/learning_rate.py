"""The learning rate as a hyperparameter of any problem."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax

from hcdc_jax.problem import LossOfLogits, Problem
from hcdc_jax.types import Array, HParams, Params


def with_learning_rate(problem: Problem, factor: Callable[[HParams], Array | None]) -> Problem:
    """`problem` in units in which Adam's learning rate is multiplied by `factor(hparams)`.

    Trained are params phi with theta = factor phi. Adam moves every entry of phi by the learning rate times a ratio of
    gradient moments, which does not change with the scale of the gradient; so theta moves by factor times that, just
    as Adam with factor times the rate moves it. It starts where theta would, at phi = theta / factor. (Adam's epsilon
    is worth epsilon / factor in theta's units, which matters to gradients of that size only. Under SGD, whose steps
    grow with the gradient, the rate is multiplied by the square of the factor.)

    At a minimum theta does not depend on its units, so implicit differentiation finds a hypergradient of 0 for the
    factor, whatever the truth of a training of finite length: differentiate through training.

    Args:
      problem: in theta.
      factor: positive scalar; None leaves the learning rate alone.

    Returns:
      A problem in phi.
    """

    def theta(params: Params, hparams: HParams) -> Params:
        scale = factor(hparams)
        return params if scale is None else jax.tree.map(lambda leaf: scale * leaf, params)

    def init(key, hparams):
        params, scale = problem.init(key, hparams), factor(hparams)
        return params if scale is None else jax.tree.map(lambda leaf: leaf / scale, params)

    def in_theta(function):
        return lambda params, hparams, data: function(theta(params, hparams), hparams, data)

    apply, train_loss, val_loss = map(in_theta, (problem.apply, problem.train_loss, problem.val_loss))
    if isinstance(problem.val_loss, LossOfLogits):
        val_loss = dataclasses.replace(problem.val_loss, apply=apply)
    return problem._replace(init=init, apply=apply, train_loss=train_loss, val_loss=val_loss)
