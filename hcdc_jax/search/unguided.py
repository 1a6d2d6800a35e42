"""Searches that learn nothing on their way: random draws and a grid."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from hcdc_jax.search.base import EvaluateFn, History, Report, ignore, score_all
from hcdc_jax.spaces import Space
from hcdc_jax.types import Array


def random_search(
    key: Array,
    space: Space,
    evaluate_fn: EvaluateFn,
    num: int,
    *,
    batch_size: int | None = None,
    report: Report = ignore,
) -> History:
    """Scores independent draws from the prior.

    Args:
      key: of the draws; equal keys draw the same candidates.
      space: what is searched.
      evaluate_fn: scores a batch; see `search.base`.
      num: candidates.
      batch_size: per call; by default calls of equal size, of at most `MAX_BATCH`.
      report: told how many candidates are done.
    """
    return score_all(evaluate_fn, space.sample(key, num), batch_size, report)


def grid_search(
    key: Array,
    space: Space,
    evaluate_fn: EvaluateFn,
    num: int,
    *,
    batch_size: int | None = None,
    report: Report = ignore,
) -> History:
    """Scores a grid: the middles of equally likely intervals of each hyperparameter, in all combinations.

    Args:
      key: not used; a grid has nothing to draw.
      space: what is searched.
      evaluate_fn: scores a batch; see `search.base`.
      num: candidates at most; the grid is the finest one of that many points whose dimensions differ by at most one
        interval, the first ones being the finer.
      batch_size: as in `random_search`.
      report: told how many candidates are done.
    """
    del key
    return score_all(evaluate_fn, grid(space, num), batch_size, report)


def grid(space: Space, num: int) -> np.ndarray:
    """The points [n, h] of `grid_search`, n <= num; the last hyperparameter changes fastest."""
    axes = [(np.arange(count) + 0.5) / count for count in _intervals(len(space.hparam_names), num)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    return np.asarray(space.from_unit(jnp.asarray(points, jnp.float32)))


def _intervals(num_dimensions: int, num: int) -> list[int]:
    counts = [1] * num_dimensions
    while True:
        for i in range(num_dimensions):
            if np.prod(counts, dtype=float) / counts[i] * (counts[i] + 1) > num:
                return counts
            counts[i] += 1
