"""From a configuration to the objects of a run."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import numpy as np

from hcdc_jax import spaces
from hcdc_jax.config import Config
from hcdc_jax.data import GraphData, load_dataset
from hcdc_jax.graphs import real_batch
from hcdc_jax.linear_solve import LinearSolver, chebyshev, conjugate_gradient, dense, identity, neumann
from hcdc_jax.models.graph import spectral_gnn
from hcdc_jax.problem import Problem
from hcdc_jax.train import Training
from hcdc_jax.types import Array, Batch


class Setup(NamedTuple):
    """Everything that the stages of a run share.

    Attributes:
      config: as read.
      data: the real graph.
      space: what is searched.
      problem: what is trained.
      training: how.
      candidates: [n, h], the ranked ones.
      train, val, test: the real parts.
    """

    config: Config
    data: GraphData
    space: spaces.Space
    problem: Problem
    training: Training
    candidates: Array
    train: Batch
    val: Batch
    test: Batch


# Offsets that keep the keys of different purposes apart; a purpose's own number is folded in after it.
CANDIDATES, MATCHED, TARGETS, POOL, CONDENSE, RANK, TRUTH = range(7)


def key_for(purpose: int, seed: int) -> Array:
    """The key of one purpose and seed; no two share one."""
    return jax.random.fold_in(jax.random.key(seed), purpose)


def build(config: Config) -> Setup:
    """Reads the data and builds everything that a run needs.

    Raises:
      UserError: what is wrong with the data or the configuration, in one line.
    """
    data = load_dataset(config.data.name, path=config.data.path, split=config.data.split, seed=config.data.seed)
    space = spaces.get(config.space.name, order=config.space.order, basis=config.space.basis, prior=config.space.prior)
    problem = spectral_gnn(
        data.num_features,
        data.num_classes,
        hidden=config.model.hidden,
        activation=config.model.activation,
        basis=config.space.basis,
        weight_decay=config.training.weight_decay,
    )
    batch = functools.partial(real_batch, data, order=config.space.order, basis=config.space.basis)
    return Setup(
        config=config,
        data=data,
        space=space,
        problem=problem,
        training=Training(config.training.learning_rate, config.training.optimizer, config.training.steps),
        candidates=space.sample(key_for(CANDIDATES, config.space.seed), config.space.candidates),
        train=batch(data.train_idx),
        val=batch(data.val_idx),
        test=batch(data.test_idx),
    )


def random_val_batch(setup: Setup, seed: int, num_nodes: int) -> Batch:
    """Random real validation nodes on the whole graph, for the rival `random_val`."""
    rng = np.random.default_rng([seed, 1])
    index = rng.choice(setup.data.val_idx, min(num_nodes, len(setup.data.val_idx)), replace=False)
    return real_batch(setup.data, index, order=setup.config.space.order, basis=setup.config.space.basis)


def solver_of(config: Config) -> LinearSolver:
    """The solver that `[hcdc]` names."""
    options = config.hcdc
    if options.solver == "identity":
        return identity()
    if options.solver == "dense":
        return dense(damping=options.damping)
    solvers = {"neumann": neumann, "chebyshev": chebyshev, "conjugate_gradient": conjugate_gradient}
    return solvers[options.solver](options.num_hvps, damping=options.damping)
