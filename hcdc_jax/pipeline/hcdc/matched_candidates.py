"""Which candidates are matched: spread over good and bad ones before any of them is trained on the full data."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from hcdc_jax.pipeline.keeping import kept
from hcdc_jax.pipeline.recipes.base import Cost
from hcdc_jax.pipeline.setup import MATCHED, Run, key_for
from hcdc_jax.training.candidates import evaluate
from hcdc_jax.types import Array, Batch


class MatchedCandidates(NamedTuple):
    """The candidates to match, best first, and what it cost to choose them.

    Attributes:
      hparams: [m, h].
      cost: of the trainings on S_train that chose them.
      spread: standard deviation, over all candidates tried on S_train, of the log loss on the real validation part; NaN
        where none were tried.
    """

    hparams: Array
    cost: Cost
    spread: float


def chosen_file(folder: Path, seed: int) -> Path:
    """Where the matched candidates of one seed lie in a run folder."""
    return folder / "checkpoints" / f"matched_candidates_seed{seed}.npz"


def choose_candidates(run: Run, seed: int, condensed_train: Batch) -> MatchedCandidates:
    """Chooses the m candidates to match, or reads them; never those that are ranked.

    `hcdc.oversampling` times m candidates, spread evenly over the prior, are trained on S_train and ordered by
    their losses on the real validation part; of each m-th of that order the middle one is matched. Where good ones are
    rare, m draws may hold none, and what is fitted to them is a guess just where the search will look. With
    `hcdc.design = "factorial"` the m candidates are the prior's `factorial` design, and nothing is trained to choose
    them: of many hyperparameters that add up no eight draws are as even, and S_train may order them backwards.

    Args:
      run: the run.
      seed: of the method.
      condensed_train: S_train.
    """
    setup, options = run.setup, run.setup.config.hcdc

    def chosen() -> dict[str, Any]:
        if options.design == "factorial":
            return {"hparams": setup.space.factorial((options.seed, seed), options.full_trainings), "spread": np.nan}
        points = setup.space.spread((options.seed, seed), options.oversampling * options.full_trainings)
        if options.oversampling == 1:
            return {"hparams": points, "spread": np.nan}
        key, problem = key_for(MATCHED, seed), setup.problem_on(condensed_train)
        scores = evaluate(key, problem, points, condensed_train, setup.val, training=setup.proxy_training)
        losses = np.asarray(scores.loss)
        return {"hparams": stratified(points, losses, options.full_trainings), "spread": log_spread(losses)}

    record, cost = kept(chosen_file(run.folder, seed), chosen)
    return MatchedCandidates(jnp.asarray(record["hparams"]), cost, float(record["spread"]))


def log_spread(losses: np.ndarray) -> float:
    """Standard deviation of the logarithms of the losses that are finite and positive; NaN where there are none."""
    logs = np.log(losses[np.isfinite(losses) & (losses > 0)])
    return float(logs.std()) if logs.size else float("nan")


def stratified(points: Array, losses: np.ndarray, count: int) -> Array:
    """Of `points` [n, h], the middle one of each of `count` equal shares in the order of their losses [n]: [count, h].

    The losses of failed points are infinite, so these come last.
    """
    middles = ((np.arange(count) + 0.5) * len(points) / count).astype(int)
    return points[np.argsort(losses, kind="stable")[middles]]
