"""Gradient matching on graphs: GCond, GCond-X, and matching for every filter of the space."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np

from hcdc_jax.condense.base import Condenser
from hcdc_jax.condense.gradient_matching import MatchingData, constant, drawn_from, gradient_matching
from hcdc_jax.containers import Container, graph_container
from hcdc_jax.containers.graph import Adjacency, cut, pairwise
from hcdc_jax.errors import UserError
from hcdc_jax.models.graph import gcn_coefficients, sgc
from hcdc_jax.pipeline.kinds import graphs
from hcdc_jax.pipeline.kinds.named_containers import IDENTITY, PAIRWISE
from hcdc_jax.pipeline.kinds.starts import sampled, to_learn
from hcdc_jax.pipeline.recipes.base import Learner, Method, Recipe, Request, Work
from hcdc_jax.pipeline.setup import Setup, pool


def _gcond(setup: Setup, container: Container) -> Condenser:
    space, options = setup.config.space, setup.config.gcond
    if space.order < 1:
        raise UserError("gcond and gcond_x match networks with the filter of GCN, which needs space.order at least 1")
    relay = sgc(setup.data.num_features, setup.data.num_classes, basis=space.basis)
    return gradient_matching(
        relay, container, constant(gcn_coefficients(space.order, space.basis)), num_classes=setup.data.num_classes,
        outer_steps=options.outer_steps, inner_steps=options.inner_steps,
    )  # fmt: skip


def _any_filter(setup: Setup, container: Container) -> Condenser:
    options = setup.config.gcond
    return gradient_matching(
        setup.relay_problem, container, drawn_from(setup.space), num_classes=setup.data.num_classes,
        outer_steps=options.outer_steps, inner_steps=options.inner_steps,
    )  # fmt: skip


def _work(request: Request) -> Work:
    setup, options = request.run.setup, request.run.setup.config.gcond
    real = setup.train if request.part == "train" else setup.val
    labels = setup.data.labels[pool(setup.data, request.part)]
    sizes = np.bincount(labels, minlength=setup.data.num_classes)
    rates = graphs.rates(request.start, options.feature_step, options.structure_learning_rate)
    return Work(MatchingData(real, jnp.asarray(sizes / sizes.max(), jnp.float32), rates))


def _without_light_edges(setup: Setup, part: str) -> Container:
    """The learned graph as the authors' code hands it to other architectures; matching itself sees all edges."""
    del part
    space = setup.config.space
    return graph_container(_cut_pairwise(setup.config.gcond.threshold), space.order, space.basis)


@functools.cache
def _cut_pairwise(threshold: float) -> Adjacency:
    return cut(pairwise(), threshold)


def _steps(setup: Setup) -> int:
    return setup.config.gcond.epochs * setup.config.gcond.outer_steps


def _method(about: str, recipe: Recipe) -> Method:
    return Method(about, recipe, recipe)


# GCond labels every node, so neighbours without label are no use to it.
_LABELLED, _SAMPLED = to_learn(graphs.all_labelled_repeated), to_learn(sampled)
_GCOND = Learner(_gcond, _work, _steps, rate="gcond.feature_step")

GCOND = _method(
    "GCond: gradient matching with a generated adjacency (arXiv 2110.07580)",
    Recipe("gcond", _LABELLED, PAIRWISE, _GCOND, finished=_without_light_edges),
)
GCOND_X = _method(
    "GCond-X: gradient matching without edges (arXiv 2110.07580)",
    Recipe("gcond_x", _LABELLED, IDENTITY, _GCOND),
)
GRADIENT_MATCHING = _method(
    "gradient matching with filters drawn anew, in the container of the configuration",
    Recipe(
        "gradient_matching", _SAMPLED, graphs.learned, Learner(_any_filter, _work, _steps, rate="gcond.feature_step")
    ),
)
