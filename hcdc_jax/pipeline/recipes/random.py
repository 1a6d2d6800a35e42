"""Random: real nodes, left as they are."""

from __future__ import annotations

from hcdc_jax.containers.graph import fixed
from hcdc_jax.pipeline.recipes.base import Method, Recipe
from hcdc_jax.pipeline.recipes.graphs import container_of, sampled

_RECIPE = Recipe("random", sampled, container_of(fixed()))

METHOD = Method("real nodes, chosen at random, with the edges between them", _RECIPE, _RECIPE)
