"""IDC: images with the gradients of real ones under networks that are trained on real ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.batches.augment import Augmentation
from hcdc_jax.batches.images import Standardisation
from hcdc_jax.condense.base import AnyImageRates, Condenser, ImageRates, PixelRates
from hcdc_jax.condense.gradient_matching import constant
from hcdc_jax.condense.idc import IDCData, idc
from hcdc_jax.containers import Container
from hcdc_jax.errors import UserError
from hcdc_jax.pipeline.kinds.image_containers import image_rates
from hcdc_jax.pipeline.recipes.base import Learner, Request, Work
from hcdc_jax.pipeline.recipes.image_matching import method, side_by_side, synthetic_classes
from hcdc_jax.pipeline.recipes.image_relays import augmentation_of, real_images, real_pool, relay
from hcdc_jax.pipeline.setup import Setup
from hcdc_jax.problem import Problem

MOST_SYNTHETIC = 128
"""Condensed images of a class in a step, as in IDC's code, where `condense.synthetic_per_class` says nothing."""


def _condenser(setup: Setup, container: Container) -> Condenser:
    options, network = setup.config.idc, relay(setup)
    if options.distance != "cosine":
        _check_convolutions(setup, network.problem)
    siamese = augmentation_of(setup, options.augmentation)
    schedule = "cosine" if setup.config.condense.container == "hmn" else "constant"
    return idc(
        network.problem, container, constant(network.hparams), num_classes=setup.data.num_classes,
        distance=options.distance, schedule=options.schedule or schedule, outer_steps=options.outer_steps,
        relay_steps=-(-options.relay_images // options.batch_size), batch_size=options.batch_size,
        augmentation=siamese, relay_augmentation=_without_cutout(siamese) if options.cutmix else siamese,
        cutmix=options.cutmix, classes_at_once=side_by_side(setup),
        synthetic_per_class=setup.config.condense.synthetic_per_class or MOST_SYNTHETIC,
    )  # fmt: skip


def _check_convolutions(setup: Setup, problem: Problem) -> None:
    """That there is something to match."""
    params = jax.eval_shape(problem.init, jax.random.key(0), jnp.zeros(len(setup.space.hparam_names)))
    if not any(leaf.ndim == 4 for leaf in jax.tree.leaves(params)):
        raise UserError(
            f"idc.distance = {setup.config.idc.distance!r} compares gradients of convolutions, and the network "
            f"{setup.config.model.name!r} has none; set idc.distance = 'cosine'"
        )


def _without_cutout(augmentation: Augmentation | None) -> Augmentation | None:
    """What networks train on: CutMix takes the place of cutout, as in IDC's code."""
    if augmentation is None:
        return None
    left = tuple(name for name in augmentation.operations if name != "cutout")
    return augmentation._replace(operations=left) if left else None


def _work(request: Request) -> Work:
    setup, options = request.run.setup, request.run.setup.config.idc
    rates, steps = _rates(setup), jnp.float32(_steps(setup))
    real, relay_rate = real_images(request), jnp.float32(options.relay_rate)
    return Work(IDCData(real_pool(request), real, rates, steps, relay_rate, synthetic_classes(request)))


def _rates(setup: Setup) -> AnyImageRates:
    options = setup.config.idc
    # A pixel that is stored divided by s moves s times as far as it would for the same slope, which is s times as
    # steep: gradient descent needs a rate larger by 1 / s^2, Adam, which does not see the slope's size, by 1 / s.
    std = float(np.mean(setup.preprocessing.std)) if isinstance(setup.preprocessing, Standardisation) else 1.0
    adam = options.image_optimizer == "adam"
    rates = image_rates(setup, options.image_rate / (std if adam else std**2))
    return PixelRates(jnp.asarray(rates.learning_rate)) if adam and isinstance(rates, ImageRates) else rates


def _steps(setup: Setup) -> int:
    return setup.config.idc.networks * setup.config.idc.outer_steps


METHOD = method(
    "IDC: gradients of real images under networks trained on real images (arXiv 2205.14959)",
    "idc",
    Learner(_condenser, _work, _steps, rate="idc.image_rate (of hmn, hmn.memory_rate and hmn.network_rate)"),
)
