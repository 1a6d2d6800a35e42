"""The memory that a step of a condenser takes."""

from __future__ import annotations

import jax

from hcdc_jax.pipeline import recipes
from hcdc_jax.pipeline.recipes.base import Request
from hcdc_jax.pipeline.setup import Run


def temporary_bytes(run: Run, method: str) -> int:
    """Bytes that one step on S_train takes besides what it reads and gives, as the compiler plans them."""
    setup, seed = run.setup, run.setup.config.seeds[0]
    recipe = recipes.train_recipe(setup.config, method)
    learner, container = recipe.learner, recipe.container(setup, "train")
    assert learner is not None
    start = recipe.start(setup, "train", seed)
    data = learner.work(Request(run, "train", seed, start, None)).data
    key, condenser = jax.random.key(0), learner.condenser(setup, container)
    # The start is known to a container: labels decide shapes.
    variables = jax.eval_shape(lambda key: container.init(key, start), key)
    state = jax.eval_shape(condenser.init, key, variables, data)
    analysis = jax.jit(condenser.step).lower(key, state, data).compile().memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes
