"""HCDC's Algorithm 1 as printed: theta is trained on S_train and shared by both hypergradients."""

from __future__ import annotations

import numpy as np

from hcdc_jax.condense.base import Condenser
from hcdc_jax.condense.hcdc_shared import SharedData, hcdc_shared
from hcdc_jax.containers import Container
from hcdc_jax.pipeline.hcdc.matched_candidates import choose_candidates
from hcdc_jax.pipeline.kinds.starts import learned, stored, to_learn
from hcdc_jax.pipeline.recipes.base import Learner, Method, Recipe, Request, Work
from hcdc_jax.pipeline.recipes.hcdc import steps
from hcdc_jax.pipeline.setup import Setup, solver_of


def _condenser(setup: Setup, container: Container) -> Condenser:
    # The paper's cosine, whatever `hcdc.distance` says: one pair of hypergradients at a time has no joint scale.
    return hcdc_shared(
        setup.problem, container, setup.space,
        solver=solver_of(setup.config, auto="neumann"), distance="cosine", direct=setup.config.hcdc.direct,
    )  # fmt: skip


def _work(request: Request) -> Work:
    setup = request.run.setup
    assert request.condensed_train is not None
    candidates = choose_candidates(request.run, request.seed, request.condensed_train)
    rates = setup.kind.rates(setup, request.start)
    data = SharedData(candidates.hparams, request.condensed_train, setup.train, setup.val, setup.proxy_training, rates)
    return Work(data, candidates.cost, np.asarray(candidates.hparams))


METHOD = Method(
    "HCDC's Algorithm 1 as printed: theta shared, trained on S_train",
    train=None,
    val=Recipe("hcdc_shared", to_learn(stored), learned, Learner(_condenser, _work, steps, rate="hcdc.feature_step")),
)
