"""A bilevel problem whose best hyperparameters are known, as the searches see it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.problem import Problem
from hcdc_jax.search import Objective
from hcdc_jax.spaces import Space
from hcdc_jax.training.candidates import evaluate
from hcdc_jax.training.train import Training
from hcdc_jax.types import Batch

LOW, HIGH = np.array([-1.0, 0.0], np.float32), np.array([1.0, 4.0], np.float32)
BEST = np.array([0.3, 2.5], np.float32)
FAILS_ABOVE = 0.7  # in the first hyperparameter; one of eight even draws does
STD = (HIGH - LOW) / np.sqrt(12)

SPACE = Space(
    name="toy",
    hparam_names=("a", "b"),
    from_unit=lambda u: jnp.broadcast_to(LOW, u.shape) + jnp.broadcast_to(HIGH - LOW, u.shape) * u,
    prior_std=tuple(STD.tolist()),
    project=lambda hparams: jnp.clip(hparams, LOW, HIGH),
)


def _train_loss(params, hparams, batch):
    del batch
    return 0.5 * jnp.sum((params - hparams) ** 2)


def _val_loss(params, hparams, batch):
    """`batch.inputs` [1, 2] is where the minimum is."""
    loss = 0.5 * jnp.sum(((params - batch.inputs[0]) / STD) ** 2)
    return jnp.where(hparams[0] > FAILS_ABOVE, jnp.nan, loss)


PROBLEM = Problem(
    init=lambda key, hparams: 0.1 * jax.random.normal(key, hparams.shape),
    apply=lambda params, hparams, inputs: params[None] - inputs,
    train_loss=_train_loss,
    val_loss=_val_loss,
)
TRAINING = Training(learning_rate=0.1, optimizer="momentum", steps=90)


def batch(minimum=BEST):
    return Batch(jnp.asarray(minimum)[None], jnp.zeros(1, int), jnp.ones(1))


def objective(minimum=BEST):
    return Objective(PROBLEM, batch(minimum), batch(minimum), TRAINING)


class Evaluator:
    """An `evaluate_fn` that keeps the shapes it was called with and counts how often the problem was traced."""

    def __init__(self, minimum=BEST):
        self.shapes, self.traces = [], 0
        self._val = batch(minimum)

        def train_loss(params, hparams, batch):
            self.traces += 1
            return _train_loss(params, hparams, batch)

        self._problem = PROBLEM._replace(train_loss=train_loss)

    def __call__(self, candidates):
        self.shapes.append(candidates.shape)
        return evaluate(
            jax.random.key(0), self._problem, candidates, self._val, self._val, training=TRAINING, chunk_size=8
        )
