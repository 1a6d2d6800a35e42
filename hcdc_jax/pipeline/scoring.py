"""Scores of candidates on small data, averaged over initialisations."""

from __future__ import annotations

import jax
import numpy as np

from hcdc_jax.candidates import Scores, evaluate
from hcdc_jax.pipeline.clock import Elapsed, measured
from hcdc_jax.pipeline.setup import RANK, Setup, key_for
from hcdc_jax.types import Array, Batch


def rank_keys(setup: Setup, seed: int) -> list[Array]:
    """One key per initialisation that scores are averaged over."""
    return [jax.random.fold_in(key_for(RANK, seed), i) for i in range(setup.config.training.proxy_inits)]


def mean_scores(
    setup: Setup, keys: list[Array], candidates: Array, train_batch: Batch, val_batch: Batch
) -> tuple[Scores, Elapsed]:
    """Scores of the candidates on condensed data, averaged over the initialisations of the keys, and their time.

    A candidate that fails from one initialisation has failed.
    """
    with measured() as elapsed:
        training = setup.proxy_training
        problem = setup.problem_on(train_batch)
        runs = [evaluate(key, problem, candidates, train_batch, val_batch, training=training) for key in keys]
        means = jax.tree.map(lambda *leaves: np.mean([np.asarray(leaf) for leaf in leaves], 0), *runs)
    return means._replace(status=means.status == 1), elapsed
