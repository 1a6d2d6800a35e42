"""What the recipes of graphs share: the real nodes they start from, containers, step sizes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from hcdc_jax.condense import coresets
from hcdc_jax.condense.base import GraphRates
from hcdc_jax.containers import Container, GraphStart, graph_container
from hcdc_jax.containers.graph import Adjacency, free, identity, pairwise
from hcdc_jax.errors import UserError
from hcdc_jax.pipeline.setup import Setup, num_nodes, pool


def sampled(setup: Setup, part: str, seed: int, select: coresets.Selection = coresets.uniform) -> GraphStart:
    """Real nodes with the edges between them; as `condense.sampling` says, with neighbours that bring edges."""
    if not _uses_egos(setup, part):
        return all_labelled(setup, part, seed, select)
    count = _checked_count(setup, part)
    labelled = max(count // 2, setup.data.num_classes)
    _check_available(setup, part, labelled)
    nodes, num_labelled = coresets.ego_sample(_rng(part, seed), setup.data, pool(setup.data, part), count, select)
    return coresets.induced_subgraph(setup.data, nodes, num_labelled)


def all_labelled(setup: Setup, part: str, seed: int, select: coresets.Selection = coresets.uniform) -> GraphStart:
    """Real nodes that all carry their label, with the edges between them."""
    count = _checked_count(setup, part)
    _check_available(setup, part, count)
    nodes = coresets.plain_sample(_rng(part, seed), setup.data, pool(setup.data, part), count, select)
    return coresets.induced_subgraph(setup.data, nodes, len(nodes))


def all_labelled_repeated(setup: Setup, part: str, seed: int) -> GraphStart:
    """As `all_labelled` at random, but where labelled nodes are fewer than asked for, some stand more than once."""
    count = _checked_count(setup, part)
    nodes = coresets.repeated_sample(_rng(part, seed), setup.data, pool(setup.data, part), count)
    return coresets.induced_subgraph(setup.data, nodes, len(nodes))


def to_learn(start: Callable[[Setup, str, int], GraphStart]) -> Callable[[Setup, str, int], GraphStart]:
    """`start`, with features of noise where `condense.init` asks for them."""

    def learnable(setup: Setup, part: str, seed: int) -> GraphStart:
        real = start(setup, part, seed)
        if setup.config.condense.init == "real":
            return real
        # Not the stream of the sampling: the noise must not know which nodes were drawn.
        rng = np.random.default_rng([seed, 2 if part == "train" else 3])
        noise = rng.normal(real.features.mean(), real.features.std(), real.features.shape)
        return real._replace(features=noise.astype(np.float32))

    return learnable


def container_of(adjacency: Adjacency) -> Callable[[Setup, str], Container]:
    """Containers whose adjacency does not depend on the setting `condense.container`."""
    return lambda setup, part: graph_container(adjacency, setup.config.space.order, setup.config.space.basis)


# Containers are cached by their adjacency, so equal ones must be one object.
PAIRWISE, IDENTITY = container_of(pairwise()), container_of(identity())
_free = functools.cache(free)


def learned(setup: Setup, part: str) -> Container:
    """The container that `condense.container` names."""
    kind = setup.config.condense.container
    if kind != "graph":
        return {"pairwise": PAIRWISE, "identity": IDENTITY}[kind](setup, part)
    logit = setup.config.hcdc.edge_logit
    if not isinstance(logit, float):  # "auto"
        # All absent edges of a node together start with the weight of one hundredth of an edge.
        logit = math.log(100 * num_nodes(setup.config, setup.data, part))
    return graph_container(_free(logit), setup.config.space.order, setup.config.space.basis)


def rates(start: GraphStart, feature_step: float, structure_learning_rate: float) -> GraphRates:
    """Adam step sizes; that of the features is in units of their root mean square.

    Adam moves every entry by about its rate, so a fixed rate drowns small features and does nothing to large ones.
    """
    size = np.sqrt(np.mean(start.features**2))
    return GraphRates(jnp.float32(feature_step * size), jnp.float32(structure_learning_rate))


def _rng(part: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, 0 if part == "train" else 1])


def _uses_egos(setup: Setup, part: str) -> bool:
    """Whether labelled nodes bring neighbours along.

    With "auto" they do where a plain sample would leave the average node less than one neighbour: without edges all
    filters of one coefficient sum are the same.
    """
    sampling, data = setup.config.condense.sampling, setup.data
    if sampling != "auto":
        return sampling == "ego"
    mean_degree = 2 * data.edges.shape[1] / data.num_nodes
    return mean_degree * num_nodes(setup.config, data, part) / data.num_nodes < 1


def _checked_count(setup: Setup, part: str) -> int:
    count, num_classes = num_nodes(setup.config, setup.data, part), setup.data.num_classes
    if count < num_classes:
        key, per_unit = _size_setting(setup, part)
        raise UserError(
            f"{key} leaves S_{part} {count} nodes for {num_classes} classes; raise it to {num_classes / per_unit:.4g} "
            "or more"
        )
    return count


def _check_available(setup: Setup, part: str, labelled: int) -> None:
    available = len(pool(setup.data, part))
    if labelled > available:
        key, per_unit = _size_setting(setup, part)
        share = labelled / num_nodes(setup.config, setup.data, part)
        # Rounded down, so that the advice holds.
        largest = math.floor(1e4 * available / share / per_unit) / 1e4
        raise UserError(
            f"{key} asks for {labelled} labelled nodes in S_{part}, but {setup.data.name} has {available} {part} "
            f"nodes; lower it to {largest:.4g} or less"
        )


def _size_setting(setup: Setup, part: str) -> tuple[str, float]:
    """The setting that decides the size of a half, and how many nodes one unit of it is."""
    if part == "train":
        return "condense.ratio", setup.data.num_nodes
    return "condense.val_factor", num_nodes(setup.config, setup.data, "train")
