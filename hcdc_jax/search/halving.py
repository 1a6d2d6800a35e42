"""Successive halving (arXiv 1502.07943) on the full data: the rival that a condensed search has to beat."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from hcdc_jax.errors import UserError
from hcdc_jax.metrics import cheaper_from
from hcdc_jax.problem import Problem
from hcdc_jax.search.base import History, Report, even_batch_size, ignore, in_batches
from hcdc_jax.training.candidates import over_chunks
from hcdc_jax.training.memory import side_by_side
from hcdc_jax.training.scores import Scores, score
from hcdc_jax.training.sharding import (
    Device,
    as_needed,
    local_devices,
    mesh_of,
    on_all_devices,
    on_host,
    over_candidates,
)
from hcdc_jax.training.train import Trainee, Training, advance, begin, orders_of, shapes_of_step
from hcdc_jax.types import Array, Batch, Params, PyTree

Schedule: TypeAlias = Literal["full", "rung"]
"""Where the schedule of a training ends: with a full training, or with each rung."""

BREAK_EVEN_LIMIT = 10_000
"""Up to how many candidates `break_even` looks."""


class Rung(NamedTuple):
    """One level of a bracket: `kept` candidates, each trained up to `steps` in all."""

    kept: int
    steps: int


class Halving(NamedTuple):
    """What successive halving found.

    Attributes:
      history: all scores in order, rung by rung; a candidate is scored once on every rung that it reaches.
      steps: [n] training steps behind each of these scores.
      full_trainings: what it cost, as the sum of all training steps over those of one full training.
      winner: [h], the best candidate of the last rung.
      loss: its validation loss.
      params: its network at the end of the last rung; `successive_halving` says when it is the one that `train` gives.
    """

    history: History
    steps: np.ndarray
    full_trainings: float
    winner: np.ndarray
    loss: float
    params: Params


def rungs(num: int, steps: int, *, eta: int = 3, min_steps: int = 1) -> list[Rung]:
    """The bracket of successive halving: each rung keeps one in eta and trains it eta times as long.

    Args:
      num: candidates on the first rung.
      steps: of a full training, which the last rung reaches.
      eta: share that is kept, as one in eta.
      min_steps: of the first rung at least; fewer rungs if need be.

    Raises:
      UserError: there are no candidates or no steps, or eta is not 2 or more.
    """
    if min(num, steps, min_steps) < 1 or eta < 2:
        raise UserError(
            f"no bracket of {num} candidates, {steps} steps, min_steps = {min_steps} and eta = {eta}: eta must be 2 or "
            "more, the others 1 or more"
        )
    levels = 0
    while eta ** (levels + 1) <= num and min_steps * eta ** (levels + 1) <= steps:
        levels += 1
    return [Rung(num // eta**i, max(round(steps / eta ** (levels - i)), 1)) for i in range(levels + 1)]


def full_trainings(num: int, steps: int, *, eta: int = 3, min_steps: int = 1) -> float:
    """Cost of a bracket when trainings are resumed and not begun anew on every rung. Arguments as in `rungs`."""
    total, before = 0, 0
    for rung in rungs(num, steps, eta=eta, min_steps=min_steps):
        total += rung.kept * (rung.steps - before)
        before = rung.steps
    return total / steps


def break_even(
    condense_seconds: float, small_seconds: float, full_seconds: float, steps: int, *, retrained: int = 1, eta: int = 3
) -> int | None:
    """From how many candidates on a condensed search is faster than successive halving on the full data.

    With p candidates the condensed search takes C + p c_small + k c_full seconds, successive halving
    `full_trainings(p, steps)` c_full. More candidates may open another rung and so cost the rival less.

    Args:
      condense_seconds: C, everything spent before the first candidate is scored, full trainings included.
      small_seconds: c_small, one candidate on the condensed data.
      full_seconds: c_full, one full training.
      steps: of a full training.
      retrained: k, finalists trained on the full data afterwards.
      eta: of successive halving.

    Returns:
      The smallest p from which on it pays, or None if it does not at `BREAK_EVEN_LIMIT` candidates.
    """
    rival = costs(steps, eta)
    ours = condense_seconds + small_seconds * (1 + np.arange(rival.size)) + retrained * full_seconds
    return cheaper_from(ours, rival * full_seconds)


@functools.cache
def costs(steps: int, eta: int = 3) -> np.ndarray:
    """Full trainings that successive halving of 1, 2, ..., `BREAK_EVEN_LIMIT` candidates takes."""
    return np.array([full_trainings(number, steps, eta=eta) for number in range(1, BREAK_EVEN_LIMIT + 1)])


def successive_halving(
    key: Array,
    problem: Problem,
    candidates: ArrayLike,
    train_batch: Batch,
    val_batch: Batch,
    *,
    training: Training | None = None,
    eta: int = 3,
    min_steps: int = 1,
    schedule: Schedule = "full",
    chunk_size: int | None = None,
    devices: Sequence[Device] | int | None = None,
    report: Report = ignore,
) -> Halving:
    """Trains all candidates a little, the better ones more, and the best in full.

    Trainings are resumed from rung to rung and not begun anew. With a constant rate the scores of a rung are those of
    `evaluate` with as many steps. With `training.schedule` "cosine" it depends on `schedule`:

    - "full": step t has the rate that it has in a full training, so the last rung's network is the one that `train`
      gives with the same key. Lower rungs judge networks in the middle of their schedule, at a high rate.
    - "rung": on a rung of s steps, step t has the rate of a training of s steps, and each rung is judged at rate 0. The
      first rung's scores are those of `evaluate` with as many steps. Who goes on does so at the higher rate that the
      next rung has there (three quarters of the peak after a third of the steps), a warm restart with the optimiser's
      state kept; so no later network, the winner's included, is one that `train` gives. It was no better where it was
      measured (docs/search.md), and is no default for that reason.

    Args:
      key: for the initialisation and the order of mini-batches, the same for all candidates, as in `evaluate`.
      problem: what is trained.
      candidates: [n, h].
      train_batch: trained on.
      val_batch: candidates go on by their loss here.
      training: optimiser and length of a full training.
      eta: each rung keeps one in eta.
      min_steps: training steps of the first rung at least.
      schedule: where that of `training` ends, see above.
      chunk_size: candidates trained side by side on each device; by default as in `evaluate`.
      devices: where, or on how many; all devices of this process by default. Networks that wait lie with the host.
      report: told how many candidates are scored, over all rungs.

    Raises:
      UserError: no bracket, see `rungs`; no such schedule; more devices than there are.
    """
    training = training or Training()
    candidates = np.asarray(candidates)
    bracket = rungs(len(candidates), training.steps, eta=eta, min_steps=min_steps)
    if schedule not in get_args(Schedule):
        raise UserError(
            f"no such schedule of successive halving: {schedule!r}; known are {', '.join(get_args(Schedule))}"
        )
    workplace = _Workplace(problem, chunk_size, local_devices(devices))
    orders = _orders(key, train_batch, training)
    trainees = jax.tree.map(np.asarray, _begin(key, problem, jnp.asarray(candidates), training))
    alive, parts, before, done = np.arange(len(candidates)), [], 0, 0
    for level, rung in enumerate(bracket):
        annealed = dataclasses.replace(training, horizon=rung.steps) if schedule == "rung" else training
        common = _Common(key, before, rung.steps - before, annealed, orders, train_batch, val_batch)
        climbing = candidates[alive], *trainees
        trainees, scores = _climb(workplace, common, climbing, lambda here, done=done: report(done + here))
        parts.append(History(candidates[alive], *map(np.asarray, scores)))
        done, before = done + rung.kept, rung.steps
        keep = bracket[level + 1].kept if level + 1 < len(bracket) else 1
        best = np.argsort(parts[-1].loss, kind="stable")[:keep]  # failed ones have infinite losses
        alive, trainees = alive[best], jax.tree.map(lambda leaf, best=best: leaf[best], trainees)
    return Halving(
        history=History(*map(np.concatenate, zip(*parts, strict=True))),
        steps=np.repeat([rung.steps for rung in bracket], [rung.kept for rung in bracket]),
        full_trainings=full_trainings(len(candidates), training.steps, eta=eta, min_steps=min_steps),
        winner=candidates[alive[0]],
        loss=float(parts[-1].loss.min()),
        params=jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), trainees[0]),
    )


class _Workplace(NamedTuple):
    """What is trained, how many at a time if the caller said so, and where."""

    problem: Problem
    chunk_size: int | None
    devices: Sequence[Device]


class _Common(NamedTuple):
    """What all candidates of a rung share: with one key they see the same batches, so these are looked up once.

    Attributes:
      key: of the trainings.
      before: steps that they have done.
      steps: steps to take.
      training: optimiser and schedule.
      orders: of the examples, from `train.orders_of`.
      train_batch: trained on.
      val_batch: scored on.
    """

    key: Array
    before: Array | int
    steps: Array | int
    training: Training
    orders: Array | None
    train_batch: Batch
    val_batch: Batch


_orders = jax.jit(orders_of)


@functools.partial(jax.jit, static_argnames="problem")
def _begin(key: Array, problem: Problem, hparams: Array, training: Training) -> tuple[Params, PyTree]:
    def one(hparams: Array) -> tuple[Params, PyTree]:
        trainee = begin(key, problem, hparams, training)
        return trainee.params, trainee.opt_state

    return jax.vmap(one)(hparams)


def _climb(workplace: _Workplace, common: _Common, trainees: PyTree, report: Report) -> tuple[PyTree, Scores]:
    """Takes trainees, (hparams, params, opt_state) with leading axes [kept], up one rung; arrays of the host.

    They come in equal parts, of which the last alone may hold a copy or two: a rung that filled up the width of the
    first one would cost as much as all candidates. Each width compiles a program of its own, whatever the steps: one
    for all rungs where candidates are trained one by one, at most one for each rung elsewhere.
    """
    problem, chunk_size, devices = workplace
    hparams, kept = trainees[0], len(trainees[0])
    devices = as_needed(devices, kept, (common.train_batch, common.val_batch))
    seen = shapes_of_step(common.train_batch, common.training)
    size, alone = side_by_side(problem, hparams[0], seen, (common.val_batch,), chunk_size, devices[0].platform)
    together = even_batch_size(kept, size * len(devices))
    mesh = mesh_of(devices)
    common = on_all_devices(common, mesh)

    def of_rows(rows: Array) -> PyTree:
        mine = jax.tree.map(lambda leaf: leaf[np.asarray(rows)], trainees)
        chunks, _ = over_candidates(mine, -(-together // mesh.size), mesh)
        return on_host(_advance(problem, common, chunks, mesh=mesh, alone=alone), together)

    return in_batches(of_rows, np.arange(kept), together, report)


@functools.partial(jax.jit, static_argnames=("problem", "mesh", "alone"))
def _advance(problem, common, chunks, *, mesh, alone):
    """Some more steps for a chunk of trainees, and their scores; one program whatever the number of steps."""

    def one(common: _Common, trainee: PyTree) -> PyTree:
        hparams, params, opt_state = trainee
        moved = advance(
            problem, hparams, Trainee(params, opt_state, common.key, jnp.asarray(common.before)), common.train_batch,
            common.training, common.steps, common.orders,
        )  # fmt: skip
        return (moved.params, moved.opt_state), score(problem, moved.params, hparams, common.val_batch)

    return over_chunks(one, common, chunks, mesh, alone)
