"""Searches that learn nothing on their way: random draws and a grid."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from hcdc_jax.errors import UserError
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
        interval, the first ones being the finer. A choice with names takes all of its options.
      batch_size: as in `random_search`.
      report: told how many candidates are done.

    Raises:
      UserError: more combinations of options than candidates.
    """
    del key
    return score_all(evaluate_fn, grid(space, num), batch_size, report)


def grid(space: Space, num: int) -> np.ndarray:
    """The points [n, h] of `grid_search`, n <= num, each once; the last hyperparameter changes fastest."""
    axes = [(np.arange(count) + 0.5) / count for count in _intervals(space, num)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    found = np.asarray(space.from_unit(jnp.asarray(points, jnp.float32)))
    if space.active is None:
        return found
    return found[np.sort(np.unique(found, axis=0, return_index=True)[1])]  # what is not active makes equals


def _intervals(space: Space, num: int) -> list[int]:
    """Of each coordinate; a choice with names is made by its first one."""
    counts, asked = [1] * len(space.hparam_names), space.asked()
    for _, place, options in asked:
        counts[place] = len(options or "1")
    if np.prod(counts, dtype=float) > num:
        raise UserError(
            f"a grid of the space {space.name!r} has {np.prod(counts, dtype=float):.0f} combinations of options, more "
            f"than {num} candidates: raise their number, or search by another method"
        )
    numbers = [place for _, place, options in asked if options is None]
    while numbers:
        for i in numbers:
            if np.prod(counts, dtype=float) / counts[i] * (counts[i] + 1) > num:
                return counts
            counts[i] += 1
    return counts
