"""Inner training against a plain loop of optax, and its derivatives against each other."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hcdc_jax.batches.graphs import real_batch
from hcdc_jax.hypergradients.fixed_networks import frozen_hypergradient, unrolled_hypergradient, unrolled_response
from hcdc_jax.models import spectral_gnn
from hcdc_jax.problem import Problem
from hcdc_jax.training.train import (
    OPTIMIZERS,
    Training,
    advance,
    all_finite,
    begin,
    step_gradient,
    thrifty_gradient,
    train,
)
from hcdc_jax.types import Batch
from tests.bilevel import relative_error
from tests.small_graphs import block_graph

DATA = block_graph(30)
PROBLEM = spectral_gnn(5, 3, hidden=4, activation="tanh")
KEY = jax.random.key(3)
LAM = (0.5, -0.6, 0.3)


def batches():
    """Training and validation part in the precision that is switched on."""
    parts = [real_batch(DATA, index, order=2, basis="laplacian") for index in (DATA.train_idx, DATA.val_idx)]
    return [jax.tree.map(lambda x: x.astype(float) if x.dtype == jnp.float32 else x, part) for part in parts]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_is_a_plain_loop(optimizer):
    training = Training(learning_rate=0.05, optimizer=optimizer, steps=7)
    batch, _ = batches()
    lam = jnp.array(LAM)
    transformation = OPTIMIZERS[optimizer](0.05)

    @jax.jit
    def step(params, state):
        loss, gradient = jax.value_and_grad(PROBLEM.train_loss)(params, lam, batch)
        updates, state = transformation.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    params = jax.jit(PROBLEM.init)(jax.random.key(4), lam)
    state, losses = transformation.init(params), []
    for _ in range(7):
        params, state, loss = step(params, state)
        losses.append(loss)
    trained, info = jax.jit(train, static_argnums=1)(jax.random.key(4), PROBLEM, lam, batch, training)
    np.testing.assert_allclose(info.losses, losses, rtol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), trained, params)


def test_training_lowers_the_loss_and_classifies():
    batch, val = batches()
    params, info = jax.jit(train, static_argnums=1)(
        jax.random.key(0), PROBLEM, jnp.array(LAM), batch, Training(steps=99)
    )
    assert info.losses[-1] < 0.5 * info.losses[0]
    assert (PROBLEM.apply(params, jnp.array(LAM), val.inputs)[:10].argmax(1) == val.labels).mean() > 0.8


def test_unrolled_derivatives_do_not_depend_on_mode_or_remat(x64):
    batch, val = batches()
    lam = jnp.array(LAM)
    # Flax makes float32 parameters whatever the default precision is.
    problem = PROBLEM._replace(init=lambda *args: jax.tree.map(lambda x: x.astype(float), PROBLEM.init(*args)))
    training = Training(learning_rate=0.05, steps=15)

    def fit(lam, training=training):
        return train(jax.random.key(2), problem, lam, batch, training)[0]

    @jax.jit
    def by_reverse(lam, training):
        return unrolled_hypergradient(lambda lam: fit(lam, training), problem.val_loss, lam, val)

    @jax.jit
    def by_forward(lam):
        params, response = unrolled_response(fit, lam)
        return frozen_hypergradient(problem.val_loss, params, lam, response, val), params

    reverse, info = by_reverse(lam, training)
    again, info_again = by_reverse(lam, dataclasses.replace(training, remat=True))
    (value, forward), params = by_forward(lam)
    assert relative_error(forward, reverse) < 1e-10
    assert relative_error(again, reverse) < 1e-12
    assert relative_error(params, info.params) < 1e-12
    np.testing.assert_allclose([value, info_again.value], info.value, rtol=1e-12)
    for i in range(3):
        step = 1e-5 * jnp.eye(3)[i]
        ends = [by_reverse(lam + sign * step, training)[1].value for sign in (1, -1)]
        np.testing.assert_allclose((ends[0] - ends[1]) / 2e-5, reverse[i], rtol=1e-5)


def test_a_changed_learning_rate_compiles_nothing():
    batch, _ = batches()
    traced = []

    @jax.jit
    def losses(training):
        traced.append(training.optimizer)
        return train(jax.random.key(0), PROBLEM, jnp.array(LAM), batch, training)[1].losses

    first, second = losses(Training(0.01, steps=3)), losses(Training(0.02, steps=3))
    assert len(traced) == 1
    assert first[2] != second[2]
    losses(Training(0.01, steps=4))
    assert len(traced) == 2


def test_vmap_over_candidates_and_over_keys_is_a_sweep():
    batch, _ = batches()
    lams = jnp.stack([jnp.array(LAM), -jnp.array(LAM)])
    keys = jax.random.split(jax.random.key(0), 2)
    sweep = jax.jit(jax.vmap(lambda key, lam: train(key, PROBLEM, lam, batch, Training(steps=5))[1].losses))
    alone = jax.jit(lambda key, lam: train(key, PROBLEM, lam, batch, Training(steps=5))[1].losses)
    for i, losses in enumerate(sweep(keys, lams)):
        np.testing.assert_allclose(losses, alone(keys[i], lams[i]), rtol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_all_finite_sees_one_bad_number(bad):
    assert all_finite({"a": jnp.zeros(3), "b": jnp.zeros((2, 2))})
    assert not all_finite({"a": jnp.zeros(3), "b": jnp.zeros((2, 2)).at[1, 0].set(bad)})


def noisy_regression():
    """Linear regression whose inputs training sees under noise of the size `hparams`."""

    def train_loss(params, hparams, batch):
        return jnp.mean(batch.weights * (batch.inputs @ params - batch.labels) ** 2)

    def perturb(key, hparams, batch):
        return batch._replace(inputs=batch.inputs + hparams * jax.random.normal(key, batch.inputs.shape))

    problem = Problem(lambda key, hparams: jnp.zeros(3), lambda p, h, x: x @ p, train_loss, train_loss, perturb)
    inputs = jax.random.normal(jax.random.key(0), (10, 3))
    return problem, Batch(inputs, inputs @ jnp.array([1.0, -2.0, 0.5]), jnp.ones(10))


def test_an_epoch_of_mini_batches_sees_every_example_once():
    # The loss at the zeros that SGD with rate 0 never leaves is the mean over the mini-batch of labels squared.
    problem, batch = noisy_regression()
    training = Training(0.0, "sgd", steps=9, batch_size=3)
    _, info = train(jax.random.key(1), problem, jnp.zeros(()), batch, training)
    squares = batch.labels**2
    for epoch in range(3):
        of_epoch = 3 * info.losses[3 * epoch : 3 * epoch + 3]
        left_out = squares.sum() - of_epoch.sum()  # 10 = 3 x 3 + 1
        assert jnp.abs(squares - left_out).min() < 1e-4
    assert len(set(np.round(np.asarray(info.losses), 4).tolist())) > 3  # epochs differ in their order


def test_stored_order_takes_one_batch_after_the_other():
    problem, batch = noisy_regression()
    training = Training(0.0, "sgd", steps=6, batch_size=4, order="stored")
    _, info = train(jax.random.key(1), problem, jnp.zeros(()), batch, training)
    squares = np.asarray(batch.labels**2)
    epoch = [squares[:4].mean(), squares[4:8].mean(), squares[[8, 9, 0, 1]].mean()]
    np.testing.assert_allclose(info.losses, 2 * epoch, rtol=1e-5)


def test_batches_as_large_as_the_data_are_full_batches():
    problem, batch = noisy_regression()
    whole, _ = train(jax.random.key(1), problem, jnp.zeros(()), batch, Training(0.1, steps=4))
    for size in (10, 11):
        same, _ = train(jax.random.key(1), problem, jnp.zeros(()), batch, Training(0.1, steps=4, batch_size=size))
        np.testing.assert_array_equal(same, whole)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_training_in_parts_is_training_in_one_go(schedule):
    problem, batch = noisy_regression()
    training = Training(0.1, "adam", steps=7, batch_size=4, schedule=schedule)
    key, noise = jax.random.key(2), jnp.float32(0.3)
    whole, _ = train(key, problem, noise, batch, training)
    trainee = begin(key, problem, noise, training)
    for steps in (3, 4):
        trainee = advance(problem, noise, trainee, batch, training, steps)
    np.testing.assert_allclose(trainee.params, whole, rtol=1e-6)
    assert trainee.step == 7


def test_a_cosine_schedule_ends_at_rest():
    problem, batch = noisy_regression()
    training = Training(0.5, "sgd", steps=50, schedule="cosine")
    trainee = advance(
        problem, jnp.zeros(()), begin(jax.random.key(0), problem, jnp.zeros(()), training), batch, training, 49
    )
    last = advance(problem, jnp.zeros(()), trainee, batch, training, 1)
    rate = 0.5 * 0.5 * (1 + np.cos(np.pi * 49 / 50))
    gradient = jax.grad(problem.train_loss)(trainee.params, jnp.zeros(()), batch)
    np.testing.assert_allclose(last.params, trainee.params - rate * gradient, rtol=1e-5)


def test_hypergradients_of_what_perturbs_training_are_those_of_differences(x64):
    problem, batch = noisy_regression()
    batch = jax.tree.map(lambda leaf: leaf.astype(float), batch)
    training = Training(0.1, "sgd", steps=12, batch_size=5)

    @jax.jit
    def by_reverse(noise):
        fit = lambda noise: train(jax.random.key(3), problem, noise, batch, training)[0]  # noqa: E731
        return unrolled_hypergradient(fit, problem.val_loss, noise, batch)

    slope, _ = by_reverse(jnp.float64(0.4))
    ends = [by_reverse(jnp.float64(0.4 + step))[1].value for step in (1e-5, -1e-5)]
    np.testing.assert_allclose((ends[0] - ends[1]) / 2e-5, slope, rtol=1e-6)
    assert slope > 0


def linear_problem(noise=0.0):
    def loss(params, lam, batch):
        return jnp.mean((batch.inputs @ params["w"] - batch.labels) ** 2) + jnp.exp(lam[0]) * jnp.sum(params["w"] ** 2)

    def perturb(key, lam, batch):
        size = noise * jnp.exp(lam[1])
        return batch._replace(inputs=batch.inputs + size * jax.random.normal(key, batch.inputs.shape))

    init = lambda key, lam: {"w": jax.random.normal(key, (3,))}  # noqa: E731
    return Problem(init, None, loss, loss, perturb)


def test_a_thrifty_reverse_pass_is_exact_where_all_batches_say_the_same(x64):
    problem, lam = linear_problem(), jnp.array([-2.0, 0.5])
    inputs = jnp.asarray(np.repeat(np.random.default_rng(0).normal(size=(1, 3)), 12, 0))
    batch = Batch(inputs, jnp.ones(12), jnp.ones(12))  # one example, twelve times

    def by_reverse(**options):
        training = Training(learning_rate=0.05, steps=15, batch_size=6, **options)
        fit = lambda lam: train(jax.random.key(2), problem, lam, batch, training)[0]  # noqa: E731
        return unrolled_hypergradient(fit, problem.val_loss, lam, batch)

    (whole, info), (thrifty, info_thrifty) = by_reverse(), by_reverse(adjoint_batch_size=2)
    assert relative_error(thrifty, whole) < 1e-10
    assert relative_error(info_thrifty.params, info.params) < 1e-12


def test_a_thrifty_gradient_trains_on_all_and_differentiates_on_fewer():
    problem, lam = linear_problem(noise=0.5), jnp.array([-2.0, 0.5])
    rng = np.random.default_rng(1)
    batch = Batch(jnp.asarray(rng.normal(size=(12, 3))), jnp.asarray(rng.normal(size=12)), jnp.ones(12))
    training = Training(batch_size=6, adjoint_batch_size=3)
    params, step, weights = {"w": jnp.array([0.3, -0.2, 0.5])}, jnp.asarray(4), jnp.array([1.0, 2.0, 3.0])

    def along(gradient_of, training):
        def gradient(params, lam):
            return gradient_of(problem, params, lam, KEY, step, batch, training)[1]["w"] @ weights

        return jax.value_and_grad(gradient, argnums=(0, 1))(params, lam)

    value, slopes = along(thrifty_gradient, training)
    assert value == along(step_gradient, training)[0]
    expected = along(step_gradient, dataclasses.replace(training, batch_size=3))[1]
    assert relative_error(slopes, expected) < 1e-5
    assert relative_error(slopes, along(step_gradient, training)[1]) > 0.01
    assert abs(slopes[1][1]) > 1e-3  # the size of the noise is felt


def test_no_steps_leave_what_was_initialised():
    problem, batch = linear_problem(), Batch(jnp.ones((6, 3)), jnp.ones(6), jnp.ones(6))
    params, info = train(KEY, problem, jnp.zeros(2), batch, Training(steps=0, batch_size=2))
    np.testing.assert_array_equal(params["w"], problem.init(KEY, jnp.zeros(2))["w"])
    assert info.losses.shape == (0,)
