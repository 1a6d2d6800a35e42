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
from hcdc_jax.errors import UserError
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

    Raises:
      UserError: settings that the space does not go with.
    """
    space, training = config.space, config.training
    built = space_of(config)
    problem = MODELS[config.model.name](
        data.num_features,
        data.num_classes,
        hidden=config.model.hidden,
        activation=config.model.activation,
        basis=space.basis,
        weight_decay=training.weight_decay,
        read=built.read,
    )
    batch = functools.partial(real_batch, data, order=space.order, basis=space.basis)
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


def space_of(config: Config) -> spaces.Space:
    """The space that `[space]` names.

    Raises:
      UserError: a basis or a prior that the space does not have, or hypergradients that would say nothing about it.
    """
    options, taken = config.space, spaces.options(config.space.name)
    given = {"order": options.order, "basis": options.basis, "prior": options.prior}
    space = spaces.get(options.name, **{key: value for key, value in given.items() if key in taken})
    if space.basis != options.basis:
        raise UserError(f"the space {space.name!r} has a basis of its own: set space.basis = {space.basis!r}")
    if options.prior != "box" and "prior" not in taken:
        raise UserError(f"the space {space.name!r} has a prior of its own: leave out space.prior")
    if len(space.hparam_names) == 1:
        where = f"the space {space.name!r} has one hyperparameter, of which a cosine sees the sign alone"
        if "hcdc" in config.methods and config.hcdc.distance in ("cosine", "weighted_cosine"):
            raise UserError(f"{where}: set hcdc.distance = 'value_gradient'")
        if "hcdc_shared" in config.methods:
            raise UserError(f"{where}: leave out the method hcdc_shared")
    if spaces.searches_learning_rate(space):
        where = f"the space {space.name!r} searches the learning rate"
        if config.training.optimizer != "adam":
            raise UserError(f"{where} of Adam: set training.optimizer = 'adam'")
        if config.hcdc.sensitivity == "implicit":
            raise UserError(f"{where}, whose implicit hypergradient is 0: set hcdc.sensitivity = 'unroll'")
        if "hcdc_shared" in config.methods:
            raise UserError(f"{where}, whose implicit hypergradient is 0: leave out the method hcdc_shared")
    return space


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
