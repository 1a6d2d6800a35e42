"""Graph networks against the formula C act(C X W1 + b1) W2 + b2 written out in NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcdc_jax.batches.graphs import BASES, dense_graph, real_batch
from hcdc_jax.models import gcn_coefficients, sgc, spectral_gnn
from hcdc_jax.models.graph import ACTIVATIONS, propagate
from hcdc_jax.problem import accuracy
from hcdc_jax.types import Batch
from tests.small_graphs import block_graph, dense_adjacency, normalised, polynomials

BY_HAND = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "elu": lambda x: np.where(x > 0, x, np.exp(x) - 1),
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "softplus": lambda x: np.log1p(np.exp(x)),
}
DATA = block_graph()
SPARSE, DENSE = 0, 10**7  # max_dense_entries that force one form


def coefficients(order, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, order + 1), jnp.float32)


def by_hand(params, lam, basis, activation="relu"):
    """Logits of all nodes, in NumPy and float64."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    powers = polynomials(normalised(dense_adjacency(DATA)), len(lam) - 1, basis)
    conv = sum(c * power for c, power in zip(np.asarray(lam, np.float64), powers, strict=True))
    hidden = conv @ DATA.features @ params["Dense_0"]["kernel"] + params["bias_0"]
    return conv @ BY_HAND[activation](hidden) @ params["Dense_1"]["kernel"] + params["bias_1"]


def trained_like(problem, lam):
    """Parameters of the problem's shapes, none of them zero as biases are at initialisation."""
    rng = np.random.default_rng(3)
    shapes = jax.eval_shape(problem.init, jax.random.key(3), lam)
    return jax.tree.map(lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), x.dtype), shapes)


def apply(problem, params, lam, inputs):
    return jax.jit(problem.apply)(params, lam, inputs)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("order", [0, 1, 2, 3, 4, 10])
def test_both_forms_are_the_formula(basis, order):
    problem = spectral_gnn(5, 3, hidden=4, basis=basis)
    lam = coefficients(order)
    params = trained_like(problem, lam)
    index = np.array([40, 3, 59, 21])
    expected = by_hand(params, lam, basis)[index]
    for entries in (DENSE, SPARSE):
        batch = real_batch(DATA, index, order=order, basis=basis, max_dense_entries=entries)
        logits = apply(problem, params, lam, batch.inputs)[: len(index)]
        np.testing.assert_allclose(logits, expected, rtol=2e-5, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation):
    problem = spectral_gnn(5, 3, hidden=4, activation=activation)
    lam = coefficients(2)
    params = trained_like(problem, lam)
    batch = real_batch(DATA, np.arange(60), order=2, basis="laplacian")
    expected = by_hand(params, lam, "laplacian", activation)
    np.testing.assert_allclose(apply(problem, params, lam, batch.inputs), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("basis", BASES)
def test_losses_and_slopes_do_not_depend_on_the_form(basis):
    problem = spectral_gnn(5, 3, hidden=4, basis=basis)
    lam = coefficients(2)
    params = trained_like(problem, lam)
    jets = [
        jax.jit(jax.value_and_grad(problem.train_loss, argnums=(0, 1)))(
            params, lam, real_batch(DATA, DATA.train_idx, order=2, basis=basis, max_dense_entries=entries)
        )
        for entries in (DENSE, SPARSE)
    ]
    for dense, sparse in zip(*map(jax.tree.leaves, jets), strict=True):
        np.testing.assert_allclose(dense, sparse, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("order", [1, 3])
def test_gcn_coefficients_make_the_propagation_of_gcn(basis, order):
    operator = normalised(dense_adjacency(DATA))
    powers = polynomials(operator, order, basis)
    conv = sum(c * p for c, p in zip(gcn_coefficients(order, basis), powers, strict=True))
    np.testing.assert_allclose(conv, operator, atol=1e-12)


def test_sgc_propagates_twice():
    problem = sgc(5, 3)
    lam = jnp.asarray(gcn_coefficients(2, "laplacian"))
    params = trained_like(problem, lam)
    operator = normalised(dense_adjacency(DATA))
    kernel, bias = np.asarray(params["Dense_0"]["kernel"]), np.asarray(params["bias"])
    expected = operator @ operator @ DATA.features @ kernel + bias
    logits = apply(problem, params, lam, real_batch(DATA, np.arange(60), order=2, basis="laplacian").inputs)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_sparse_propagation_is_a_product_with_s():
    graph = real_batch(DATA, np.arange(60), order=1, basis="adjacency", max_dense_entries=SPARSE).inputs
    signal = np.random.default_rng(0).normal(size=(60, 2))
    expected = normalised(dense_adjacency(DATA)) @ signal
    np.testing.assert_allclose(propagate(graph, jnp.asarray(signal)), expected, atol=1e-5)


def test_the_training_loss_decays_biases_too():
    problem = spectral_gnn(5, 3, hidden=4, weight_decay=0.3)
    lam = coefficients(2)
    params = trained_like(problem, lam)
    batch = real_batch(DATA, DATA.train_idx, order=2, basis="laplacian")
    penalty = 0.3 * sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(params))
    difference = jax.jit(lambda *args: problem.train_loss(*args) - problem.val_loss(*args))(params, lam, batch)
    np.testing.assert_allclose(difference, penalty, rtol=1e-5)


def test_loss_and_accuracy_of_labelled_nodes():
    problem = spectral_gnn(5, 3, hidden=4)
    lam = coefficients(2)
    params = trained_like(problem, lam)
    batch = real_batch(DATA, DATA.val_idx, order=2, basis="laplacian")
    batch = batch._replace(weights=jnp.linspace(0, 2, 20))
    logits = by_hand(params, lam, "laplacian")[DATA.val_idx]
    log_chances = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    labels, weights = DATA.labels[DATA.val_idx], np.linspace(0, 2, 20)
    expected = -np.average(log_chances[np.arange(20), labels], weights=weights)
    np.testing.assert_allclose(problem.val_loss(params, lam, batch), expected, rtol=1e-5)
    hits = np.average(logits.argmax(1) == labels, weights=weights)
    np.testing.assert_allclose(accuracy(problem, params, lam, batch), hits, rtol=1e-6)
    soft = batch._replace(labels=jax.nn.one_hot(batch.labels, 3))
    np.testing.assert_allclose(problem.val_loss(params, lam, soft), expected, rtol=1e-5)
    np.testing.assert_allclose(accuracy(problem, params, lam, soft), hits, rtol=1e-6)


def test_a_label_of_weight_zero_is_never_read():
    problem = spectral_gnn(5, 3, hidden=4)
    lam = coefficients(2)
    params = trained_like(problem, lam)
    batch = real_batch(DATA, DATA.train_idx, order=2, basis="laplacian")
    batch = batch._replace(weights=jnp.ones(20).at[::2].set(0.0))
    other = batch._replace(labels=batch.labels.at[::2].add(1) % 3)
    for function in (jax.jit(jax.value_and_grad(problem.train_loss)), lambda *args: accuracy(problem, *args)):
        jax.tree.map(np.testing.assert_array_equal, function(params, lam, batch), function(params, lam, other))


@pytest.mark.parametrize("basis", BASES)
def test_a_small_graph_of_plain_features_gives_the_same_logits(basis):
    problem = spectral_gnn(5, 3, hidden=4, basis=basis)
    lam = coefficients(3)
    params = trained_like(problem, lam)
    operator = jnp.asarray(normalised(dense_adjacency(DATA)), jnp.float32)
    logits = apply(problem, params, lam, dense_graph(operator, jnp.asarray(DATA.features), 3, basis))
    np.testing.assert_allclose(logits, by_hand(params, lam, basis), rtol=1e-4, atol=1e-4)


def test_renumbering_the_nodes_renumbers_the_logits():
    problem = spectral_gnn(5, 3, hidden=4)
    lam = coefficients(2)
    params = trained_like(problem, lam)
    operator, features = normalised(dense_adjacency(DATA)).astype(np.float32), DATA.features
    order = np.random.default_rng(1).permutation(60)
    logits = apply(problem, params, lam, dense_graph(jnp.asarray(operator), jnp.asarray(features), 2, "laplacian"))
    moved = dense_graph(jnp.asarray(operator[order][:, order]), jnp.asarray(features[order]), 2, "laplacian")
    np.testing.assert_allclose(apply(problem, params, lam, moved), logits[order], rtol=1e-4, atol=1e-5)


def test_vmap_over_candidates_is_a_loop():
    problem = spectral_gnn(5, 3, hidden=4)
    lams = jnp.stack([coefficients(2, seed) for seed in range(3)])
    params = jax.vmap(problem.init)(jax.random.split(jax.random.key(0), 3), lams)
    batch = real_batch(DATA, DATA.train_idx, order=2, basis="laplacian", max_dense_entries=SPARSE)
    together = jax.jit(jax.vmap(problem.apply, in_axes=(0, 0, None)))(params, lams, batch.inputs)
    for i in range(3):
        alone = apply(problem, jax.tree.map(lambda leaf, i=i: leaf[i], params), lams[i], batch.inputs)
        np.testing.assert_allclose(together[i], alone, rtol=1e-4, atol=1e-5)


def test_equal_arguments_give_one_problem():
    assert spectral_gnn(5, 3, hidden=4) is spectral_gnn(5, 3, hidden=4)
    assert sgc(5, 3) is sgc(5, 3)


def test_parameters_follow_float64(x64):
    problem = spectral_gnn(5, 3, hidden=4)
    batch = real_batch(DATA, DATA.train_idx, order=2, basis="laplacian")
    graph = batch.inputs._replace(nodes=batch.inputs.nodes.astype(float), edges=batch.inputs.edges.astype(float))
    batch = Batch(graph, batch.labels, batch.weights.astype(float))
    lam = jnp.asarray([0.3, -0.2, 0.5])
    params = jax.tree.map(lambda leaf: leaf.astype(float), trained_like(problem, lam))
    assert jax.eval_shape(problem.train_loss, params, lam, batch).dtype == jnp.float64
