"""Search spaces: what their draws look like, and that the stated spread is the spread of the draws."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcdc_jax import spaces
from hcdc_jax.batches.graphs import BASES
from hcdc_jax.errors import UserError

SPACES = {
    **{f"graph_filter-{prior}": spaces.get("graph_filter", order=3, prior=prior) for prior in ("box", "l1")},
    **{name: spaces.get(name) for name in spaces.names() if name != "graph_filter"},
    "box": spaces.box("box", {"a": (-1, 0), "b": (2, 6)}),
    "logarithmic": spaces.box("logarithmic", {"decay": (1e-5, 1e-2, "log"), "gain": (0.5, 2)}),
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
    draws = spaces.box("cube", dict.fromkeys("abc", (-1.0, 1.0))).spread(seed, 8)
    assert len({tuple(row) for row in np.sign(draws).tolist()}) == 8


@pytest.mark.parametrize("seed", range(5))
def test_eight_spread_filters_fall_into_the_octants_that_differ(seed):
    signs = np.sign(spaces.get("graph_filter", order=2).spread(seed, 8))
    assert (signs[:, 0] == 1).all()  # a filter and its negative are one
    _, counts = np.unique(signs, axis=0, return_counts=True)
    assert counts.tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize("seed", range(3))
def test_a_factorial_design_is_balanced_in_every_pair(seed):
    space = spaces.get("regularisation")
    middle, std = np.asarray(space.from_unit(jnp.full(6, 0.5))), np.asarray(space.prior_std)
    levels = (np.asarray(space.factorial(seed, 8)) - middle) / std
    np.testing.assert_allclose(np.abs(levels), 1, rtol=1e-4)
    np.testing.assert_allclose(levels.sum(0), 0, atol=1e-4)
    np.testing.assert_allclose(levels.T @ levels, 8 * np.eye(6), atol=1e-3)


def test_factorial_designs_follow_their_seed_and_need_a_power_of_two():
    space = spaces.get("regularisation")
    np.testing.assert_array_equal(space.factorial((0, 1), 8), space.factorial((0, 1), 8))
    assert not np.array_equal(space.factorial((0, 1), 8), space.factorial((0, 2), 8))
    with pytest.raises(UserError, match="have no levels"):
        spaces.get("nas_bench_201").factorial(0, 32)
    for count in (4, 12):
        with pytest.raises(UserError, match=r"hcdc.full_trainings = 8"):
            space.factorial(0, count)


def test_prior_std_is_the_spread_of_the_draws(space):
    draws = space.sample(jax.random.key(0), 20_000)
    np.testing.assert_allclose(draws.std(0), space.prior_std, rtol=0.03)


def test_draws_of_the_filter_search_are_those_of_ever():
    draws = spaces.get("graph_filter").sample(jax.random.key(3), 2)
    u = np.asarray(jax.random.uniform(jax.random.key(3), (2, 3)))
    np.testing.assert_array_equal(draws, np.float32(-1) + np.float32(2) * u)


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


def test_a_box_is_read_by_name_and_keeps_logarithms():
    space = SPACES["logarithmic"]
    assert space.hparam_names == ("log_decay", "gain")
    draws = space.sample(jax.random.key(0), 2000)
    np.testing.assert_allclose([draws[:, 0].min(), draws[:, 0].max()], np.log([1e-5, 1e-2]), atol=0.02)
    read = jax.vmap(space.read)(draws)
    np.testing.assert_allclose(read["decay"], np.exp(draws[:, 0]), rtol=1e-6)
    np.testing.assert_array_equal(read["gain"], draws[:, 1])
    slope = jax.grad(lambda hparams: space.read(hparams)["decay"])(draws[0])
    np.testing.assert_allclose(slope, np.array([np.exp(draws[0, 0]), 0.0]), rtol=1e-6)


def test_a_box_keeps_log_odds_of_shares():
    space = spaces.box("shares", {"smoothing": (0.01, 0.9, "logit")})
    assert space.hparam_names == ("logit_smoothing",)
    draws = space.sample(jax.random.key(0), 2000)
    np.testing.assert_allclose([draws.min(), draws.max()], np.log([0.01 / 0.99, 0.9 / 0.1]), atol=0.02)
    shares = jax.vmap(space.read)(draws)["smoothing"]
    np.testing.assert_allclose(np.log(shares / (1 - shares)), draws[:, 0], rtol=1e-4, atol=1e-5)


def test_equal_spaces_are_one_object():
    assert spaces.box("mine", {"a": (0, 1)}) is spaces.box("mine", {"a": (0.0, 1.0)})
    assert spaces.get("appnp") is spaces.appnp() is spaces.appnp(10) is spaces.appnp(order=10)
    assert spaces.get("filter_training", order=2) is spaces.filter_training(2)
    assert spaces.box("mine", {"a": (0, 1)}) is not spaces.box("mine", {"a": (0, 2)})


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({}, "space 'mine' has no hyperparameters; give at least one, as in {'gain': (0.5, 2)}"),
        ({"a": (0, 1), "b": (0, np.inf)}, "the bounds of 'b' must be finite with low < high, got (0, inf)"),
        ({"a": (np.nan, 1)}, "the bounds of 'a' must be finite with low < high, got (nan, 1)"),
        ({"a": (0, 1e39)}, "the bounds of 'a' must be finite with low < high, got (0, 1e+39)"),
        ({"a": (1, 1)}, "the bounds of 'a' must be finite with low < high, got (1, 1)"),
        ({"a": (2, 1)}, "the bounds of 'a' must be finite with low < high, got (2, 1)"),
        ({"a": (0, 1, "log")}, "the bounds of 'a' must be above 0 on the scale 'log', got (0, 1)"),
        ({"a": (0.5, 1, "logit")}, "'a' must be between 0 and 1, without both, on the scale 'logit', got (0.5, 1)"),
        ({"a": (0, 1, "lg")}, "unknown scale 'lg' in the bounds of 'a' of the space 'mine'; did you mean 'log'?"),
        ({"a": 3}, "the bounds of 'a' must be (low, high) or (low, high, scale), got 3"),
        ({"a": (1,)}, "the bounds of 'a' must be (low, high) or (low, high, scale), got (1,)"),
        ({"a": ("x", 1)}, "the bounds of 'a' must be (low, high) or (low, high, scale), got ('x', 1)"),
    ],
)
def test_boxes_that_are_none(bounds, message):
    with pytest.raises(UserError) as caught:
        spaces.box("mine", bounds)
    assert str(caught.value).endswith(message)
    assert "'mine'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("prior", ["box", "l1"])
def test_filters_have_one_coefficient_per_power(basis, prior):
    space = spaces.get("graph_filter", order=4, basis=basis, prior=prior)
    assert len(set(space.hparam_names)) == 5
    assert space is spaces.get("graph_filter", order=4, basis=basis, prior=prior)
