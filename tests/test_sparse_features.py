"""Sparse features that are too wide to be stored one by one: the same network, to any derivative, without them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

from hcdc_jax.batches import graphs
from hcdc_jax.batches.graphs import SparseTerms, real_batch
from hcdc_jax.data.graphs import build_graph
from hcdc_jax.models.graph import sgc, spectral_gnn
from tests.small_graphs import block_graph, dense_adjacency, normalised, polynomials

DATA = block_graph(24, 40)
WIDE = DATA._replace(features=sp.csr_matrix(np.where(np.abs(DATA.features) > 0.7, DATA.features, 0)))
COEFFICIENTS = jnp.array([0.4, -0.7, 0.3])
INDEX = np.array([3, 10, 4, 17])


def batch_of(monkeypatch, *, sparse: bool, whole: bool = True):
    """Nodes in either form of their features, in the dense or in the sparse form of the graph."""
    monkeypatch.setattr(graphs, "MAX_DENSE_FEATURES", 0 if sparse else 10**9)
    monkeypatch.setattr(graphs, "MAX_SPARSE_SHARE", 1.0)
    batch = real_batch(WIDE, INDEX, order=2, basis="chebyshev", max_dense_entries=10**9 if whole else 0)
    assert isinstance(batch.inputs.nodes, SparseTerms) == sparse
    return batch


def test_terms_are_products_with_the_features(monkeypatch):
    nodes = batch_of(monkeypatch, sparse=True).inputs.nodes
    size = len(nodes.row_starts) - 1
    matrix = sp.csr_matrix((nodes.entries, nodes.columns, nodes.row_starts), shape=(size, size)).toarray()
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_array_equal(nodes.rows, np.repeat(np.arange(size), np.diff(nodes.row_starts)))
    terms = matrix[: size - 40, size - 40 :].reshape(3, -1, 40)
    powers = polynomials(normalised(dense_adjacency(DATA)), 2, "chebyshev")
    for term, power in zip(terms, powers, strict=True):
        np.testing.assert_allclose(term[:4], (power @ WIDE.features.toarray())[INDEX], atol=1e-5)


@pytest.mark.parametrize(("model", "whole"), [(spectral_gnn, True), (spectral_gnn, False), (sgc, True)])
def test_networks_and_their_derivatives_are_those_of_dense_features(monkeypatch, model, whole):
    problem = model(40, 3, basis="chebyshev", weight_decay=1e-2)
    params = problem.init(jax.random.key(1), COEFFICIENTS)
    candidates = jnp.stack([COEFFICIENTS, -0.5 * COEFFICIENTS, COEFFICIENTS[::-1]])

    def all_of(batch):
        def loss(params, coefficients):
            return problem.train_loss(params, coefficients, batch)

        def along(params, coefficients):
            """The slope along the parameters themselves: its derivatives are second ones, mixed ones among them."""
            return jax.jvp(lambda p: loss(p, coefficients), (params,), (params,))[1]

        def everything(coefficients):
            return loss(params, coefficients), jax.grad(along, argnums=(0, 1))(params, coefficients)

        return problem.apply(params, COEFFICIENTS, batch.inputs)[:4], jax.jit(jax.vmap(everything))(candidates)

    found, expected = (all_of(batch_of(monkeypatch, sparse=sparse, whole=whole)) for sparse in (True, False))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), found, expected)


def test_features_of_any_width_take_the_memory_of_what_is_in_them():
    """600 nodes with 100,000 features each would take 0.7 GB; fifty of each are there."""
    rng = np.random.default_rng(0)
    n, d = 600, 100_000
    features = sp.random_array((n, d), density=5e-4, format="csr", rng=rng, dtype=np.float32)
    nodes = np.arange(n)
    labels, edges = nodes // 3 % 3, rng.integers(0, n, (2, 900))
    data = build_graph(
        "wide", sp.csr_matrix(features), edges, labels, nodes[::3], nodes[1::3], nodes[2::3], where="test"
    )
    batch = real_batch(data, data.train_idx, order=2, basis="laplacian")
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(batch)) < 30e6
    dense = real_batch(DATA, INDEX, order=2, basis="laplacian")
    assert isinstance(dense.inputs.nodes, jax.Array), "small features are dense whatever is in them"
