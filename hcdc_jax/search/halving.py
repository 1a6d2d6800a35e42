"""Successive halving (arXiv 1502.07943) on the full data: the rival that a condensed search has to beat."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from hcdc_jax.candidates import Scores, memory_budget, memory_chunk_size, score
from hcdc_jax.problem import Problem
from hcdc_jax.search.base import History, Report, ignore
from hcdc_jax.train import Trainee, Training, advance, begin
from hcdc_jax.types import Array, Batch, Params

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
      params: its network after a full training; the one that `train` gives with the same key.
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
    """
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
    """From how many candidates on a condensed search is no slower than successive halving on the full data.

    With p candidates the condensed search takes C + p c_small + k c_full seconds, successive halving
    `full_trainings(p, steps)` c_full.

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
    p = np.arange(1, BREAK_EVEN_LIMIT + 1)
    rival = np.array([full_trainings(int(num), steps, eta=eta) for num in p]) * full_seconds
    pays = condense_seconds + p * small_seconds + retrained * full_seconds <= rival
    if not pays[-1]:
        return None
    # More candidates may open another rung and so cost the rival less: the last p that does not pay decides.
    return int(p[~pays].max(initial=0)) + 1


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
    chunk_size: int | None = None,
    report: Report = ignore,
) -> Halving:
    """Trains all candidates a little, the better ones more, and the best in full.

    Trainings are resumed from rung to rung: since rates are constant, the scores are those of trainings begun anew, at
    less cost. One device, whose memory holds the networks of all candidates.

    Args:
      key: for the initialisation, the same for all candidates, as in `evaluate`.
      problem: what is trained.
      candidates: [n, h].
      train_batch: trained on.
      val_batch: candidates go on by their loss here.
      training: optimiser and length of a full training.
      eta: each rung keeps one in eta.
      min_steps: training steps of the first rung at least.
      chunk_size: candidates trained side by side; by default the most that fit into `memory_budget`.
      report: told how many candidates are scored, over all rungs.
    """
    training = training or Training()
    candidates = np.asarray(candidates)
    if chunk_size is None:
        budget = memory_budget(jax.local_devices()[0].platform)
        chunk_size = memory_chunk_size(problem, jnp.asarray(candidates[0]), train_batch, budget=budget)
    bracket = rungs(len(candidates), training.steps, eta=eta, min_steps=min_steps)
    width = min(chunk_size, len(candidates))
    alive = np.arange(len(candidates))
    trainees = _begin(key, problem, jnp.asarray(candidates), training)
    parts, before, done = [], 0, 0
    for level, rung in enumerate(bracket):
        scores = []
        for start in range(0, rung.kept, width):
            rows = alive[np.minimum(np.arange(start, start + width), rung.kept - 1)]
            trainees, of_rows = _advance(
                problem, jnp.asarray(candidates[rows]), trainees, rows, train_batch, val_batch, training,
                rung.steps - before,
            )  # fmt: skip
            scores.append(jax.tree.map(np.asarray, of_rows))
            report(done + min(start + width, rung.kept))
        together = jax.tree.map(lambda *leaves, kept=rung.kept: np.concatenate(leaves)[:kept], *scores)
        parts.append(History(candidates[alive], *together))
        done, before = done + rung.kept, rung.steps
        keep = bracket[level + 1].kept if level + 1 < len(bracket) else 1
        alive = alive[np.argsort(parts[-1].loss, kind="stable")[:keep]]  # failed ones have infinite losses
    return Halving(
        history=History(*map(np.concatenate, zip(*parts, strict=True))),
        steps=np.repeat([rung.steps for rung in bracket], [rung.kept for rung in bracket]),
        full_trainings=full_trainings(len(candidates), training.steps, eta=eta, min_steps=min_steps),
        winner=candidates[alive[0]],
        loss=float(parts[-1].loss.min()),
        params=jax.tree.map(lambda leaf: leaf[alive[0]], trainees.params),
    )


@functools.partial(jax.jit, static_argnames="problem")
def _begin(key: Array, problem: Problem, hparams: Array, training: Training) -> Trainee:
    return jax.vmap(lambda lam: begin(key, problem, lam, training))(hparams)


@functools.partial(jax.jit, static_argnames="problem", donate_argnames="trainees")
def _advance(
    problem: Problem,
    hparams: Array,
    trainees: Trainee,
    rows: Array,
    train_batch: Batch,
    val_batch: Batch,
    training: Training,
    steps: Array,
) -> tuple[Trainee, Scores]:
    """Some more steps for some of all trainees, and their scores; one program whatever the rows and steps."""

    def one(hparams: Array, trainee: Trainee) -> tuple[Trainee, Scores]:
        trainee = advance(problem, hparams, trainee, train_batch, training, steps)
        return trainee, score(problem, trainee.params, hparams, val_batch)

    moved, scores = jax.vmap(one)(hparams, jax.tree.map(lambda leaf: leaf[rows], trainees))
    return jax.tree.map(lambda leaf, new: leaf.at[rows].set(new), trainees, moved), scores
