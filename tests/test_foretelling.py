"""Lines through results, and trainings that cannot win any more."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import linregress

from hcdc_jax.search.foretelling import LEAST_DEVIATION, cannot_win, line

RNG = np.random.default_rng(0)
MIDWAY = RNG.normal(size=8)
ENDED = 0.7 * MIDWAY - 1 + 0.05 * RNG.normal(size=8)


def test_a_line_is_that_of_ordinary_regression():
    found, queries = linregress(MIDWAY, ENDED), np.array([-1.0, 0.0, 3.0])
    mean, deviation = line(MIDWAY, ENDED, queries)
    np.testing.assert_allclose(mean, found.intercept + found.slope * queries)
    # Its deviation at the mean of what was given, and far from it, by the textbook.
    rest = ENDED - found.intercept - found.slope * MIDWAY
    size = np.sqrt((rest**2).sum() / 6)
    away = (queries - MIDWAY.mean()) ** 2 / ((MIDWAY - MIDWAY.mean()) ** 2).sum()
    np.testing.assert_allclose(deviation, size * np.sqrt(1 + 1 / 8 + away))


def test_a_line_that_falls_is_flat_and_none_is_exact():
    mean, deviation = line(MIDWAY, -MIDWAY, np.array([-5.0, 5.0]))
    np.testing.assert_allclose(mean, -MIDWAY.mean())
    assert deviation[0] == deviation[1] > np.std(MIDWAY)
    assert line(MIDWAY, 2 * MIDWAY, np.zeros(1))[1] >= LEAST_DEVIATION


@pytest.mark.parametrize(
    ("here", "sure", "stopped"),
    [
        (MIDWAY.min() - 0.5, 0.8, False),  # better midway than all others
        (MIDWAY.max(), 0.99, True),  # as bad as the worst
        (np.nan, 0.99, True),  # diverged
        (MIDWAY.min() + 0.1, 0.8, True),  # a little behind: enough for some
        (MIDWAY.min() + 0.1, 0.999, False),  # and not for others
    ],
)
def test_who_is_stopped(here, sure, stopped):
    assert cannot_win(MIDWAY, ENDED, here, sure=sure) is stopped


def test_the_share_of_winners_that_are_stopped_is_what_was_allowed():
    """Trainings like those before, one in twenty of the winners among whom may be lost at 0.95."""
    lost = won = 0
    for _ in range(2000):
        midway = RNG.normal(size=12)
        ended = midway + 0.3 * RNG.normal(size=12)
        if ended[-1] < ended[:-1].min():
            won += 1
            lost += cannot_win(midway[:-1], ended[:-1], midway[-1])
    assert won > 100
    assert lost / won < 0.1


def test_too_few_curves_stop_nobody():
    assert not cannot_win(MIDWAY[:2], ENDED[:2], 100.0)
    assert not cannot_win(np.r_[MIDWAY[:2], np.nan], np.r_[ENDED[:2], 0.0], 100.0)
    assert cannot_win(np.r_[MIDWAY, np.nan], np.r_[ENDED, -9.0], MIDWAY.max()), "who diverged midway is not the best"
