"""What a line foretells: full trainings from condensed losses, the end of a training from its middle."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import t

from hcdc_jax.search import surrogate

LEAST_DEVIATION = 0.02
"""Of a predicted log loss: two trainings of one candidate differ by about as much, and nothing foretells more."""
FEWEST = 3
"""Results without which no line is drawn: two always lie on one."""


def line(given: np.ndarray, found: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ordinary regression of results [m] on what was given of them [m]: mean and deviation at `queries`.

    A line that falls is taken to be flat (`surrogate.power_law`): what is given then says nothing.
    """
    offset, exponent = surrogate.power_law(given, found)
    residual, centred = found - offset - exponent * given, given - given.mean()
    size = max(math.sqrt(residual @ residual / max(len(given) - 2, 1)), LEAST_DEVIATION)
    away = (exponent > 0) * (queries - given.mean()) ** 2 / max(centred @ centred, 1e-12)
    return offset + exponent * queries, size * np.sqrt(1 + 1 / len(given) + away)


def cannot_win(midway: np.ndarray, ended: np.ndarray, here: float, *, sure: float = 0.95) -> bool:
    """Whether a training in its middle cannot become the best, by how those before it went on from there.

    Args:
      midway: [m] log losses of other trainings after as many steps.
      ended: [m] theirs at the end; the lowest is the one to beat. Trainings that did not end well are left out.
      here: log loss of the training; one that has diverged cannot win.
      sure: probability of an end above the best from which on it cannot win.
    """
    if not np.isfinite(here):
        return True
    known = np.isfinite(midway) & np.isfinite(ended)
    if known.sum() < FEWEST:
        return False
    mean, deviation = line(midway[known], ended[known], np.asarray(here))
    # Student's, since the deviation is itself estimated, from few: three curves are hardly ever sure of anything.
    return bool(t.sf((ended[known].min() - mean) / deviation, known.sum() - 2) >= sure)
