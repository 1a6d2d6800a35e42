"""The networks that condensers of images match under or train on the way, and the real images they look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from hcdc_jax.batches import augment
from hcdc_jax.batches.augment import Augmentation
from hcdc_jax.condense.class_batches import ClassPool, class_pool
from hcdc_jax.models import image_embedding, image_problem
from hcdc_jax.pipeline.kinds.images import network_options
from hcdc_jax.pipeline.recipes.base import Request
from hcdc_jax.pipeline.setup import Setup
from hcdc_jax.problem import Problem
from hcdc_jax.types import Array, Batch, HParams, Params, PyTree


class Relay(NamedTuple):
    """The network that a condenser of images looks through.

    Attributes:
      problem: how it is made and trained.
      embed: `embed(params, hparams, inputs)`, what its last linear layer reads.
      hparams: at which it is trained.
    """

    problem: Problem
    embed: Callable[[Params, HParams, PyTree], Array]
    hparams: tuple[float, ...]


def relay(setup: Setup) -> Relay:
    """The network that `condense.relay` names.

    "plain" is the network of `[model]` without any regularisation, as DC, DSA, DM, IDC and MTT have it: like GCond's
    filter of GCN it is the network as published, whatever the space asks of candidates. "centre" is the candidate in
    the middle of the space.
    """
    config, data, space = setup.config, setup.data, setup.space
    name, options = config.model.name, network_options(config.model)
    if config.condense.relay == "plain":
        problem = image_problem(name, data.image_shape, data.num_classes, weight_decay=0.0, **options)
        return Relay(problem, image_embedding(name, data.num_classes, **options), ())
    middle = space.from_unit(jnp.full(len(space.hparam_names), 0.5))
    embed = image_embedding(name, data.num_classes, read=space.read, **options)
    return Relay(setup.relay_problem, embed, tuple(middle.tolist()))


def strategy(setup: Setup) -> Augmentation | None:
    """What `condense.augmentation` draws from; None for "none".

    Raises:
      UserError: an unknown operation.
    """
    return augmentation_of(setup, setup.config.condense.augmentation)


def augmentation_of(setup: Setup, text: str) -> Augmentation | None:
    """What a setting such as "color_crop" draws from; None for "none", and for "flip" alone of digits.

    Raises:
      UserError: an unknown operation.
    """
    if text == "none":
        return None
    augmentation = augment.fitting(augment.parse(text), setup.data.name)
    return augmentation if augmentation.operations else None


def real_images(request: Request) -> Batch:
    """The real images that a condensed part stands for."""
    return request.run.setup.train if request.part == "train" else request.run.setup.val


def real_pool(request: Request) -> ClassPool:
    """The same, class by class."""
    real = real_images(request)
    return class_pool(real.inputs, real.labels, request.run.setup.data.num_classes)


def full_trainings(setup: Setup, images: int) -> float:
    """So many images seen in training, in full trainings of a candidate."""
    training, count = setup.training, setup.train.labels.shape[0]
    return images / (training.steps * min(training.batch_size or count, count))
