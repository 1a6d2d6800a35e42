"""Vectors that are pytrees, and the ends of the spectrum of a symmetric map on them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hcdc_jax.types import Array, PyTree

MatVec = Callable[[PyTree], PyTree]


def single(x: Array) -> Array:
    """In float32 where its own type is narrower: sums of halves lose digits, and have neither eigenvalues nor roots."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def dot(a: PyTree, b: PyTree) -> Array:
    """Sum of products, in float32 at least. Not `jnp.vdot`, which accelerators may run in reduced precision."""
    products = jax.tree.map(lambda x, y: jnp.sum(single(x) * single(y)), a, b)
    return functools.reduce(jnp.add, jax.tree.leaves(products))


def norm(a: PyTree) -> Array:
    """Euclidean norm of all leaves together; its derivative at 0 is 0, where that of the root is infinite."""
    squared = dot(a, a)
    zero = squared == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, squared)))


def scale(factor: Array | float, a: PyTree) -> PyTree:
    """Returns factor * a in the dtypes of a."""
    return jax.tree.map(lambda x: (factor * x).astype(x.dtype), a)


def add_scaled(a: PyTree, factor: Array | float, b: PyTree) -> PyTree:
    """Returns a + factor * b in the dtypes of a."""
    return jax.tree.map(lambda x, y: (x + factor * y).astype(x.dtype), a, b)


def zeros_like(a: PyTree) -> PyTree:
    """Returns zeros with the structure of a."""
    return jax.tree.map(jnp.zeros_like, a)


def select(condition: Array, a: PyTree, b: PyTree) -> PyTree:
    """Returns a where the scalar condition holds, else b."""
    return jax.tree.map(functools.partial(jnp.where, condition), a, b)


def divide(numerator: Array | float, denominator: Array) -> Array:
    """Divides, and gives 0 where the denominator is 0."""
    zero = denominator == 0
    return jnp.where(zero, 0, numerator) / jnp.where(zero, 1, denominator)


class Spectrum(NamedTuple):
    """Estimates of the ends of a spectrum, both from inside: the true spectrum is at least as wide.

    Attributes:
      magnitude: largest |eigenvalue|.
      lower: smallest eigenvalue.
      num_matvecs: products spent.
    """

    magnitude: Array
    lower: Array
    num_matvecs: int


def lanczos_bounds(matvec: MatVec, like: PyTree, num_steps: int) -> Spectrum:
    """Estimates the ends of the spectrum of a symmetric map from the Krylov space of power iteration.

    Power iteration keeps the last vector of that space; Lanczos keeps two numbers per step and reads the best
    estimate in the whole space from them, at the same number of products. The start vector is fixed, so that a solver
    whose step size comes from here stays linear.

    Args:
      matvec: v -> A v.
      like: pytree that gives the shapes and dtypes of v.
      num_steps: products with A.

    Returns:
      A `Spectrum`.
    """
    leaves, treedef = jax.tree.flatten(like)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    noise = [jax.random.normal(key, leaf.shape, leaf.dtype) for key, leaf in zip(keys, leaves, strict=True)]
    start = jax.tree.unflatten(treedef, noise)
    start = scale(1 / norm(start), start)
    rounding = 100 * max(jnp.finfo(leaf.dtype).eps for leaf in leaves)

    def step(carry, _):
        previous, vector, beta = carry
        product = add_scaled(matvec(vector), -beta, previous)
        alpha = dot(vector, product)
        product = add_scaled(product, -alpha, vector)
        size = norm(product)
        # An exhausted Krylov space leaves rounding noise. A zero vector ends the recurrence; it adds a Ritz value 0.
        size = jnp.where(size <= rounding * (jnp.abs(alpha) + beta), 0, size)
        return (vector, scale(divide(1.0, size), product), size), (alpha, size)

    carry = (zeros_like(start), start, jnp.zeros_like(norm(start)))
    _, (alphas, betas) = jax.lax.scan(step, carry, length=num_steps)
    ritz = jnp.linalg.eigvalsh(jnp.diag(alphas) + jnp.diag(betas[:-1], 1) + jnp.diag(betas[:-1], -1))
    return Spectrum(jnp.max(jnp.abs(ritz)), jnp.min(ritz), num_steps)
