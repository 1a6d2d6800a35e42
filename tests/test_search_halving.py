"""Successive halving: what it keeps, what it finds, what it costs."""

from __future__ import annotations

import dataclasses
import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from search_toy import BEST, PROBLEM, SPACE, STD, TRAINING, batch

from hcdc_jax import search
from hcdc_jax.errors import UserError
from hcdc_jax.problem import Problem
from hcdc_jax.search import halving
from hcdc_jax.training.candidates import evaluate
from hcdc_jax.training.sharding import Chunks, mesh_of
from hcdc_jax.training.train import Training, begin, orders_of, train
from hcdc_jax.types import Batch

KEY = jax.random.key(1)
CANDIDATES = SPACE.sample(jax.random.key(2), 30)


def halve(**options):
    return search.successive_halving(KEY, PROBLEM, CANDIDATES, batch(), batch(), training=TRAINING, **options)


def test_the_bracket_of_the_literature():
    assert search.rungs(81, 81) == [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)]
    begun_anew = sum(kept * steps for kept, steps in search.rungs(81, 81)) / 81
    assert begun_anew == 5.0
    assert search.full_trainings(81, 81) == pytest.approx(1 + 4 * 2 / 3)


@pytest.mark.parametrize(
    ("num", "steps", "options", "bracket"),
    [
        (1, 200, {}, [(1, 200)]),
        (2, 200, {}, [(2, 200)]),
        (30, 90, {}, [(30, 3), (10, 10), (3, 30), (1, 90)]),
        (1000, 10, {}, [(1000, 1), (333, 3), (111, 10)]),
        (30, 90, {"min_steps": 10}, [(30, 10), (10, 30), (3, 90)]),
        (16, 64, {"eta": 4}, [(16, 4), (4, 16), (1, 64)]),
    ],
)
def test_brackets(num, steps, options, bracket):
    assert search.rungs(num, steps, **options) == bracket
    resumed, before = 0, 0
    for kept, until in bracket:
        resumed, before = resumed + kept * (until - before), until
    assert search.full_trainings(num, steps, **options) == pytest.approx(resumed / steps)


def test_every_rung_is_a_ranking_of_trainings_of_its_length():
    found = halve()
    survivors = np.asarray(CANDIDATES)
    for kept, steps in search.rungs(30, TRAINING.steps):
        place = found.steps == steps
        np.testing.assert_array_equal(found.history.hparams[place], survivors)
        training = dataclasses.replace(TRAINING, steps=steps)
        scores = evaluate(KEY, PROBLEM, survivors, batch(), batch(), training=training)
        np.testing.assert_allclose(found.history.loss[place], scores.loss, rtol=1e-5)
        np.testing.assert_array_equal(found.history.status[place], scores.status)
        assert len(survivors) == kept
        survivors = survivors[np.argsort(scores.loss, kind="stable")][: kept // 3]
    assert found.full_trainings == search.full_trainings(30, TRAINING.steps)


def test_the_winner_is_fully_trained():
    found = halve()
    assert found.loss < 0.5  # half a standard deviation from the minimum, or less
    assert found.loss == found.history.loss[-1]
    params, _ = train(KEY, PROBLEM, found.winner, batch(), TRAINING)
    np.testing.assert_allclose(found.params, params, rtol=1e-5)


def test_chunks_and_progress():
    said = []
    found, chunked = halve(), halve(chunk_size=4, report=said.append)
    np.testing.assert_array_equal(found.winner, chunked.winner)
    np.testing.assert_allclose(found.history.loss, chunked.history.loss, rtol=1e-6)
    assert said == [4, 8, 12, 16, 20, 24, 28, 30, 34, 38, 40, 43, 44]


def noisy():
    """Ridge regression in mini-batches of noisy inputs: order and noise are drawn with the key of a training."""

    def train_loss(params, hparams, batch):
        return jnp.mean((batch.inputs @ params - batch.labels) ** 2) + jnp.exp(hparams[0]) * jnp.sum(params**2)

    def perturb(key, hparams, batch):
        return batch._replace(inputs=batch.inputs + hparams[1] * jax.random.normal(key, batch.inputs.shape))

    problem = Problem(
        init=lambda key, hparams: 0.1 * jax.random.normal(key, (3,)),
        apply=lambda params, hparams, inputs: jnp.stack([inputs @ params, jnp.zeros(len(inputs))], 1),
        train_loss=train_loss,
        val_loss=lambda params, hparams, batch: jnp.mean((batch.inputs @ params - batch.labels) ** 2),
        perturb=perturb,
    )
    inputs = jax.random.normal(jax.random.key(5), (23, 3))
    data = Batch(inputs, inputs @ jnp.array([1.0, -2.0, 0.5]), jnp.ones(23))
    return problem, data, jax.random.uniform(jax.random.key(6), (9, 2))


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_mini_batches_and_their_noise_are_those_of_a_training(schedule):
    problem, data, candidates = noisy()
    training = Training(0.05, steps=18, batch_size=4, schedule=schedule)
    found = search.successive_halving(KEY, problem, candidates, data, data, training=training)
    params, _ = train(KEY, problem, found.winner, data, training)
    np.testing.assert_allclose(found.params, params, rtol=1e-5)
    if schedule == "constant":
        shorter = dataclasses.replace(training, steps=2)
        scores = evaluate(KEY, problem, candidates, data, data, training=shorter)
        np.testing.assert_allclose(found.history.loss[:9], scores.loss, rtol=1e-5)


def primitives(jaxpr):
    for equation in jaxpr.eqns:
        yield equation.primitive.name, [v.aval.shape for v in equation.outvars]
        for inner in jaxprs_in_params(equation.params):
            yield from primitives(inner)


def test_candidates_share_one_order_and_one_mini_batch():
    problem, data, candidates = noisy()
    training = Training(0.05, steps=18, batch_size=4)
    trainees = jax.vmap(lambda hparams: begin(KEY, problem, hparams, training))(candidates)
    common = halving._Common(KEY, 0, 18, training, orders_of(KEY, data, training), data, data)
    chunk = Chunks(jax.tree.map(lambda leaf: leaf[None], (candidates, trainees.params, trainees.opt_state)), 1)
    step = functools.partial(halving._advance, mesh=mesh_of(jax.devices()[:1]), alone=False)
    program = jax.make_jaxpr(step, static_argnums=0)(problem, common, chunk).jaxpr
    found = list(primitives(program))
    assert not [name for name, _ in found if name == "sort"], "an order of examples was drawn within the steps"
    looked_up = [shapes for name, shapes in found if name in ("gather", "dynamic_slice", "random_bits")]
    assert looked_up, "mini-batches and noise were drawn"
    assert not [shapes for shapes in looked_up for shape in shapes if shape[:1] == (9,)], "for each candidate anew"


def counting(kept):
    """The toy problem, whose candidates with b above 2 do more in a branch; every pass through either branch counts."""
    passes = {"more": 0, "less": 0}

    def count(name):
        passes[name] += 1

    def train_loss(params, hparams, batch):
        def branch(name, factor):
            jax.debug.callback(functools.partial(count, name))
            return factor * PROBLEM.train_loss(params, hparams, batch)

        more, less = functools.partial(branch, "more", 1.0), functools.partial(branch, "less", 0.5)
        return jax.lax.cond(hparams[1] > 2, more, less)

    problem = PROBLEM._replace(train_loss=train_loss)
    found = search.successive_halving(KEY, problem, CANDIDATES[:kept], batch(), batch(), training=TRAINING)
    jax.effects_barrier()
    return found, passes


def test_candidates_that_branch_compute_their_own_side_alone_and_each_only_once():
    found, passes = counting(9)
    more = less = before = 0
    for steps in sorted(set(found.steps.tolist())):
        above = found.history.hparams[found.steps == steps][:, 1] > 2
        more, less = more + (steps - before) * above.sum(), less + (steps - before) * (~above).sum()
        before = steps
    assert passes == {"more": more, "less": less}
    assert more > 0
    assert less > 0
    assert more + less == pytest.approx(found.full_trainings * TRAINING.steps)


def test_later_rungs_train_no_copies():
    trained = []
    problem = PROBLEM._replace(
        perturb=lambda key, hparams, batch: (jax.debug.callback(lambda h: trained.append(h), hparams), batch)[1]
    )
    found = search.successive_halving(KEY, problem, CANDIDATES[:9], batch(), batch(), training=TRAINING)
    jax.effects_barrier()
    assert len(trained) == pytest.approx(found.full_trainings * TRAINING.steps)


def annealed_by_hand(start, candidate, bracket, rate, momentum=0.9):
    """The toy's network after each rung, in NumPy: the schedule of a rung ends with the rung."""
    params, velocity, step, networks = np.array(start, float), np.zeros(2), 0, []
    for until in bracket:
        while step < until:
            velocity = momentum * velocity + (params - candidate)
            params = params - rate * 0.5 * (1 + np.cos(np.pi * step / until)) * velocity
            step += 1
        networks.append(params)
    return networks


def test_the_schedule_of_a_rung_ends_with_the_rung():
    training = dataclasses.replace(TRAINING, schedule="cosine")
    found = search.successive_halving(
        KEY, PROBLEM, CANDIDATES, batch(), batch(), training=training, schedule="rung", chunk_size=7
    )
    bracket = [3, 10, 30, 90]
    assert sorted(set(found.steps.tolist())) == bracket
    for candidate, steps, loss in zip(found.history.hparams, found.steps, found.history.loss, strict=True):
        network = annealed_by_hand(PROBLEM.init(KEY, candidate), candidate, bracket, 0.1)[bracket.index(steps)]
        expected = 0.5 * np.sum(((network - BEST) / STD) ** 2) if candidate[0] <= 0.7 else np.inf
        np.testing.assert_allclose(loss, expected, rtol=1e-4)
    last = annealed_by_hand(PROBLEM.init(KEY, found.winner), found.winner, bracket, 0.1)[-1]
    np.testing.assert_allclose(found.params, last, rtol=1e-4)
    shortest = dataclasses.replace(training, steps=3)
    scores = evaluate(KEY, PROBLEM, CANDIDATES, batch(), batch(), training=shortest)
    np.testing.assert_allclose(found.history.loss[:30], scores.loss, rtol=1e-5)


def test_where_the_rate_is_constant_the_choice_of_schedule_changes_nothing():
    np.testing.assert_array_equal(halve(schedule="rung").history.loss, halve().history.loss)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"schedule": "cosine"}, "full, rung"), ({"eta": 1}, "eta must be 2"), ({"min_steps": 0}, "min_steps = 0")],
)
def test_what_makes_no_bracket_is_refused(options, said):
    with pytest.raises(UserError, match=said):
        halve(**options)


TWO_DEVICES = """
import sys
import jax
import numpy as np
jax.config.update("jax_num_cpu_devices", 2)
sys.path.insert(0, "tests")
from test_search_halving import halve
assert jax.local_device_count() == 2
np.savez(sys.argv[1], **halve(chunk_size=4).history._asdict(), one=halve(devices=1).history.loss)
"""


def test_two_devices_find_what_one_does(tmp_path):
    path = tmp_path / "history.npz"
    subprocess.run([sys.executable, "-c", TWO_DEVICES, path], check=True)
    with np.load(path) as spread:
        np.testing.assert_allclose(spread["loss"], halve().history.loss, rtol=1e-6)
        np.testing.assert_allclose(spread["one"], halve().history.loss, rtol=1e-6)
        np.testing.assert_array_equal(spread["hparams"], halve().history.hparams)


class TestBreakEven:
    def test_is_where_the_condensed_search_stays_cheaper(self):
        spent, small, full, steps = 10.0, 0.001, 1.0, 200
        first = search.break_even(spent, small, full, steps)
        pays = [spent + p * small + full < full * search.full_trainings(p, steps) for p in range(1, 2000)]
        assert first is not None
        assert all(pays[first - 1 :])
        assert not pays[first - 2]

    def test_free_condensing_pays_at_once(self):
        assert search.break_even(0.0, 0.0, 1.0, 200) == 2, "the finalist alone costs one full training"

    def test_never(self):
        assert search.break_even(10.0, 0.5, 1.0, 200) is None
