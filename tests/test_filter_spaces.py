"""Parameterised filters against what their papers say they are, as functions on the spectrum or as iterations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binom

from hcdc_jax import spaces
from hcdc_jax.batches.graphs import real_batch
from hcdc_jax.errors import UserError
from hcdc_jax.models import spectral_gnn
from tests.small_graphs import block_graph, dense_adjacency, normalised, polynomials

DATA = block_graph()
OPERATOR = normalised(dense_adjacency(DATA))
FILTERS = ("appnp", "bernnet", "chebnet", "gprgnn")


def matrix_of(space, hparams, order):
    """C(lambda) of the test graph, in float64 from the float32 coefficients."""
    coefficients = np.asarray(space.read(hparams).coefficients, np.float64)
    assert coefficients.shape == (order + 1,)
    return sum(c * p for c, p in zip(coefficients, polynomials(OPERATOR, order, space.basis), strict=True))


@pytest.mark.parametrize("order", [0, 1, 10])
def test_appnp_is_its_power_iteration(order):
    space = spaces.appnp(order)
    for hparams in space.spread(0, 4):
        teleport = expit(np.float64(hparams[0]))
        state = np.eye(len(OPERATOR))
        for _ in range(order):
            state = (1 - teleport) * OPERATOR @ state + teleport * np.eye(len(OPERATOR))
        np.testing.assert_allclose(matrix_of(space, hparams, order), state, atol=2e-6)


@pytest.mark.parametrize("order", [1, 10, 20])
def test_bernnet_is_its_bernstein_polynomial(order):
    space = spaces.bernnet(order)
    eigenvalues, vectors = np.linalg.eigh(OPERATOR)
    shares = np.clip((1 - eigenvalues) / 2, 0, 1)
    for hparams in space.spread(0, 3):
        weights = np.log1p(np.exp(np.asarray(hparams, np.float64)))
        response = sum(b * binom.pmf(k, order, shares) for k, b in enumerate(weights))
        found = matrix_of(space, hparams, order)
        np.testing.assert_allclose(found, (vectors * response) @ vectors.T, atol=5e-6)
        assert np.linalg.eigvalsh(found).min() > 0


def test_powers_of_the_laplacian_would_lose_bernsteins_digits():
    """Why the filter is applied in Chebyshev polynomials: what the coefficients of size 1 cancel."""
    space = spaces.bernnet(10)
    coefficients = np.asarray(space.read(space.sample(jax.random.key(0), 1)[0]).coefficients)
    powers = np.polynomial.chebyshev.Chebyshev(coefficients, domain=[0, 2]).convert(kind=np.polynomial.Polynomial)
    assert np.abs(coefficients).sum() < 10
    assert np.abs(powers.coef).sum() > 100 * np.abs(coefficients).sum()


def test_gprgnn_is_centred_on_pagerank_and_as_wide_as_its_random_start():
    space = spaces.gprgnn(10, teleport=0.3)
    middle = space.from_unit(jnp.full(11, 0.5))
    expected = [0.3 * 0.7**k for k in range(10)] + [0.7**10]
    np.testing.assert_allclose(middle, expected, atol=1e-6)
    np.testing.assert_allclose(middle.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(np.sum(np.square(space.prior_std)), 1, rtol=1e-6)
    np.testing.assert_array_equal(space.read(middle).coefficients, middle)


@pytest.mark.parametrize("name", FILTERS)
def test_a_space_and_its_order_make_one_network(name):
    space = spaces.get(name, order=4)
    assert space is spaces.get(name, order=4)
    assert space.basis is not None
    problem = spectral_gnn(5, 3, hidden=4, activation="tanh", basis=space.basis, read=space.read)
    assert problem is spectral_gnn(5, 3, hidden=4, activation="tanh", basis=space.basis, read=space.read)
    plain = spectral_gnn(5, 3, hidden=4, activation="tanh", basis=space.basis)
    batch = real_batch(DATA, DATA.train_idx, order=4, basis=space.basis)
    hparams = space.sample(jax.random.key(0), 3)
    params = jax.vmap(problem.init, in_axes=(None, 0))(jax.random.key(1), hparams)
    slopes = jax.jit(jax.vmap(jax.value_and_grad(problem.val_loss, argnums=1), in_axes=(0, 0, None)))
    values, gradients = slopes(params, hparams, batch)
    coefficients = jax.vmap(lambda h: space.read(h).coefficients)(hparams)
    np.testing.assert_allclose(
        values, jax.jit(jax.vmap(plain.val_loss, in_axes=(0, 0, None)))(params, coefficients, batch), rtol=1e-5
    )
    assert gradients.shape == hparams.shape
    assert np.isfinite(gradients).all()
    assert (gradients != 0).all()


@pytest.mark.parametrize("filters", [spaces.graph_filter(3), spaces.graph_filter(2, prior="l1"), spaces.appnp(4)])
def test_training_joins_any_filters(filters):
    space = spaces.with_training(filters, weight_decay=(1e-4, 1e-3), learning_rate_factor=(0.5, 2), dropout=(0.1, 0.5))
    h = len(filters.hparam_names)
    assert space.hparam_names == (*filters.hparam_names, "log_weight_decay", "log_learning_rate_factor", "dropout")
    assert space.basis == filters.basis
    draws = np.asarray(space.sample(jax.random.key(0), 500))
    low, high = np.log([1e-4, 0.5, np.exp(0.1)]), np.log([1e-3, 2, np.exp(0.5)])
    assert (draws[:, h:] >= low - 1e-5).all()
    assert (draws[:, h:] <= high + 1e-5).all()
    far = space.project(jnp.full(h + 3, 100.0))
    np.testing.assert_allclose(far[h:], high, rtol=1e-5)
    np.testing.assert_allclose(far[:h], filters.project(jnp.full(h, 100.0)))
    setting = space.read(jnp.asarray(draws[0]))
    np.testing.assert_allclose(setting.coefficients, filters.read(jnp.asarray(draws[0, :h])).coefficients)
    np.testing.assert_allclose(setting.weight_decay, np.exp(draws[0, h]), rtol=1e-5)
    np.testing.assert_allclose(setting.learning_rate_factor, np.exp(draws[0, h + 1]), rtol=1e-5)
    assert setting.dropout == draws[0, h + 2]


def test_filter_training_is_the_filter_search_and_three_more():
    space = spaces.filter_training()
    assert space.hparam_names[:3] == spaces.graph_filter().hparam_names
    assert spaces.without_implicit_hypergradient(space) == ("log_learning_rate_factor",)
    assert spaces.without_implicit_hypergradient(spaces.graph_filter()) == ()


def test_what_training_cannot_join():
    with pytest.raises(UserError, match="space 'mine' is no space of graph filters"):
        spaces.with_training(spaces.box("mine", {"a": (0, 1)}))
    for bounds in [(0.0, 1.0), (-0.1, 0.5)]:
        with pytest.raises(UserError, match=r"the bounds of 'dropout' must lie in \[0, 1\)"):
            spaces.with_training(spaces.graph_filter(), dropout=bounds)
