"""Scores of many candidates in one compiled call: vmapped, chunked by memory, placed over devices, failures masked."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.problem import Problem, accuracy
from hcdc_jax.sharding import Device, over_candidates
from hcdc_jax.train import Training, all_finite, train
from hcdc_jax.types import Array, Batch, HParams, Params, PyTree


class Scores(NamedTuple):
    """What a candidate is ranked by. Leading axis: candidates.

    Attributes:
      loss: validation loss after the last step; +inf where the candidate failed, so that no ranking prefers it.
      accuracy: validation accuracy in [0, 1]; 0 where the candidate failed.
      status: True where training and validation stayed finite.
    """

    loss: Array
    accuracy: Array
    status: Array


def evaluate(
    key: Array,
    problem: Problem,
    candidates: HParams,
    train_batch: Batch,
    val_batch: Batch,
    *,
    training: Training | None = None,
    chunk_size: int | None = None,
    devices: Sequence[Device] | None = None,
) -> Scores:
    """Trains every candidate on `train_batch` and scores it on `val_batch`.

    All candidates start from the same `key` (common random numbers): their comparison is not blurred by the draw of
    the initialisation, and a score depends on its candidate alone, whatever its place, its chunk or its device.

    Args:
      key: for the initialisation; average over several keys to reduce its influence.
      problem: what is trained.
      candidates: one or more arrays with leading axis [num_candidates].
      train_batch: trained on.
      val_batch: scored on.
      training: optimiser and length.
      chunk_size: how many candidates are trained side by side on each device; by default the most that fit into
        `memory_budget`.
      devices: where; all local devices by default.

    Returns:
      `Scores` with leading axis [num_candidates].
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
    devices: Sequence[Device] | None = None,
) -> tuple[Scores, ...]:
    """`evaluate` on several batches with one training: a tuple of `Scores`, one for each of `eval_batches`."""
    training = training or Training()
    devices = devices or jax.local_devices()
    num_candidates = jax.tree.leaves(candidates)[0].shape[0]
    if chunk_size is None:
        one = jax.tree.map(lambda leaf: leaf[0], candidates)
        chunk_size = memory_chunk_size(problem, one, train_batch, budget=memory_budget(devices[0].platform))
    chunk_size = min(chunk_size, -(-num_candidates // len(devices)))
    chunks, replicate = over_candidates(candidates, chunk_size, devices)
    key, training, train_batch, eval_batches = replicate((key, training, train_batch, eval_batches))
    scores = _evaluate_chunks(key, problem, chunks, train_batch, eval_batches, training)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:num_candidates], scores)


@functools.partial(jax.jit, static_argnames="problem")
def _evaluate_chunks(key, problem, chunks, train_batch, eval_batches, training):
    def one(hparams):
        params, _ = train(key, problem, hparams, train_batch, training)
        return tuple(score(problem, params, hparams, batch) for batch in eval_batches)

    return jax.lax.map(jax.vmap(one), chunks)


def score(problem: Problem, params: Params, hparams: HParams, batch: Batch) -> Scores:
    """Scores one trained candidate on one batch."""
    loss = problem.val_loss(params, hparams, batch)
    status = jnp.isfinite(loss) & all_finite(params)
    return Scores(
        loss=jnp.where(status, loss, jnp.inf),
        accuracy=jnp.where(status, accuracy(problem, params, hparams, batch), 0.0),
        status=status,
    )


def memory_budget(platform: str) -> float:
    """Bytes of working memory in which the candidates of one chunk run fastest.

    An accelerator is kept busy by many candidates at once, and 4 GB leave room on any. On a CPU candidates side by
    side gain 15 % at best, where a network is tiny, and lose up to 60 % once they push each other out of the cache:
    16 MB is a share of the last level of common ones. A candidate that needs more runs alone.

    Args:
      platform: of the device, "cpu", "gpu" or "tpu".
    """
    return 16e6 if platform == "cpu" else 4e9


def memory_chunk_size(problem: Problem, hparams: HParams, batch: Batch, *, budget: float | None = None) -> int:
    """How many candidates fit side by side into `budget` bytes on one device.

    Counts every array that one training step of one candidate computes, which bounds from above what XLA holds at once.

    Args:
      problem: what is trained.
      hparams: one candidate.
      batch: the training examples; shared by all candidates, so not counted.
      budget: bytes for the working memory of all candidates of a chunk; `memory_budget` of JAX's default platform if
        not given.
    """

    def step(hparams, batch):
        params = problem.init(jax.random.key(0), hparams)
        return jax.grad(problem.train_loss)(params, hparams, batch)

    jaxpr = jax.make_jaxpr(step)(hparams, batch)
    size = sum(_nbytes(v.aval) for equation in jaxpr.eqns for v in equation.outvars)
    budget = memory_budget(jax.default_backend()) if budget is None else budget
    return max(1, int(budget // max(size, 1)))


def _nbytes(aval: PyTree) -> int:
    shape, dtype = getattr(aval, "shape", ()), getattr(aval, "dtype", None)
    return int(np.prod(shape)) * getattr(dtype, "itemsize", 4)
