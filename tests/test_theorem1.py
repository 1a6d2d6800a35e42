"""Theorem 1 of HCDC (arXiv 2405.17535), both ways, on the problem of docs/theorem1.py; and where it stops."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

spec = importlib.util.spec_from_file_location("theorem1", Path(__file__).parents[1] / "docs" / "theorem1.py")
toy = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toy)

pytestmark = pytest.mark.usefixtures("x64")


@pytest.fixture
def data():
    return toy.real_data()


@pytest.fixture
def few(data):
    return tuple(leaf[: toy.FEATURES] for leaf in data[1])


def cosines(a, b):
    return jnp.sum(a * b, axis=1) / (jnp.linalg.norm(a, axis=1) * jnp.linalg.norm(b, axis=1))


def test_aligned_hypergradients_rank_all_candidates_alike(data):
    """6 points that keep the loss of 300 up to a factor and a constant: aligned everywhere, not equal anywhere."""
    train_batch, real_val = data
    candidates = toy.grid(15)
    truth, g_real = toy.landscape(candidates, train_batch, real_val)
    losses, g = toy.landscape(candidates, train_batch, toy.condense_exactly(real_val))
    assert float(jnp.min(cosines(g, g_real))) > 1 - 1e-10
    assert toy.kendall(losses, truth) == 1
    assert float(jnp.min(jnp.abs(losses / truth - 1))) > 0.1


def test_each_misaligned_hypergradient_has_a_pair_in_the_wrong_order(data, few):
    """At angle alpha > 0 the step g_T/|g_T| - g_S/|g_S| raises one loss and lowers the other."""
    train_batch, real_val = data
    candidates = toy.grid(15)
    truth, g_real = toy.landscape(candidates, train_batch, real_val)
    losses, g = toy.landscape(candidates, train_batch, few)
    cosine = cosines(g, g_real)
    assert toy.kendall(losses, truth) < 0.5
    step = g_real / jnp.linalg.norm(g_real, axis=1, keepdims=True) - g / jnp.linalg.norm(g, axis=1, keepdims=True)
    neighbours = candidates + 1e-4 * step
    real_change = toy.landscape(neighbours, train_batch, real_val)[0] - truth
    change = toy.landscape(neighbours, train_batch, few)[0] - losses
    misaligned = cosine < 0.99
    assert jnp.sum(misaligned) > 50
    assert bool(jnp.all((real_change > 0) & (change < 0), where=misaligned))


def test_matching_a_few_hypergradients_ranks_candidates_that_were_not_matched(data, few):
    train_batch, real_val = data
    matched = jax.random.uniform(jax.random.key(0), (12, 2), minval=toy.LOWEST, maxval=toy.HIGHEST)
    learned, distances = toy.learn(few, train_batch, real_val, matched)
    assert distances[-1] < 0.01 < distances[0]
    truth, _ = toy.landscape(toy.grid(15), train_batch, real_val)
    before, after = (toy.landscape(toy.grid(15), train_batch, batch)[0] for batch in (few, learned))
    assert toy.kendall(before, truth) < 0.5
    assert toy.kendall(after, truth) > 0.85


def test_connected_space_with_disconnected_level_sets_is_not_enough():
    """Two valleys of f, one of them lifted along its own level sets: aligned everywhere, yet ranked otherwise.

    Alignment orders candidates along paths on which the loss is monotone, and there is none from valley to valley.
    """

    def f(x):
        return (x[0] ** 2 - 1) ** 2 + x[1] ** 2

    def lifted(x):
        depth = jnp.maximum(1 - f(x), 0)  # the valleys meet at the saddle, f = 1
        return f(x) + jnp.where(x[0] > 0, 0.3 * depth**3, 0)

    axis = jnp.linspace(-1.53, 1.49, 40)
    points = jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    slopes, lifted_slopes = jax.vmap(jax.grad(f))(points), jax.vmap(jax.grad(lifted))(points)
    np.testing.assert_allclose(cosines(slopes, lifted_slopes), 1, atol=1e-12)
    left, right = jnp.asarray([-0.9, 0.0]), jnp.asarray([1.0, 0.0])
    assert f(left) > f(right)
    assert lifted(left) < lifted(right)
