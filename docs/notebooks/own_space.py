# %% [markdown]
# # Your own space
# Two lines define a space; the losses read it by name. Here: weight decay of two layers and a gain, for a small network
# on scikit-learn's digits. A study does the rest: it condenses, ranks and searches.

# %%
import jax
import jax.numpy as jnp
import numpy as np
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


def penalty(params, h):
    return h["decay_1"] * jnp.sum(params["first"] ** 2) + h["decay_2"] * jnp.sum(params["second"] ** 2)


problem = hc.make_problem(init, apply, space=space, regulariser=penalty)

# %% [markdown]
# 600 images stand for the full data. The condensed set has 60 to train on and 30 to validate on; what those 30 are to
# tell eight full trainings say.

# %%
images, labels = load_digits(return_X_y=True)
order, images = np.random.default_rng(0).permutation(len(labels)), images / 8 - 1
train, val, test = ((images[part], labels[part]) for part in np.split(order, (600, 1200)))
study = hc.Study(
    problem, space, train, val, test, training=hc.Training(steps=150), name="digits_mlp",
    settings={"condense": {"val_factor": 0.5}},
)  # fmt: skip
condensed = study.condense(examples=60, full_trainings=8)
print(condensed)

# %% [markdown]
# How do 200 unseen candidates rank, against full trainings?

# %%
ranking = study.rank(200)
batches = [hc.as_batch(part) for part in (train, val)]
truth = hc.evaluate(jax.random.key(2), problem, jnp.asarray(ranking.hparams), *batches, training=hc.Training(steps=150))
agreement = hc.rank_report(truth.loss, ranking.scores.loss)["spearman"]
print(f"Spearman {agreement:.3f}; best: {ranking.best()[0]}")
assert agreement > 0.7

# %% [markdown]
# The best by the condensed data, and a few full trainings more.

# %%
found = study.search(500, method="random", top=2)
print(found["selected"]["settings"], found["selected"]["test_accuracy"])
