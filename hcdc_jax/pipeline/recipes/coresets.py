"""Real examples, left as they are: chosen at random, by herding, or as centres."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hcdc_jax.condense import coresets
from hcdc_jax.pipeline.kinds.starts import fixed, sampled
from hcdc_jax.pipeline.recipes.base import Method, Recipe
from hcdc_jax.pipeline.setup import Setup, Start


def _selected(selection: Callable[[np.ndarray], coresets.Selection]) -> Callable[[Setup, str, int], Start]:
    return lambda setup, part, seed: sampled(setup, part, seed, selection(setup.kind.embeddings(setup, part)))


def _method(about: str, recipe: Recipe) -> Method:
    return Method(about, recipe, recipe)


RANDOM = _method(
    "real examples, chosen at random; of a graph with the edges between them", Recipe("random", sampled, fixed)
)
HERDING = _method(
    "real examples whose mean stays closest to that of their class (herding), in pixels or propagated features",
    Recipe("herding", _selected(coresets.herding), fixed),
)
KCENTER = _method(
    "real examples that cover their class with the smallest radius (greedy k-center), in pixels or propagated features",
    Recipe("kcenter", _selected(coresets.k_center), fixed),
)
