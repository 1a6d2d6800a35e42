"""Candidates in the order of their losses on condensed data, for those who read them in Python."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax import arguments
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

    def to_optuna(self) -> Any:
        """An `optuna.Study` that knows all candidates that did not fail: a warm start for a search on the full data.

        An objective that asks `trial.suggest_float(name, low, high, log=...)` with the bounds of the space goes on from
        here: names and values are those that the losses read, logarithmic where the space is. Choices are categorical,
        mixtures of options are left out, and a trial has no parameter that does not act in it. Losses on condensed data
        are not those of the full data: what they tell is where to look.

        Raises:
          UserError: Optuna is not installed, or the space reads more than a number by each name.
        """
        try:
            import optuna
        except ImportError as error:
            raise UserError("Optuna is not installed; install it with: pip install 'hcdc-jax[optuna]'") from error
        space = self.space
        bounds, options = _bounds(space), {name: of for name, (_, of) in space.named.items()}
        if not all(isinstance(value, float) for ends in bounds.values() for value in ends):
            raise UserError(f"the space {space.name!r} reads more than one number by a name, which Optuna cannot")
        distributions: dict[str, optuna.distributions.BaseDistribution] = {
            name: optuna.distributions.FloatDistribution(*ends, log=f"log_{name}" in space.hparam_names)
            for name, ends in bounds.items()
        }
        distributions |= {name: optuna.distributions.CategoricalDistribution(of) for name, of in options.items()}
        study = optuna.create_study(study_name=space.name)
        for place in self.order[: int(np.asarray(self.scores.status).sum())]:
            found = space.settings(self.hparams[place])
            if any(found.get(name, of[0]) not in of for name, of in options.items()):
                continue
            # Rounding may leave the space by a hair, which Optuna refuses.
            params = {
                name: value if name in options else float(np.clip(value, *bounds[name]))
                for name, value in found.items()
            }
            told = {name: distributions[name] for name in params}
            loss = float(self.scores.loss[place])
            study.add_trial(optuna.trial.create_trial(params=params, distributions=told, value=loss))
        return study

    def to_pandas(self) -> Any:
        """A data frame, best first: hyperparameters as stored, choices by name, then loss, accuracy and status.

        Raises:
          UserError: pandas is not installed.
        """
        try:
            import pandas  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise UserError("pandas is not installed; install it with: pip install pandas") from error
        columns: dict[str, Any] = self.space.columns(self.hparams)
        columns |= {name: np.asarray(values) for name, values in self.scores._asdict().items()}
        return pandas.DataFrame(columns).iloc[self.order].reset_index(drop=True)


def _bounds(space: Space) -> dict[str, tuple[float, float]]:
    """Lowest and highest value of each setting that is a number of its own, choices left out."""
    h, ends = len(space.hparam_names), {}
    units = np.stack([np.zeros(h), np.ones(h)])
    if space.active is None:
        low, high = (space.settings(space.from_unit(jnp.asarray(unit, jnp.float32))) for unit in units)
        ends = {name: (low[name], high[name]) for name in low}
    else:  # the ends of each where it acts
        drawn = np.random.default_rng(0).uniform(size=(1024, h)).astype(np.float32)
        acts = np.asarray(jax.vmap(space.active)(space.from_unit(jnp.asarray(drawn))))
        for place, key in enumerate(space.keys):
            unit = np.where(np.arange(h) == place, units, drawn[acts[:, place].argmax()]).astype(np.float32)
            low, high = (space.settings(point) for point in space.from_unit(jnp.asarray(unit)))
            ends[key] = low[key], high[key]
    return {name: (min(pair), max(pair)) for name, pair in ends.items() if name not in space.named}


def candidates_of(setup: Setup, num: int, seed: int, candidates: Array | None) -> Array:
    """The given candidates [n, h], or `num` draws from the space.

    Raises:
      UserError: candidates of another width, none, or some that make no choice where there is one.
    """
    if candidates is None:
        if num < 1:
            raise UserError(f"num = {num} candidates: rank at least one")
        return setup.space.sample(key_for(SEARCH, seed), num)
    candidates = jnp.asarray(candidates, jnp.float32)
    arguments.check_rows("candidates", candidates)
    arguments.check_width(setup.space.name, setup.space.hparam_names, candidates[0])
    setup.space.check(candidates)
    return jax.vmap(setup.space.admit)(candidates) if setup.space.options else candidates


def rank_on(setup: Setup, condensed: Condensed, candidates: Array) -> Ranking:
    """Scores candidates [n, h] on condensed data as `rank` does."""
    keys = rank_keys(setup, condensed.card["seed"])
    places = on_condensed(setup, condensed, candidates)
    scores, elapsed = mean_scores(setup, keys, places, condensed.train, condensed.val)
    return Ranking(setup.space, np.asarray(candidates), scores, elapsed.run)
