"""Graph operators: normalised adjacency, filter terms, and real graphs as batches."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import jraph
import numpy as np
import scipy.sparse as sp

from hcdc_jax.data import GraphData
from hcdc_jax.types import Array, Batch

BASES = ("laplacian", "adjacency", "chebyshev")


def filter_terms(propagate: Callable[[Any], Any], signal: Any, order: int, basis: str) -> list[Any]:
    """The terms P_0 x, ..., P_order x of a polynomial filter, by one propagation each.

    With S = D^-1/2 (A + I) D^-1/2 the normalised adjacency and L = I - S the normalised Laplacian, P_k is L^k
    ("laplacian", as in the paper), S^k ("adjacency") or the Chebyshev polynomial T_k(L - I) = T_k(-S) ("chebyshev",
    ChebNet, arXiv 1606.09375, with lambda_max = 2).

    Args:
      propagate: `x -> S x`, for whatever kind of matrix x is (NumPy, SciPy sparse, JAX).
      signal: x, the rows are nodes.
      order: the highest power, at least 0.
      basis: one of `BASES`.

    Returns:
      order + 1 matrices of the kind and shape of x.

    Raises:
      ValueError: unknown basis.
    """
    terms = [signal]
    for k in range(1, order + 1):
        moved = propagate(terms[-1])
        if basis == "adjacency":
            terms.append(moved)
        elif basis == "laplacian":
            terms.append(terms[-1] - moved)
        elif basis == "chebyshev":
            terms.append(-moved if k == 1 else -2 * moved - terms[-2])
        else:
            raise ValueError(f"basis must be one of {', '.join(BASES)}, got {basis!r}")
    return terms


def normalise(adjacency: Array) -> Array:
    """S = D^-1/2 (A + I) D^-1/2 of a dense adjacency [n, n] with zero diagonal; differentiable in A >= 0."""
    looped = adjacency + jnp.eye(adjacency.shape[0], dtype=adjacency.dtype)
    scale = looped.sum(1) ** -0.5  # at least 1 under the root: every node has its loop
    return scale[:, None] * looped * scale[None, :]


def normalised_adjacency(edges: np.ndarray, num_nodes: int) -> sp.csr_matrix:
    """S = D^-1/2 (A + I) D^-1/2 of a real graph, from its undirected edges [2, E]; isolated nodes keep their loop."""
    nodes = np.arange(num_nodes)
    senders = np.concatenate([edges[0], edges[1], nodes])
    receivers = np.concatenate([edges[1], edges[0], nodes])
    looped = sp.csr_matrix((np.ones(len(senders), np.float32), (receivers, senders)), shape=(num_nodes, num_nodes))
    scale = sp.diags(np.asarray(looped.sum(1)).ravel() ** -0.5)
    return (scale @ looped @ scale).tocsr().astype(np.float32)


def dense_graph(operator: Array, features: Array, order: int, basis: str) -> jraph.GraphsTuple:
    """A small graph in the dense form of `models.graph`, from S [n, n] and X [n, d]; differentiable in both.

    Args:
      operator: S [n, n], symmetric.
      features: X [n, d].
      order: K, the highest power.
      basis: polynomial basis, see `filter_terms`.
    """
    identity = jnp.eye(operator.shape[0], dtype=operator.dtype)
    multiply = functools.partial(jnp.matmul, operator, precision="highest")
    return _graphs_tuple(features, jnp.stack(filter_terms(multiply, identity, order, basis), -1), None, None)


def real_batch(
    data: GraphData, index: np.ndarray, *, order: int, basis: str, max_dense_entries: int = 64_000_000
) -> Batch:
    """The nodes `index` of a real graph as a batch, with exactly the other nodes that their logits depend on.

    The dense form is built when its operator rows have at most `max_dense_entries` entries (256 MB in float32), the
    sparse form of the whole graph otherwise; logits are the same.

    Args:
      data: the graph.
      index: [n] numbers of the labelled nodes of this batch; they come first in the graph.
      order: K, the highest power of the filter.
      basis: polynomial basis, see `filter_terms`.
      max_dense_entries: bound on n * num_nodes * (K + 1).
    """
    operator = normalised_adjacency(data.edges, data.num_nodes)
    labels = jnp.asarray(data.labels[index], jnp.int32)
    weights = jnp.ones(len(index), jnp.float32)
    if len(index) * data.num_nodes * (order + 1) > max_dense_entries:
        return Batch(_sparse_graph(operator, data, index, order, basis), labels, weights)
    ones, shape = np.ones(len(index), np.float32), (data.num_nodes, len(index))
    columns = sp.csc_matrix((ones, (index, np.arange(len(index)))), shape=shape)
    # S is symmetric, so the rows of P_k that are read out are its columns transposed.
    readout = [term.T.tocsr() for term in filter_terms(lambda x: operator @ x, columns, order, basis)]
    reached = np.unique(np.concatenate([index, *(term.indices for term in readout)]))
    needed = np.concatenate([index, np.setdiff1d(reached, index)])
    edges = np.stack([term[:, needed].toarray() for term in readout], -1)
    nodes = _filtered_features(operator, data, order, basis, needed)
    return Batch(_graphs_tuple(jnp.asarray(nodes), jnp.asarray(edges), None, None), labels, weights)


def _sparse_graph(operator, data, index, order, basis) -> jraph.GraphsTuple:
    order_of_nodes = np.concatenate([index, np.setdiff1d(np.arange(data.num_nodes), index)])
    permuted = operator[order_of_nodes][:, order_of_nodes].tocoo()
    nodes = _filtered_features(operator, data, order, basis, order_of_nodes)
    return _graphs_tuple(
        jnp.asarray(nodes), jnp.asarray(permuted.data), jnp.asarray(permuted.col), jnp.asarray(permuted.row)
    )


def _filtered_features(operator, data, order, basis, nodes) -> np.ndarray:
    terms = filter_terms(lambda x: operator @ x, data.features, order, basis)
    rows = [term[nodes] for term in terms]
    return np.stack([row.toarray() if sp.issparse(row) else row for row in rows], 1).astype(np.float32)


def _graphs_tuple(nodes, edges, senders, receivers) -> jraph.GraphsTuple:
    num_edges = edges.shape[0] if senders is not None else edges.shape[0] * edges.shape[1]
    return jraph.GraphsTuple(
        nodes=nodes, edges=edges, senders=senders, receivers=receivers, globals=None,
        n_node=jnp.full((1,), nodes.shape[0], jnp.int32), n_edge=jnp.full((1,), num_edges, jnp.int32),
    )  # fmt: skip
