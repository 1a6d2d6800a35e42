"""HCDC's S_val and a surrogate of the same full trainings, averaged: they do not err alike."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from hcdc_jax.pipeline.clock import measured
from hcdc_jax.pipeline.recipes.base import Cost, Method, RankRequest, RankResult
from hcdc_jax.pipeline.recipes.hcdc import pays_for_hypergradients
from hcdc_jax.pipeline.recipes.rivals import paid, predicted_logs
from hcdc_jax.pipeline.scoring import mean_scores, rank_keys
from hcdc_jax.search.surrogate import power_law

BUILDS_ON = "hcdc"
"""The method whose S_val it reads."""


def _both(trial: RankRequest) -> RankResult:
    """The geometric mean of two predictions of a candidate's loss on the full data.

    One is its loss on S_val after training on S_train, to the power that fits the matched candidates best; the other
    that of a Gaussian process on losses and hypergradients of these. Both are fitted to the same numbers, and differ
    in what they make of other candidates.
    """
    setup, paid_for, s_val = trial.run.setup, paid(trial), trial.learned(BUILDS_ON)
    keys, value = rank_keys(setup, trial.seed), np.asarray(paid_for.target.value)
    with measured() as fitting:
        at_matched, _ = mean_scores(setup, keys, paid_for.hparams, trial.condensed_train, s_val.batch)
        surrogate = predicted_logs(setup, paid_for, with_gradients=True)
    scores, elapsed = trial.networks().on(s_val.batch)
    good = np.asarray(at_matched.status) & (np.asarray(at_matched.loss) > 0)
    offset, exponent = power_law(np.log(at_matched.loss[good]), np.log(value[good]))
    with np.errstate(divide="ignore", invalid="ignore"):  # of candidates that failed, and of losses of 0
        logs = (offset + exponent * np.log(scores.loss) + surrogate) / 2
    losses = jnp.asarray(np.where(scores.status & np.isfinite(logs), np.exp(logs), np.inf), jnp.float32)
    stored = trial.train_scalars + s_val.scalars + sum(leaf.size for leaf in (paid_for.hparams, *paid_for.target))
    cost = s_val.cost.plus(Cost(fitting.run, fitting.compile))
    if not pays_for_hypergradients(setup, BUILDS_ON):
        cost = cost.plus(paid_for.gradient_cost)
    scores = scores._replace(loss=losses, status=np.isfinite(losses))
    return RankResult(scores, elapsed, stored, cost, s_val.matched)


METHOD = Method(
    "the mean of hcdc and surrogate_grad, in logarithms of the loss, each scaled by the same full trainings",
    None,
    _both,
)
