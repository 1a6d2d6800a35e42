"""Candidates in the order of their losses on condensed data, for those who read them in Python."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from hcdc_jax.condensed import Condensed
from hcdc_jax.errors import UserError
from hcdc_jax.pipeline.hcdc.shifts import on_condensed
from hcdc_jax.pipeline.scoring import mean_scores, rank_keys
from hcdc_jax.pipeline.setup import SEARCH, Setup, key_for
from hcdc_jax.spaces import Space
from hcdc_jax.training.candidates import Scores
from hcdc_jax.types import Array


class Ranking(NamedTuple):
    """Scored candidates.

    Attributes:
      space: where they come from.
      hparams: [n, h].
      scores: of each, in the order of `hparams`; a candidate that failed has an infinite loss.
      seconds: that the scores took, without compilation.
    """

    space: Space
    hparams: np.ndarray
    scores: Scores
    seconds: float

    @property
    def order(self) -> np.ndarray:
        """[n] places in `hparams`, best first."""
        return np.argsort(self.scores.loss, kind="stable")

    def best(self, count: int = 1) -> list[dict[str, Any]]:
        """The settings of the best candidates, by name, as the losses read them."""
        return [self.space.settings(self.hparams[place]) for place in self.order[:count]]

    def to_pandas(self) -> Any:
        """A data frame, best first: hyperparameters as stored, then loss, accuracy and status.

        Raises:
          UserError: pandas is not installed.
        """
        try:
            import pandas  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise UserError("pandas is not installed; install it with: pip install pandas") from error
        columns = dict(zip(self.space.hparam_names, self.hparams.T, strict=True))
        columns |= {name: np.asarray(values) for name, values in self.scores._asdict().items()}
        return pandas.DataFrame(columns).iloc[self.order].reset_index(drop=True)


def candidates_of(setup: Setup, num: int, seed: int, candidates: Array | None) -> Array:
    """The given candidates [n, h], or `num` draws from the space.

    Raises:
      UserError: candidates of another width, or none.
    """
    if candidates is None:
        if num < 1:
            raise UserError(f"num = {num} candidates: rank at least one")
        return setup.space.sample(key_for(SEARCH, seed), num)
    candidates, names = jnp.asarray(candidates, jnp.float32), setup.space.hparam_names
    if candidates.ndim != 2 or candidates.shape[1] != len(names) or not len(candidates):
        raise UserError(f"candidates have shape {candidates.shape}, wanted [n, {len(names)}]: {', '.join(names)}")
    return candidates


def rank_on(setup: Setup, condensed: Condensed, candidates: Array) -> Ranking:
    """Scores candidates [n, h] on condensed data as `rank` does."""
    keys = rank_keys(setup, condensed.card["seed"])
    places = on_condensed(setup, condensed, candidates)
    scores, elapsed = mean_scores(setup, keys, places, condensed.train, condensed.val)
    return Ranking(setup.space, np.asarray(candidates), scores, elapsed.run)
