"""Small bilevel problems with known answers, and an inner solver that reaches a strict minimum in float64."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree


def flat(tree):
    return ravel_pytree(tree)[0]


def relative_error(value, reference):
    value, reference = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(x)]) for x in (value, reference))
    return np.linalg.norm(value - reference) / np.linalg.norm(reference)


class Bilevel(NamedTuple):
    train_loss: object
    val_loss: object
    params: object
    hparams: object
    train_batch: object
    val_batch: object

    def at(self, params, hparams):
        return self._replace(params=params, hparams=hparams)


def minimiser(train_loss, like):
    """Returns `minimise(params, hparams, batch)`: damped Newton to a strict minimum, until rounding stops it."""
    unravel = ravel_pytree(like)[1]

    @jax.jit
    def jet(x, hparams, batch):
        def loss(x):
            return train_loss(unravel(x), hparams, batch)

        value, gradient = jax.value_and_grad(loss)(x)
        return value, gradient, jax.hessian(loss)(x)

    def minimise(params, hparams, batch):
        x, damping = np.asarray(flat(params)), 1.0
        value, gradient, hessian = map(np.asarray, jet(x, hparams, batch))
        for _ in range(1000):
            lowest = np.linalg.eigvalsh(hessian)[0]
            if lowest > 0 and np.linalg.norm(gradient) < 1e-7:
                break
            shift = damping + max(0.0, -2 * lowest)
            candidate = x - np.linalg.solve(hessian + shift * np.eye(x.size), gradient)
            jet_there = tuple(map(np.asarray, jet(candidate, hparams, batch)))
            if jet_there[0] < value:
                x, (value, gradient, hessian), damping = candidate, jet_there, damping / 3
            else:
                damping *= 4
        for _ in range(3):
            x = x - np.linalg.solve(hessian, gradient)
            _, gradient, hessian = map(np.asarray, jet(x, hparams, batch))
        assert np.linalg.norm(gradient) < 1e-13
        assert np.linalg.eigvalsh(hessian)[0] > 1e-6
        return unravel(jnp.asarray(x))

    return minimise


class Dense(NamedTuple):
    """H [P, P] and B [h, P] of the training loss, written out: the oracle that knows nothing of the library."""

    hessian: object
    mixed: object


def write_out(problem):
    theta, unravel = ravel_pytree(problem.params)
    lam, unravel_lam = ravel_pytree(problem.hparams)

    def inner(t, h):
        return problem.train_loss(unravel(t), unravel_lam(h), problem.train_batch)

    dense = jax.jit(
        lambda: Dense(jax.hessian(inner)(theta, lam), jax.jacfwd(jax.grad(inner), argnums=1)(theta, lam).T)
    )()
    assert dense.mixed.shape == (lam.size, theta.size)
    return dense


@functools.partial(jax.jit, static_argnums=(0, 4))
def _dense_hypergradient(val_loss, point, dense, val_batch, direct):
    v, d = map(flat, jax.grad(val_loss, argnums=(0, 1))(*point, val_batch))
    implicit = -dense.mixed @ jnp.linalg.solve(dense.hessian, v)
    return d + implicit if direct else implicit


def dense_hypergradient(problem, dense, val_batch, direct=True):
    return _dense_hypergradient(problem.val_loss, problem[2:4], dense, val_batch, direct)


# A tanh network whose activation is a mixture: an architecture-type hyperparameter that acts inside both losses.


def mlp_apply(params, hparams, x):
    mixture = hparams["mixture"]
    for weight, bias in params[:-1]:
        z = x @ weight + bias[None]
        x = mixture[0] * jnp.tanh(z) + mixture[1] * jnp.sin(z) + mixture[2] * z / jnp.sqrt(1 + z**2)
    weight, bias = params[-1]
    return x @ weight + bias[None]


def cross_entropy(logits, labels):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1))


def mlp_val_loss(params, hparams, batch):
    return cross_entropy(mlp_apply(params, hparams, batch["x"]), batch["y"])


def mlp_train_loss(params, hparams, batch):
    decay = jnp.exp(hparams["log_decay"])
    penalty = decay[0] * jnp.sum(flat(params[0]) ** 2) + decay[1] * jnp.sum(flat(params[1:]) ** 2)
    return mlp_val_loss(params, hparams, batch) + penalty


def mlp_init(key, sizes):
    keys = jax.random.split(key, len(sizes) - 1)
    pairs = zip(keys, sizes[:-1], sizes[1:], strict=True)
    return [(jax.random.normal(k, (i, o)) / jnp.sqrt(i), jnp.zeros(o)) for k, i, o in pairs]


def blobs(key, count, dimension=5, classes=3, spread=1.0):
    """Overlapping classes, so that the minimum is not at infinity."""
    kx, ky = jax.random.split(key)
    centres = jax.random.normal(jax.random.key(99), (classes, dimension))
    y = jax.random.randint(ky, (count,), 0, classes)
    x = centres[y] + spread * jax.random.normal(kx, (count, dimension))
    return {"x": x, "y": y}


def mlp_problem(sizes=(4, 6, 3), log_decay=(-4.0, -4.5)):
    hparams = {"log_decay": jnp.asarray(log_decay), "mixture": jnp.asarray([0.6, 0.3, 0.2])}
    train_batch, val_batch = (blobs(jax.random.key(seed), n, sizes[0]) for seed, n in ((1, 60), (2, 33)))
    params = mlp_init(jax.random.key(0), sizes)
    params = minimiser(mlp_train_loss, params)(params, hparams, train_batch)
    return Bilevel(mlp_train_loss, mlp_val_loss, params, hparams, train_batch, val_batch)
