"""Continuous hyperparameter spaces: where candidates are drawn and how wide the prior is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import qmc

from hcdc_jax.types import Array


class Space(NamedTuple):
    """A prior over candidates that are vectors of h real hyperparameters. Hashable, like a `Problem`.

    Attributes:
      name: registry name.
      hparam_names: the h names, in the order of the vector.
      from_unit: `from_unit(u [..., h]) -> [..., h]`, carries the uniform distribution on the unit cube to the prior.
      prior_std: h numbers, the standard deviation of each hyperparameter under the prior; hypergradients are multiplied
        by it before they are compared, so that a unit change means the same for every hyperparameter.
      project: `project(hparams [h]) -> [h]`, the nearest point of the space; keeps gradient steps inside it.
    """

    name: str
    hparam_names: tuple[str, ...]
    from_unit: Callable[[Array], Array]
    prior_std: tuple[float, ...]
    project: Callable[[Array], Array]

    def sample(self, key: Array, num_candidates: int) -> Array:
        """Independent draws from the prior: [num_candidates, h]."""
        return self.from_unit(jax.random.uniform(key, (num_candidates, len(self.hparam_names))))

    def spread(self, seed: int | tuple[int, ...], num_candidates: int) -> Array:
        """Draws that fill the prior evenly, by a scrambled Sobol sequence: [num_candidates, h].

        Eight points in three dimensions fall into eight different octants. Few independent draws leave whole regions
        empty in which whatever is fitted to them is a guess.
        """
        sequence = qmc.Sobol(len(self.hparam_names), scramble=True, rng=np.random.default_rng(seed))
        # Whole powers of two keep the sequence balanced; any beginning of it is spread well too.
        points = sequence.random_base2(math.ceil(math.log2(max(num_candidates, 2))))[:num_candidates]
        return self.from_unit(jnp.asarray(points, jnp.float32))


def box(name: str, hparam_names: tuple[str, ...], low: np.ndarray, high: np.ndarray) -> Space:
    """The uniform prior on the box [low, high] (both [h])."""
    low, high = (np.asarray(bound, np.float32) for bound in (low, high))

    def from_unit(u):
        return jnp.broadcast_to(low, u.shape) + jnp.broadcast_to(high - low, u.shape) * u

    def project(hparams):
        return jnp.clip(hparams, low, high)

    return Space(name, hparam_names, from_unit, tuple(((high - low) / np.sqrt(12.0)).tolist()), project)


def unit_l1(name: str, hparam_names: tuple[str, ...]) -> Space:
    """A uniform draw of [-1, 1]^h divided by its L1 norm: only the direction of the vector is searched."""

    def project(hparams):
        # A norm of 0 has no nearest point; the floor only keeps the division finite.
        return hparams / jnp.maximum(jnp.abs(hparams).sum(-1, keepdims=True), 1e-6)

    def from_unit(u):
        return project(2.0 * u - 1.0)

    # The standard deviation has no closed form as simple as the box's: it is measured once, on a fixed draw that is
    # large enough for two digits.
    reference = np.random.default_rng(0).uniform(-1, 1, (20_000, len(hparam_names)))
    prior_std = (reference / np.abs(reference).sum(1, keepdims=True)).std(0)
    return Space(name, hparam_names, from_unit, tuple(prior_std.tolist()), project)
