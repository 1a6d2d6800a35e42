"""HCDC with own theta: hypergradients matched at networks that were trained on the real data."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.condense.base import Condenser
from hcdc_jax.condense.hcdc import HCDCData, condensed_pool, hcdc
from hcdc_jax.containers import Container
from hcdc_jax.pipeline.clock import measured
from hcdc_jax.pipeline.draws import drawn
from hcdc_jax.pipeline.recipes import graphs
from hcdc_jax.pipeline.recipes.base import Cost, Learner, Method, Recipe, Request, Work
from hcdc_jax.pipeline.setup import POOL, Setup, key_for, solver_of
from hcdc_jax.pipeline.targets import matched_targets


def _condenser(setup: Setup, container: Container) -> Condenser:
    options = setup.config.hcdc
    return hcdc(setup.problem, container, distance=options.distance, direct=options.direct)


def _values_alone(setup: Setup, container: Container) -> Condenser:
    return hcdc(setup.problem, container, distance="value", direct=setup.config.hcdc.direct)


def _work(request: Request) -> Work:
    setup, options = request.run.setup, request.run.setup.config.hcdc
    assert request.condensed_train is not None
    draws = drawn(request.run, request.seed, request.condensed_train)
    matched = matched_targets(request.run, request.seed, draws)
    # Each matched candidate is trained on S_train from `inits` initialisations, all with the same target.
    hparams, target = jax.tree.map(
        lambda leaf: jnp.concatenate([leaf] * options.inits), (matched.hparams, matched.target)
    )
    with measured() as training:
        pool = jax.block_until_ready(
            condensed_pool(
                key_for(POOL, request.seed), setup.problem, hparams, request.condensed_train, setup.training,
                solver=solver_of(setup.config), sensitivity=options.sensitivity,
            )
        )  # fmt: skip
    rates = graphs.rates(request.start, options.feature_step, options.structure_learning_rate)
    data = HCDCData(pool, target, jnp.asarray(setup.space.prior_std), rates)
    return Work(data, matched.cost.plus(Cost(training.run, training.compile)), np.asarray(matched.hparams))


def steps(setup: Setup) -> int:
    """Steps of S_val; Algorithm 1 takes as many."""
    return setup.config.hcdc.steps


_START = graphs.to_learn(graphs.sampled)

METHOD = Method(
    "hypergradients matched at networks trained on the real data (arXiv 2405.17535)",
    train=None,
    val=Recipe("hcdc", _START, graphs.learned, Learner(_condenser, _work, steps)),
)
VALUE_ONLY = Method(
    "as hcdc, but the losses of the same full trainings are matched, without their hypergradients",
    train=None,
    val=Recipe("value_only", _START, graphs.learned, Learner(_values_alone, _work, steps)),
)
