"""Continuous hyperparameter spaces: where candidates are drawn and how wide the prior is."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.types import Array


class Space(NamedTuple):
    """A prior over candidates that are vectors of h real hyperparameters. Hashable, like a `Problem`.

    Attributes:
      name: registry name.
      hparam_names: the h names, in the order of the vector.
      sample: `sample(key, num_candidates) -> [num_candidates, h]`, one candidate per row.
      prior_std: h numbers, the standard deviation of each hyperparameter under `sample`; hypergradients are multiplied by it
        before they are compared, so that a unit change means the same for every hyperparameter.
      project: `project(hparams [h]) -> [h]`, the nearest point of the space; keeps gradient steps inside it.
    """

    name: str
    hparam_names: tuple[str, ...]
    sample: Callable[[Array, int], Array]
    prior_std: tuple[float, ...]
    project: Callable[[Array], Array]


def box(name: str, hparam_names: tuple[str, ...], low: np.ndarray, high: np.ndarray) -> Space:
    """The uniform prior on the box [low, high] (both [h])."""
    low, high = (np.asarray(bound, np.float32) for bound in (low, high))

    def sample(key, num_candidates):
        return jax.random.uniform(key, (num_candidates, len(low)), minval=low, maxval=high)

    def project(hparams):
        return jnp.clip(hparams, low, high)

    return Space(name, hparam_names, sample, tuple(((high - low) / np.sqrt(12.0)).tolist()), project)


def unit_l1(name: str, hparam_names: tuple[str, ...]) -> Space:
    """A uniform draw of [-1, 1]^h divided by its L1 norm: only the direction of the vector is searched."""
    h = len(hparam_names)
    # The radial direction is gone, so the spread has no closed form as simple as the box's: it is measured once, on a
    # fixed draw that is large enough for two digits.
    reference = np.random.default_rng(0).uniform(-1, 1, (20_000, h))
    prior_std = (reference / np.abs(reference).sum(1, keepdims=True)).std(0)

    def project(hparams):
        # A norm of 0 has no nearest point; the floor only keeps the division finite.
        return hparams / jnp.maximum(jnp.abs(hparams).sum(), 1e-6)

    def sample(key, num_candidates):
        return jax.vmap(project)(jax.random.uniform(key, (num_candidates, h), minval=-1.0, maxval=1.0))

    return Space(name, hparam_names, sample, tuple(prior_std.tolist()), project)
