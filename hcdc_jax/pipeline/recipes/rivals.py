"""Rivals that train on a condensed S_train and validate on real data."""

from __future__ import annotations

import numpy as np

from hcdc_jax.graphs import real_batch
from hcdc_jax.pipeline.recipes.base import Method
from hcdc_jax.pipeline.setup import Setup, num_nodes
from hcdc_jax.types import Batch


def _whole(setup: Setup, seed: int) -> Batch:
    del seed
    return setup.val


def _random(setup: Setup, seed: int) -> Batch:
    """Random validation nodes, as many as S_val has, on the whole real graph."""
    data, space = setup.data, setup.config.space
    count = min(num_nodes(setup.config, data, "val"), len(data.val_idx))
    index = np.random.default_rng([seed, 1]).choice(data.val_idx, count, replace=False)
    return real_batch(data, index, order=space.order, basis=space.basis)


REAL_VAL = Method("S_train with the whole real validation part", None, _whole)
RANDOM_VAL = Method("S_train with random real validation nodes, as many as S_val has", None, _random)
