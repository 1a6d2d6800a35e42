"""The learned shift: its gradient against reverse mode, and a shift that is known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hcdc_jax import spaces
from hcdc_jax.condense import run
from hcdc_jax.condense.lambda_shift import ShiftData, lambda_shift
from hcdc_jax.hypergradients import distances
from hcdc_jax.problem import Problem
from hcdc_jax.training.train import Training, train

# The weights follow lambda plus whatever the training data add: data that add -OFFSET want lambda + OFFSET.
OFFSET = jnp.array([0.4, -0.2])
TOY = Problem(
    init=lambda key, hparams: 0.1 * jax.random.normal(key, hparams.shape),
    apply=lambda params, hparams, inputs: params,
    train_loss=lambda params, hparams, added: jnp.sum((params - hparams - added) ** 2),
    val_loss=lambda params, hparams, best: 0.1 + jnp.sum((jnp.sin(params) - best) ** 2),
)
CANDIDATES = jax.random.uniform(jax.random.key(0), (6, 2), minval=-1.0, maxval=1.0)
TRAINING = Training(learning_rate=0.05, steps=150)
BEST = jnp.array([0.3, -0.5])
SPACE = spaces.box("toy", {"a": (-5, 5), "b": (-5, 5)})


def data(rate: float = 0.05) -> ShiftData:
    value = jax.vmap(lambda h: TOY.val_loss(h, h, BEST))(CANDIDATES)
    return ShiftData(CANDIDATES, value, jnp.array([0.5, 2.0]), -OFFSET, BEST, TRAINING, jnp.float32(rate))


def test_a_known_shift_is_found():
    condenser, key = lambda_shift(TOY, SPACE, steps=120), jax.random.key(1)
    distances_seen = []
    state = run(
        key, condenser, condenser.init(key, jnp.zeros(2), data()), data(), steps=120, every=40,
        report=lambda step, state, info: distances_seen.append(np.asarray(info.distance)),
    )  # fmt: skip
    np.testing.assert_allclose(data().scale * state.variables, OFFSET, atol=0.03)
    assert distances_seen[-1][-1] < 0.01 < distances_seen[0][0]


def test_the_step_follows_the_exact_gradient():
    condenser, key, read = lambda_shift(TOY, SPACE, steps=120), jax.random.key(1), data(rate=1.0)
    start = jnp.array([0.1, 0.1])

    def objective(shift):
        def loss(hparams):
            shifted = hparams + read.scale * shift
            params, _ = train(key, TOY, shifted, read.train_batch, read.training)
            return TOY.val_loss(params, shifted, read.val_batch)

        values = jax.vmap(loss)(CANDIDATES)
        return distances.value(values, CANDIDATES, read.value, CANDIDATES)

    gradient = jax.grad(objective)(start)  # reverse mode, where the condenser goes forward
    updates, _ = optax.adam(1.0).update(gradient, optax.adam(1.0).init(start))
    state, info = jax.jit(condenser.step)(key, condenser.init(key, start, read), read)
    np.testing.assert_allclose(state.variables, start + updates, rtol=1e-4)
    np.testing.assert_allclose(state.opt_state[0].mu, 0.1 * gradient, rtol=1e-3)
    np.testing.assert_allclose(info.distance, objective(start), rtol=1e-4)


def test_a_candidate_that_diverges_has_no_say():
    condenser, key, read = lambda_shift(TOY, SPACE, steps=120), jax.random.key(1), data()
    lost = read._replace(hparams=read.hparams.at[2].set(jnp.nan))
    left = jnp.array([0, 1, 3, 4, 5])
    without = read._replace(hparams=read.hparams[left], value=read.value[left])
    states = [
        run(key, condenser, condenser.init(key, jnp.zeros(2), given), given, steps=5, every=5)
        for given in (lost, without)
    ]
    np.testing.assert_allclose(states[0].variables, states[1].variables, rtol=1e-4)
    assert (states[0].variables != 0).all()


def test_what_is_shifted_stays_where_a_model_can_be_trained():
    """Beyond the bounds of a rate nothing may be gained; a logarithm has none."""
    narrow = spaces.box("narrow", {"a": (-1, 1), "b": (1, 2, "log")})
    seen = []
    watched = TOY._replace(
        val_loss=lambda params, hparams, best: (seen.append(hparams), TOY.val_loss(params, hparams, best))[1]
    )
    far = jnp.array([9.0, 9.0])
    condenser, read = lambda_shift(watched, narrow, steps=5), data()
    with jax.disable_jit():
        condenser.step(
            jax.random.key(1), condenser.init(jax.random.key(1), far, read), read._replace(training=Training(steps=1))
        )
    assert seen
    for hparams in seen:
        hparams = jax.lax.stop_gradient(hparams)
        assert hparams[0] == 1.0
        assert hparams[1] > np.log(2)
