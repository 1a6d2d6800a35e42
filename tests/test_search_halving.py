"""Successive halving: what it keeps, what it finds, what it costs."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from search_toy import PROBLEM, SPACE, TRAINING, batch

from hcdc_jax import search
from hcdc_jax.candidates import evaluate
from hcdc_jax.train import train

pytestmark = pytest.mark.usefixtures("quick_compilation")

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


class TestBreakEven:
    def test_is_where_the_condensed_search_stays_cheaper(self):
        spent, small, full, steps = 10.0, 0.001, 1.0, 200
        first = search.break_even(spent, small, full, steps)
        pays = [spent + p * small + full <= full * search.full_trainings(p, steps) for p in range(1, 2000)]
        assert first is not None
        assert all(pays[first - 1 :])
        assert not pays[first - 2]

    def test_free_condensing_pays_at_once(self):
        assert search.break_even(0.0, 0.0, 1.0, 200) == 1

    def test_never(self):
        assert search.break_even(10.0, 0.5, 1.0, 200) is None
