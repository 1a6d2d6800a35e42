"""Zero-cost proxies against the same numbers by other means, on networks small enough to write out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcdc_jax import spaces
from hcdc_jax.models import image_problem
from hcdc_jax.models.nas_bench_201 import size_of
from hcdc_jax.search import grad_norm, jacob_cov, nas_bench_201_proxies, naswot, snip, synflow
from hcdc_jax.types import Batch

KEY = jax.random.key(0)
NO_HPARAMS = jnp.zeros(0)
PROBLEM = image_problem("mlp", (2, 3, 1), 3, width=5, depth=1)
IMAGES = np.random.default_rng(0).normal(size=(4, 2, 3, 1))
LABELS = np.array([0, 1, 2, 1])
BATCH = Batch(jnp.asarray(IMAGES, jnp.float32), jnp.asarray(LABELS), jnp.ones(4))


@pytest.fixture(name="layers", scope="module")
def _layers():
    """Kernel and bias of both layers of the network that the proxies start from."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), PROBLEM.init(KEY, NO_HPARAMS))
    (hidden,) = (leaves for name, leaves in params.items() if name.startswith("Dense"))
    (head,) = (leaves["Dense_0"] for name, leaves in params.items() if name.startswith("Head"))
    return hidden["kernel"], hidden["bias"], head["kernel"], head["bias"]


def gradients(layers):
    """Of the mean cross-entropy in both kernels, by the chain rule."""
    kernel, bias, last, last_bias = layers
    x = IMAGES.reshape(4, -1)
    before = x @ kernel + bias
    logits = np.maximum(before, 0) @ last + last_bias
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    wrong = (p - np.eye(3)[LABELS]) / 4
    return x.T @ ((wrong @ last.T) * (before > 0)), np.maximum(before, 0).T @ wrong


def test_grad_norm_sums_the_norms_of_layers(layers):
    expected = sum(np.linalg.norm(gradient) for gradient in gradients(layers))
    np.testing.assert_allclose(grad_norm(KEY, PROBLEM, NO_HPARAMS, BATCH), expected, rtol=1e-5)


def test_snip_sums_what_weights_do_to_the_loss(layers):
    expected = sum(np.abs(w * g).sum() for w, g in zip((layers[0], layers[2]), gradients(layers), strict=True))
    np.testing.assert_allclose(snip(KEY, PROBLEM, NO_HPARAMS, BATCH), expected, rtol=1e-5)


def test_synflow_sums_over_all_paths(layers):
    kernel, bias, last, _ = map(np.abs, layers)
    paths = kernel.sum(0) * last.sum(1)  # of all inputs through each hidden unit; each counts once for each kernel
    expected = np.log(2 * paths.sum() + (bias * last.sum(1)).sum())
    np.testing.assert_allclose(synflow(KEY, PROBLEM, NO_HPARAMS, BATCH), expected, rtol=1e-5)


def test_synflow_does_not_overflow():
    """Four layers of weights near 1e10 multiply to 1e40, which single precision does not hold."""
    problem = image_problem("mlp", (2, 3, 1), 3, width=5, depth=3)
    large = problem._replace(init=lambda key, h: jax.tree.map(lambda leaf: 1e10 * leaf, problem.init(key, h)))
    plain, scaled = (synflow(KEY, one, NO_HPARAMS, BATCH) for one in (problem, large))
    # Biases make up a share of the small network's score only.
    np.testing.assert_allclose(scaled - plain, 4 * np.log(1e10), atol=1.0)
    assert np.isfinite(scaled)


def test_jacob_cov_is_that_of_the_jacobian(layers):
    kernel, bias, last, _ = layers
    active = IMAGES.reshape(4, -1) @ kernel + bias > 0
    jacobian = (active * last.sum(1)) @ kernel.T
    eigenvalues = np.linalg.eigvalsh(np.corrcoef(jacobian)) + 1e-5
    expected = -(np.log(eigenvalues) + 1 / eigenvalues).sum()
    np.testing.assert_allclose(jacob_cov(KEY, PROBLEM, NO_HPARAMS, BATCH), expected, rtol=1e-2)


def test_naswot_is_the_determinant_of_what_images_share(layers):
    signs = IMAGES.reshape(4, -1) @ layers[0] + layers[1] > 0

    def agreement(params, hparams, images):
        del hparams, images
        (hidden,) = (leaves for name, leaves in params.items() if name.startswith("Dense"))
        found = jnp.asarray(IMAGES.reshape(4, -1)) @ hidden["kernel"] + hidden["bias"][None] > 0
        return (found[:, None] == found[None]).sum(-1) + 0.5 * jnp.eye(4)

    distances = (signs[:, None] != signs[None]).sum(-1)
    expected = np.log(np.linalg.det(5.0 - distances + 0.5 * np.eye(4)))
    np.testing.assert_allclose(naswot(KEY, PROBLEM, NO_HPARAMS, BATCH, agreement=agreement), expected, rtol=1e-4)


def test_every_proxy_goes_under_vmap_over_cells():
    space, shape, options = spaces.get("nas_bench_201"), (4, 4, 1), {"width": 2, "depth": 1}
    proxies = nas_bench_201_proxies(shape, 3, read=space.read, **options)
    assert set(proxies) == {"num_parameters", "flops", "grad_norm", "snip", "synflow", "jacob_cov", "naswot"}
    batch = Batch(jax.random.normal(KEY, (3, *shape)), jnp.arange(3), jnp.ones(3))
    cells = space.sample(KEY, 3)
    for proxy in proxies.values():
        assert jax.eval_shape(jax.vmap(proxy, (None, 0, None)), KEY, cells, batch).shape == (3,)
    for name, field in (("num_parameters", "parameters"), ("flops", "flops")):
        found = jax.vmap(proxies[name], (None, 0, None))(KEY, cells, batch)
        expected = [getattr(size_of(np.asarray(cell).reshape(6, 5), shape, 3, **options), field) for cell in cells]
        np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_every_proxy_tells_cells_apart():
    space, shape = spaces.get("nas_bench_201"), (8, 8, 1)
    proxies = nas_bench_201_proxies(shape, 3, read=space.read, width=4, depth=1)
    batch = Batch(jax.random.normal(KEY, (6, *shape)), jnp.arange(6) % 3, jnp.ones(6))
    cells = spaces.one_hot([(3,) * 6, (2,) * 6, (3, 0, 2, 4, 3, 1)])
    for proxy in proxies.values():
        found = np.asarray(jax.jit(jax.vmap(proxy, (None, 0, None)))(KEY, cells, batch))
        assert np.isfinite(found).all()
        assert len(set(found.tolist())) == 3
        np.testing.assert_allclose(found[1], jax.jit(proxy)(KEY, cells[1], batch), rtol=1e-2)
