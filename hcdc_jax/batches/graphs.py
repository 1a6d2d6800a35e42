"""Graph operators: normalised adjacency, filter terms, and real graphs as batches."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import jraph
import numpy as np
import scipy.sparse as sp

from hcdc_jax.data import GraphData
from hcdc_jax.data.graphs import Features
from hcdc_jax.data.structure import normalised_adjacency as normalised_adjacency
from hcdc_jax.errors import check_name
from hcdc_jax.types import Array, Batch

BASES = ("laplacian", "adjacency", "chebyshev")
MAX_DENSE_FEATURES = 64_000_000
"""Entries (256 MB) up to which filtered features are dense whatever is in them."""
MAX_SPARSE_SHARE = 0.05
"""Share of entries that are not 0 up to which more than those stay sparse: a product with fewer of them is faster."""


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
      UserError: another basis.
    """
    check_name("basis", basis, BASES)
    terms = [signal]
    for k in range(1, order + 1):
        moved = propagate(terms[-1])
        if basis == "adjacency":
            terms.append(moved)
        elif basis == "laplacian":
            terms.append(terms[-1] - moved)
        else:  # Chebyshev
            terms.append(-moved if k == 1 else -2 * moved - terms[-2])
    return terms


def normalise(adjacency: Array) -> Array:
    """S = D^-1/2 (A + I) D^-1/2 of a dense adjacency [n, n] with zero diagonal; differentiable in A >= 0."""
    looped = adjacency + jnp.eye(adjacency.shape[0], dtype=adjacency.dtype)
    scale = looped.sum(1) ** -0.5  # at least 1 under the root: every node has its loop
    return scale[:, None] * looped * scale[None, :]


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


class RealGraph(NamedTuple):
    """A real graph with what all its batches share; `real_graph` makes it.

    Attributes:
      data: the graph.
      operator: S [n, n], sparse.
      terms: P_0 X, ..., P_K X, each [n, d] float32, sparse where X is.
      basis: polynomial basis of the P_k.
    """

    data: GraphData
    operator: sp.csr_matrix
    terms: list[Features]
    basis: str


class SparseTerms(NamedTuple):
    """The filter terms of sparse features, as `nodes` of a real graph: too many columns to be stored one by one.

    With T [(K + 1) n, d] the terms P_0 X, ..., P_K X on top of each other these are the entries of the symmetric matrix
    [[0, T], [T^T, 0]], sorted by row. One product that is its own transpose serves T and T^T, see
    `models.sparse_product`.

    Attributes:
      entries: [2 E] float.
      columns: [2 E] int.
      rows: [2 E] int, ascending.
      row_starts: [(K + 1) n + d + 1] int, where in `entries` each row begins.
    """

    entries: Array
    columns: Array
    rows: Array
    row_starts: Array


def real_graph(data: GraphData, *, order: int, basis: str) -> RealGraph:
    """Propagates the features of a real graph `order` times, once for all batches and networks.

    Args:
      data: the graph.
      order: K, the highest power of the filter.
      basis: polynomial basis, see `filter_terms`.
    """
    operator = normalised_adjacency(data.edges, data.num_nodes, data.edge_weights)
    return RealGraph(data, operator, filter_terms(lambda x: operator @ x, data.features, order, basis), basis)


def real_batch(
    data: GraphData, index: np.ndarray, *, order: int, basis: str, max_dense_entries: int = 64_000_000
) -> Batch:
    """The nodes `index` of a real graph as a batch, with exactly the other nodes that their logits depend on.

    The dense form is built when its operator rows have at most `max_dense_entries` entries (256 MB in float32), the
    sparse form otherwise; logits are the same. Where several parts are wanted, `real_graph` and `batch_of` propagate
    the features once for all.

    Args:
      data: the graph.
      index: [n] numbers of the labelled nodes of this batch; they come first in the graph.
      order: K, the highest power of the filter.
      basis: polynomial basis, see `filter_terms`.
      max_dense_entries: bound on n * num_nodes * (K + 1).
    """
    return batch_of(real_graph(data, order=order, basis=basis), index, max_dense_entries=max_dense_entries)


def batch_of(graph: RealGraph, index: np.ndarray, *, max_dense_entries: int = 64_000_000) -> Batch:
    """`real_batch` of a graph whose features are propagated already."""
    data = graph.data
    labels = jnp.asarray(data.labels[index], jnp.int32)
    weights = jnp.ones(len(index), jnp.float32)
    is_small = len(index) * data.num_nodes * len(graph.terms) <= max_dense_entries
    return Batch((_dense_part if is_small else _sparse_part)(graph, index), labels, weights)


def _dense_part(graph: RealGraph, index: np.ndarray) -> jraph.GraphsTuple:
    ones, shape = np.ones(len(index), np.float32), (graph.data.num_nodes, len(index))
    columns = sp.csc_matrix((ones, (index, np.arange(len(index)))), shape=shape)
    # S is symmetric, so the rows of P_k that are read out are its columns transposed.
    terms = filter_terms(lambda x: graph.operator @ x, columns, len(graph.terms) - 1, graph.basis)
    readout = [term.T.tocsr() for term in terms]
    reached = np.unique(np.concatenate([index, *(term.indices for term in readout)]))
    needed = np.concatenate([index, np.setdiff1d(reached, index)])
    edges = np.stack([term[:, needed].toarray() for term in readout], -1)
    return _graphs_tuple(_filtered_features(graph, needed), jnp.asarray(edges), None, None)


def _sparse_part(graph: RealGraph, index: np.ndarray) -> jraph.GraphsTuple:
    order = len(graph.terms) - 1
    distance = _distances(graph, index, order)
    needed = np.concatenate([index, np.setdiff1d(np.flatnonzero(distance <= order), index)])
    entries = graph.operator[needed][:, needed].tocoo()
    # The outermost nodes are only listened to. What they hear would reach nobody in K steps; S stays symmetric.
    inner = distance[needed] < order
    heard = inner[entries.row] | inner[entries.col]
    matrix = sp.csr_matrix((entries.data[heard], (entries.row[heard], entries.col[heard])), shape=entries.shape)
    receivers = np.repeat(np.arange(len(needed), dtype=np.int32), np.diff(matrix.indptr))
    return _graphs_tuple(
        _filtered_features(graph, needed), jnp.asarray(matrix.data), jnp.asarray(matrix.indices),
        jnp.asarray(receivers), starts=jnp.asarray(matrix.indptr),
    )  # fmt: skip


def _distances(graph: RealGraph, index: np.ndarray, most: int) -> np.ndarray:
    """[n] steps from each node to the nearest one of `index`; `most` + 1 where it takes more than `most`."""
    distance = np.full(graph.data.num_nodes, most + 1)
    distance[index] = 0
    for step in range(1, most + 1):
        reached = graph.operator @ (distance < step).astype(np.float32) > 0  # entries of S are positive
        distance[reached] = np.minimum(distance[reached], step)
    return distance


def _filtered_features(graph: RealGraph, nodes: np.ndarray) -> Array | SparseTerms:
    shape = (len(nodes), len(graph.terms), graph.data.num_features)
    if sp.issparse(graph.terms[0]) and math.prod(shape) > MAX_DENSE_FEATURES:
        sparse = [sp.csr_matrix(term[nodes]) for term in graph.terms]
        if sum(term.nnz for term in sparse) <= MAX_SPARSE_SHARE * math.prod(shape):
            return _sparse_terms(sparse)
    stacked = np.empty(shape, np.float32)
    for k, term in enumerate(graph.terms):  # term by term: no second copy of a large graph
        rows = term[nodes]
        stacked[:, k] = rows if isinstance(rows, np.ndarray) else rows.toarray()
    return jnp.asarray(stacked)


def _sparse_terms(terms: list[sp.csr_matrix]) -> SparseTerms:
    stacked = sp.csr_matrix(sp.vstack(terms))
    matrix = sp.csr_matrix(sp.bmat([[None, stacked], [stacked.T, None]], dtype=np.float32))
    matrix.sort_indices()
    rows = np.repeat(np.arange(len(matrix.indptr) - 1, dtype=np.int32), np.diff(matrix.indptr))
    arrays = matrix.data, matrix.indices.astype(np.int32), rows, matrix.indptr.astype(np.int32)
    return SparseTerms(*map(jnp.asarray, arrays))


def _graphs_tuple(nodes, edges, senders, receivers, *, starts=None) -> jraph.GraphsTuple:
    num_edges = edges.shape[0] if senders is not None else edges.shape[0] * edges.shape[1]
    num_nodes = edges.shape[1] if starts is None else starts.shape[0] - 1
    return jraph.GraphsTuple(
        nodes=nodes, edges=edges, senders=senders, receivers=receivers, globals=starts,
        n_node=jnp.full((1,), num_nodes, jnp.int32), n_edge=jnp.full((1,), num_edges, jnp.int32),
    )  # fmt: skip
