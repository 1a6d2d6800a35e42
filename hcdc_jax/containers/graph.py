"""Synthetic graphs: free features with a learned, generated, identity or fixed adjacency."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.batches.graphs import dense_graph, normalise
from hcdc_jax.containers.base import Container
from hcdc_jax.types import Array, Batch, PyTree


class GraphStart(NamedTuple):
    """A small graph on the host that a container starts from.

    Attributes:
      features: [n, d].
      adjacency: [n, n], symmetric, entries at least 0 (weights of edges, 1 where they have none), zero diagonal.
      labels: [n] int.
      weights: [n] float, 0 for nodes whose label is not used.
    """

    features: np.ndarray
    adjacency: np.ndarray
    labels: np.ndarray
    weights: np.ndarray


class GraphVariables(NamedTuple):
    """Variables of a synthetic graph. `features` and `structure` are learned, the labels are given.

    Attributes:
      features: X' [n, d].
      structure: what the adjacency A' is made from: logits [n, n], weights of the pairwise network, the adjacency
        itself, or nothing.
      labels: [n] int.
      weights: [n] float.
    """

    features: Array
    structure: PyTree
    labels: Array
    weights: Array


class Adjacency(NamedTuple):
    """How A' comes about: `init(key, start) -> structure` and `build(structure, features [n, d]) -> A' [n, n]`."""

    init: Callable[[Array, GraphStart], PyTree]
    build: Callable[[PyTree, Array], Array]


def free(edge_logit: float | Array = 10.0, largest: float = 1.0) -> Adjacency:
    """A symmetric matrix of free logits, `largest` times their sigmoid; A' starts close to the given graph.

    Logits start within +-`edge_logit`, at the ends of which stand edges of weight `largest` and absent ones. Small
    logits let A' move but blur the start: at +-5, each of n^2 absent edges still weighs 0.7 % of `largest`.
    """

    def init(key, start):
        del key
        logits = jax.scipy.special.logit(jnp.asarray(start.adjacency, jnp.float32) / largest)
        return jnp.asarray(jnp.clip(logits, -edge_logit, edge_logit), jnp.float32)

    def build(structure, features):
        del features
        return _zero_diagonal(largest * jax.nn.sigmoid(0.5 * (structure + structure.T)))

    return Adjacency(init, build)


class PairwiseNetwork(nn.Module):
    """GCond's edge network (arXiv 2110.07580, Eq. 8): a logit for each ordered pair of nodes.

    Layer normalisation stands in for the batch normalisation of the original, whose statistics over all pairs would
    make each edge depend on all others.
    """

    hidden: int = 128

    @nn.compact
    def __call__(self, features: Array) -> Array:
        # The first layer of [x_i; x_j] is a sum of two layers of x: n rows are multiplied instead of n^2.
        pairs = nn.Dense(self.hidden)(features)[:, None] + nn.Dense(self.hidden, use_bias=False)(features)[None]
        pairs = nn.relu(nn.LayerNorm()(pairs))
        pairs = nn.relu(nn.LayerNorm()(nn.Dense(self.hidden)(pairs)))
        return nn.Dense(1)(pairs)[..., 0]


def pairwise(hidden: int = 128) -> Adjacency:
    """A' = sigmoid of the symmetrised `PairwiseNetwork` of the features."""
    network = PairwiseNetwork(hidden)

    def init(key, start):
        return network.init(key, jnp.asarray(start.features))["params"]

    def build(structure, features):
        logits = jnp.asarray(network.apply({"params": structure}, features))
        return _zero_diagonal(jax.nn.sigmoid(0.5 * (logits + logits.T)))

    return Adjacency(init, build)


def cut(adjacency: Adjacency, threshold: float) -> Adjacency:
    """`adjacency` without the edges that weigh less than `threshold`: how GCond's graph is handed to other networks."""

    def build(structure, features):
        built = adjacency.build(structure, features)
        return jnp.where(built < threshold, 0.0, built)

    return Adjacency(adjacency.init, build)


def identity() -> Adjacency:
    """No edges, A' + I = I: the structure-free GCond-X."""

    def init(key, start):
        del key, start
        return ()

    def build(structure, features):
        del structure
        return jnp.zeros((features.shape[0], features.shape[0]), features.dtype)

    return Adjacency(init, build)


def fixed() -> Adjacency:
    """The given adjacency, as it is: real induced subgraphs."""

    def init(key, start):
        del key
        return jnp.asarray(start.adjacency, jnp.float32)

    def build(structure, features):
        del features
        return structure

    return Adjacency(init, build)


ADJACENCIES = {"graph": free, "pairwise": pairwise, "identity": identity, "fixed": fixed}


@functools.cache
def graph_container(adjacency: Adjacency, order: int, basis: str) -> Container:
    """A container of one synthetic graph; `decode` gives it in the dense form of `models.graph`.

    Cached, so that equal arguments give one container and nothing that takes it as static argument compiles twice.

    Args:
      adjacency: one of `free`, `pairwise`, `identity`, `fixed`, with its options.
      order: highest power of the filters that will be applied.
      basis: their polynomial basis.
    """

    def init(key, start):
        return GraphVariables(
            features=jnp.asarray(start.features, jnp.float32),
            structure=adjacency.init(key, start),
            labels=jnp.asarray(start.labels, jnp.int32),
            weights=jnp.asarray(start.weights, jnp.float32),
        )

    def decode(variables):
        operator = normalise(adjacency.build(variables.structure, variables.features))
        graph = dense_graph(operator, variables.features, order, basis)
        return Batch(graph, variables.labels, jax.lax.stop_gradient(variables.weights))

    return Container(init, decode)


def _zero_diagonal(matrix: Array) -> Array:
    return matrix * (1.0 - jnp.eye(matrix.shape[0], dtype=matrix.dtype))
