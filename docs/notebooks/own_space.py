# %% [markdown]
# # Your own space
# Two lines define a space; whatever has a parameter `h` reads it by name. Here: weight decay of two layers and a gain,
# for a small network on scikit-learn's digits. Then HCDC by hand: the synthetic validation set is an array of 30
# images.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import hcdc_jax as hc

space = hc.spaces.box("digits_mlp", {"decay_1": (1e-5, 0.1, "log"), "decay_2": (1e-5, 0.1, "log"), "gain": (0.2, 2.0)})
print(space.hparam_names, space.prior_std)


# %%
def init(key):
    keys = jax.random.split(key)
    return {"first": 0.1 * jax.random.normal(keys[0], (64, 32)), "second": 0.2 * jax.random.normal(keys[1], (32, 10))}


def apply(params, inputs, h):
    return jnp.tanh(h["gain"] * inputs @ params["first"]) @ params["second"]


def decay(params, h):
    return h["decay_1"] * jnp.sum(params["first"] ** 2) + h["decay_2"] * jnp.sum(params["second"] ** 2)


problem = hc.make_problem(init, apply, space=space, regulariser=decay)

# %%
images, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(labels))


def batch(index):
    return hc.as_batch((images[index] / 8 - 1, labels[index]))


train, val, small_train, small_val = (
    batch(order[slice(*span)]) for span in ((0, 600), (600, 1200), (0, 60), (600, 630))
)
key, training = jax.random.key(0), hc.Training(steps=150)
print(hc.models.check_problem(problem, space, train, val) or "nothing suspicious")

# %% [markdown]
# Eight full trainings give the targets; eight networks trained on the small set give the pool that stays put.

# %%
matched = space.spread(0, 8)


@jax.jit
@jax.vmap
def target(hparams):
    fit = lambda h: hc.train(key, problem, h, train, training)[0]  # noqa: E731
    gradient, info = hc.unrolled_hypergradient(fit, problem.val_loss, hparams, val)
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
    d, gradient, _ = hc.frozen_matching(problem.val_loss, pool, batch, targets, distance="value_gradient", scale=scale)
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
