"""Spectral graph networks on `jraph.GraphsTuple`.

A graph reaches the model in one of two forms. In both, `nodes` [n, K + 1, d] holds the filter terms P_k X, because the
first layer is linear in them and its propagation can be computed once for all networks.

- Dense: `senders` is None and `edges` [r, n, K + 1] holds the rows of P_0 ... P_K of the r nodes that are read out.
  One matrix product per layer; for condensed graphs and for graphs of a few thousand nodes.
- Sparse: `edges` [E] holds the entries of S = D^-1/2 (A + I) D^-1/2 from `senders` to `receivers`; the second layer
  propagates K times along them. For large graphs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph
import optax

from hcdc_jax.graphs import filter_terms
from hcdc_jax.problem import Problem, mean_loss
from hcdc_jax.types import Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "softplus": jax.nn.softplus,
}

# Solvers need more digits than the reduced matmul precision that accelerators choose by default.
PRECISION = jax.lax.Precision.HIGHEST


def combine(coefficients: Array, terms: Array, axis: int) -> Array:
    """sum_k coefficients[k] * terms[..., k, ...] along `axis`, as one fused loop over the few terms."""
    moved = jnp.moveaxis(terms, axis, 0)
    total = coefficients[0] * moved[0]
    for k in range(1, moved.shape[0]):
        total = total + coefficients[k] * moved[k]
    return total


def propagate(graph: jraph.GraphsTuple, signal: Array) -> Array:
    """S x along the edges of a sparse graph: [n, c] -> [n, c]."""
    messages = graph.edges[:, None] * signal[graph.senders]
    return jax.ops.segment_sum(messages, graph.receivers, num_segments=signal.shape[0])


def apply_filter(graph: jraph.GraphsTuple, coefficients: Array, signal: Array, basis: str) -> Array:
    """C(lambda) x for the nodes that are read out: [n, c] -> [r, c] (dense form) or [n, c] (sparse form)."""
    if graph.senders is None:
        return jnp.matmul(combine(coefficients, graph.edges, axis=2), signal, precision=PRECISION)
    terms = filter_terms(functools.partial(propagate, graph), signal, len(coefficients) - 1, basis)
    return combine(coefficients, jnp.stack(terms), axis=0)


class SpectralGNN(nn.Module):
    """Two layers X <- act(C(lambda) X W + b) with one filter for both, the network of HCDC's graph experiments.

    Attributes:
      hidden: width of the hidden layer.
      num_classes: width of the output.
      activation: name in `ACTIVATIONS`.
      basis: polynomial basis of the filter; read in the sparse form only, the dense form carries its terms.
    """

    hidden: int
    num_classes: int
    activation: str = "relu"
    basis: str = "laplacian"

    @nn.compact
    def __call__(self, coefficients: Array, graph: jraph.GraphsTuple) -> Array:
        """Logits [r or n, num_classes] under the filter coefficients [K + 1]."""
        filtered = combine(coefficients, graph.nodes, axis=1)
        hidden = ACTIVATIONS[self.activation](nn.Dense(self.hidden, precision=PRECISION)(filtered))
        mixed = nn.Dense(self.num_classes, use_bias=False, precision=PRECISION)(hidden)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.num_classes,))
        return apply_filter(graph, coefficients, mixed, self.basis) + bias


class LinearSpectralNetwork(nn.Module):
    """Two propagations and one weight matrix, C(lambda)^2 X W + b: SGC (arXiv 1902.07153), the relay of GCond."""

    num_classes: int
    basis: str = "laplacian"

    @nn.compact
    def __call__(self, coefficients: Array, graph: jraph.GraphsTuple) -> Array:
        """Logits [r or n, num_classes] under the filter coefficients [K + 1]."""
        filtered = combine(coefficients, graph.nodes, axis=1)
        mixed = nn.Dense(self.num_classes, use_bias=False, precision=PRECISION)(filtered)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.num_classes,))
        return apply_filter(graph, coefficients, mixed, self.basis) + bias


@functools.cache
def spectral_gnn(
    num_features: int,
    num_classes: int,
    *,
    hidden: int = 32,
    activation: str = "relu",
    basis: str = "laplacian",
    weight_decay: float = 2.5e-4,
) -> Problem:
    """The filter search as a `Problem`: hparams are the filter coefficients [K + 1].

    Args:
      num_features: d, columns of the node features.
      num_classes: number of classes.
      hidden, activation, basis: see `SpectralGNN`.
      weight_decay: factor of the squared L2 norm of all parameters in the training loss. It covers the biases too: a
        free output bias would leave the Hessian singular, since logits may be shifted by a constant.
    """
    return _problem(SpectralGNN(hidden, num_classes, activation, basis), num_features, weight_decay)


@functools.cache
def sgc(num_features: int, num_classes: int, *, basis: str = "laplacian", weight_decay: float = 0.0) -> Problem:
    """The linear network as a `Problem`; at `gcn_coefficients` it is SGC with two propagations."""
    return _problem(LinearSpectralNetwork(num_classes, basis), num_features, weight_decay)


def gcn_coefficients(order: int, basis: str) -> tuple[float, ...]:
    """The order + 1 coefficients for which C(lambda) = S, the propagation of GCN; order at least 1."""
    first_two = {"laplacian": (1.0, -1.0), "adjacency": (0.0, 1.0), "chebyshev": (0.0, -1.0)}[basis]
    return first_two + (0.0,) * (order - 1)


def _problem(network: nn.Module, num_features: int, weight_decay: float) -> Problem:
    def init(key, hparams):
        order = hparams.shape[0] - 1
        empty = jraph.GraphsTuple(
            nodes=jnp.zeros((1, order + 1, num_features)), edges=jnp.zeros((1, 1, order + 1)),
            senders=None, receivers=None, globals=None, n_node=jnp.ones(1, int), n_edge=jnp.ones(1, int),
        )  # fmt: skip
        return network.init(key, hparams, empty)["params"]

    def apply(params, hparams, inputs):
        return network.apply({"params": params}, hparams, inputs)

    def val_loss(params, hparams, batch):
        return mean_loss(apply(params, hparams, batch.inputs), batch)

    def train_loss(params, hparams, batch):
        return val_loss(params, hparams, batch) + weight_decay * optax.tree.norm(params, squared=True)

    return Problem(init, apply, train_loss, val_loss)
