"""HCDC's Algorithm 1 as printed (arXiv 2405.17535): one theta, trained on S_train, for both hypergradients.

p trajectories (theta, lambda) run side by side: theta is trained on S_train, lambda follows the hypergradient on S_val,
and at every point of them S_val moves so that its hypergradient aligns with the one on the real data at the same theta
and lambda. The points are the extended search space of the paper. No network is trained on the real data, but each
point pays for a solve with the real Hessian.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from hcdc_jax.condense.base import Condenser, GraphRates, MemoryRates, PixelRates, adam
from hcdc_jax.containers import Container
from hcdc_jax.hypergradients.implicit import hypergradient, hypergradient_matching
from hcdc_jax.hypergradients.linear_solver import LinearSolver
from hcdc_jax.problem import Problem
from hcdc_jax.spaces import Space
from hcdc_jax.training.train import Training, optimizer_of
from hcdc_jax.types import Array, Batch, HParams, Params, Variables


class SharedData(NamedTuple):
    """What the steps read.

    Attributes:
      hparams: [p, h], where the trajectories begin.
      condensed_train: S_train.
      real_train: real training examples; their Hessian makes g_T.
      real_val: real validation examples.
      training: how theta is trained; its `steps` are the length of a whole trajectory.
      rates: Adam step sizes of S_val.
      hparam_rate: Adam step size of lambda, in prior standard deviations.
    """

    hparams: HParams
    condensed_train: Batch
    real_train: Batch
    real_val: Batch
    training: Training
    rates: GraphRates | PixelRates | MemoryRates
    hparam_rate: float | Array = 0.1


class SharedState(NamedTuple):
    """Carried from step to step; leaves of the trajectories have leading axis p.

    Attributes:
      variables: of S_val's container.
      opt_state: of the variables.
      hparams: lambda of each trajectory.
      hparams_opt_state: of lambda.
      params: theta of each trajectory.
      params_opt_state: of theta.
      step: number of steps done.
    """

    variables: Variables
    opt_state: optax.OptState
    hparams: HParams
    hparams_opt_state: optax.OptState
    params: Params
    params_opt_state: optax.OptState
    step: Array


class SharedInfo(NamedTuple):
    """One step, before its update of S_val.

    Attributes:
      distance: mean over the trajectories of the distance between both hypergradients.
      diverged: share of the trajectories with a diverged solve on either side; they do not move S_val.
    """

    distance: Array
    diverged: Array


@functools.cache
def hcdc_shared(
    problem: Problem,
    container: Container,
    space: Space,
    *,
    solver: LinearSolver,
    distance: str = "cosine",
    direct: bool = True,
    points: int = 5,
) -> Condenser:
    """Algorithm 1 as a condenser; one step is one point of every trajectory.

    Args:
      problem: whose candidates are to be ranked.
      container: stores S_val.
      space: where lambda lives; keeps it inside.
      solver: of both hypergradients.
      distance: a name in `hcdc_jax.hypergradients.distances`.
      direct: include the direct term.
      points: points per trajectory, T_theta / T_lambda in the paper; after them it begins anew from a fresh network.
    """

    def val_loss(params, hparams, variables):
        return problem.val_loss(params, hparams, container.decode(variables))

    def begin(key, data):
        keys = jax.random.split(key, data.hparams.shape[0])
        params = jax.vmap(problem.init)(keys, data.hparams)
        params_opt_state = jax.vmap(optimizer_of(data.training).init)(params)
        return data.hparams, optax.adam(data.hparam_rate).init(data.hparams), params, params_opt_state

    def init(key, variables, data):
        opt_state = adam(data.rates).init(variables)
        return SharedState(variables, opt_state, *begin(key, data), jnp.zeros((), jnp.int32))

    def match(params, hparams, variables, data):
        target, real = hypergradient(
            problem.train_loss, problem.val_loss, params, hparams, data.real_train, data.real_val,
            solver=solver, direct=direct,
        )  # fmt: skip
        value, gradient, info = hypergradient_matching(
            problem.train_loss, val_loss, params, hparams, data.condensed_train, variables, target,
            solver=solver, distance=distance, direct=direct,
        )  # fmt: skip
        return value, gradient, info.gradient, real.diverged | info.diverged

    def step(key, state, data):
        begins = state.step % points == 0
        trajectory = jax.tree.map(lambda new, old: jnp.where(begins, new, old), begin(key, data), state[2:6])
        hparams, hparams_opt_state, params, params_opt_state = trajectory
        advance = functools.partial(_advanced, problem, data, data.training.steps // points)
        params, params_opt_state = jax.vmap(advance)(params, params_opt_state, hparams)
        # One trajectory at a time: each holds a linearised gradient on the whole real training set.
        values, gradients, slopes, diverged = jax.lax.map(
            lambda point: match(point[0], point[1], state.variables, data), (params, hparams)
        )
        keep = ~diverged
        gradient = jax.tree.map(functools.partial(_masked_mean, keep=keep), gradients)
        updates, opt_state = adam(data.rates).update(gradient, state.opt_state, state.variables)
        variables = optax.apply_updates(state.variables, updates)
        scale = jnp.asarray(space.prior_std)[None]
        slopes = jnp.where(keep[:, None] & jax.vmap(space.has_slope)(hparams), slopes, 0.0) * scale
        moves, hparams_opt_state = optax.adam(data.hparam_rate).update(slopes, hparams_opt_state)
        hparams = jax.vmap(space.project)(hparams + scale * jnp.asarray(moves))
        info = SharedInfo(_masked_mean(values, keep=keep), diverged.mean())
        return SharedState(
            variables, opt_state, hparams, hparams_opt_state, params, params_opt_state, state.step + 1
        ), info

    return Condenser(init, step)


def _advanced(problem, data, steps, params, opt_state, hparams):
    """A network and its optimiser after some steps on S_train."""

    def body(carry, _):
        params, opt_state = carry
        gradient = jax.grad(problem.train_loss)(params, hparams, data.condensed_train)
        updates, opt_state = optimizer_of(data.training).update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    return jax.lax.scan(body, (params, opt_state), length=steps)[0]


def _masked_mean(values: Array, *, keep: Array) -> Array:
    """Mean over the leading axis of the entries to keep; 0 if there are none. Integers give zeros."""
    if not jnp.issubdtype(values.dtype, jnp.floating):
        return jnp.zeros_like(values[0])
    mask = keep.reshape(-1, *[1] * (values.ndim - 1))
    return jnp.where(mask, values, 0.0).sum(0) / jnp.maximum(keep.sum(), 1)
