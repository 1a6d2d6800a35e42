"""HCDC on a graph of nine nodes: its steps against plain autodiff, and what must never move."""

from __future__ import annotations

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hcdc_jax.batches.graphs import real_batch
from hcdc_jax.condense import hcdc, hcdc_shared, run
from hcdc_jax.condense.base import GraphRates
from hcdc_jax.condense.hcdc import HCDCData, condensed_pool, fit, target_at, unrolled_target, unrolled_targets
from hcdc_jax.condense.hcdc_shared import SharedData
from hcdc_jax.containers import graph_container
from hcdc_jax.containers.graph import fixed, free
from hcdc_jax.hypergradients import distances
from hcdc_jax.hypergradients.fixed_networks import Pool, Target, frozen_hypergradient, frozen_matching
from hcdc_jax.hypergradients.implicit import hypergradient
from hcdc_jax.hypergradients.solvers import chebyshev, identity, neumann
from hcdc_jax.models import spectral_gnn
from hcdc_jax.problem import Problem
from hcdc_jax.spaces import graph_filter
from hcdc_jax.training.train import Training, train
from tests.bilevel import relative_error
from tests.small_graphs import block_graph, small_start

DATA = block_graph(30)
TRAIN, VAL = (real_batch(DATA, index, order=2, basis="laplacian") for index in (DATA.train_idx, DATA.val_idx))
PROBLEM = spectral_gnn(5, 3, hidden=4, activation="tanh")
CONTAINER = graph_container(free(3.0), 2, "laplacian")
START = small_start(num_features=5)
SPACE = graph_filter(2)
HPARAMS = SPACE.sample(jax.random.key(8), 4)
SCALE = jnp.array([0.6, 0.5, 0.7])
KEY = jax.random.key(1)


def random_like(tree, seed, size=1.0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(size * rng.normal(size=x.shape)).astype(float), tree)


def in_default_precision(tree):
    return jax.tree.map(lambda x: x.astype(float) if x.dtype == jnp.float32 else x, tree)


def made_up_data() -> HCDCData:
    """Networks, responses and targets drawn at random, in the precision that is switched on."""
    lam = HPARAMS.astype(float)
    params = random_like(jax.eval_shape(jax.vmap(PROBLEM.init), jax.random.split(KEY, 4), lam), 0)
    response = jax.tree.map(lambda x: jnp.repeat(x[:, None], 3, 1), params)
    target = Target(jnp.array([0.5, 1.0, 1.5, 0.7]), random_like(lam, 1))
    rates = GraphRates(jnp.asarray(0.02, float), jnp.asarray(0.1, float))
    return HCDCData(Pool(params, lam, random_like(response, 2)), target, SCALE.astype(float), rates)


def started(condenser, data):
    return condenser.init(KEY, in_default_precision(CONTAINER.init(KEY, START)), data)


@pytest.mark.parametrize(("distance", "direct"), [("weighted_cosine", False), ("value_gradient", True)])
def test_steps_follow_the_gradient_of_plain_autodiff(x64, distance, direct):
    data = made_up_data()
    condenser = hcdc(PROBLEM, CONTAINER, distance=distance, direct=direct)

    def objective(learned, variables):
        variables = variables._replace(features=learned[0], structure=learned[1])
        loss = lambda params, lam, _: PROBLEM.val_loss(params, lam, CONTAINER.decode(variables))  # noqa: E731
        said = [
            frozen_hypergradient(loss, *jax.tree.map(lambda x, i=i: x[i], tuple(data.pool)[:3]), None, direct=direct)
            for i in range(4)
        ]
        values, gradients = (jnp.stack(part) for part in zip(*said, strict=True))
        scale = data.scale[None]
        return distances.get(distance)(values, scale * gradients, data.target.value, scale * data.target.gradient)

    slopes = jax.jit(jax.value_and_grad(objective))
    state, step = started(condenser, data), jax.jit(condenser.step)
    variables = state.variables
    optimizers = optax.adam(0.02), optax.adam(0.1)
    states = [optimizer.init(part) for optimizer, part in zip(optimizers, variables, strict=False)]
    for _ in range(3):
        value, gradients = slopes((variables.features, variables.structure), variables)
        moves = [o.update(g, s) for o, g, s in zip(optimizers, gradients, states, strict=True)]
        states = [move[1] for move in moves]
        variables = variables._replace(
            features=variables.features + moves[0][0], structure=variables.structure + moves[1][0]
        )
        state, info = step(KEY, state, data)
        np.testing.assert_allclose(info.distance, value, rtol=1e-10)
    np.testing.assert_allclose(state.variables.features, variables.features, atol=1e-9)
    np.testing.assert_allclose(state.variables.structure, variables.structure, atol=1e-9)


def real_targets(hparams):
    """Own-theta targets and networks on S_train, as the pipeline makes them."""
    training, solver = Training(steps=40, learning_rate=0.05), neumann(10)
    found = []
    for i, lam in enumerate(hparams):
        params = fit(jax.random.fold_in(KEY, i), PROBLEM, lam, TRAIN, training)
        target, diverged = target_at(PROBLEM, params, lam, TRAIN, VAL, solver=solver)
        assert not diverged
        found.append(target)
    s_train = graph_container(fixed(), 2, "laplacian")
    batch = s_train.decode(s_train.init(KEY, small_start(15, 5, seed=1)))
    pool = condensed_pool(jax.random.key(2), PROBLEM, hparams, batch, training, solver=solver)
    return pool, Target(*(jnp.stack(part) for part in zip(*found, strict=True)))


@functools.cache
def real_data() -> HCDCData:
    return HCDCData(*real_targets(HPARAMS), SCALE, GraphRates(jnp.float32(0.02), jnp.float32(0.1)))


@pytest.mark.parametrize("distance", distances.names())
def test_where_a_target_has_no_hypergradient_only_its_value_is_matched(x64, distance):
    data = made_up_data()
    unknown = data._replace(target=data.target._replace(gradient=data.target.gradient.at[1].set(jnp.nan)))
    other = jax.tree.map(lambda leaf: leaf.at[1].multiply(-3.0), data.pool.response)
    condenser = hcdc(PROBLEM, CONTAINER, distance=distance)

    def stepped(data):
        state, info = condenser.step(KEY, started(condenser, data), data)
        return state.variables, info

    found = stepped(unknown)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    jax.tree.map(
        np.testing.assert_array_equal, found, stepped(unknown._replace(pool=data.pool._replace(response=other)))
    )
    known = [(a == b).all() for a, b in zip(*(jax.tree.leaves(stepped(d)[0]) for d in (unknown, data)), strict=True)]
    assert all(known) == (distance == "value")


def test_matching_lowers_the_distance_and_leaves_what_is_given():
    condenser = hcdc(PROBLEM, CONTAINER, distance="weighted_cosine")
    state = started(condenser, real_data())
    infos = []
    end = run(KEY, condenser, state, real_data(), steps=60, every=20, report=lambda *args: infos.append(args[2]))
    assert infos[-1].distance[-1] < 0.3 * infos[0].distance[0]
    assert infos[-1].alignment[-1] > 0.9 > infos[0].alignment[0]
    np.testing.assert_array_equal(end.variables.labels, START.labels)
    np.testing.assert_array_equal(end.variables.weights, START.weights)
    assert np.abs(end.variables.features - START.features).max() > 0.02
    assert np.abs(end.variables.structure - state.variables.structure).max() > 0.1


def test_info_is_the_correlation_of_log_values():
    condenser = hcdc(PROBLEM, CONTAINER)
    data = real_data()
    state = started(condenser, data)
    _, info = jax.jit(condenser.step)(KEY, state, data)
    batch = CONTAINER.decode(state.variables)
    values = jax.vmap(PROBLEM.val_loss, in_axes=(0, 0, None))(data.pool.params, data.pool.hparams, batch)
    expected = np.corrcoef(np.log(values), np.log(data.target.value))[0, 1]
    np.testing.assert_allclose(info.value_correlation, expected, rtol=1e-4)
    equal = data._replace(target=data.target._replace(value=jnp.ones(4)))
    _, info = jax.jit(condenser.step)(KEY, state, equal)
    assert info.value_correlation == 0


def test_going_on_from_a_checkpoint_changes_no_bit():
    condenser, data = hcdc(PROBLEM, CONTAINER), real_data()
    whole = run(KEY, condenser, started(condenser, data), data, steps=7, every=3)
    for cut in (3, 4):
        part = run(KEY, condenser, started(condenser, data), data, steps=cut, every=3)
        part = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), part)  # through the host, as a file would
        found = run(KEY, condenser, part, data, start=cut, steps=7, every=3)
        if cut == 3:  # where checkpoints are written: the same programs run
            jax.tree.map(np.testing.assert_array_equal, found, whole)
        else:  # loops of another length may be rounded in another way
            jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), found, whole)


def test_another_seed_traces_nothing():
    traces = []

    def val_loss(params, hparams, batch):
        traces.append(None)
        return PROBLEM.val_loss(params, hparams, batch)

    problem = Problem(PROBLEM.init, PROBLEM.apply, PROBLEM.train_loss, val_loss)
    data = real_data()

    def condense(key, data):
        condenser = hcdc(problem, CONTAINER)
        return run(key, condenser, started(condenser, data), data, steps=4, every=2)

    condense(KEY, data)
    count = len(traces)
    assert count > 0
    other = data._replace(target=data.target._replace(gradient=-data.target.gradient), rates=GraphRates(0.01, 0.3))
    rates = GraphRates(jnp.float32(0.01), jnp.float32(0.3))
    condense(jax.random.key(77), other._replace(rates=rates))
    assert len(traces) == count


def test_the_pool_trains_each_candidate_from_its_own_initialisation():
    pool = real_data().pool
    twice = jnp.stack([HPARAMS[0]] * 2)
    again = condensed_pool(KEY, PROBLEM, twice, TRAIN, Training(steps=2), solver=identity())
    kernel = again.params["Dense_0"]["kernel"]
    assert np.abs(kernel[0] - kernel[1]).max() > 0.01
    for leaf, response in zip(jax.tree.leaves(pool.params), jax.tree.leaves(pool.response), strict=True):
        assert response.shape == (4, 3, *leaf.shape[1:])


TWO_DEVICES = """
import jax
jax.config.update("jax_num_cpu_devices", 2)
from hcdc_jax.condense.hcdc import condensed_pool
from hcdc_jax.hypergradients.solvers import identity
from hcdc_jax.training.train import Training
from tests.bilevel import relative_error
from tests.test_hcdc import HPARAMS, KEY, PROBLEM, TRAIN

for sensitivity in ("implicit", "unroll", "direct"):
    options = {"solver": identity(), "sensitivity": sensitivity}
    # Three networks: one device has a copy to keep it busy.
    one, both = (
        condensed_pool(KEY, PROBLEM, HPARAMS[:3], TRAIN, Training(steps=20), devices=n, **options) for n in (1, 2)
    )
    assert jax.tree.structure(one) == jax.tree.structure(both)
    assert relative_error(both, one) < 1e-4
"""


def test_a_pool_that_is_spread_over_devices_is_the_same():
    subprocess.run([sys.executable, "-c", TWO_DEVICES], check=True)


def test_both_sensitivities_agree_where_training_has_converged():
    problem = spectral_gnn(5, 3, hidden=4, activation="tanh", weight_decay=0.05)
    training, lam = Training(optimizer="momentum", learning_rate=0.3, steps=600), HPARAMS[1]
    unrolled, _, diverged = unrolled_target(KEY, problem, lam, TRAIN, VAL, training)
    params = fit(KEY, problem, lam, TRAIN, training)
    implicit, _ = target_at(problem, params, lam, TRAIN, VAL, solver=neumann(200))
    assert not diverged
    np.testing.assert_allclose(implicit.value, unrolled.value, rtol=1e-4)
    assert relative_error(implicit.gradient, unrolled.gradient) < 0.02
    pools = [
        condensed_pool(KEY, problem, lam[None], TRAIN, training, solver=neumann(200), sensitivity=sensitivity)
        for sensitivity in ("implicit", "unroll")
    ]
    assert relative_error(pools[0].response, pools[1].response) < 0.02


# A saddle: the weights' Hessian has one eigenvalue at -5 % of the largest, as that of a network that is on its way.
SADDLE = Problem(
    init=lambda key, hparams: jnp.zeros(3),
    apply=lambda params, hparams, inputs: params,
    train_loss=lambda params, hparams, batch: (
        0.5 * jnp.sum(jnp.array([1.0, 0.5, jnp.where(hparams[0] > 0, 0.2, -0.05)]) * params**2)
        - hparams[1] * params.sum()
    ),
    val_loss=lambda params, hparams, batch: 0.5 * jnp.sum((params - batch) ** 2) + 0.1 * hparams[1] ** 2 + 1.0,
)


def saddle_pool(solver):
    hparams = jnp.array([[1.0, 0.3], [-1.0, 0.2], [1.0, 0.6], [1.0, -0.5]])
    training = Training(optimizer="sgd", learning_rate=0.5, steps=5)
    return condensed_pool(KEY, SADDLE, hparams, jnp.zeros(3), training, solver=solver)


def test_a_response_whose_solve_diverged_is_flagged_and_asks_for_nothing(x64):
    pool = saddle_pool(chebyshev(20))
    np.testing.assert_array_equal(pool.diverged, [False, True, False, False])
    wrong = pool.response[1, 1]  # d theta / d lambda_1, where the exact one is (1, 2, -20)
    assert np.abs(wrong - np.array([1.0, 2.0, -20.0])).max() > 50
    target = Target(jnp.array([1.0, 1.2, 1.5, 0.8]), jnp.ones((4, 2)))
    batch = jnp.array([0.2, -0.1, 0.4])
    for distance in ("value_gradient", "shared_l2", "cosine"):
        d, slope, _ = frozen_matching(SADDLE.val_loss, pool, batch, target, distance=distance)
        # The same without a hypergradient on either side, by a route that knows no flag.
        for nothing in (0.0, jnp.nan):
            honest = pool._replace(response=pool.response.at[1].set(0.0 if nothing == 0 else 7.0), diverged=None)
            unasked = target._replace(gradient=target.gradient.at[1].set(jnp.nan))
            expected = frozen_matching(SADDLE.val_loss, honest, batch, unasked, distance=distance)
            np.testing.assert_allclose(d, expected[0], rtol=1e-6)
            np.testing.assert_allclose(slope, expected[1], rtol=1e-5, atol=1e-7)
        infinite = pool._replace(response=pool.response.at[1].set(jnp.inf))
        np.testing.assert_allclose(
            frozen_matching(SADDLE.val_loss, infinite, batch, target, distance=distance)[1], slope
        )


def test_responses_of_trainings_that_converged_are_not_flagged():
    problem = spectral_gnn(5, 3, hidden=4, activation="tanh", weight_decay=0.05)
    training = Training(optimizer="momentum", learning_rate=0.3, steps=600)
    for sensitivity in ("implicit", "unroll", "direct"):
        pool = condensed_pool(KEY, problem, HPARAMS[:2], TRAIN, training, solver=neumann(40), sensitivity=sensitivity)
        np.testing.assert_array_equal(pool.diverged, [False, False])


def test_targets_side_by_side_are_those_of_one_key_each():
    training = Training(learning_rate=0.05, steps=20)
    together, params, diverged = unrolled_targets(KEY, PROBLEM, HPARAMS, TRAIN, VAL, training)
    assert not diverged.any()
    for i, lam in enumerate(HPARAMS):
        alone, own, _ = unrolled_target(KEY, PROBLEM, lam, TRAIN, VAL, training)
        assert relative_error(jax.tree.map(lambda leaf, i=i: leaf[i], together), alone) < 1e-3
        assert relative_error(jax.tree.map(lambda leaf, i=i: leaf[i], params), own) < 1e-3


def shared_data(hparams=HPARAMS[:2]):
    s_train = graph_container(fixed(), 2, "laplacian")
    batch = s_train.decode(s_train.init(KEY, small_start(15, 5, seed=1)))
    rates = GraphRates(jnp.float32(0.02), jnp.float32(0.1))
    return SharedData(hparams, batch, TRAIN, VAL, Training(learning_rate=0.05, steps=6), rates)


def shared(**options):
    return hcdc_shared(PROBLEM, CONTAINER, SPACE, solver=neumann(4, step_size=0.1), points=2, **options)


def test_a_shared_step_is_algorithm_1():
    condenser, data = shared(), shared_data()
    state = condenser.init(KEY, CONTAINER.init(KEY, START), data)
    after, info = jax.jit(condenser.step)(KEY, state, data)
    keys = jax.random.split(KEY, 2)

    solver = neumann(4, step_size=0.1)

    @jax.jit
    def trajectory(key, lam):
        # Six steps per trajectory and two points: three steps to the first point.
        params, _ = train(key, PROBLEM, lam, data.condensed_train, Training(learning_rate=0.05, steps=3))
        target, _ = hypergradient(PROBLEM.train_loss, PROBLEM.val_loss, params, lam, TRAIN, VAL, solver=solver)

        def cosine_distance(learned):
            variables = state.variables._replace(features=learned[0], structure=learned[1])
            batches = data.condensed_train, CONTAINER.decode(variables)
            g, _ = hypergradient(PROBLEM.train_loss, PROBLEM.val_loss, params, lam, *batches, solver=solver)
            return 1 - g @ target / jnp.linalg.norm(g) / jnp.linalg.norm(target), g

        learned = state.variables.features, state.variables.structure
        return params, *jax.value_and_grad(cosine_distance, has_aux=True)(learned)

    params, (values, slopes), gradients = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *(trajectory(*pair) for pair in zip(keys, data.hparams, strict=True))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), after.params, params)
    np.testing.assert_allclose(info.distance, values.mean(), rtol=1e-3)
    assert info.diverged == 0
    for part, gradient, rate in zip(("features", "structure"), gradients, data.rates, strict=True):
        mean = gradient.mean(0)
        expected = getattr(state.variables, part) - rate * jnp.sign(mean)  # Adam's first step
        clear = np.abs(mean) > 1e-4 * np.abs(mean).max()
        np.testing.assert_allclose(getattr(after.variables, part)[clear], expected[clear], atol=2e-2 * rate)
    moved = data.hparams - 0.1 * jnp.asarray(SPACE.prior_std)[None] * jnp.sign(slopes)
    np.testing.assert_allclose(after.hparams, jnp.clip(moved, -1, 1), atol=1e-3)


def test_a_diverged_trajectory_moves_nothing():
    condenser = shared()
    good = shared_data(HPARAMS[:2])
    bad = good._replace(hparams=HPARAMS[:2].at[1].set(jnp.nan))
    variables = CONTAINER.init(KEY, START)
    step = jax.jit(condenser.step)
    after, info = step(KEY, condenser.init(KEY, variables, bad), bad)
    assert info.diverged == 0.5
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((after.variables, after.opt_state, info)))
    alone = good._replace(hparams=HPARAMS[:2].at[1].set(HPARAMS[0]))

    def with_keys(key, data):
        """Both trajectories are the good one, so that their mean is what it says alone."""
        state = condenser.init(key, variables, data)
        return state._replace(
            params=jax.tree.map(lambda x: jnp.stack([x[0], x[0]]), state.params), step=jnp.ones((), jnp.int32)
        )

    twice, _ = step(KEY, with_keys(KEY, alone), alone)
    once, _ = step(KEY, with_keys(KEY, bad)._replace(hparams=bad.hparams), bad)
    np.testing.assert_allclose(once.variables.features, twice.variables.features, atol=1e-4)
    all_bad = good._replace(hparams=jnp.full((2, 3), jnp.nan))
    after, info = step(KEY, condenser.init(KEY, variables, all_bad), all_bad)
    assert info.diverged == 1
    jax.tree.map(np.testing.assert_array_equal, after.variables, variables)


def test_shared_trajectories_begin_anew_after_their_last_point():
    condenser, data = shared(), shared_data()
    state = condenser.init(KEY, CONTAINER.init(KEY, START), data)
    step, hparams = jax.jit(condenser.step), []
    for t in range(3):
        state, _ = step(jax.random.fold_in(KEY, t), state, data)
        hparams.append(np.abs(state.hparams - data.hparams).max() / max(SPACE.prior_std))
    # Adam moves by a tenth of a standard deviation per point; the third point is the first of a new trajectory.
    np.testing.assert_allclose(hparams, [0.1, 0.2, 0.1], rtol=0.1)
