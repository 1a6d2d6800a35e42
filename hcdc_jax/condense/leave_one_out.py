"""Which distance, and how many steps: every matched candidate is left out once, and predicted from the others.

The distance of a match falls while ranks of other candidates stand still or turn; nothing in it warns. A candidate that
was left out of the match is such another, and its full training is paid for. The measure is the predicted residual
sum of squares (PRESS, Allen 1974) of log losses.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np

from hcdc_jax.condense.base import run
from hcdc_jax.condense.hcdc import HCDCData, hcdc
from hcdc_jax.containers import Container
from hcdc_jax.errors import UserError
from hcdc_jax.hypergradients.fixed_networks import Pool
from hcdc_jax.problem import Problem
from hcdc_jax.types import Array, Variables

FEWEST = 3
"""Candidates: with two, one is left to match, and one value has no spread to predict another by."""


def left_out_errors(
    key: Array,
    problem: Problem,
    container: Container,
    variables: Variables,
    data: HCDCData,
    *,
    distance: str,
    steps: Sequence[int],
    direct: bool = True,
    report: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """How badly S_val, learned without a candidate, predicts its loss on the real data; mean over all candidates.

    S_val is learned anew for each candidate, from the same start: as many condensations as there are candidates.

    Args:
      key: of the condensations.
      problem: whose candidates are matched.
      container: stores S_val.
      variables: its start.
      data: as for `hcdc`; networks of equal hyperparameters are one candidate and are left out together.
      distance: see `hcdc`.
      steps: increasing numbers of steps that are asked about.
      direct: see `hcdc`.
      report: `report(done)`, after each candidate.

    Returns:
      [len(steps)] relative errors; 1 is what the mean of the others predicts.

    Raises:
      UserError: fewer than three candidates.
    """
    condenser = hcdc(problem, container, distance=distance, direct=direct)
    candidates, of = np.unique(np.asarray(data.pool.hparams), axis=0, return_inverse=True)
    if len(candidates) < FEWEST:
        raise UserError(
            f"leave-one-out needs at least {FEWEST} matched candidates, of which there are {len(candidates)}: raise "
            "hcdc.full_trainings, or set hcdc.selection = 'fixed'"
        )
    of, target = of.reshape(-1), np.asarray(data.target.value)
    errors, spread = np.zeros(len(steps)), 0.0
    for left_out in range(len(candidates)):
        rest = np.flatnonzero(of != left_out)
        pool, kept = jax.tree.map(lambda leaf, rest=rest: leaf[rest], (data.pool, data.target))
        others, done = data._replace(pool=pool, target=kept), 0
        state = condenser.init(key, variables, others)
        for place, count in enumerate(steps):
            state, done = run(key, condenser, state, others, start=done, steps=count, every=count - done), count
            losses = np.asarray(_losses(data.pool, state.variables, problem=problem, container=container))
            error, around_mean = prediction_errors(losses, target, of == left_out)
            errors[place] += error
        spread += around_mean
        report(left_out + 1)
    return errors / spread


def prediction_errors(losses: np.ndarray, target: np.ndarray, left_out: np.ndarray, floor: float = 1e-8):
    """Mean squared errors of a prediction of the log target of what was left out: from the losses, and from the mean.

    A line with a slope of at least 0 is fitted to the others: a ranking sees any increasing line alike, and a falling
    one is no virtue.

    Args:
      losses: [n] on S_val.
      target: [n] on the real data.
      left_out: [n] which ones are predicted.
      floor: losses below it count as it.
    """
    x, y = (np.log(np.maximum(np.asarray(values, np.float64), floor)) for values in (losses, target))
    x, y = x - x[~left_out].mean(), y - y[~left_out].mean()
    variance = (x[~left_out] ** 2).sum()
    slope = max((x[~left_out] * y[~left_out]).sum() / variance, 0.0) if variance > 0 else 0.0
    return float(((y - slope * x)[left_out] ** 2).mean()), float((y[left_out] ** 2).mean())


@functools.partial(jax.jit, static_argnames=("problem", "container"))
def _losses(pool: Pool, variables: Variables, *, problem: Problem, container: Container) -> Array:
    batch = container.decode(variables)
    return jax.vmap(lambda params, hparams: problem.val_loss(params, hparams, batch))(pool.params, pool.hparams)
