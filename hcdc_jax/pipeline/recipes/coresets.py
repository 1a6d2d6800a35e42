"""Real nodes, left as they are, with the edges between them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hcdc_jax.condense import coresets
from hcdc_jax.containers import GraphStart
from hcdc_jax.containers.graph import fixed
from hcdc_jax.data import GraphData
from hcdc_jax.graphs import normalised_adjacency
from hcdc_jax.pipeline.recipes.base import Method, Recipe
from hcdc_jax.pipeline.recipes.graphs import container_of, sampled
from hcdc_jax.pipeline.setup import Setup


def _embeddings(data: GraphData) -> np.ndarray:
    """[n, d] features after two propagations, S^2 X: what SGC sees, so that no network has to be trained first."""
    operator = normalised_adjacency(data.edges, data.num_nodes)
    smooth = operator @ (operator @ data.features)
    return np.asarray(smooth if isinstance(smooth, np.ndarray) else smooth.toarray())


def _selected(selection: Callable[[np.ndarray], coresets.Selection]) -> Callable[[Setup, str, int], GraphStart]:
    return lambda setup, part, seed: sampled(setup, part, seed, selection(_embeddings(setup.data)))


_AS_IT_IS = container_of(fixed())


def _method(about: str, recipe: Recipe) -> Method:
    return Method(about, recipe, recipe)


RANDOM = _method("real nodes, chosen at random, with the edges between them", Recipe("random", sampled, _AS_IT_IS))
HERDING = _method(
    "real nodes whose mean stays closest to that of their class, on propagated features (herding)",
    Recipe("herding", _selected(coresets.herding), _AS_IT_IS),
)
KCENTER = _method(
    "real nodes that cover their class with the smallest radius, on propagated features (greedy k-center)",
    Recipe("kcenter", _selected(coresets.k_center), _AS_IT_IS),
)
