"""Scores of candidates on small data, averaged over initialisations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from hcdc_jax.pipeline.clock import Elapsed, measured
from hcdc_jax.pipeline.setup import RANK, Setup, key_for, solver_of
from hcdc_jax.problem import Problem
from hcdc_jax.search import Objective
from hcdc_jax.training.candidates import evaluate, evaluate_on, score_each, train_each
from hcdc_jax.training.memory import memory_budget, memory_chunk_size
from hcdc_jax.training.scores import Scores
from hcdc_jax.training.train import Training, shapes_of_step
from hcdc_jax.types import Array, Batch, Params


def rank_keys(setup: Setup, seed: int) -> list[Array]:
    """One key per initialisation that scores are averaged over."""
    return [jax.random.fold_in(key_for(RANK, seed), i) for i in range(setup.config.training.proxy_inits)]


def fitting_at_once(setup: Setup) -> int:
    """How many candidates fit side by side into the budget of memory of all devices in trainings on the full data."""
    devices, seen = jax.local_devices(), shapes_of_step(setup.train, setup.training)
    budget = memory_budget(devices[0].platform)
    return memory_chunk_size(setup.problem, setup.candidates[0], seen, budget=budget) * len(devices)


class Networks(NamedTuple):
    """Candidates trained on one S_train, for all who want to score them.

    Attributes:
      params: what is asked for itself and then averaged, leading axis [n] each: by initialisation; or a single item
        with leading axes [n, inits], where `problem` is a joint one.
      candidates: [n, h].
      problem: what they are asked.
      elapsed: the time of training them.
    """

    params: list[Params]
    candidates: Array
    problem: Problem
    elapsed: Elapsed

    def on(self, val_batch: Batch) -> tuple[Scores, Elapsed]:
        """Scores on a batch, averaged over initialisations, and the time of training and scoring."""
        with measured() as scoring:
            scores = mean_of([score_each(self.problem, params, self.candidates, val_batch) for params in self.params])
        return scores, self.elapsed.plus(scoring)


def networks_on(setup: Setup, keys: list[Array], candidates: Array, train_batch: Batch) -> Networks:
    """Trains the candidates on S_train from the initialisations of the keys."""
    problem, training = setup.problem_on(train_batch), setup.proxy_training
    with measured() as elapsed:
        params = [train_each(key, problem, candidates, train_batch, training=training) for key in keys]
        # On the host: many networks are more than what a device has left while it trains others.
        params = [jax.tree.map(np.asarray, leaves) for leaves in params]
    if setup.asks_jointly:
        params = [jax.tree.map(lambda *leaves: np.stack(leaves, 1), *params)]
    return Networks(params, candidates, setup.asked(problem, len(keys)), elapsed)


def mean_scores(
    setup: Setup, keys: list[Array], candidates: Array, train_batch: Batch, val_batch: Batch
) -> tuple[Scores, Elapsed]:
    """Scores of the candidates on condensed data, averaged over the initialisations of the keys, and their time.

    A candidate that fails from one initialisation has failed.
    """
    if setup.asks_jointly:
        return networks_on(setup, keys, candidates, train_batch).on(val_batch)
    with measured() as elapsed:
        training, problem = setup.proxy_training, setup.problem_on(train_batch)
        scores = mean_of(
            [evaluate(key, problem, candidates, train_batch, val_batch, training=training) for key in keys]
        )
    return scores, elapsed


def scores_on_each(
    setup: Setup, keys: list[Array], candidates: Array, train_batch: Batch, batches: tuple[Batch, ...]
) -> tuple[Scores, ...]:
    """`mean_scores` on several batches, with one training for all of them."""
    if setup.asks_jointly:
        networks = networks_on(setup, keys, candidates, train_batch)
        return tuple(networks.on(batch)[0] for batch in batches)
    problem, training = setup.problem_on(train_batch), setup.proxy_training
    runs = [evaluate_on(key, problem, candidates, train_batch, batches, training=training) for key in keys]
    return tuple(mean_of(list(of_batch)) for of_batch in zip(*runs, strict=True))


def descent_options(setup: Setup, train_batch: Batch, val_batch: Batch, training: Training) -> dict[str, Any]:
    """What a hypergradient search is told besides what every search is."""
    options = setup.config.hcdc
    return {
        "objective": Objective(setup.problem_on(train_batch), train_batch, val_batch, training),
        "solver": solver_of(setup.config),
        "direct": options.direct,
        # What is enough for a match leads nowhere: a descent needs the whole hypergradient.
        "sensitivity": "unroll" if options.sensitivity == "unroll" else "implicit",
    }


def mean_of(runs: Sequence[Scores]) -> Scores:
    """Means of scores of the same candidates; one that failed somewhere has failed."""
    means = jax.tree.map(lambda *leaves: np.mean([np.asarray(leaf) for leaf in leaves], 0), *runs)
    return means._replace(status=means.status == 1)
