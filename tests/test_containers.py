"""Synthetic graphs: what their adjacencies are, and that they can be learned."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcdc_jax.containers import ADJACENCIES, graph_container
from hcdc_jax.containers.graph import PairwiseNetwork, cut, free, identity, pairwise
from hcdc_jax.hypergradients.fixed_networks import float_gradient
from hcdc_jax.models import spectral_gnn
from tests.small_graphs import normalised, polynomials, small_start

START = small_start()
BUILDERS = {name: make() for name, make in ADJACENCIES.items()}


@pytest.fixture(params=BUILDERS, name="name")
def _name(request):
    return request.param


def adjacency_of(builder, start=START, seed=0):
    structure = builder.init(jax.random.key(seed), start)
    return np.asarray(builder.build(structure, jnp.asarray(start.features)))


def test_adjacencies_are_symmetric_weights_without_loops(name):
    adjacency = adjacency_of(BUILDERS[name])
    np.testing.assert_array_equal(adjacency, adjacency.T)
    np.testing.assert_array_equal(np.diag(adjacency), 0)
    assert ((adjacency >= 0) & (adjacency <= 1)).all()


@pytest.mark.parametrize("name", ["graph", "pairwise"])
def test_learned_weights_are_between_zero_and_one(name):
    adjacency = adjacency_of(ADJACENCIES[name]() if name == "pairwise" else free(3.0))
    off = adjacency[~np.eye(9, dtype=bool)]
    assert ((off > 0) & (off < 1)).all()


def test_free_logits_start_at_the_given_graph():
    np.testing.assert_allclose(adjacency_of(free(30.0)), START.adjacency, atol=1e-12)
    blurred = adjacency_of(free(2.0))
    np.testing.assert_allclose(blurred[0, 1], 1 / (1 + np.exp(-2.0)), rtol=1e-6)
    np.testing.assert_allclose(blurred[0, 2], 1 / (1 + np.exp(2.0)), rtol=1e-6)


def test_light_edges_are_cut_and_heavy_ones_stay():
    whole, lighter = adjacency_of(free(2.0)), adjacency_of(cut(free(2.0), 0.5))
    np.testing.assert_array_equal(lighter, np.where(whole < 0.5, 0, whole))
    assert (lighter > 0).sum() == START.adjacency.sum()


def test_free_logits_are_symmetrised():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)), jnp.float32)
    expected = 1 / (1 + np.exp(-(logits[0, 1] + logits[1, 0]) / 2))
    adjacency = free().build(logits, jnp.zeros((3, 1)))
    np.testing.assert_allclose([adjacency[0, 1], adjacency[1, 0]], [expected, expected], rtol=1e-6)


def test_identity_has_no_edge_and_fixed_is_the_given_graph():
    np.testing.assert_array_equal(adjacency_of(BUILDERS["identity"]), np.zeros((9, 9)))
    np.testing.assert_array_equal(adjacency_of(BUILDERS["fixed"]), START.adjacency)


def layer_norm(x, scale, bias):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-6) * scale + bias


def test_the_pairwise_network_reads_each_pair_as_one_long_vector():
    features = START.features.astype(np.float64)
    params = PairwiseNetwork(hidden=6).init(jax.random.key(0), jnp.asarray(START.features))["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), params)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    first = np.concatenate([p["Dense_0"]["kernel"], p["Dense_1"]["kernel"]])
    expected = np.zeros((9, 9))
    for i in range(9):
        for j in range(9):
            x = np.concatenate([features[i], features[j]]) @ first + p["Dense_0"]["bias"]
            x = np.maximum(layer_norm(x, **p["LayerNorm_0"]), 0) @ p["Dense_2"]["kernel"] + p["Dense_2"]["bias"]
            x = np.maximum(layer_norm(x, **p["LayerNorm_1"]), 0) @ p["Dense_3"]["kernel"] + p["Dense_3"]["bias"]
            expected[i, j] = x[0]
    np.testing.assert_allclose(PairwiseNetwork(hidden=6).apply({"params": params}, START.features), expected, atol=1e-4)
    built = pairwise(6).build(params, jnp.asarray(START.features))
    np.testing.assert_allclose(built[1, 4], 1 / (1 + np.exp(-(expected[1, 4] + expected[4, 1]) / 2)), atol=1e-5)


@pytest.mark.parametrize("basis", ["laplacian", "chebyshev"])
def test_decode_gives_the_filter_of_the_adjacency(name, basis):
    container = graph_container(BUILDERS[name], 2, basis)
    batch = container.decode(container.init(jax.random.key(0), START))
    powers = polynomials(normalised(adjacency_of(BUILDERS[name])), 2, basis)
    np.testing.assert_allclose(batch.inputs.edges, np.stack(powers, -1), atol=1e-5)
    np.testing.assert_array_equal(batch.inputs.nodes, START.features)
    np.testing.assert_array_equal(batch.labels, START.labels)
    np.testing.assert_array_equal(batch.weights, START.weights)


def test_losses_have_finite_slopes_in_what_is_learned(name):
    container = graph_container(BUILDERS[name], 2, "laplacian")
    problem = spectral_gnn(4, 3, hidden=5)
    lam = jnp.array([0.5, -0.6, 0.3])
    params = jax.jit(problem.init)(jax.random.key(1), lam)
    variables = container.init(jax.random.key(0), START)

    def loss(variables):
        return problem.val_loss(params, lam, container.decode(variables))

    slope = jax.jit(lambda variables: float_gradient(loss, variables))(variables)
    assert np.isfinite(slope.features).all()
    assert np.any(slope.features != 0)
    structure = jax.tree.leaves(slope.structure)
    assert all(np.isfinite(leaf).all() for leaf in structure)
    assert name in ("identity",) or any(np.any(leaf != 0) for leaf in structure)
    np.testing.assert_array_equal(slope.weights, 0)  # given, not learned


def test_decode_slopes_are_finite_differences(x64):
    container = graph_container(pairwise(3), 2, "laplacian")
    problem = spectral_gnn(4, 3, hidden=5, activation="tanh")
    lam = jnp.array([0.5, -0.6, 0.3])
    params = jax.jit(problem.init)(jax.random.key(1), lam)
    variables = container.init(jax.random.key(0), START)
    variables = jax.tree.map(lambda x: x.astype(float) if x.dtype == jnp.float32 else x, variables)
    start, structure = variables.features, variables.structure
    direction = jnp.cos(jnp.arange(start.size, dtype=float)).reshape(start.shape)

    @jax.jit
    def loss(t):
        moved = variables._replace(features=start + t * direction, structure=structure)
        return problem.val_loss(params, lam, container.decode(moved))

    finite = (loss(1e-5) - loss(-1e-5)) / 2e-5
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(0.0), finite, rtol=1e-6)


def test_equal_arguments_give_one_container():
    adjacency = identity()
    assert graph_container(adjacency, 2, "laplacian") is graph_container(adjacency, 2, "laplacian")
