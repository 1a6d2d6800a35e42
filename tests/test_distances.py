"""Distances: known values, invariances, and no NaN anywhere."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcdc_jax.errors import UserError
from hcdc_jax.hypergradients import distances

M, H = 5, 4


def sample(seed):
    kv, kg = jax.random.split(jax.random.key(seed))
    return 0.3 + jax.random.uniform(kv, (M,)), jax.random.normal(kg, (M, H))


@functools.partial(jax.jit, static_argnums=0)
def slopes(name, *arguments):
    return jax.value_and_grad(distances.get(name), argnums=(0, 1))(*arguments)


@pytest.mark.parametrize("name", distances.names())
def test_equal_sides_are_at_distance_zero_and_there_is_no_slope(name):
    value, gradient = sample(0)
    distance, (w, u) = slopes(name, value, gradient, value, gradient)
    np.testing.assert_allclose(distance, 0, atol=1e-6)
    np.testing.assert_allclose(w, 0, atol=1e-5)
    np.testing.assert_allclose(u, 0, atol=1e-5)


@pytest.mark.parametrize("name", distances.names())
def test_a_step_down_the_slope_comes_nearer(name):
    (value_s, gradient_s), target = sample(0), sample(1)
    before, (w, u) = slopes(name, value_s, gradient_s, *target)
    step = 0.01 / (jnp.linalg.norm(w) + jnp.linalg.norm(u))
    after = distances.get(name)(value_s - step * w, gradient_s - step * u, *target)
    assert after < before


@pytest.mark.parametrize("name", distances.names())
@pytest.mark.parametrize("scale_s", [0.0, 1e-30, 1e-6, 1.0, 1e8])
@pytest.mark.parametrize("scale_t", [0.0, 1e-30, 1.0, 1e8])
def test_trap_6_finite_at_every_scale(name, scale_s, scale_t):
    (value_s, gradient_s), (value_t, gradient_t) = sample(0), sample(1)
    distance, (w, u) = slopes(name, scale_s * value_s, scale_s * gradient_s, scale_t * value_t, scale_t * gradient_t)
    assert bool(jnp.isfinite(distance))
    assert bool(jnp.all(jnp.isfinite(w)))
    assert bool(jnp.all(jnp.isfinite(u)))


@pytest.mark.parametrize(
    ("name", "neither", "no_source", "no_target"),
    [
        ("cosine", 1, 1, 1),
        ("weighted_cosine", 1, 1, 1),
        ("relative_l2", 0, 1, None),
        ("shared_l2", 0, 1, None),
        ("value", 0, 1, None),
        ("value_gradient", 0, 1, None),
    ],
)
def test_documented_values_at_zero(name, neither, no_source, no_target):
    value, gradient = sample(0)
    flat, zero = jnp.ones(M), jnp.zeros((M, H))
    distance = distances.get(name)
    np.testing.assert_allclose(distance(flat, zero, flat, zero), neither, atol=1e-6)
    np.testing.assert_allclose(distance(flat, zero, value, gradient), no_source, atol=1e-6)
    if no_target is not None:
        np.testing.assert_allclose(distance(value, gradient, flat, zero), no_target, atol=1e-6)


def test_cosine_is_the_mean_angle_and_blind_to_lengths():
    (value, gradient_s), (_, gradient_t) = sample(0), sample(1)
    s, t = np.asarray(gradient_s), np.asarray(gradient_t)
    norms = np.linalg.norm(s, axis=1) * np.linalg.norm(t, axis=1)
    expected = np.mean(1 - np.sum(s * t, axis=1) / norms)
    np.testing.assert_allclose(distances.cosine(value, gradient_s, value, gradient_t), expected, rtol=1e-5)
    lengths = jnp.arange(1.0, M + 1)[:, None]
    np.testing.assert_allclose(distances.cosine(value, lengths * gradient_s, value, gradient_t), expected, rtol=1e-5)
    np.testing.assert_allclose(distances.cosine(value, gradient_s, value, -gradient_s), 2, rtol=1e-5)
    _, (_, u) = slopes("cosine", value, gradient_s, value, gradient_t)
    np.testing.assert_allclose(jnp.sum(u * gradient_s, axis=1), 0, atol=1e-6)


def test_weighted_cosine_gives_a_collapsed_target_little_weight():
    value, gradient = sample(0)
    one_collapsed = gradient.at[0].multiply(1e-4)
    wrong = gradient.at[0].multiply(-1)
    plain = distances.cosine(value, wrong, value, one_collapsed)
    weighted = distances.weighted_cosine(value, wrong, value, one_collapsed)
    np.testing.assert_allclose(plain, 2 / M, rtol=0.02)
    assert weighted < 0.01 * plain
    norms = np.linalg.norm(gradient, axis=1)
    weights = norms / (norms + np.median(norms))
    angles = np.where(np.arange(M) == 0, 2, 0)
    expected = np.sum(weights * angles) / np.sum(weights)
    np.testing.assert_allclose(distances.weighted_cosine(value, wrong, value, gradient), expected, rtol=1e-5)


def test_shared_l2_knows_ratios_of_lengths_but_not_the_common_one():
    (value, gradient_s), (_, gradient_t) = sample(0), sample(1)
    gradient_s = gradient_t + 0.3 * gradient_s
    distance = distances.shared_l2(value, gradient_s, value, gradient_t)
    s, t = np.asarray(gradient_s).ravel(), np.asarray(gradient_t).ravel()
    residual = np.linalg.lstsq(s[:, None], t, rcond=None)[1][0] / (t @ t)
    np.testing.assert_allclose(distance, residual, rtol=1e-4)
    np.testing.assert_allclose(distances.shared_l2(value, 7 * gradient_s, value, gradient_t), residual, rtol=1e-4)
    lengths = jnp.arange(1.0, M + 1)[:, None]
    assert distances.shared_l2(value, lengths * gradient_t, value, gradient_t) > 0.05


def test_shared_l2_leads_back_from_the_wrong_side():
    value, gradient = sample(0)
    turned = jax.random.normal(jax.random.key(9), (M, H)) - gradient
    start = distances.shared_l2(value, turned, value, gradient)
    assert start > 1

    def descend(_, g):
        return g - 2.0 * slopes("shared_l2", value, g, value, gradient)[1][1]

    turned = jax.lax.fori_loop(0, 400, descend, turned)
    assert distances.shared_l2(value, turned, value, gradient) < 1e-2


def test_value_is_one_minus_squared_correlation_of_log_losses():
    (value_s, gradient), (noise, _) = sample(0), sample(1)
    value_t = value_s**2 * jnp.exp(0.1 * noise)
    r = np.corrcoef(np.log(value_s), np.log(value_t))[0, 1]
    assert r > 0.5
    np.testing.assert_allclose(distances.value(value_s, gradient, value_t, gradient), 1 - r**2, rtol=1e-3, atol=1e-6)
    same_order = distances.value(3 * value_s**2, gradient, value_s, gradient)
    np.testing.assert_allclose(same_order, 0, atol=1e-5)
    assert distances.value(1 / value_s, gradient, value_s, gradient) > 1
    np.testing.assert_allclose(distances.value(value_s[:1], gradient[:1], value_t[:1], gradient[:1]), 0, atol=1e-6)


def test_value_gradient_sees_losses_up_to_a_power_and_a_factor():
    value, gradient = sample(0)
    # c V^p has the log-jet (p (log V - mean), p dV / V): one shared scale p.
    powered = 5 * value**2, 10 * value[:, None] * gradient
    np.testing.assert_allclose(distances.value_gradient(*powered, value, gradient), 0, atol=1e-5)
    assert distances.value_gradient(value, -gradient, value, gradient) > 0.1
    assert distances.value_gradient(value[::-1], gradient, value, gradient) > 0.01


def test_value_gradient_weighs_its_parts_alike_in_any_unit():
    (value_s, gradient_s), (value_t, gradient_t) = sample(0), sample(1)
    expected = distances.value_gradient(value_s, gradient_s, value_t, gradient_t)
    scaled = distances.value_gradient(value_s, 100 * gradient_s, value_t, 100 * gradient_t)
    np.testing.assert_allclose(scaled, expected, rtol=1e-4)
    more = distances.value_gradient(value_s, jnp.tile(gradient_s, 3), value_t, jnp.tile(gradient_t, 3))
    np.testing.assert_allclose(more, expected, rtol=1e-4)
    # One candidate has no order of values: its gradient alone is compared.
    one = distances.value_gradient(value_s[:1], -gradient_t[:1], value_t[:1], gradient_t[:1])
    assert one > distances.value_gradient(value_t[:1], gradient_t[:1], value_t[:1], gradient_t[:1]) + 0.1


def test_one_candidate_from_several_initialisations_is_matched_by_its_gradient():
    (value_s, gradient_s), (value_t, gradient_t) = sample(0), sample(1)
    for count in (1, 2, 3):
        target = jnp.repeat(value_t[:1], count), jnp.repeat(gradient_t[:1], count, 0)
        aligned = jnp.repeat(gradient_t[:1] / value_t[0], count, 0) * value_s[:count, None]
        np.testing.assert_allclose(distances.value_gradient(value_s[:count], aligned, *target), 0, atol=1e-5)
        _, (_, u) = slopes("value_gradient", value_s[:count], gradient_s[:count], *target)
        assert jnp.linalg.norm(u) > 0.01


def test_joint_distances_do_not_depend_on_the_order_of_candidates():
    (value_s, gradient_s), (value_t, gradient_t) = sample(0), sample(1)
    order = jnp.asarray([3, 1, 4, 0, 2])
    for name in distances.names():
        distance = distances.get(name)
        shuffled = distance(value_s[order], gradient_s[order], value_t[order], gradient_t[order])
        np.testing.assert_allclose(shuffled, distance(value_s, gradient_s, value_t, gradient_t), rtol=1e-5)


def test_the_registry_takes_functions_and_names_the_nearest_name():
    assert distances.get("cosine") is distances.cosine
    assert distances.get(max) is max
    with pytest.raises(UserError, match=r"unknown distance 'cosin'; did you mean 'cosine'"):
        distances.get("cosin")
