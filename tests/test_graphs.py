"""Graph operators and real graphs as batches, against dense linear algebra in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from numpy.polynomial import chebyshev

from hcdc_jax.batches.graphs import BASES, dense_graph, filter_terms, normalise, normalised_adjacency, real_batch
from hcdc_jax.errors import UserError
from tests.small_graphs import block_graph, dense_adjacency, normalised, polynomials


@pytest.mark.parametrize("basis", BASES)
def test_filter_terms_are_the_polynomials_of_the_basis(basis):
    s = np.linspace(-1, 1, 21)  # a diagonal S: one eigenvalue per entry
    expected = {
        "laplacian": lambda k: (1 - s) ** k,
        "adjacency": lambda k: s**k,
        "chebyshev": lambda k: chebyshev.chebval(-s, np.eye(11)[k]),
    }[basis]
    terms = filter_terms(lambda x: s * x, np.ones_like(s), 10, basis)
    assert len(terms) == 11
    for k, term in enumerate(terms):
        np.testing.assert_allclose(term, expected(k), rtol=1e-12, atol=1e-12)


def test_filter_terms_keep_the_kind_of_the_signal():
    operator = normalised_adjacency(block_graph().edges, 60)
    for signal in (sp.identity(60, format="csr"), np.eye(60)):
        terms = filter_terms(lambda x: operator @ x, signal, 2, "chebyshev")
        assert all(sp.issparse(term) == sp.issparse(signal) for term in terms)


def test_an_unknown_basis_is_named():
    with pytest.raises(UserError, match=r"unknown basis 'legendre'; known are .*chebyshev"):
        filter_terms(lambda x: x, np.ones(2), 1, "legendre")


def test_both_normalisations_are_the_definition():
    data = block_graph()
    expected = normalised(dense_adjacency(data))
    np.testing.assert_allclose(normalised_adjacency(data.edges, 60).toarray(), expected, atol=1e-6)
    np.testing.assert_allclose(normalise(jnp.asarray(dense_adjacency(data))), expected, atol=1e-6)


def test_an_isolated_node_keeps_its_own_signal():
    operator = normalised_adjacency(block_graph(isolated=3).edges, 60).toarray()
    np.testing.assert_array_equal(operator[-3:], np.eye(60)[-3:])
    no_edges = np.zeros((2, 0), np.int32)
    np.testing.assert_array_equal(normalised_adjacency(no_edges, 4).toarray(), np.eye(4))


def test_normalise_has_finite_slopes_at_an_empty_graph():
    slope = jax.grad(lambda a: normalise(a)[0, 1] + normalise(a)[1, 1])(jnp.zeros((3, 3)))
    assert np.isfinite(slope).all()
    assert slope[0, 1] == 1.0


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("order", [0, 1, 2, 4])
@pytest.mark.parametrize("sparse_features", [False, True])
def test_a_batch_holds_the_rows_of_the_filter_and_the_filtered_features(basis, order, sparse_features):
    data = block_graph(sparse=sparse_features)
    index = np.array([17, 2, 58, 30])  # 58 is isolated
    graph = real_batch(data, index, order=order, basis=basis).inputs
    powers = polynomials(normalised(dense_adjacency(data)), order, basis)
    features = data.features.toarray() if sparse_features else data.features
    reached = np.any([np.abs(power[index]) > 1e-9 for power in powers], 0).any(0)
    needed = np.concatenate([index, np.setdiff1d(np.flatnonzero(reached), index)])
    for k, power in enumerate(powers):
        np.testing.assert_allclose(graph.edges[:, :, k], power[index][:, needed], atol=1e-5)
        np.testing.assert_allclose(graph.nodes[:, k], (power @ features)[needed], atol=1e-5)


def test_a_batch_holds_no_node_outside_the_receptive_field():
    data = block_graph(inside=0.05, isolated=10)
    index = np.array([0, 3])
    reach = np.linalg.matrix_power(dense_adjacency(data) + np.eye(60), 2)[index].sum(0) > 0
    assert 2 < reach.sum() < 40
    assert real_batch(data, index, order=2, basis="adjacency").inputs.nodes.shape[0] == reach.sum()


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_a_sparse_batch_holds_what_reaches_its_nodes_and_no_more(order):
    data = block_graph(inside=0.05, isolated=10)
    index = np.array([30, 0, 3])
    graph = real_batch(data, index, order=order, basis="adjacency", max_dense_entries=0).inputs
    looped = dense_adjacency(data) + np.eye(60)
    steps = np.array([np.linalg.matrix_power(looped, k)[index].sum(0) == 0 for k in range(order + 1)]).sum(0)
    needed = np.concatenate([index, np.setdiff1d(np.flatnonzero(steps <= order), index)])
    features = polynomials(normalised(dense_adjacency(data)), order, "adjacency")[order] @ data.features
    np.testing.assert_allclose(graph.nodes[:, order], features[needed], atol=1e-5)
    found = np.zeros((len(needed), len(needed)))
    np.add.at(found, (np.asarray(graph.receivers), np.asarray(graph.senders)), np.asarray(graph.edges))
    inner = steps[needed] < order
    expected = normalised(dense_adjacency(data))[np.ix_(needed, needed)] * (inner[:, None] | inner)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert len(graph.edges) == np.count_nonzero(expected)
    np.testing.assert_array_equal(np.diff(graph.globals), np.bincount(graph.receivers, minlength=len(needed)))


def test_labels_and_weights_follow_the_index():
    data = block_graph()
    for max_dense_entries in (10**6, 0):
        batch = real_batch(data, data.val_idx, order=1, basis="laplacian", max_dense_entries=max_dense_entries)
        np.testing.assert_array_equal(batch.labels, data.labels[data.val_idx])
        np.testing.assert_array_equal(batch.weights, np.ones(20))
        assert (batch.inputs.senders is None) == (max_dense_entries > 0)


@pytest.mark.parametrize("basis", BASES)
def test_a_small_graph_holds_the_whole_filter_and_plain_features(basis):
    data = block_graph()
    operator = jnp.asarray(normalised(dense_adjacency(data)), jnp.float32)
    graph = dense_graph(operator, jnp.asarray(data.features), 3, basis)
    powers = polynomials(np.asarray(operator, np.float64), 3, basis)
    np.testing.assert_allclose(graph.edges, np.stack(powers, -1), atol=1e-5)
    np.testing.assert_array_equal(graph.nodes, data.features)
