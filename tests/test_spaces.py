"""Search spaces: what their draws look like, and that the stated spread is the spread of the draws."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcdc_jax import spaces
from hcdc_jax.graphs import BASES

SPACES = {
    **{f"graph_filter-{prior}": spaces.get("graph_filter", order=3, prior=prior) for prior in ("box", "l1")},
    "box": spaces.box("box", ("a", "b"), np.array([-1.0, 2.0]), np.array([0.0, 6.0])),
}


@pytest.fixture(params=SPACES, name="space")
def _space(request):
    return SPACES[request.param]


def test_draws_have_one_column_per_name_and_follow_their_key(space):
    draws = space.sample(jax.random.key(0), 7)
    assert draws.shape == (7, len(space.hparam_names))
    np.testing.assert_array_equal(draws, space.sample(jax.random.key(0), 7))
    assert not np.array_equal(draws, space.sample(jax.random.key(1), 7))


def test_spread_draws_follow_their_seed_and_begin_alike(space):
    draws = space.spread(3, 8)
    assert draws.shape == (8, len(space.hparam_names))
    np.testing.assert_array_equal(draws, space.spread(3, 8))
    np.testing.assert_array_equal(draws[:5], space.spread(3, 5))
    np.testing.assert_array_equal(draws, space.spread(3, 16)[:8])
    assert not np.array_equal(draws, space.spread(4, 8))


@pytest.mark.parametrize("seed", range(5))
def test_eight_spread_draws_fall_into_eight_octants(seed):
    draws = spaces.get("graph_filter", order=2).spread(seed, 8)
    assert len({tuple(row) for row in np.sign(draws).tolist()}) == 8


def test_prior_std_is_the_spread_of_the_draws(space):
    draws = space.sample(jax.random.key(0), 20_000)
    np.testing.assert_allclose(draws.std(0), space.prior_std, rtol=0.03)


def test_projection_leaves_draws_alone_and_is_idempotent(space):
    draws = space.sample(jax.random.key(0), 50)
    np.testing.assert_allclose(jax.vmap(space.project)(draws), draws, rtol=1e-5)
    outside = jax.vmap(space.project)(3.0 + 5.0 * draws)
    np.testing.assert_allclose(jax.vmap(space.project)(outside), outside, rtol=1e-5)


def test_the_box_is_where_it_was_put():
    draws = np.asarray(SPACES["box"].sample(jax.random.key(0), 2000))
    assert (draws >= [-1, 2]).all()
    assert (draws <= [0, 6]).all()
    np.testing.assert_allclose([draws.min(0), draws.max(0)], [[-1, 2], [0, 6]], atol=0.05)
    np.testing.assert_array_equal(SPACES["box"].project(jnp.array([5.0, -5.0])), [0.0, 2.0])


def test_unit_l1_has_unit_l1_norm_and_survives_zero():
    space = SPACES["graph_filter-l1"]
    np.testing.assert_allclose(np.abs(space.sample(jax.random.key(0), 50)).sum(1), 1, rtol=1e-5)
    assert np.isfinite(space.project(jnp.zeros(4))).all()


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("prior", ["box", "l1"])
def test_filters_have_one_coefficient_per_power(basis, prior):
    space = spaces.get("graph_filter", order=4, basis=basis, prior=prior)
    assert len(set(space.hparam_names)) == 5
    assert space is spaces.get("graph_filter", order=4, basis=basis, prior=prior)


def test_an_unknown_space_is_answered_with_the_known_ones():
    with pytest.raises(KeyError, match=f"'graph_filtre'.*{spaces.names()[0]}"):
        spaces.get("graph_filtre")
