"""Searches on a problem whose best hyperparameters are known: all find them, in calls of one shape."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from search_toy import BEST, FAILS_ABOVE, HIGH, LOW, PROBLEM, SPACE, STD, TRAINING, Evaluator, batch, objective

from hcdc_jax import search
from hcdc_jax.search.base import even_batch_size, in_batches
from hcdc_jax.training.candidates import Scores
from hcdc_jax.training.train import advance, begin, train

KEY = jax.random.key(3)
SEARCHES = {
    "random": search.random_search,
    "grid": search.grid_search,
    "hypergradient": functools.partial(search.hypergradient_search, objective=objective()),
}
by_name = pytest.mark.parametrize("name", SEARCHES)


@pytest.mark.parametrize(
    ("name", "num", "loss"), [("random", 500, 0.01), ("grid", 500, 0.01), ("hypergradient", 160, 1e-3)]
)
def test_finds_the_minimum(name, num, loss):
    history = SEARCHES[name](KEY, SPACE, Evaluator(), num)
    assert history.hparams.shape == (len(history.loss), 2)
    assert len(history.loss) <= num
    (best,) = history.best()
    assert history.loss[best] == history.loss.min() < loss
    np.testing.assert_allclose(history.hparams[best] / STD, BEST / STD, atol=np.sqrt(2 * loss))


@by_name
def test_calls_have_one_shape_and_compile_once(name):
    evaluate_fn = Evaluator()
    history = SEARCHES[name](KEY, SPACE, evaluate_fn, 44, batch_size=8)
    assert evaluate_fn.shapes == [(8, 2)] * -(-len(history.loss) // 8)
    traces = evaluate_fn.traces
    SEARCHES[name](jax.random.key(4), SPACE, evaluate_fn, 61, batch_size=8)
    assert evaluate_fn.traces == traces > 0


@by_name
def test_the_key_decides(name):
    first, again, other = (SEARCHES[name](jax.random.key(k), SPACE, Evaluator(), 40) for k in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert np.array_equal(first.hparams, other.hparams) == (name == "grid")


@by_name
def test_failed_candidates_are_marked_and_never_best(name):
    history = SEARCHES[name](KEY, SPACE, Evaluator(), 120)
    np.testing.assert_array_equal(history.status, history.hparams[:, 0] <= FAILS_ABOVE)
    assert not history.status.all()
    assert np.isinf(history.loss[~history.status]).all()
    assert history.status[history.best(1000)].all()


@by_name
def test_progress_ends_at_what_was_scored(name):
    said = []
    history = SEARCHES[name](KEY, SPACE, Evaluator(), 44, batch_size=8, report=said.append)
    assert said == sorted(said)
    assert said[-1] == len(history.loss)


def test_best_candidates_are_different_ones():
    hparams = np.array([[0.0], [1.0], [0.0], [2.0], [3.0]])
    loss = np.array([1.0, 2.0, 1.0, 0.5, np.inf])
    history = search.History(hparams, loss, np.zeros(5), np.isfinite(loss))
    assert history.best(3).tolist() == [3, 0, 1]
    assert history.best(10).tolist() == [3, 0, 1]
    assert history.best(10, radius=1.0).tolist() == [3, 0]
    assert history.best(10, radius=np.array([2.0])).tolist() == [3]


def test_batches_are_filled_up_and_put_together():
    seen, said = [], []

    def function(candidates):
        seen.append(np.asarray(candidates))
        return Scores(candidates[:, 0], 2 * candidates, candidates[:, 0] > 0)

    candidates = np.arange(14.0, dtype=np.float32).reshape(7, 2)
    scores = in_batches(function, candidates, 3, said.append)
    assert [part.shape for part in seen] == [(3, 2)] * 3
    np.testing.assert_array_equal(seen[-1], candidates[[6, 6, 6]])
    np.testing.assert_array_equal(scores.accuracy, 2 * candidates)
    assert scores.loss.shape == scores.status.shape == (7,)
    assert said == [3, 6, 7]


@pytest.mark.parametrize(("num", "size"), [(1, 1), (256, 256), (257, 129), (300, 150), (1000, 250)])
def test_batches_are_even(num, size):
    assert even_batch_size(num) == size


class TestGrid:
    @pytest.mark.parametrize(("num", "counts"), [(1, (1, 1)), (3, (2, 1)), (9, (3, 3)), (14, (4, 3)), (24, (5, 4))])
    def test_points(self, num, counts):
        axes = [
            [low + (high - low) * (2 * i + 1) / (2 * count) for i in range(count)]
            for low, high, count in zip(LOW, HIGH, counts, strict=True)
        ]
        np.testing.assert_allclose(search.grid(SPACE, num), list(itertools.product(*axes)), rtol=1e-6)


class TestHypergradientDescent:
    def test_the_first_step_goes_downhill_by_the_rate(self):
        history = SEARCHES["hypergradient"](KEY, SPACE, Evaluator(), 12, starts=6, learning_rate=0.05)
        start, moved = history.hparams.reshape(2, 6, 2)
        downhill = np.sign(BEST - start)  # training ends at theta = lambda, so the slope is that of the validation loss
        alive = start[:, 0] <= FAILS_ABOVE
        expected = np.where(alive[:, None], start + 0.05 * STD * downhill, start)
        np.testing.assert_allclose(moved, np.clip(expected, LOW, HIGH), rtol=1e-4)

    def test_networks_follow_the_hyperparameters(self):
        """With too few steps after each move a network lags behind, and the descent passes the minimum."""
        descend = functools.partial(SEARCHES["hypergradient"], KEY, SPACE, Evaluator(), 160)
        losses = [descend(inner_steps=steps).loss.min() for steps in (0, 30)]
        assert losses[1] < 1e-4 < losses[0]

    def test_steps_end_at_the_border(self):
        outside = np.array([0.2, 9.0], np.float32)
        descend = functools.partial(search.hypergradient_search, objective=objective(outside))
        history = descend(KEY, SPACE, Evaluator(outside), 160)
        assert (history.hparams >= LOW).all()
        assert (history.hparams <= HIGH).all()
        np.testing.assert_allclose(history.hparams[history.best()[0]], [0.2, HIGH[1]], atol=0.02)

    def test_unrolled(self):
        history = SEARCHES["hypergradient"](KEY, SPACE, Evaluator(), 160, sensitivity="unroll")
        assert history.loss.min() < 1e-3

    def test_fewer_candidates_than_starts(self):
        assert SEARCHES["hypergradient"](KEY, SPACE, Evaluator(), 3).hparams.shape == (3, 2)


@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
def test_a_training_in_parts_is_the_training(optimizer):
    hparams, training = jnp.array([0.5, 1.0]), TRAINING.__class__(0.05, optimizer, 50)
    trainee = begin(KEY, PROBLEM, hparams, training)
    go_on = jax.jit(lambda trainee, steps: advance(PROBLEM, hparams, trainee, batch(), training, steps))
    for steps in (7, 13, 0, 30):
        trainee = go_on(trainee, steps)
    whole, _ = train(KEY, PROBLEM, hparams, batch(), training)
    np.testing.assert_allclose(trainee.params, whole, rtol=1e-6)
