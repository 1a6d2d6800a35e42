"""Spectral graph networks on `jraph.GraphsTuple`.

A graph reaches the model in one of two forms.

- Dense: `senders` is None and `edges` [r, n, K + 1] holds the rows of P_0 ... P_K of the r nodes that are read out.
  One matrix product per layer; for condensed graphs (r = n) and for graphs of a few thousand nodes.
- Sparse: `edges` [E] holds the entries of S = D^-1/2 (A + I) D^-1/2 from `senders` to `receivers`, sorted by receiver;
  `globals` [n + 1] says where the entries of each receiver begin. A layer propagates K times along them. For large
  graphs.

`nodes` of a real graph, [n, K + 1, d], hold the filter terms P_k X: the first layer is linear in them, so its
propagation is computed once for all networks; where X is sparse and wide they are `graphs.SparseTerms`. `nodes` of a
condensed graph, [n, d], are X itself, since X is learned.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph
import optax

from hcdc_jax.batches.graphs import BASES, SparseTerms, filter_terms
from hcdc_jax.errors import UserError, check_name
from hcdc_jax.models.learning_rate import with_learning_rate
from hcdc_jax.models.own_networks import called_by_name
from hcdc_jax.models.regularisers import expected_dropout
from hcdc_jax.models.sparse_product import SymmetricMatrix, symmetric_product
from hcdc_jax.problem import LossOfLogits, Problem, mean_loss
from hcdc_jax.registry import Registry, first_line, function
from hcdc_jax.types import Array, HParams, PyTree

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "softplus": jax.nn.softplus,
}

# Solvers need more digits than the reduced matmul precision that accelerators choose by default.
PRECISION = jax.lax.Precision.HIGHEST


class Setting(NamedTuple):
    """What a spectral network and its training read of the hyperparameters; None leaves a part as the model has it.

    Attributes:
      coefficients: [K + 1], of the filter.
      weight_decay: factor of the squared norm of the parameters in the training loss.
      learning_rate_factor: multiplies the learning rate of Adam, see `with_learning_rate`.
      dropout: rate at which the inputs of the last weight matrix are dropped in training, see `expected_dropout`.
    """

    coefficients: Array
    weight_decay: Array | None = None
    learning_rate_factor: Array | None = None
    dropout: Array | None = None


def combine(coefficients: Array, terms: Array, axis: int) -> Array:
    """sum_k coefficients[k] * terms[..., k, ...] along `axis`, as one fused loop over the few terms."""
    moved = jnp.moveaxis(terms, axis, 0)
    given, needed = coefficients.shape[0], moved.shape[0]
    if given != needed:  # more would be ignored, and of fewer the last one read again
        raise UserError(
            f"{given} filter coefficients for a graph with {needed} terms, of order {needed - 1}; give {needed}, or "
            f"make its batch with order={given - 1}"
        )
    total = coefficients[0] * moved[0]
    for k in range(1, moved.shape[0]):
        total = total + coefficients[k] * moved[k]
    return total


def propagate(graph: jraph.GraphsTuple, signal: Array) -> Array:
    """S x along the edges of a sparse graph: [n, c] -> [n, c]; not to be differentiated in the edges."""
    entries, senders, receivers, starts = map(_array, (graph.edges, graph.senders, graph.receivers, graph.globals))
    return symmetric_product(SymmetricMatrix(entries, senders, receivers, starts), signal)


def apply_filter(graph: jraph.GraphsTuple, coefficients: Array, signal: Array, basis: str) -> Array:
    """C(lambda) x for the nodes that are read out: [n, c] -> [r, c] (dense form) or [n, c] (sparse form)."""
    if graph.senders is None:
        return jnp.matmul(combine(coefficients, _array(graph.edges), axis=2), signal, precision=PRECISION)
    terms = filter_terms(functools.partial(propagate, graph), signal, len(coefficients) - 1, basis)
    return combine(coefficients, jnp.stack(terms), axis=0)


def filtered_product(graph: jraph.GraphsTuple, coefficients: Array, dense: nn.Dense, basis: str) -> Array:
    """C(lambda) X W for all nodes, in the cheaper order.

    Where the nodes carry their filter terms these are combined first: the sum is constant in training, and W sees one
    matrix per candidate. Where they are plain features of a small graph W comes first, and the filter and all its
    derivatives move the columns of W instead of the d columns of X.

    Args:
      graph: in either form of this module.
      coefficients: lambda [K + 1].
      dense: the layer of W [d, width], without bias.
      basis: polynomial basis of the filter.
    """
    if isinstance(graph.nodes, SparseTerms):
        # Sparse features stay sparse: all P_k X W in one product, mixed afterwards.
        kernel = _array(dense.variables["params"]["kernel"])
        size = graph.nodes.row_starts.shape[0] - 1
        padded = jnp.pad(kernel, ((size - kernel.shape[0], 0), (0, 0)))
        products = symmetric_product(SymmetricMatrix(*graph.nodes), padded)[: size - kernel.shape[0]]
        return combine(coefficients, products.reshape(len(coefficients), -1, kernel.shape[1]), axis=0)
    nodes = _array(graph.nodes)
    if nodes.ndim == 3:
        return dense(combine(coefficients, nodes, axis=1))
    return apply_filter(graph, coefficients, dense(nodes), basis)


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
        first = nn.Dense(self.hidden, use_bias=False, precision=PRECISION)
        second = nn.Dense(self.num_classes, use_bias=False, precision=PRECISION)
        biases = [
            self.param(f"bias_{layer}", nn.initializers.zeros_init(), (width,))
            for layer, width in enumerate((self.hidden, self.num_classes))
        ]
        mixed = filtered_product(graph, coefficients, first, self.basis) + biases[0][None]
        hidden = ACTIVATIONS[self.activation](mixed)
        self.sow("intermediates", "hidden", hidden)  # for `expected_dropout`; stores nothing where nobody asks
        if self.hidden < self.num_classes:  # the filter moves the fewer columns
            logits = second(apply_filter(graph, coefficients, hidden, self.basis))
        else:
            logits = apply_filter(graph, coefficients, second(hidden), self.basis)
        return logits + biases[1][None]


class LinearSpectralNetwork(nn.Module):
    """Two propagations and one weight matrix, C(lambda)^2 X W + b: SGC (arXiv 1902.07153), the relay of GCond.

    Attributes:
      num_classes: columns of W.
      basis: see `SpectralGNN`.
    """

    num_classes: int
    basis: str = "laplacian"

    @nn.compact
    def __call__(self, coefficients: Array, graph: jraph.GraphsTuple) -> Array:
        """Logits [r or n, num_classes] under the filter coefficients [K + 1]."""
        dense = nn.Dense(self.num_classes, use_bias=False, precision=PRECISION)
        once = filtered_product(graph, coefficients, dense, self.basis)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.num_classes,))
        return apply_filter(graph, coefficients, once, self.basis) + bias[None]


@functools.cache
def spectral_gnn(
    num_features: int,
    num_classes: int,
    *,
    hidden: int = 32,
    activation: str = "relu",
    basis: str = "laplacian",
    weight_decay: float = 2.5e-4,
    read: Callable[[HParams], Setting] = Setting,
) -> Problem:
    """Two layers under one graph filter; for graphs.

    A `Problem` whose hparams are the filter coefficients [K + 1], or what `read` makes of them.

    Args:
      num_features: d, columns of the node features.
      num_classes: number of classes.
      hidden: see `SpectralGNN`.
      activation: see `SpectralGNN`.
      basis: see `SpectralGNN`.
      weight_decay: factor of the squared L2 norm of all parameters in the training loss. It covers the biases too: a
        free output bias would leave the Hessian singular, since logits may be shifted by a constant.
      read: `read(hparams) -> Setting`, the `read` of a space of graph filters; its basis must be `basis`.

    Raises:
      UserError: another activation or basis.
    """
    check_name("activation", activation, ACTIVATIONS)
    check_name("basis", basis, BASES)
    problem = _problem(SpectralGNN(hidden, num_classes, activation, basis), num_features, weight_decay, read)
    return with_learning_rate(problem, lambda hparams: read(hparams).learning_rate_factor)


_BUILT_IN: dict[str, Callable[..., Problem]] = {"spectral_gnn": spectral_gnn}
GRAPH_NETS: Registry[Callable[..., Problem]] = Registry(
    "graph network",
    _BUILT_IN,
    group="hcdc_jax.graph_models",
    wanted="a function of (num_features, num_classes) that returns a Problem",
    accept=function,
    reserved=("own",),  # the network of a study
)
"""Networks of graphs by name: functions of (num_features, num_classes) that return a `Problem`. By name they are given
what they have a parameter for of `hidden`, `activation`, `basis`, `weight_decay` and `read`, see `spectral_gnn`; with
equal options they must return equal problems, or a second seed compiles again."""


def graph_nets() -> dict[str, str]:
    """The names that `graph_problem` knows, each with a one-line description."""
    return {name: first_line(network) for name, network in GRAPH_NETS.items()}


def graph_problem(name: str, num_features: int, num_classes: int, **options: Any) -> Problem:
    """A network of `GRAPH_NETS` as a `Problem`.

    Args:
      name: of the network.
      num_features: d, columns of the node features.
      num_classes: number of classes.
      **options: of which it is given those that it has a parameter for.

    Raises:
      UserError: there is no such network, or it returns no `Problem`.
    """
    network = GRAPH_NETS.look_up(name)
    made = called_by_name(f"the graph network {name!r}", network, "num_features", "num_classes", offered=options)
    problem = made(num_features, num_classes, **options)
    if not isinstance(problem, Problem):
        raise UserError(f"the graph network {name!r} must return a Problem, got {type(problem).__name__}")
    return problem


@functools.cache
def sgc(num_features: int, num_classes: int, *, basis: str = "laplacian", weight_decay: float = 0.0) -> Problem:
    """The linear network as a `Problem`; at `gcn_coefficients` it is SGC with two propagations.

    Raises:
      UserError: another basis.
    """
    check_name("basis", basis, BASES)
    return _problem(LinearSpectralNetwork(num_classes, basis), num_features, weight_decay, Setting)


def gcn_coefficients(order: int, basis: str) -> tuple[float, ...]:
    """The order + 1 coefficients for which C(lambda) = S, the propagation of GCN; order at least 1.

    Raises:
      UserError: another basis.
    """
    check_name("basis", basis, BASES)
    first_two = {"laplacian": (1.0, -1.0), "adjacency": (0.0, 1.0), "chebyshev": (0.0, -1.0)}[basis]
    return first_two + (0.0,) * (order - 1)


def _array(leaf: PyTree) -> Array:
    """The array that a field is here, where jraph allows any pytree or None (and flax a tuple)."""
    return leaf


def _problem(
    network: SpectralGNN | LinearSpectralNetwork,
    num_features: int,
    weight_decay: float,
    read: Callable[[HParams], Setting],
) -> Problem:
    def init(key, hparams):
        coefficients = read(hparams).coefficients
        order = coefficients.shape[0] - 1
        empty = jraph.GraphsTuple(
            nodes=jnp.zeros((1, order + 1, num_features)), edges=jnp.zeros((1, 1, order + 1)),
            senders=None, receivers=None, globals=None, n_node=jnp.ones(1, int), n_edge=jnp.ones(1, int),
        )  # fmt: skip
        return network.init(key, coefficients, empty)["params"]

    def apply(params, hparams, inputs):
        return _array(network.apply({"params": params}, read(hparams).coefficients, inputs))

    val_loss = LossOfLogits(apply, mean_loss)

    def train_loss(params, hparams, batch):
        setting = read(hparams)
        decay = weight_decay if setting.weight_decay is None else setting.weight_decay
        loss = val_loss(params, hparams, batch) + decay * optax.tree.norm(params, squared=True)
        if setting.dropout is None:
            return loss
        inputs, logits = _propagated_hidden(network, params, setting.coefficients, batch.inputs)
        n = batch.labels.shape[0]
        kernel = params["Dense_1"]["kernel"]
        return loss + expected_dropout(setting.dropout, inputs[:n], kernel, logits[:n], batch.weights)

    return Problem(init, apply, train_loss, val_loss)


def _propagated_hidden(
    network: SpectralGNN | LinearSpectralNetwork, params: PyTree, coefficients: Array, graph: jraph.GraphsTuple
) -> tuple[Array, Array]:
    """C(lambda) H [r or n, hidden], the inputs of the last weight matrix W in the logits C(lambda) H W + b; and those.

    Dropout acts here. It might act on H instead, before the propagation; its expectation would then need the squares
    of the entries of C(lambda), which the sparse form does not have.
    """
    logits, state = network.apply({"params": params}, coefficients, graph, mutable=["intermediates"])
    (hidden,) = _array(state["intermediates"])["hidden"]
    return apply_filter(graph, coefficients, hidden, network.basis), _array(logits)
