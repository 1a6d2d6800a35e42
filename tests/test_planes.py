"""Convolutions and means of planes against JAX's own, with all their derivatives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcdc_jax.models.planes import convolved_planes, pooled, times_pooled

KEY = jax.random.key(0)
SIDES = (12, 6)


def _convolved(planes, kernel, stride):
    border = ((len(kernel) - 1) // 2,) * 2
    return jax.lax.conv_general_dilated(
        planes, kernel, (stride, stride), (border, border), dimension_numbers=("CHWN", "HWIO", "CHWN"),
        precision="highest",
    )  # fmt: skip


def _means(planes):
    def windows(planes):
        return jax.lax.reduce_window(planes, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")

    return windows(planes) / windows(jnp.ones_like(planes))


def _sines(function):
    """A scalar of which no derivative is constant."""
    return lambda x, y: jnp.sin(function(x, y)).sum()


def _slopes(function):
    return jax.grad(_sines(function), (0, 1))


# What is asked of a function of two arrays, at both of them.
ASKED = {
    "value": lambda f, x, y: f(x, y),
    "slopes": lambda f, x, y: _slopes(f)(x, y),
    "slopes, compiled and computed again": lambda f, x, y: jax.jit(jax.grad(jax.checkpoint(_sines(f)), (0, 1)))(x, y),
    "forward over reverse": lambda f, x, y: jax.jvp(_slopes(f), (x, y), (jnp.cos(x), jnp.cos(y))),
    "reverse over reverse": lambda f, x, y: jax.grad(
        lambda x, y: sum(jnp.tanh(slope).sum() for slope in _slopes(f)(x, y)), (0, 1)
    )(x, y),
    "second of the first": lambda f, x, y: jax.grad(lambda y: jnp.tanh(jax.grad(_sines(f))(x, y)).sum())(y),
    "slopes of many firsts": lambda f, x, y: jax.vmap(lambda x: _slopes(f)(x, y), -1, -1)(jnp.stack([x, 2 * x], -1)),
    "slopes of many seconds": lambda f, x, y: jax.vmap(lambda y: _slopes(f)(x, y))(jnp.stack([y, 2 * y])),
    "slopes of many pairs": lambda f, x, y: jax.vmap(_slopes(f))(jnp.stack([x, 2 * x]), jnp.stack([y, 0 * y])),
    "slopes of all pairs": lambda f, x, y: jax.vmap(
        jax.vmap(_slopes(f), (None, 0)), (0, None)
    )(jnp.stack([x, 2 * x, -x]), jnp.stack([y, 2 * y])),
    "slope of the sum of many": lambda f, x, y: jax.grad(
        lambda x, y: jnp.sin(jax.vmap(lambda y: f(x, y))(jnp.stack([y, 2 * y]))).sum(), (0, 1)
    )(x, y),
    "slope through training": lambda f, x, y: jax.grad(
        lambda y: jax.lax.scan(lambda x, _: (x - 0.1 * jax.grad(_sines(f))(x, y), None), x, length=3)[0].sum()
    )(y),
}  # fmt: skip


def _agree(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), found, expected)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 1), (3, 2), (5, 3)])
def test_convolutions_are_those_of_jax(size, stride, asked):
    planes = jax.random.normal(KEY, (2, *SIDES, 3), float)
    kernel = jax.random.normal(KEY, (size, size, 2, 4), float)
    ask = ASKED[asked]
    _agree(
        ask(lambda planes, kernel: convolved_planes(planes, kernel, stride, "highest"), planes, kernel),
        ask(lambda planes, kernel: _convolved(planes, kernel, stride), planes, kernel),
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_weighted_means_are_computed_where_there_is_a_weight_and_have_slopes_everywhere(weight, asked):
    weight, planes = jnp.asarray(weight), jax.random.normal(KEY, (2, *SIDES, 3), float)
    ask = ASKED[asked]
    _agree(ask(times_pooled, weight, planes), ask(lambda weight, planes: weight * _means(planes), weight, planes))


def test_means_are_those_of_the_pixels_that_there_are():
    planes = jax.random.normal(KEY, (2, *SIDES, 3))
    np.testing.assert_allclose(pooled(planes), _means(planes), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pooled(jnp.ones((1, 4, 4, 1))), 1, rtol=1e-6)


def test_numbers_that_are_not_there_do_no_harm_where_the_weight_is_nothing():
    planes = jnp.full((1, 4, 4, 1), jnp.inf)
    assert (times_pooled(jnp.zeros(()), planes) == 0).all()
    slope = jax.grad(lambda planes: times_pooled(jnp.zeros(()), planes).sum())(planes)
    assert (slope == 0).all()


def test_arrays_of_two_types_have_slopes_of_their_own(x64):
    planes, kernel = jnp.ones((2, 4, 4, 1), jnp.float32), jnp.ones((3, 3, 2, 4), jnp.float64)
    slopes = jax.grad(lambda *arrays: convolved_planes(*arrays, 1, "highest").sum(), (0, 1))(planes, kernel)
    assert [slope.dtype for slope in slopes] == [jnp.float32, jnp.float64]
    slopes = jax.grad(lambda *arrays: times_pooled(*arrays).sum(), (0, 1))(jnp.float64(0.5), planes)
    assert [slope.dtype for slope in slopes] == [jnp.float64, jnp.float32]
