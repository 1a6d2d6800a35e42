"""Images matched class by class: gradients (DC, DSA) or mean features (DM)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.condense.base import Condenser
from hcdc_jax.condense.dc import DCData, dc, dsa, published_loops
from hcdc_jax.condense.dm import DMData, dm
from hcdc_jax.condense.gradient_matching import constant
from hcdc_jax.containers import Container
from hcdc_jax.errors import UserError
from hcdc_jax.pipeline.kinds.image_containers import image_rates
from hcdc_jax.pipeline.kinds.starts import learned, stored, to_learn
from hcdc_jax.pipeline.recipes.base import Learner, Method, Recipe, Request, Work
from hcdc_jax.pipeline.recipes.image_relays import real_pool, relay, strategy
from hcdc_jax.pipeline.setup import Setup


def _loops(setup: Setup) -> tuple[int, int]:
    """(outer_steps, inner_epochs), where the configuration has none those of DC."""
    options = setup.config.dc
    outer_steps, inner_epochs = published_loops(setup.config.condense.images_per_class)
    return (
        outer_steps if options.outer_steps is None else options.outer_steps,
        inner_epochs if options.inner_epochs is None else options.inner_epochs,
    )


def _dc(setup: Setup, container: Container) -> Condenser:
    return _gradients(setup, container, dc)


def _dsa(setup: Setup, container: Container) -> Condenser:
    augmentation = strategy(setup)
    if augmentation is None:
        raise UserError("condense.augmentation = 'none' makes the method dsa the same as dc; leave one of them out")
    return _gradients(setup, container, dsa, augmentation=augmentation)


def side_by_side(setup: Setup) -> int | None:
    """Classes that are differentiated at once; None for all.

    On a CPU one by one: the weights' gradients of several classes at once are grouped convolutions, which XLA runs
    slowly there, and the images of one class fit into the cache.
    """
    given = setup.config.condense.classes_at_once
    return 1 if given is None and jax.default_backend() == "cpu" else given


def counts_of(setup: Setup) -> tuple[int, ...] | None:
    """Images of each class of the part that is learned, where they are not equally many; see `sized`."""
    counts = setup.config.condense.per_class
    return counts if isinstance(counts, tuple) and len(set(counts)) > 1 else None


def sized(request: Request) -> Setup:
    """The setup with the numbers of images of each class that this part has, which a class-wise condenser asks for."""
    setup = request.run.setup
    counts = np.bincount(request.start.labels, minlength=setup.data.num_classes)
    condense = dataclasses.replace(setup.config.condense, per_class=tuple(counts.tolist()))
    return setup._replace(config=dataclasses.replace(setup.config, condense=condense))


def _gradients(setup: Setup, container: Container, factory, **options) -> Condenser:
    network, (outer_steps, inner_epochs) = relay(setup), _loops(setup)
    return factory(
        network.problem, container, constant(network.hparams), outer_steps=outer_steps, inner_epochs=inner_epochs,
        batch_size=setup.config.dc.batch_size, classes_at_once=side_by_side(setup),
        synthetic_per_class=setup.config.condense.synthetic_per_class, counts=counts_of(setup), **options,
    )  # fmt: skip


def _dc_work(request: Request) -> Work:
    setup, options = request.run.setup, request.run.setup.config.dc
    rates = image_rates(setup, options.image_rate)
    return Work(DCData(real_pool(request), rates, jnp.float32(options.relay_rate)), setup=sized(request))


def _dc_steps(setup: Setup) -> int:
    outer_steps, _ = _loops(setup)
    return setup.config.dc.networks * outer_steps


def _dm(setup: Setup, container: Container) -> Condenser:
    network = relay(setup)
    return dm(
        network.problem, network.embed, container, constant(network.hparams), batch_size=setup.config.dm.batch_size,
        augmentation=strategy(setup), classes_at_once=side_by_side(setup),
        synthetic_per_class=setup.config.condense.synthetic_per_class, counts=counts_of(setup),
    )  # fmt: skip


def _dm_work(request: Request) -> Work:
    setup = request.run.setup
    return Work(DMData(real_pool(request), image_rates(setup, setup.config.dm.image_rate)), setup=sized(request))


def _dm_steps(setup: Setup) -> int:
    return setup.config.dm.steps


def method(about: str, name: str, learner: Learner) -> Method:
    """A method both of whose parts are learned, from what `condense.init` says."""
    recipe = Recipe(name, to_learn(stored), learned, learner)
    return Method(about, recipe, recipe)


DC = method(
    "DC: images whose gradients are those of real ones (arXiv 2006.05929)",
    "dc",
    Learner(_dc, _dc_work, _dc_steps, rate="dc.image_rate"),
)
DSA = method(
    "DSA: as dc, both sides seen through one augmentation (arXiv 2102.08259)",
    "dsa",
    Learner(_dsa, _dc_work, _dc_steps, rate="dc.image_rate"),
)
DM = method(
    "DM: images with the mean features of real ones in random networks (arXiv 2110.04181)",
    "dm",
    Learner(_dm, _dm_work, _dm_steps, rate="dm.image_rate"),
)
