"""From a configuration to the objects of a run."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from hcdc_jax import spaces
from hcdc_jax.config import Config
from hcdc_jax.data import GraphData
from hcdc_jax.graphs import real_batch
from hcdc_jax.linear_solve import LinearSolver, chebyshev, conjugate_gradient, dense, identity, neumann
from hcdc_jax.models.graph import spectral_gnn
from hcdc_jax.pipeline.progress import Progress
from hcdc_jax.problem import Problem
from hcdc_jax.train import Training
from hcdc_jax.types import Array, Batch

MODELS = {"spectral_gnn": spectral_gnn}


class Setup(NamedTuple):
    """Everything that the stages of a run share.

    Attributes:
      config: as read.
      data: the real graph.
      space: what is searched.
      problem: what is trained.
      training: how.
      candidates: [n, h], the ranked ones.
      train: the real training nodes.
      val: the real validation nodes.
      test: the real test nodes.
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


class Run(NamedTuple):
    """A run at work.

    Attributes:
      setup: what is run.
      folder: where its results lie.
      progress: who is told about it.
    """

    setup: Setup
    folder: Path
    progress: Progress


# Offsets that keep the keys of different purposes apart.
CANDIDATES, TARGETS, POOL, CONDENSE, RANK, TRUTH, SEARCH, DRAWS = range(8)


def key_for(purpose: int, seed: int) -> Array:
    """The key of one purpose and seed; no two share one."""
    return jax.random.fold_in(jax.random.key(seed), purpose)


def build(config: Config, data: GraphData) -> Setup:
    """Builds everything that a run needs; `checks` has the messages for what cannot be built.

    Args:
      config: of the run.
      data: the real graph.
    """
    space, training = config.space, config.training
    problem = MODELS[config.model.name](
        data.num_features,
        data.num_classes,
        hidden=config.model.hidden,
        activation=config.model.activation,
        basis=space.basis,
        weight_decay=training.weight_decay,
    )
    batch = functools.partial(real_batch, data, order=space.order, basis=space.basis)
    built = spaces.get(space.name, order=space.order, basis=space.basis, prior=space.prior)
    return Setup(
        config=config,
        data=data,
        space=built,
        problem=problem,
        training=Training(training.learning_rate, training.optimizer, training.steps),
        candidates=built.sample(key_for(CANDIDATES, space.seed), space.candidates),
        train=batch(data.train_idx),
        val=batch(data.val_idx),
        test=batch(data.test_idx),
    )


def num_nodes(config: Config, data: GraphData, part: str) -> int:
    """Nodes of S_train ("train") or of S_val ("val")."""
    nodes = round(config.condense.ratio * data.num_nodes)
    return nodes if part == "train" else round(config.condense.val_factor * nodes)


def pool(data: GraphData, part: str) -> np.ndarray:
    """The real labelled nodes that S_train or S_val stands for."""
    return data.train_idx if part == "train" else data.val_idx


def solver_of(config: Config) -> LinearSolver:
    """The solver that `[hcdc]` names."""
    options = config.hcdc
    if options.solver == "identity":
        return identity()
    if options.solver == "dense":
        return dense(damping=options.damping)
    solvers = {"neumann": neumann, "chebyshev": chebyshev, "conjugate_gradient": conjugate_gradient}
    return solvers[options.solver](options.num_hvps, damping=options.damping)
