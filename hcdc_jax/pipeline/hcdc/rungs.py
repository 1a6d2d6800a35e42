"""Full trainings that are looked at on their way, and end there if they cannot become the best."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from hcdc_jax.pipeline.setup import Setup
from hcdc_jax.problem import Problem
from hcdc_jax.search.foretelling import cannot_win, line
from hcdc_jax.training.train import Trainee, Training, advance, begin, orders_of
from hcdc_jax.types import Array, Batch, HParams, Params

SHARES = (1 / 9, 1 / 3)
"""Of the steps of a training after which it is looked at."""


class Climbed(NamedTuple):
    """A training, in full or as far as it went.

    Attributes:
      params: of its network.
      midway: [2] validation losses after `SHARES` of the steps, NaN where it did not get so far.
      share: of the steps that it took.
    """

    params: Params
    midway: np.ndarray
    share: float


class Curves(NamedTuple):
    """Learning curves of k trainings that were finished, in log losses.

    Attributes:
      midway: [k, 2].
      ended: [k].
      sure: see `cannot_win`.
    """

    midway: np.ndarray
    ended: np.ndarray
    sure: float

    def hopeless(self, rung: int, loss: float) -> bool:
        """Whether a training that has this loss at this rung cannot become the best."""
        return cannot_win(self.midway[:, rung], self.ended, float(_logs(loss)), sure=self.sure)

    def foretold(self, midway: np.ndarray) -> float:
        """The loss that a training with these losses [2] would have ended with; NaN where it diverged."""
        rung = int(np.flatnonzero(~np.isnan(midway))[-1]) if not np.isnan(midway).all() else 0
        known, here = np.isfinite(self.midway[:, rung]) & np.isfinite(self.ended), _logs(midway[rung])
        if not np.isfinite(here):
            return np.nan
        return float(np.exp(line(self.midway[known, rung], self.ended[known], here)[0]))


def curves_of(records: Iterable[Mapping[str, np.ndarray]], sure: float) -> Curves:
    """Those of full trainings that were looked at on their way and ended well."""
    kept = [(one["midway"], one["value"]) for one in records if "midway" in one and np.isfinite(one["value"])]
    midway, ended = ([one[part] for one in kept] for part in (0, 1))
    return Curves(_logs(np.reshape(midway, (len(kept), len(SHARES)))), _logs(np.array(ended)), sure)


def never(rung: int, loss: float) -> bool:
    """Of trainings that are done in full."""
    del rung, loss
    return False


def climb(setup: Setup, key: Array, hparams: HParams, hopeless: Callable[[int, float], bool] = never) -> Climbed:
    """Trains a candidate on the full data; from rung to rung it is the training of `train`, under its schedule.

    Args:
      setup: of the run.
      key: of the training.
      hparams: [h].
      hopeless: `hopeless(rung, loss)`, whether it ends there.
    """
    training, steps = setup.training, setup.training.steps
    ends = [*(max(round(share * steps), 1) for share in SHARES), steps]
    trainee, orders = _begin(key, setup.problem, hparams, training), _orders(key, setup.train, training)
    midway, done = np.full(len(SHARES), np.nan), 0
    for rung, end in enumerate(ends):
        trainee, loss = _advance(
            setup.problem, hparams, trainee, setup.train, setup.val, training, max(end - done, 0), orders
        )
        done = max(end, done)
        if rung < len(SHARES):
            midway[rung] = loss
            if hopeless(rung, midway[rung]):
                break
    return Climbed(trainee.params, midway, done / steps)


def _logs(losses: np.ndarray | float) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(np.asarray(losses, np.float64))


_orders = jax.jit(orders_of)
_begin = jax.jit(begin, static_argnames="problem")


@functools.partial(jax.jit, static_argnames="problem")
def _advance(
    problem: Problem,
    hparams: HParams,
    trainee: Trainee,
    train: Batch,
    val: Batch,
    training: Training,
    steps: int,
    orders: Array | None,
) -> tuple[Trainee, Array]:
    """So many more steps, one program for any number of them, and the validation loss then."""
    trainee = advance(problem, hparams, trainee, train, training, steps, orders)
    return trainee, problem.val_loss(trainee.params, hparams, val)
