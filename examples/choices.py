"""A network whose activation, penalty and learning rate are searched: choices, and what depends on them.

    hcdc search examples/choices.py --method calibrated --top 3
    hcdc run examples/choices.py

Breast cancer data of scikit-learn, 569 rows. The activation is relaxed: networks are trained at mixtures of the three,
so its weights have hypergradients. The penalty is not; its strength acts only where there is one, and the factor of the
learning rate only where a candidate has its own.
"""

import jax
import jax.numpy as jnp
from sklearn.datasets import load_breast_cancer

import hcdc_jax as hc
from hcdc_jax.spaces import choice, when

X, y = load_breast_cancer(return_X_y=True)
X = (X - X.mean(0)) / X.std(0)
space = hc.spaces.box(
    "choices",
    {
        "activation": choice(["relu", "tanh", "gelu"], relaxed=True),
        "penalty": choice(["none", "l2", "l1"]),
        "strength": when((1e-5, 1e-1, "log"), penalty=["l2", "l1"]),
        "rate": choice(["usual", "own"]),
        "rate_factor": when((0.1, 10.0, "log"), rate="own"),
        "gain": (0.3, 3.0),
    },
)


def init(key):
    first, second = jax.random.split(key)
    return {"first": 0.2 * jax.random.normal(first, (30, 32)), "second": 0.2 * jax.random.normal(second, (32, 2))}


def apply(params, inputs, h):
    hidden = h["gain"] * inputs @ params["first"]
    return hc.mix(h["activation"], [jax.nn.relu(hidden), jnp.tanh(hidden), jax.nn.gelu(hidden)]) @ params["second"]


def penalty(params, h):
    squares = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
    sizes = sum(jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(params))
    return h["strength"] * hc.chosen(h["penalty"], [0.0, squares, sizes])


problem = hc.make_problem(init, apply, space=space, regulariser=penalty, learning_rate_factor="rate_factor")
study = hc.Study(
    problem,
    space,
    train=(X, y),
    training=hc.Training(steps=100),
    name="choices",
    settings={"condense": {"examples": 60, "val_factor": 1.0}, "hcdc": {"steps": 100}},
)
