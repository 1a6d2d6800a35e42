"""Hypergradient alignment and hyperparameter calibration on a problem that can be looked at.

Ridge regression with two groups of features and one log decay for each: lambda is a point in the plane, training is a
linear solve, and the loss of every lambda is known. `python docs/theorem1.py` draws docs/theorem1.png: bands of equal
rank of the loss (light is best) and directions of descent.

Theorem 1 of HCDC (arXiv 2405.17535): if the hypergradients of the synthetic problem point everywhere where those of
the real one do, losses are ranked alike, and the other way round. See docs/hypergradients.md for what it assumes.
"""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats

from hcdc_jax.hypergradients.fixed_networks import Pool, Target, frozen_matching
from hcdc_jax.hypergradients.implicit import hypergradient, response
from hcdc_jax.hypergradients.solvers import dense

GROUP = 3
FEATURES = 2 * GROUP
LOWEST, HIGHEST = -7.0, 1.0
SEED = 12  # the best candidate lies inside the square


def val_loss(params, hparams, batch):
    del hparams
    x, y = batch
    return jnp.mean((x @ params - y) ** 2)


def train_loss(params, hparams, batch):
    return val_loss(params, hparams, batch) + jnp.sum(jnp.repeat(jnp.exp(hparams), GROUP) * params**2)


def fit(hparams, batch):
    x, y = batch
    gram = x.T @ x / y.size + jnp.diag(jnp.repeat(jnp.exp(hparams), GROUP))
    return jnp.linalg.solve(gram, x.T @ y / y.size)


def real_data(num_train=18, num_val=300, seed=SEED):
    """Training and validation set of a noisy linear model whose second group of features matters less."""
    rng = np.random.default_rng(seed)
    weights = np.asarray([1.0, -0.8, 0.6, 0.25, 0.0, -0.2])
    x = rng.normal(size=(num_train + num_val, FEATURES))
    x = x + 0.5 * np.roll(x, 1, axis=1)
    y = x @ weights + rng.normal(size=num_train + num_val)
    train, val = (x[:num_train], y[:num_train]), (x[num_train:], y[num_train:])
    return jax.tree.map(jnp.asarray, (train, val))


def condense_exactly(batch):
    """FEATURES points with the loss of the whole set up to a factor and a constant: its QR factors."""
    x, y = batch
    q, r = jnp.linalg.qr(x)
    return r, q.T @ y


def grid(resolution=25):
    axis = jnp.linspace(LOWEST, HIGHEST, resolution)
    return jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 2)


@jax.jit
def landscape(candidates, train_batch, val_batch):
    """Losses [n] and hypergradients [n, 2] of the candidates [n, 2]."""

    def one(hparams):
        params = fit(hparams, train_batch)
        g, info = hypergradient(train_loss, val_loss, params, hparams, train_batch, val_batch, solver=dense())
        return info.value, g

    return jax.vmap(one)(candidates)


def kendall(losses, others):
    return float(scipy.stats.kendalltau(np.asarray(losses), np.asarray(others)).statistic)


def learn(start, train_batch, real_val, candidates, steps=400, learning_rate=0.03):
    """Matches the hypergradients of `start` to those of the real validation set at a few candidates."""
    params = jax.vmap(fit, in_axes=(0, None))(candidates, train_batch)
    solve = functools.partial(response, train_loss, train_batch=train_batch, solver=dense())
    pool = Pool(params, candidates, jax.vmap(lambda p, h: solve(p, h)[0])(params, candidates))
    target = Target(*landscape(candidates, train_batch, real_val))
    optimiser = optax.adam(learning_rate)

    def step(carry, _):
        batch, state = carry
        distance, gradient, _ = frozen_matching(val_loss, pool, batch, target)
        updates, state = optimiser.update(gradient, state)
        return (optax.apply_updates(batch, updates), state), distance

    (batch, _), distances = jax.jit(lambda b: jax.lax.scan(step, (b, optimiser.init(b)), length=steps))(start)
    return batch, distances


def downhill(g):
    return np.asarray(-g / jnp.linalg.norm(g, axis=1, keepdims=True)).T


def draw(path):
    import matplotlib.pyplot as plt

    train_batch, real_val = real_data()
    few = tuple(leaf[:FEATURES] for leaf in real_val)
    matched = jax.random.uniform(jax.random.key(0), (12, 2), minval=LOWEST, maxval=HIGHEST)
    learned, _ = learn(few, train_batch, real_val, matched)
    candidates, side = grid(41), 41
    points = 0.92 * (grid(11) - (LOWEST + HIGHEST) / 2) + (LOWEST + HIGHEST) / 2
    truth, real_arrows = landscape(candidates, train_batch, real_val)[0], landscape(points, train_batch, real_val)[1]
    panels = [
        (f"{real_val[1].size} real validation points", real_val),
        (f"misaligned: {FEATURES} of them", few),
        (f"aligned: {FEATURES} learned points", learned),
    ]
    figure, axes = plt.subplots(1, 3, figsize=(11, 4.2), sharex=True, sharey=True, layout="constrained")
    options = {"pivot": "mid", "scale": 15, "width": 0.006, "headwidth": 3.5}
    for axis, (title, val_batch) in zip(axes, panels, strict=True):
        losses = landscape(candidates, train_batch, val_batch)[0]
        ranks = scipy.stats.rankdata(losses) / losses.size
        x, y, z = (np.asarray(v).reshape(side, side) for v in (*candidates.T, ranks))
        axis.contourf(x, y, z, levels=np.linspace(0, 1, 13), cmap="Greys", alpha=0.55)
        axis.quiver(*np.asarray(points).T, *downhill(real_arrows), color="tab:orange", label="real", **options)
        best = axis.plot(*np.asarray(candidates[jnp.argmin(truth)]), "*", color="tab:orange", markersize=14)
        best[0].set_label("best candidate, real")
        if val_batch is not real_val:
            g = landscape(points, train_batch, val_batch)[1]
            axis.quiver(*np.asarray(points).T, *downhill(g), color="tab:blue", label="synthetic", **options)
            best = axis.plot(*np.asarray(candidates[jnp.argmin(losses)]), "o", color="tab:blue", markersize=8)
            best[0].set_label("best candidate, synthetic")
        axis.set_title(f"{title}\nKendall τ with the real losses {kendall(losses, truth):.2f}", fontsize=10)
        axis.set_xlabel("log decay, features 1–3")
    axes[2].plot(*np.asarray(matched).T, "x", color="black", markersize=5, label="matched candidate")
    axes[0].set_ylabel("log decay, features 4–6")
    figure.legend(*axes[2].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".png"))
