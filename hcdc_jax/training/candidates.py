"""Scores of many candidates in one compiled call: vmapped, chunked by memory, spread over devices; failures masked."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from hcdc_jax import arguments
from hcdc_jax.problem import Problem
from hcdc_jax.training.memory import better_alone, memory_budget, memory_chunk_size, side_by_side
from hcdc_jax.training.processes import over_processes
from hcdc_jax.training.scores import Scores, score
from hcdc_jax.training.sharding import (
    Chunks,
    Device,
    as_needed,
    fixed_size,
    in_order,
    local_devices,
    mesh_of,
    on_each_device,
    over_candidates,
)
from hcdc_jax.training.train import Training, check_setting, shapes_of_step, train
from hcdc_jax.types import Array, Batch, HParams, Params, PyTree

WHY_ALL_FAIL = (
    "no loss stays finite; likely training.learning_rate is too high, the network has fewer outputs than the data has "
    "classes, or a loss of your own is not finite"
)
"""What to say where no candidate at all comes to an end: then it is rarely the candidates."""


def evaluate(
    key: Array,
    problem: Problem,
    candidates: HParams,
    train_batch: Batch,
    val_batch: Batch,
    *,
    training: Training | None = None,
    chunk_size: int | None = None,
    devices: Sequence[Device] | int | None = None,
) -> Scores:
    """Trains every candidate on `train_batch` and scores it on `val_batch`.

    Where several processes work together (`processes.connect`) each trains a share of the candidates and all get all
    scores; every one of them must make the same call.

    All candidates start from the same `key` (common random numbers): their comparison is not blurred by the draw of
    the initialisation, and a score depends on its candidate alone, whatever its place, its chunk or its device.

    Numbers of candidates share compiled programs: fewer than a chunk are filled up to a power of two with copies of the
    last one, at most as many again; of more only the last chunk is filled up.

    Args:
      key: for the initialisation; average over several keys to reduce its influence.
      problem: what is trained.
      candidates: one or more arrays with leading axis [num_candidates].
      train_batch: trained on.
      val_batch: scored on.
      training: optimiser and length.
      chunk_size: how many candidates are trained side by side on each device; by default the most that fit into
        `memory_budget`.
      devices: where, or on how many; all devices of this process by default.

    Returns:
      `Scores` with leading axis [num_candidates].

    Raises:
      UserError: more devices than there are; no candidates, or a chunk of none; arguments of other types; losses that
        are not one float.
    """
    (scores,) = evaluate_on(
        key, problem, candidates, train_batch, (val_batch,), training=training, chunk_size=chunk_size, devices=devices
    )
    return scores


def evaluate_on(
    key: Array,
    problem: Problem,
    candidates: HParams,
    train_batch: Batch,
    eval_batches: tuple[Batch, ...],
    *,
    training: Training | None = None,
    chunk_size: int | None = None,
    devices: Sequence[Device] | int | None = None,
) -> tuple[Scores, ...]:
    """`evaluate` on several batches with one training: a tuple of `Scores`, one for each of `eval_batches`."""
    training = check_setting(key, problem, training)
    for batch in eval_batches:
        arguments.check_type("val_batch", batch, Batch, "hc.Batch(inputs, labels, weights)")
    plan = _planned(problem, candidates, train_batch, eval_batches, chunk_size, devices, training)
    key, training, train_batch, eval_batches = plan.replicate((key, training, train_batch, eval_batches))
    scores = _evaluate_chunks(
        key, problem, plan.chunks, train_batch, eval_batches, training, mesh=plan.mesh, alone=plan.alone
    )
    return plan.gathered(scores)


def train_each(
    key: Array,
    problem: Problem,
    candidates: HParams,
    train_batch: Batch,
    *,
    training: Training | None = None,
    chunk_size: int | None = None,
    devices: Sequence[Device] | int | None = None,
) -> Params:
    """The networks that `evaluate` scores: parameters with leading axis [num_candidates]; arguments as there."""
    training = check_setting(key, problem, training)
    plan = _planned(problem, candidates, train_batch, (), chunk_size, devices, training)
    key, training, train_batch = plan.replicate((key, training, train_batch))
    networks = _train_chunks(key, problem, plan.chunks, train_batch, training, mesh=plan.mesh, alone=plan.alone)
    return plan.gathered(networks)


def score_each(problem: Problem, params: Params, candidates: HParams, val_batch: Batch) -> Scores:
    """Scores of the networks of `train_each`, in this process.

    Args:
      problem: what was trained.
      params: of the networks, leading axis [num_candidates].
      candidates: one or more arrays with the same leading axis.
      val_batch: scored on.
    """
    at_once = scored_at_once(problem, candidates, val_batch)
    return ask_each(score, problem, params, candidates, val_batch, at_once=at_once)


def ask_each(
    ask: Callable[[Problem, Params, HParams, PyTree], PyTree],
    problem: Problem,
    params: Params,
    candidates: HParams,
    shared: PyTree,
    *,
    at_once: int | None,
) -> PyTree:
    """`ask(problem, params, hparams, shared)` of trained networks, in this process: leading axis [num_candidates].

    Args:
      ask: a pure function that is always the same object, or each call compiles anew.
      problem: what was trained.
      params: of the networks, leading axis [num_candidates].
      candidates: one or more arrays with the same leading axis.
      shared: what all networks are asked about.
      at_once: from `scored_at_once`; None spreads them over the devices, on each one by one.
    """
    networks = (params, candidates)
    if at_once is not None:
        return _ask_mapped(ask, problem, networks, shared, at_once=at_once)
    count = jax.tree.leaves(candidates)[0].shape[0]
    mesh = mesh_of(as_needed(local_devices(), count, shared))
    chunks, replicate = over_candidates(networks, 1, mesh)
    return in_order(mesh, _ask_alone(ask, problem, chunks, replicate(shared), mesh=mesh), count)


def scored_at_once(problem: Problem, candidates: HParams, batch: Batch) -> int | None:
    """How many trained candidates are scored side by side, as `batch_size` of `jax.lax.map`; None for one by one.

    Args:
      problem: what was trained.
      candidates: one or more arrays with leading axis [num_candidates].
      batch: a training step on it must fit, too.
    """
    one, platform = jax.tree.map(lambda leaf: leaf[0], candidates), jax.default_backend()
    if better_alone(problem, one, batch, platform):
        return None
    fitting = memory_chunk_size(problem, one, batch, budget=memory_budget(platform))
    return min(fitting, jax.tree.leaves(candidates)[0].shape[0])


class _Plan(NamedTuple):
    """How candidates are spread.

    Attributes:
      chunks: of candidates, see `sharding.Chunks`.
      replicate: puts what all candidates share where they are.
      gathered: what is known of the chunks, as of all candidates.
      mesh: of the devices.
      alone: whether a device computes one candidate at a time, not those of a chunk side by side.
    """

    chunks: Chunks
    replicate: Callable[[PyTree], PyTree]
    gathered: Callable[[PyTree], PyTree]
    mesh: Mesh
    alone: bool


def _planned(
    problem: Problem,
    candidates: HParams,
    train_batch: Batch,
    eval_batches: tuple[Batch, ...],
    chunk_size: int | None,
    devices: Sequence[Device] | int | None,
    training: Training,
) -> _Plan:
    arguments.check_rows("candidates", candidates)
    if chunk_size is not None:
        arguments.check_count("chunk_size", chunk_size)
    candidates, together = over_processes(candidates)
    num_candidates = jax.tree.leaves(candidates)[0].shape[0]
    devices = as_needed(local_devices(devices), num_candidates, (train_batch, eval_batches))
    one, seen = jax.tree.map(lambda leaf: leaf[0], candidates), shapes_of_step(train_batch, training)
    chunk_size, alone = side_by_side(problem, one, seen, eval_batches, chunk_size, devices[0].platform)
    # A few more candidates side by side than there are, so that five, six, seven and eight share one program.
    chunk_size = min(chunk_size, fixed_size(-(-num_candidates // len(devices))))
    mesh = mesh_of(devices)
    chunks, replicate = over_candidates(candidates, chunk_size, mesh)

    def gathered(tree: PyTree) -> PyTree:
        return together(in_order(mesh, tree, num_candidates))

    return _Plan(chunks, replicate, gathered, mesh, alone)


@functools.partial(jax.jit, static_argnames=("problem", "mesh", "alone"))
def _evaluate_chunks(key, problem, chunks, train_batch, eval_batches, training, *, mesh, alone):
    def one(shared, hparams):
        key, train_batch, eval_batches, training = shared
        params, _ = train(key, problem, hparams, train_batch, training)
        return tuple(score(problem, params, hparams, batch) for batch in eval_batches)

    return over_chunks(one, (key, train_batch, eval_batches, training), chunks, mesh, alone)


@functools.partial(jax.jit, static_argnames=("problem", "mesh", "alone"))
def _train_chunks(key, problem, chunks, train_batch, training, *, mesh, alone):
    def one(shared, hparams):
        key, train_batch, training = shared
        return train(key, problem, hparams, train_batch, training)[0]

    return over_chunks(one, (key, train_batch, training), chunks, mesh, alone)


def over_chunks(
    one: Callable[[PyTree, PyTree], PyTree], shared: PyTree, chunks: Chunks, mesh: Mesh, alone: bool
) -> PyTree:
    """`one(shared, item)` for the items of `sharding.over_candidates`, for `sharding.in_order`.

    Args:
      one: a pure function.
      shared: what all items share, on all devices of the mesh.
      chunks: of items.
      mesh: of the devices.
      alone: whether a device computes one item at a time, see `better_alone`; then chunks have one for each device.
    """

    def of_chunk(shared, chunk):
        if not alone:
            return jax.vmap(functools.partial(one, shared))(chunk)
        # Without `vmap`, under which branches compute both sides.
        found = one(shared, jax.tree.map(lambda leaf: leaf[0], chunk))
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], found)

    return on_each_device(mesh, of_chunk, shared, chunks)


@functools.partial(jax.jit, static_argnames=("ask", "problem", "at_once"))
def _ask_mapped(ask, problem, networks, shared, *, at_once):
    return jax.lax.map(lambda network: ask(problem, *network, shared), networks, batch_size=at_once)


@functools.partial(jax.jit, static_argnames=("ask", "problem", "mesh"))
def _ask_alone(ask, problem, chunks, shared, *, mesh):
    return over_chunks(lambda shared, network: ask(problem, *network, shared), shared, chunks, mesh, True)
