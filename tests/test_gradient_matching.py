"""Gradient matching: its distance by the formula, its gradients by their sum, its steps by a loop written out."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hcdc_jax.batches.graphs import real_batch
from hcdc_jax.condense import run
from hcdc_jax.condense.base import GraphRates
from hcdc_jax.condense.gradient_matching import (
    MatchingData,
    class_gradients,
    constant,
    drawn_from,
    gradient_distance,
    gradient_matching,
)
from hcdc_jax.containers import graph_container
from hcdc_jax.containers.graph import free, identity
from hcdc_jax.models import gcn_coefficients, sgc, spectral_gnn
from hcdc_jax.spaces import graph_filter
from tests.small_graphs import block_graph, small_start

DATA = block_graph(30)
REAL = real_batch(DATA, DATA.train_idx, order=2, basis="laplacian")
RELAY = sgc(5, 3)
PROBLEM = spectral_gnn(5, 3, hidden=4, activation="tanh")
CONTAINER = graph_container(free(3.0), 2, "laplacian")
START = small_start(num_features=5)
GCN = gcn_coefficients(2, "laplacian")
MATCHING = MatchingData(REAL, jnp.array([1.0, 0.5, 0.9]), GraphRates(jnp.float32(0.02), jnp.float32(0.1)))
KEY = jax.random.key(1)

# Two matching steps per relay; the first relay of three moves the structure.
SMALL = {"num_classes": 3, "outer_steps": 2, "inner_steps": 3, "structure_period": 3, "structure_epochs": 1}


def random_like(tree, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), tree)


PARAMS = random_like(jax.eval_shape(PROBLEM.init, KEY, jnp.array(GCN)), 0)


def test_distance_sums_one_minus_cosine_over_output_units():
    a, b = random_like(PARAMS, 1), random_like(PARAMS, 2)
    expected = 0.0
    for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True):
        if x.ndim == 2:
            columns = zip(np.asarray(x).T, np.asarray(y).T, strict=True)
            expected += sum(1 - u @ v / np.linalg.norm(u) / np.linalg.norm(v) for u, v in columns)
    np.testing.assert_allclose(gradient_distance(a, b), expected, rtol=1e-4)
    np.testing.assert_allclose(gradient_distance(a, jax.tree.map(lambda x: 7 * x, a)), 0, atol=1e-4)


def test_distance_is_finite_where_an_output_unit_is_dead():
    a = {"kernel": jnp.ones((3, 2)).at[:, 1].set(0.0), "bias": jnp.ones(2)}
    value, slope = jax.value_and_grad(gradient_distance)(a, a)
    np.testing.assert_allclose(value, 1.0, atol=1e-5)
    assert np.isfinite(slope["kernel"]).all()
    np.testing.assert_array_equal(slope["bias"], 0)


def test_class_gradients_are_those_of_each_class_alone():
    lam = jnp.array([0.5, -0.6, 0.3])
    gradients = class_gradients(PROBLEM, PARAMS, lam, REAL, 3)
    gradient = jax.jit(jax.grad(PROBLEM.val_loss))
    for c in range(3):
        alone = gradient(PARAMS, lam, REAL._replace(weights=(REAL.labels == c).astype(jnp.float32)))
        jax.tree.map(
            lambda a, b, c=c: np.testing.assert_allclose(a[c], b, rtol=1e-4, atol=1e-6), gradients, alone
        )  # fmt: skip


def test_the_gradient_of_an_absent_class_is_zero():
    batch = REAL._replace(weights=jnp.where(REAL.labels == 1, 0.0, REAL.weights))
    gradients = class_gradients(PROBLEM, PARAMS, jnp.array(GCN), batch, 3)
    for leaf in jax.tree.leaves(gradients):
        np.testing.assert_array_equal(leaf[1], 0)
        assert np.isfinite(leaf).all()


def condenser_and_state(problem=RELAY, draw=None, **options):
    condenser = gradient_matching(problem, CONTAINER, draw or constant(GCN), **(SMALL | options))
    return condenser, condenser.init(KEY, CONTAINER.init(KEY, START), MATCHING)


def by_hand(variables, steps, problem, lam):
    """The algorithm as a plain loop; yields the variables and the distance of every step."""

    @jax.jit
    def slopes(learned, relay):
        def distance(learned):
            features, structure = learned
            decoded = CONTAINER.decode(variables._replace(features=features, structure=structure))
            total = 0.0
            for c in range(3):
                one = [
                    jax.grad(problem.val_loss)(relay, lam, b._replace(weights=b.weights * (b.labels == c)))
                    for b in (REAL, decoded)
                ]
                total += MATCHING.class_weights[c] * gradient_distance(*one)
            return total

        return jax.value_and_grad(distance)(learned)

    @jax.jit
    def train_relay(relay, state, variables):
        gradient = jax.grad(problem.train_loss)(relay, lam, CONTAINER.decode(variables))
        updates, state = optax.adam(0.01).update(gradient, state)
        return optax.apply_updates(relay, updates), state

    optimizers = optax.adam(0.02), optax.adam(0.1)
    states = [optimizers[0].init(variables.features), optimizers[1].init(variables.structure)]
    for t in range(steps):
        if t % 2 == 0:
            relay = problem.init(jax.random.split(jax.random.fold_in(KEY, t))[1], lam)
            relay_state = optax.adam(0.01).init(relay)
        value, gradients = slopes((variables.features, variables.structure), relay)
        turn = 1 if t // 2 % 3 == 0 else 0
        updates, states[turn] = optimizers[turn].update(gradients[turn], states[turn])
        part = ("features", "structure")[turn]
        variables = variables._replace(**{part: optax.apply_updates(getattr(variables, part), updates)})
        for _ in range(3):
            relay, relay_state = train_relay(relay, relay_state, variables)
        yield variables, value


def test_steps_are_a_plain_loop():
    condenser, state = condenser_and_state(PROBLEM)
    expected = list(by_hand(state.variables, 8, PROBLEM, jnp.array(GCN)))
    step = jax.jit(condenser.step)
    for t, (variables, value) in enumerate(expected):
        state, info = step(jax.random.fold_in(KEY, t), state, MATCHING)
        np.testing.assert_allclose(info.distance, value, rtol=1e-3)
        # Adam magnifies rounding where a gradient is near zero, up to its step size.
        np.testing.assert_allclose(state.variables.features, variables.features, atol=2e-3)
        np.testing.assert_allclose(state.variables.structure, variables.structure, atol=1e-2)


def test_structure_and_features_take_turns_and_what_is_given_stays():
    condenser, state = condenser_and_state()
    step = jax.jit(condenser.step)
    for t in range(12):
        before = state
        state, _ = step(jax.random.fold_in(KEY, t), state, MATCHING)
        moved = [np.any(getattr(state.variables, p) != getattr(before.variables, p)) for p in before.variables._fields]
        structure = t // 2 % 3 == 0
        assert moved == [not structure, structure, False, False]
        resting = "features" if structure else "structure"
        jax.tree.map(
            np.testing.assert_array_equal, getattr(state.opt_state, resting), getattr(before.opt_state, resting)
        )


def test_features_take_every_turn_where_there_is_no_structure():
    container = graph_container(identity(), 2, "laplacian")
    condenser = gradient_matching(RELAY, container, constant(GCN), **SMALL)
    state = condenser.init(KEY, container.init(KEY, START), MATCHING)
    moved, _ = jax.jit(condenser.step)(KEY, state, MATCHING)
    assert np.any(moved.variables.features != state.variables.features)


def test_every_epoch_draws_its_relay_anew():
    space = graph_filter(2)
    condenser, state = condenser_and_state(PROBLEM, drawn_from(space))
    step, hparams = jax.jit(condenser.step), []
    for t in range(6):
        state, _ = step(jax.random.fold_in(KEY, t), state, MATCHING)
        hparams.append(tuple(np.asarray(state.hparams).tolist()))
    assert hparams[0] == hparams[1] != hparams[2] == hparams[3] != hparams[4]
    assert np.abs(hparams).max() <= 1


@pytest.mark.parametrize("draw", [constant(GCN), drawn_from(graph_filter(2))])
def test_matching_lowers_the_distance(draw):
    condenser, state = condenser_and_state(RELAY, draw, outer_steps=5, inner_steps=5)
    distances = []
    run(KEY, condenser, state, MATCHING, steps=150, every=50, report=lambda *args: distances.extend(args[2].distance))
    assert np.mean(distances[-30:]) < 0.6 * np.mean(distances[:30])


def test_factories_are_cached():
    assert constant(GCN) is constant(GCN)
    assert drawn_from(graph_filter(2)) is drawn_from(graph_filter(2))
    build = functools.partial(gradient_matching, RELAY, CONTAINER, constant(GCN), **SMALL)
    assert build() is build()
