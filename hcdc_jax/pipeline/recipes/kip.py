"""KIP: images on which kernel ridge regression predicts the real ones."""

from __future__ import annotations

import jax.numpy as jnp

from hcdc_jax.condense.base import Condenser
from hcdc_jax.condense.kernels import KernelDraw, always, convolutional, fully_connected, random_features
from hcdc_jax.condense.kip import KIPData, kip
from hcdc_jax.containers import Container
from hcdc_jax.pipeline.kinds.starts import learned, stored, to_learn
from hcdc_jax.pipeline.recipes.base import Learner, Method, Recipe, Request, Work
from hcdc_jax.pipeline.recipes.image_relays import real_pool, relay
from hcdc_jax.pipeline.setup import Setup


def _kernel(setup: Setup) -> KernelDraw:
    options = setup.config.kip
    if options.kernel == "random_features":
        network = relay(setup)
        return random_features(network.problem, network.embed, network.hparams, options.networks)
    return always({"fully_connected": fully_connected, "convolutional": convolutional}[options.kernel](options.depth))


def _condenser(setup: Setup, container: Container) -> Condenser:
    return kip(_kernel(setup), container, num_classes=setup.data.num_classes, batch_size=setup.config.kip.batch_size)


def _work(request: Request) -> Work:
    options = request.run.setup.config.kip
    return Work(KIPData(real_pool(request), jnp.asarray(options.image_rate), jnp.asarray(options.ridge)))


def _steps(setup: Setup) -> int:
    return setup.config.kip.steps


# Labels stay class numbers, as networks that are trained on the images read them ("KIP to NN").
_RECIPE = Recipe(
    "kip", to_learn(stored), learned, Learner(_condenser, _work, _steps, rate="kip.image_rate", dtype="float64")
)

METHOD = Method("KIP: images that kernel regression learns the real ones from (arXiv 2011.00050)", _RECIPE, _RECIPE)
