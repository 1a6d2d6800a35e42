"""Small images and small networks: blobs that tell classes apart, and the digits of scikit-learn."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.problem import Problem, mean_loss
from hcdc_jax.types import Array, HParams, Params, PyTree

NO_HPARAMS = ()


class Net(NamedTuple):
    """A problem and the features that its last layer reads."""

    problem: Problem
    embed: Callable[[Params, HParams, PyTree], Array]


@functools.cache
def conv_net(
    channels: int = 1,
    num_classes: int = 3,
    *,
    size: int = 6,
    width: int = 4,
    depth: int = 1,
    activation: Callable[[Array], Array] = jnp.tanh,
) -> Net:
    """Blocks of convolution, instance norm, activation and 2 x 2 average pooling, then a linear layer.

    The first hyperparameter, where there is one, is the logarithm of a weight decay.
    """
    features = width * (size // 2**depth) ** 2

    def init(key, hparams):
        del hparams
        keys = jax.random.split(key, depth + 1)
        params = {}
        for i in range(depth):
            shape = (3, 3, channels if i == 0 else width, width)
            params[f"conv{i}"] = _uniform(keys[i], shape, 9 * shape[2])
        params["linear"] = _uniform(keys[-1], (features, num_classes), features)
        return params

    def embed(params, hparams, inputs):
        del hparams
        x = inputs
        for i in range(depth):
            layer = params[f"conv{i}"]
            x = jax.lax.conv_general_dilated(
                x, layer["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = x + layer["bias"][None, None, None]
            centred = x - x.mean((1, 2), keepdims=True)
            x = activation(centred * jax.lax.rsqrt((centred**2).mean((1, 2), keepdims=True) + 1e-5))
            n, side = x.shape[0], x.shape[1] // 2
            x = x[:, : 2 * side, : 2 * side].reshape(n, side, 2, side, 2, width).mean((2, 4))
        return x.reshape(x.shape[0], -1)

    def apply(params, hparams, inputs):
        layer = params["linear"]
        return embed(params, hparams, inputs) @ layer["kernel"] + layer["bias"][None]

    def val_loss(params, hparams, batch):
        return mean_loss(apply(params, hparams, batch.inputs), batch)

    def train_loss(params, hparams, batch):
        squares = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
        decay = jnp.exp(hparams[0]) * squares if hparams.shape[0] else 0.0
        return val_loss(params, hparams, batch) + decay

    return Net(Problem(init, apply, train_loss, val_loss), embed)


def _uniform(key: Array, shape: tuple[int, ...], fan_in: int) -> dict[str, Array]:
    bound = fan_in**-0.5
    kernel, bias = jax.random.split(key)
    return {
        "kernel": jax.random.uniform(kernel, shape, minval=-bound, maxval=bound),
        "bias": jax.random.uniform(bias, shape[-1:], minval=-bound, maxval=bound),
    }


def blobs(num_images: int = 30, num_classes: int = 3, *, size: int = 6, channels: int = 1, seed: int = 0):
    """Images [n, size, size, channels] of a pattern per class under noise, and their labels, classes in turn."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num_images) % num_classes
    patterns = np.random.default_rng(99).normal(size=(num_classes, size, size, channels))
    return patterns[labels] + 0.5 * rng.normal(size=(num_images, size, size, channels)), labels.astype(np.int32)


def digits(seed: int = 0):
    """Normalised digits of scikit-learn [n, 8, 8, 1]: 1,000 for training and the other 797 for tests, with labels."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    train, test = order[:1000], order[1000:]
    images = (pixels - pixels[train].mean()) / pixels[train].std()
    images = images.reshape(-1, 8, 8, 1).astype(np.float32)
    return (images[train], labels[train].astype(np.int32)), (images[test], labels[test].astype(np.int32))
