"""Hyperparameters of the training: learning rate, weight decay, dropout, each against training that has it outright."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcdc_jax import spaces
from hcdc_jax.batches.graphs import dense_graph, real_batch
from hcdc_jax.condense.hcdc import fit
from hcdc_jax.hypergradients.fixed_networks import unrolled_hypergradient
from hcdc_jax.hypergradients.implicit import hypergradient
from hcdc_jax.hypergradients.solvers import dense
from hcdc_jax.models import Setting, expected_dropout, spectral_gnn, with_learning_rate
from hcdc_jax.problem import Problem, mean_loss
from hcdc_jax.training.train import Training, train
from hcdc_jax.types import Batch
from tests.small_graphs import block_graph, dense_adjacency, normalised

DATA = block_graph()
SPACE = spaces.filter_training()
KEY = jax.random.key(0)
FILTER = [0.4, -0.7, 0.3]


def problem_of(**options):
    return spectral_gnn(5, 3, hidden=4, activation="tanh", **options)


def batches():
    """Training and validation nodes, in the floats of the moment."""
    operator, parts = normalised(dense_adjacency(DATA)), []
    for index in (DATA.train_idx, DATA.val_idx):
        order = np.concatenate([index, np.setdiff1d(np.arange(60), index)])
        features = jnp.asarray(DATA.features[order], float)
        graph = dense_graph(jnp.asarray(operator[order][:, order], float), features, 2, "laplacian")
        parts.append(Batch(graph, jnp.asarray(DATA.labels[index]), jnp.ones(len(index))))
    return parts


def candidate(decay=1e-3, factor=1.0, dropout=0.0):
    return jnp.asarray([*FILTER, np.log(decay), np.log(factor), dropout])


@pytest.mark.parametrize("factor", [0.2, 5.0])
def test_the_factor_is_one_of_adams_learning_rate(x64, factor):
    train_batch, val_batch = batches()
    searched, plain = problem_of(read=SPACE.read), problem_of(weight_decay=1e-3)
    hparams = candidate(factor=factor)
    params = fit(KEY, searched, hparams, train_batch, Training(0.02, steps=60))
    expected = fit(KEY, plain, hparams[:3], train_batch, Training(0.02 * factor, steps=60))
    for phi, theta in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(factor * phi, theta, rtol=1e-3, atol=1e-4)
    found = searched.val_loss(params, hparams, val_batch)
    np.testing.assert_allclose(found, plain.val_loss(expected, hparams[:3], val_batch), rtol=1e-5)
    unchanged = fit(KEY, plain, hparams[:3], train_batch, Training(0.02, steps=60))
    assert abs(plain.val_loss(unchanged, hparams[:3], val_batch) - found) > 1e-3


def test_under_sgd_it_counts_squared(x64):
    train_batch, _ = batches()
    hparams = candidate(factor=2.0)
    params = fit(KEY, problem_of(read=SPACE.read), hparams, train_batch, Training(0.02, "sgd", steps=20))
    expected = fit(KEY, problem_of(weight_decay=1e-3), hparams[:3], train_batch, Training(0.08, "sgd", steps=20))
    for phi, theta in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(2 * phi, theta, rtol=1e-5, atol=1e-6)


def test_unrolled_hypergradients_see_every_hyperparameter(x64):
    train_batch, val_batch = batches()
    problem, training = problem_of(read=SPACE.read), Training(0.02, steps=30)

    def trained(hparams):
        return train(KEY, problem, hparams, train_batch, training)[0]

    @jax.jit
    def value(hparams):
        return problem.val_loss(trained(hparams), hparams, val_batch)

    hparams = candidate(decay=1e-2, factor=1.5, dropout=0.3)
    found, _ = jax.jit(lambda h: unrolled_hypergradient(trained, problem.val_loss, h, val_batch))(hparams)
    steps = 1e-4 * np.eye(6)
    expected = [(value(hparams + step) - value(hparams - step)) / 2e-4 for step in steps]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
    assert np.abs(found).min() > 1e-5


def test_at_a_minimum_the_implicit_one_of_the_learning_rate_vanishes(x64):
    """A ridge regression, whose minimum is known: in the units of phi it is theta / factor."""
    rng = np.random.default_rng(0)
    inputs, targets = jnp.asarray(rng.normal(size=(20, 3))), jnp.asarray(rng.normal(size=20))

    def val_loss(params, hparams, batch):
        return jnp.mean((batch @ params - targets) ** 2)

    def train_loss(params, hparams, batch):
        return val_loss(params, hparams, batch) + jnp.exp(hparams[0]) * jnp.sum(params**2)

    plain = Problem(lambda key, hparams: jnp.ones(3), val_loss, train_loss, val_loss)
    problem = with_learning_rate(plain, lambda hparams: jnp.exp(hparams[1]))
    hparams = jnp.asarray([-1.0, 0.7])
    theta = jnp.linalg.solve(inputs.T @ inputs / 20 + np.exp(-1.0) * jnp.eye(3), inputs.T @ targets / 20)
    params = theta / jnp.exp(hparams[1])
    np.testing.assert_allclose(jax.grad(problem.train_loss)(params, hparams, inputs), 0, atol=1e-12)
    np.testing.assert_allclose(problem.init(KEY, hparams), np.full(3, np.exp(-0.7)))
    gradients = [
        hypergradient(p.train_loss, p.val_loss, x, hparams, inputs, inputs * 0.9, solver=dense())[0]
        for p, x in ((problem, params), (plain, theta))
    ]
    np.testing.assert_allclose(gradients[0][1], 0, atol=1e-10)
    np.testing.assert_allclose(gradients[0][0], gradients[1][0], rtol=1e-8)
    assert abs(gradients[0][0]) > 1e-3


def test_weight_decay_is_the_models_own():
    train_batch, _ = batches()
    params = problem_of().init(KEY, jnp.asarray(FILTER))
    found = jax.jit(problem_of(read=SPACE.read).train_loss)(params, candidate(decay=0.03), train_batch)
    expected = jax.jit(problem_of(weight_decay=0.03).train_loss)(params, jnp.asarray(FILTER), train_batch)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def all_masks(width: int, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Every outcome of dropout on `width` units: factors [2^width, width], and how likely each is."""
    kept = np.array(list(itertools.product([0, 1], repeat=width)))
    return kept / (1 - rate), np.prod(np.where(kept == 1, 1 - rate, rate), 1)


def softmax_loss(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, labels[:, None], -1)[:, 0]


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_expected_dropout_is_the_expectation_to_second_order(x64, rate):
    """Against the mean over all masks: where the noise is halved, the error falls by a factor of about 8."""
    rng = np.random.default_rng(1)
    kernel, labels, weights = rng.normal(size=(6, 3)), rng.integers(0, 3, 5), rng.uniform(size=5)
    bias, direction = rng.normal(size=3), rng.normal(size=(5, 6))
    factors, chances = all_masks(6, rate)
    errors = []
    for size in (0.2, 0.1):
        inputs = size * direction
        losses = np.array([softmax_loss((inputs * factor) @ kernel + bias, labels) for factor in factors])
        noise_free = inputs @ kernel + bias
        expected = np.average(chances @ losses - softmax_loss(noise_free, labels), weights=weights)
        found = expected_dropout(rate, *map(jnp.asarray, (inputs, kernel, noise_free, weights)))
        errors.append(abs(found - expected))
        assert expected > 0
        assert errors[-1] < 0.1 * expected
    assert errors[1] < errors[0] / 5


def test_dropout_of_a_network_against_sampled_masks():
    train_batch, _ = batches()
    rate, problem = 0.3, problem_of(read=SPACE.read)
    params = jax.tree.map(lambda leaf: 0.7 * leaf, problem.init(KEY, candidate()))
    loss = jax.jit(problem.train_loss)
    found = loss(params, candidate(dropout=rate), train_batch) - loss(params, candidate(), train_batch)
    conv = np.asarray(jnp.tensordot(train_batch.inputs.edges, jnp.asarray(FILTER), 1))
    first, last = params["Dense_0"]["kernel"], np.asarray(params["Dense_1"]["kernel"])
    hidden = conv @ np.tanh(conv @ np.asarray(train_batch.inputs.nodes @ first))
    keep = np.random.default_rng(0).uniform(size=(20_000, 20, 4)) < 1 - rate
    logits = jnp.asarray((hidden[:20] * keep / (1 - rate)) @ last, jnp.float32)
    losses = jax.vmap(lambda z: mean_loss(z, train_batch))(logits)
    expected = np.mean(losses, dtype=float) - mean_loss(jnp.asarray(hidden @ last, jnp.float32), train_batch)
    # A standard error of the draw is about a hundredth of the difference; the neglected orders are of the same size.
    np.testing.assert_allclose(found, expected, rtol=0.1)


def test_dropout_does_not_depend_on_the_form_of_the_graph():
    problem, hparams = problem_of(read=SPACE.read), candidate(dropout=0.4)
    params = problem.init(KEY, hparams)
    values = []
    for entries in (10**7, 0):
        batch = real_batch(DATA, DATA.train_idx, order=2, basis="laplacian", max_dense_entries=entries)
        values.append(jax.jit(jax.value_and_grad(problem.train_loss, argnums=(0, 1)))(params, hparams, batch))
    for dense_leaf, sparse_leaf in zip(*map(jax.tree.leaves, values), strict=True):
        np.testing.assert_allclose(dense_leaf, sparse_leaf, rtol=1e-4, atol=1e-5)


def test_validation_has_neither_dropout_nor_decay():
    _, val_batch = batches()
    problem = problem_of(read=SPACE.read)
    params = problem.init(KEY, candidate())
    loss = jax.jit(problem.val_loss)
    values = [loss(params, h, val_batch) for h in (candidate(), candidate(decay=1.0, dropout=0.6))]
    assert values[0] == values[1]


def test_what_is_not_searched_stays_as_the_model_has_it():
    train_batch, _ = batches()
    plain, read = problem_of(), problem_of(read=lambda hparams: Setting(hparams[:3]))
    hparams = jnp.asarray(FILTER)
    params = plain.init(KEY, hparams)
    jax.tree.map(np.testing.assert_array_equal, params, read.init(KEY, hparams))
    losses = [jax.jit(p.train_loss)(params, hparams, train_batch) for p in (plain, read)]
    assert losses[0] == losses[1]
