# %% [markdown]
# # Your own space
# Two lines define a space; the losses read it by name. Here: weight decay of two layers and a gain, for a small network
# on scikit-learn's digits. Then HCDC by hand: the synthetic validation set is an array of 30 images.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import hcdc_jax as hc
from hcdc_jax.problem import mean_loss

space = hc.spaces.box("digits_mlp", {"decay_1": (1e-5, 0.1, "log"), "decay_2": (1e-5, 0.1, "log"), "gain": (0.2, 2.0)})
print(space.hparam_names, space.prior_std)


# %%
def init(key, hparams):
    keys = jax.random.split(key)
    return {"first": 0.1 * jax.random.normal(keys[0], (64, 32)), "second": 0.2 * jax.random.normal(keys[1], (32, 10))}


def apply(params, hparams, inputs):
    return jnp.tanh(space.read(hparams)["gain"] * inputs @ params["first"]) @ params["second"]


def val_loss(params, hparams, batch):
    return mean_loss(apply(params, hparams, batch.inputs), batch)


def train_loss(params, hparams, batch):
    h = space.read(hparams)
    decay = h["decay_1"] * jnp.sum(params["first"] ** 2) + h["decay_2"] * jnp.sum(params["second"] ** 2)
    return val_loss(params, hparams, batch) + decay


problem = hc.Problem(init, apply, train_loss, val_loss)

# %%
images, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(labels))


def batch(index):
    return hc.Batch(jnp.asarray(images[index] / 8 - 1, jnp.float32), jnp.asarray(labels[index]), jnp.ones(len(index)))


train, val, small_train, small_val = (
    batch(order[slice(*span)]) for span in ((0, 600), (600, 1200), (0, 60), (600, 630))
)
key, training = jax.random.key(0), hc.Training(steps=150)
hc.models.check_losses(train_loss, val_loss, init(key, space.sample(key, 1)[0]), space.sample(key, 1)[0], train, val)

# %% [markdown]
# Eight full trainings give the targets; eight networks trained on the small set give the pool that stays put.

# %%
matched = space.spread(0, 8)


@jax.jit
@jax.vmap
def target(hparams):
    fit = lambda h: hc.train(key, problem, h, train, training)[0]  # noqa: E731
    gradient, info = hc.unrolled_hypergradient(fit, val_loss, hparams, val)
    return hc.Target(info.value, gradient)


@jax.jit
@jax.vmap
def member(hparams):
    params, response = hc.unrolled_response(lambda h: hc.train(key, problem, h, small_train, training)[0], hparams)
    return hc.Pool(params, hparams, response)


targets, pool = target(matched), member(matched)

# %% [markdown]
# Each step moves the images so that losses and hypergradients of the pool agree with the targets.

# %%
scale, optimizer = jnp.asarray(space.prior_std), optax.adam(0.02)


@jax.jit
def step(carry, _):
    batch, state = carry
    d, gradient, _ = hc.frozen_matching(val_loss, pool, batch, targets, distance="value_gradient", scale=scale)
    updates, state = optimizer.update(gradient.inputs, state)
    return (batch._replace(inputs=optax.apply_updates(batch.inputs, updates)), state), d


(learned, _), distance = jax.lax.scan(step, (small_val, optimizer.init(small_val.inputs)), length=100)
print(f"distance {distance[0]:.3f} -> {distance[-1]:.3f}")
assert distance[-1] < 0.5 * distance[0]

# %% [markdown]
# How do the 200 unseen candidates rank, against full trainings?

# %%
candidates = space.sample(jax.random.key(1), 200)
truth = hc.evaluate(jax.random.key(2), problem, candidates, train, val, training=training)
for name, validation in (("30 real images", small_val), ("600 real images", val), ("30 learned images", learned)):
    scores = hc.evaluate(jax.random.key(3), problem, candidates, small_train, validation, training=training)
    print(f"{name:18s} {hc.rank_report(truth.loss, scores.loss)['spearman']:.3f}")
