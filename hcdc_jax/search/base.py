"""What a search is: a pure function of a key, a space, a way to score candidates, and a number of them.

    search(key, space, evaluate_fn, num, ...) -> History

`evaluate_fn(candidates [b, h]) -> Scores` is called with the same b every time, so that what it compiles it compiles
once; short batches are filled up with copies of their last candidate, whose scores are dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from hcdc_jax.training.candidates import Scores
from hcdc_jax.types import Array, PyTree

EvaluateFn: TypeAlias = Callable[[Array], Scores]
"""Scores candidates [b, h], for instance `lambda c: hc.evaluate(key, problem, c, s_train, s_val)`."""

Report: TypeAlias = Callable[[int], Any]
"""Told how many candidates are done."""

MAX_BATCH = 256
"""Candidates per call where a search does not depend on the scores before: keeps a device busy, yet reports often."""


class History(NamedTuple):
    """Every candidate that a search scored, in order. Arrays of the host.

    Attributes:
      hparams: [n, h].
      loss: [n] validation loss, +inf where the candidate failed.
      accuracy: [n] validation accuracy, 0 where the candidate failed.
      status: [n] False where the candidate failed.
    """

    hparams: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray
    status: np.ndarray

    def best(
        self,
        count: int = 1,
        radius: ArrayLike = 0.0,
        avoided: ArrayLike = (),
        equivalents: Callable[[Array], Array] | None = None,
    ) -> np.ndarray:
        """Places of the best different candidates that did not fail, lowest loss first.

        Args:
          count: how many at most.
          radius: [h] or a number; a candidate that is as close as this to a better one in every hyperparameter is
            passed over. Descents end in crowds of nearly equal candidates, one of which is enough.
          avoided: [k, h]; what is as close to one of these is passed over, too.
          equivalents: `Space.equivalents`: being close to any point of an orbit is being close to all of it.
        """
        places: list[int] = []
        taken = list(np.asarray(avoided, self.hparams.dtype).reshape(-1, self.hparams.shape[1]))
        orbits = self.hparams[:, None]  # [n, k, h]
        if equivalents is not None:
            orbits = np.array(jax.vmap(equivalents)(jnp.asarray(self.hparams)), self.hparams.dtype)
            orbits[:, 0] = self.hparams  # itself, to the last digit
        for place in np.argsort(self.loss, kind="stable"):
            if len(places) == count:
                break
            here = self.hparams[place]
            near = np.abs(np.reshape(taken, (-1, 1, len(here))) - orbits[place]) <= radius
            if self.status[place] and not near.all(axis=-1).any():
                places.append(int(place))
                taken.append(here)
        return np.array(places, int)


def ignore(done: int) -> None:
    """A `Report` to nobody."""
    del done


def in_batches(
    function: Callable[[Array], PyTree], candidates: ArrayLike, batch_size: int, report: Report = ignore
) -> PyTree:
    """Maps candidates [n, ...] to any pytree of arrays with leading axis [n], `batch_size` at a time.

    Args:
      function: gets candidates [batch_size, ...], whatever n is.
      candidates: [n, h], or their places [n]; at least one.
      batch_size: candidates per call.
      report: told how many candidates are done.

    Returns:
      What `function` returns, put together again, as arrays of the host.
    """
    candidates = np.asarray(candidates)
    num, parts = len(candidates), []
    for begin in range(0, num, batch_size):
        batch = candidates[np.minimum(np.arange(begin, begin + batch_size), num - 1)]
        parts.append(jax.tree.map(np.asarray, function(jnp.asarray(batch))))
        report(min(begin + batch_size, num))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:num], *parts)


def score_all(
    evaluate_fn: EvaluateFn, candidates: ArrayLike, batch_size: int | None = None, report: Report = ignore
) -> History:
    """The history of candidates [n, h] that are known from the beginning.

    Args:
      evaluate_fn: scores them.
      candidates: [n, h].
      batch_size: per call; by default calls of equal size, of at most `MAX_BATCH`.
      report: told how many candidates are done.
    """
    candidates = np.asarray(candidates)
    scores = in_batches(evaluate_fn, candidates, batch_size or even_batch_size(len(candidates)), report)
    return History(candidates, *scores)


def even_batch_size(num: int, at_most: int = MAX_BATCH) -> int:
    """The size of the fewest batches of at most `at_most` that hold `num` candidates and leave little room."""
    return math.ceil(num / math.ceil(num / at_most))


def seed_of(key: Array) -> int:
    """A 32-bit seed for generators that know nothing of JAX's keys."""
    return int(jax.random.bits(key))
