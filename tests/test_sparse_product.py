"""The sparse symmetric product: its value, all its derivatives and its batches, against dense matrices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

from hcdc_jax.models.sparse_product import SymmetricMatrix, by_entries, by_rows, symmetric_product

N = 30


def matrix_of(seed: int = 0) -> tuple[SymmetricMatrix, np.ndarray]:
    """Random symmetric entries; the last row is empty."""
    rng = np.random.default_rng(seed)
    dense = np.where(rng.uniform(size=(N, N)) < 0.2, rng.normal(size=(N, N)), 0.0)
    dense = (dense + dense.T).astype(np.float32)
    dense[-1] = dense[:, -1] = 0.0
    csr = sp.csr_matrix(dense)
    rows = np.repeat(np.arange(N, dtype=np.int32), np.diff(csr.indptr))
    return SymmetricMatrix(*map(jnp.asarray, (csr.data, csr.indices, rows, csr.indptr))), dense


MATRIX, DENSE = matrix_of()
X, V, W = np.random.default_rng(1).normal(size=(3, N, 4)).astype(np.float32)


def value(product, x):
    return jnp.sum(jnp.tanh(product(jnp.sin(product(x)))) * W)


def sparse(x):
    return symmetric_product(MATRIX, x)


def dense(x):
    return jnp.matmul(DENSE, x, precision="highest")


def gradient(product):
    return jax.grad(lambda x: value(product, x))


TRANSFORMS = {
    "value": lambda product: product(X),
    "gradient": lambda product: gradient(product)(X),
    "forward": lambda product: jax.jvp(lambda x: value(product, x), (X,), (V,))[1],
    "forward over reverse": lambda product: jax.jvp(gradient(product), (X,), (V,))[1],
    "reverse over reverse": lambda product: jax.grad(lambda x: jnp.vdot(gradient(product)(x), V))(X),
    "reverse over forward": lambda product: jax.grad(
        lambda x: jax.jvp(lambda y: value(product, y), (x,), (V,))[1]
    )(X),
    "linearised": lambda product: jax.linearize(gradient(product), X)[1](V),
    "batch": lambda product: jax.vmap(product)(jnp.stack([X, V, W])),
    "batch of one": lambda product: jax.vmap(gradient(product))(X[None]),
    "batch along another axis": lambda product: jax.vmap(product, in_axes=2)(jnp.stack([X, V], 2)),
    "batch of batches": lambda product: jax.vmap(jax.vmap(gradient(product)))(jnp.stack([X, V, W, X])[None]),
    "jacobian": lambda product: jax.jacfwd(lambda s: value(product, s * X))(0.7),
    "scan": lambda product: jax.lax.scan(lambda x, _: (0.1 * product(x), None), X, length=3)[0],
}  # fmt: skip


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("compiled", [False, True])
def test_it_is_the_dense_product_under(name, compiled):
    run = jax.jit(TRANSFORMS[name], static_argnums=0) if compiled else TRANSFORMS[name]
    expected = TRANSFORMS[name](dense)
    np.testing.assert_allclose(run(sparse), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("kernel", [by_rows, by_entries])
def test_both_kernels_are_the_product(kernel):
    np.testing.assert_allclose(jax.jit(kernel)(MATRIX, X), DENSE @ X, rtol=1e-5, atol=1e-5)


def test_no_step_of_it_holds_a_square_matrix_or_a_scatter():
    # Scatters are what makes the plain derivative of a sparse product slow on a CPU.
    def loss(x):
        return jnp.vdot(sparse(jnp.tanh(sparse(x))), W)

    text = jax.jit(jax.vmap(jax.grad(loss))).lower(X[None]).as_text()
    assert "scatter" not in text
    assert f"{N}x{N}x" not in text


def test_a_batch_of_matrices_is_refused():
    matrices = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), MATRIX)
    with pytest.raises(NotImplementedError, match="over signals"):
        jax.vmap(symmetric_product, in_axes=(0, None))(matrices, X)
