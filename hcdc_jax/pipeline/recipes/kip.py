"""KIP: images on which kernel ridge regression predicts the real ones."""

from __future__ import annotations

import jax.numpy as jnp

from hcdc_jax.condense.base import Condenser
from hcdc_jax.condense.kernels import fully_connected
from hcdc_jax.condense.kip import KIPData, kip
from hcdc_jax.containers import Container
from hcdc_jax.pipeline.recipes.base import Learner, Method, Recipe, Request, Work
from hcdc_jax.pipeline.recipes.image_relays import real_pool
from hcdc_jax.pipeline.recipes.starts import learned, sampled, to_learn
from hcdc_jax.pipeline.setup import Setup


def _condenser(setup: Setup, container: Container) -> Condenser:
    options = setup.config.kip
    return kip(
        fully_connected(options.depth), container, num_classes=setup.data.num_classes, batch_size=options.batch_size
    )


def _work(request: Request) -> Work:
    options = request.run.setup.config.kip
    return Work(KIPData(real_pool(request), jnp.asarray(options.image_rate), jnp.asarray(options.ridge)))


def _steps(setup: Setup) -> int:
    return setup.config.kip.steps


# Labels stay class numbers, as networks that are trained on the images read them ("KIP to NN").
_RECIPE = Recipe(
    "kip", to_learn(sampled), learned, Learner(_condenser, _work, _steps, rate="kip.image_rate", dtype="float64")
)

METHOD = Method("KIP: images that kernel regression learns the real ones from (arXiv 2011.00050)", _RECIPE, _RECIPE)
