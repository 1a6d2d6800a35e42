"""HCDC: a synthetic validation set whose hypergradients align with those of the real data (arXiv 2405.17535).

Own theta (the default, Eq. HCDC as written): the target g_T(lambda) is the hypergradient of the real validation loss
at a network trained on the real training set. m such full trainings are paid for once; the networks trained on S_train
and the Jacobians of their weights with respect to lambda do not depend on S_val, so they are frozen, and a step of
S_val costs one gradient and one mixed product on S_val.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from hcdc_jax.condense.base import Condenser, GraphRates, MemoryRates, PixelRates, adam
from hcdc_jax.containers import Container
from hcdc_jax.hypergradients import distances
from hcdc_jax.hypergradients.fixed_networks import (
    Pool,
    Target,
    frozen_matching,
    known,
    pulled_back,
    unrolled_hypergradient,
    unrolled_response,
)
from hcdc_jax.hypergradients.implicit import hypergradient, response
from hcdc_jax.hypergradients.linear_solver import LinearSolver
from hcdc_jax.problem import Problem
from hcdc_jax.training.candidates import over_chunks, scored_at_once
from hcdc_jax.training.memory import better_alone
from hcdc_jax.training.sharding import Device, as_needed, in_order, local_devices, mesh_of, over_candidates
from hcdc_jax.training.train import Training, all_finite, train
from hcdc_jax.types import Array, Batch, HParams, Params, Variables


class HCDCData(NamedTuple):
    """What the steps read; all of it constant while S_val is learned.

    Attributes:
      pool: the m networks trained on S_train, with their best-response Jacobians.
      target: values [m] and hypergradients [m, h] on the real data, NaN where they are not known.
      scale: [h], prior standard deviation of each hyperparameter.
      rates: Adam step sizes of S_val.
    """

    pool: Pool
    target: Target
    scale: Array
    rates: GraphRates | PixelRates | MemoryRates


class HCDCState(NamedTuple):
    """Carried from step to step: the container's variables and their optimiser's state."""

    variables: Variables
    opt_state: optax.OptState


class HCDCInfo(NamedTuple):
    """One step, before its update.

    Attributes:
      distance: between the hypergradients on S_val and on the real data.
      alignment: mean cosine between them; 1 is perfect, and a candidate whose target has none counts as 0.
      value_correlation: Pearson correlation of log S_val losses with log real losses over the m matched candidates.
        The cosine does not use it: a value that falls below 0.6 warns that S_val has been overfitted.
    """

    distance: Array
    alignment: Array
    value_correlation: Array


@functools.cache
def hcdc(
    problem: Problem, container: Container, *, distance: str = "weighted_cosine", direct: bool = True
) -> Condenser:
    """Frozen matching with own-theta targets, as a condenser.

    Args:
      problem: whose candidates are to be ranked.
      container: stores S_val; the rates name the fields of its variables that are learned.
      distance: a name in `hcdc_jax.hypergradients.distances`.
      direct: include the direct term d L_val / d lambda; the paper leaves it out, which is right only for
        hyperparameters that do not enter the validation loss.
    """

    def init(key, variables, data):
        del key
        return HCDCState(variables, adam(data.rates).init(variables))

    def step(key, state, data):
        del key
        batch = container.decode(state.variables)  # here, or each network would decode for itself
        value, slope, info = frozen_matching(
            problem.val_loss, data.pool, batch, data.target, distance=distance, scale=data.scale, direct=direct,
            at_once=scored_at_once(problem, data.pool.hparams, batch) or 1,
        )  # fmt: skip
        gradient = pulled_back(slope, container.decode, state.variables)
        updates, opt_state = adam(data.rates).update(gradient, state.opt_state, state.variables)
        variables = optax.apply_updates(state.variables, updates)
        return HCDCState(variables, opt_state), _info(value, info, data)

    return Condenser(init, step)


def _info(value, info, data) -> HCDCInfo:
    factor, wanted = known(data.target, data.scale[None], data.pool.diverged)
    misalignment = distances.cosine(info.value, factor * info.gradient, data.target.value, wanted)
    logs = jnp.stack([jnp.log(info.value), jnp.log(data.target.value)])
    centred = logs - logs.mean(1, keepdims=True)
    norms = jnp.sqrt((centred**2).sum(1) + 1e-12)  # m equal losses correlate with nothing: 0, not NaN
    return HCDCInfo(value, 1.0 - misalignment, (centred[0] * centred[1]).sum() / norms.prod())


@functools.partial(jax.jit, static_argnames="problem")
def fit(key: Array, problem: Problem, hparams: HParams, batch: Batch, training: Training) -> Params:
    """One full training: the parameters of candidate `hparams` [h] after its last step."""
    return train(key, problem, hparams, batch, training)[0]


@functools.partial(jax.jit, static_argnames=("problem", "solver", "direct"))
def target_at(
    problem: Problem,
    params: Params,
    hparams: HParams,
    train_batch: Batch,
    val_batch: Batch,
    *,
    solver: LinearSolver,
    direct: bool = True,
) -> tuple[Target, Array]:
    """The own-theta target of one candidate by implicit differentiation, and whether its solve diverged.

    Args:
      problem: what was trained.
      params: trained on the real data at `hparams` [h].
      hparams: the candidate.
      train_batch: the real training examples.
      val_batch: the real validation examples.
      solver: of the implicit hypergradient.
      direct: include the direct term.
    """
    gradient, info = hypergradient(
        problem.train_loss, problem.val_loss, params, hparams, train_batch, val_batch, solver=solver, direct=direct
    )
    return Target(info.value, gradient), info.diverged


@functools.partial(jax.jit, static_argnames="problem")
def direct_target(problem: Problem, params: Params, hparams: HParams, val_batch: Batch) -> tuple[Target, Array]:
    """The loss of a trained candidate and its slope in hyperparameters that act inside the network, weights held fixed.

    Solves nothing, and leaves out how the weights would follow. Of a cell, the slope in the weight of an absent
    convolution is 0, as on S_val: its numbers were never trained.
    """
    value, gradient = jax.value_and_grad(problem.val_loss, argnums=1)(params, hparams, val_batch)
    return Target(value, gradient), ~all_finite((value, gradient))


@functools.partial(jax.jit, static_argnames="problem")
def unrolled_target(
    key: Array, problem: Problem, hparams: HParams, train_batch: Batch, val_batch: Batch, training: Training
) -> tuple[Target, Params, Array]:
    """The own-theta target of one candidate by reverse mode through its training, its network, whether it diverged.

    A training may end well whose hypergradient overflows: where its steps amplify each other; see `pipeline.targets`.
    """
    if training.adjoint_batch_size is None:  # else no activations are stored, and the optimiser's state is small
        training = dataclasses.replace(training, remat=True)
    gradient, info = unrolled_hypergradient(
        lambda hparams: train(key, problem, hparams, train_batch, training)[0], problem.val_loss, hparams, val_batch
    )
    return Target(info.value, gradient), info.params, ~jnp.isfinite(info.value)


@functools.partial(jax.jit, static_argnames="problem")
def unrolled_targets(
    key: Array, problem: Problem, hparams: HParams, train_batch: Batch, val_batch: Batch, training: Training
) -> tuple[Target, Params, Array]:
    """`unrolled_target` of candidates [k, h] side by side, from one key: all begin alike and see the same batches."""
    return jax.vmap(lambda one: unrolled_target(key, problem, one, train_batch, val_batch, training))(hparams)


def condensed_pool(
    key: Array,
    problem: Problem,
    hparams: HParams,
    train_batch: Batch,
    training: Training,
    *,
    solver: LinearSolver,
    sensitivity: str = "implicit",
    first: int = 0,
    devices: Sequence[Device] | int | None = None,
) -> Pool:
    """The networks trained on S_train at the m matched candidates, each from its own initialisation.

    Different initialisations keep S_val from learning the noise of one.

    Args:
      key: for the initialisations.
      problem: what is trained.
      hparams: [m, h].
      train_batch: S_train.
      training: how candidates are trained on S_train.
      solver: of the best-response Jacobian.
      sensitivity: "implicit", "unroll" (forward mode through training), or "direct" (no response); as for the targets.
        Responses whose solve diverged are flagged in the pool.
      first: number of the first network's initialisation, so that more networks of a candidate may come in calls.
      devices: over which the networks are spread, or how many; all devices of this process by default.

    Raises:
      UserError: more devices than there are.
    """
    mesh = mesh_of(as_needed(local_devices(devices), len(hparams), train_batch))
    alone = better_alone(problem, hparams[0], train_batch, mesh.devices[0].platform)
    size = 1 if alone else -(-len(hparams) // mesh.size)
    chunks, replicate = over_candidates((first + jnp.arange(len(hparams)), hparams), size, mesh)
    shared = replicate((key, train_batch, training))
    found = _pool_chunks(problem, chunks, shared, solver=solver, sensitivity=sensitivity, mesh=mesh, alone=alone)
    params, jacobian, diverged = in_order(mesh, found, len(hparams))
    return Pool(params, hparams, jacobian, diverged)


@functools.partial(jax.jit, static_argnames=("problem", "solver", "sensitivity", "mesh", "alone"))
def _pool_chunks(problem, chunks, shared, *, solver, sensitivity, mesh, alone):
    def one(shared, item):
        (key, train_batch, training), (index, hparams) = shared, item

        def fit(hparams):
            return train(jax.random.fold_in(key, index), problem, hparams, train_batch, training)[0]

        if sensitivity == "unroll":
            params, jacobian = unrolled_response(fit, hparams)
            return params, jacobian, ~all_finite(jacobian)
        params = fit(hparams)
        if sensitivity == "direct":
            return params, None, jnp.zeros((), bool)
        jacobian, info = response(problem.train_loss, params, hparams, train_batch, solver=solver)
        return params, jacobian, info.diverged.any() | ~all_finite(jacobian)

    return over_chunks(one, shared, chunks, mesh, alone)
