"""Images, and other arrays of floats, matched class by class: gradients (DC; of images DSA) or mean features (DM)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.condense.base import Condenser
from hcdc_jax.condense.class_batches import ClassTable, synthetic_table
from hcdc_jax.condense.dc import DCData, dc, dsa, published_loops
from hcdc_jax.condense.dm import DMData, dm
from hcdc_jax.condense.gradient_matching import constant
from hcdc_jax.containers import Container
from hcdc_jax.errors import UserError
from hcdc_jax.pipeline.kinds.starts import learned, stored, to_learn
from hcdc_jax.pipeline.recipes.base import Learner, Method, Recipe, Request, Work
from hcdc_jax.pipeline.recipes.image_relays import Relay, real_pool, relay, strategy
from hcdc_jax.pipeline.setup import Setup


def _loops(setup: Setup) -> tuple[int, int]:
    """(outer_steps, inner_epochs), where the configuration has none those of DC."""
    options = setup.config.dc
    per_class = setup.kind.count(setup.config, setup.data, "train") / (setup.data.num_classes or 1)
    outer_steps, inner_epochs = published_loops(per_class)
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


def _gradients(setup: Setup, container: Container, factory, **options) -> Condenser:
    network, (outer_steps, inner_epochs) = relay(setup), _loops(setup)
    _check_matrices(network)
    return factory(
        network.problem, container, constant(network.hparams), outer_steps=outer_steps, inner_epochs=inner_epochs,
        batch_size=setup.config.dc.batch_size, classes_at_once=side_by_side(setup),
        synthetic_per_class=setup.config.condense.synthetic_per_class, **options,
    )  # fmt: skip


def _check_matrices(network: Relay) -> None:
    """That there are gradients to compare."""
    params = jax.eval_shape(network.problem.init, jax.random.key(0), jnp.zeros(len(network.hparams)))
    if all(leaf.ndim < 2 for leaf in jax.tree.leaves(params)):
        raise UserError(
            "dc compares gradients of matrices, and all parameters of this network are vectors: write them as "
            "matrices, or leave out the method dc"
        )


def _dc_work(request: Request) -> Work:
    setup, options = request.run.setup, request.run.setup.config.dc
    rates = setup.kind.matching_rates(setup, request.start, options)
    return Work(DCData(real_pool(request), rates, jnp.float32(options.relay_rate), synthetic_classes(request)))


def synthetic_classes(request: Request) -> ClassTable | None:
    return synthetic_table(np.asarray(request.start.labels), request.run.setup.data.num_classes)


def _dc_steps(setup: Setup) -> int:
    outer_steps, _ = _loops(setup)
    return setup.config.dc.networks * outer_steps


def _dm(setup: Setup, container: Container) -> Condenser:
    network = relay(setup)
    return dm(
        network.problem, network.embed, container, constant(network.hparams), batch_size=setup.config.dm.batch_size,
        augmentation=strategy(setup), classes_at_once=side_by_side(setup),
        synthetic_per_class=setup.config.condense.synthetic_per_class,
    )  # fmt: skip


def _dm_work(request: Request) -> Work:
    setup = request.run.setup
    rates = setup.kind.matching_rates(setup, request.start, setup.config.dm)
    return Work(DMData(real_pool(request), rates, synthetic_classes(request)))


def _dm_steps(setup: Setup) -> int:
    return setup.config.dm.steps


def method(about: str, name: str, learner: Learner) -> Method:
    """A method both of whose parts are learned, from what `condense.init` says."""
    recipe = Recipe(name, to_learn(stored), learned, learner)
    return Method(about, recipe, recipe)


DC = method(
    "DC: images or rows whose gradients are those of real ones (arXiv 2006.05929)",
    "dc",
    Learner(_dc, _dc_work, _dc_steps, rate="dc.image_rate (of other arrays dc.feature_step)"),
)
DSA = method(
    "DSA: as dc, both sides seen through one augmentation (arXiv 2102.08259)",
    "dsa",
    Learner(_dsa, _dc_work, _dc_steps, rate="dc.image_rate"),
)
DM = method(
    "DM: images or rows with the mean features of real ones in random networks (arXiv 2110.04181)",
    "dm",
    Learner(_dm, _dm_work, _dm_steps, rate="dm.image_rate (of other arrays dm.feature_step)"),
)
