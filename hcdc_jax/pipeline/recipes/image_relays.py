"""The networks that condensers match under or train on the way, and the real images or rows that they look at."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hcdc_jax.batches import augment
from hcdc_jax.batches.augment import Augmentation
from hcdc_jax.condense.class_batches import ClassPool, class_pool
from hcdc_jax.pipeline.recipes.base import Request
from hcdc_jax.pipeline.setup import OWN, Setup
from hcdc_jax.problem import Problem
from hcdc_jax.types import Array, Batch, HParams, Params, PyTree


class Relay(NamedTuple):
    """The network that a condenser looks through.

    Attributes:
      problem: how it is made and trained.
      embed: `embed(params, hparams, inputs)`, what its last linear layer reads, or gives: see `relay`.
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

    The network of a study must have hyperparameters, and has those of the middle; "plain" leaves what is only in its
    training out, regularisers and noise. Which of its layers is the last nobody knows, so its outputs are its
    features: of random last layers these are random projections of what they read, whose squared distances are in the
    mean those of the features. Matrices that begin at 0 are drawn, since a network that begins at 0 sees nothing.
    """
    config, space = setup.config, setup.space
    is_plain = config.condense.relay == "plain"
    middle = tuple(space.from_unit(jnp.full(len(space.hparam_names), 0.5)).tolist())
    if config.model.name == OWN:
        return Relay(_drawn(setup.relay_problem, is_plain), _outputs(setup.relay_problem), middle)
    network = setup.kind.network(setup)
    if is_plain:
        return Relay(network.problem_of(weight_decay=0.0), network.embedding_of(), ())
    return Relay(setup.relay_problem, network.embedding_of(read=space.read), middle)


@functools.cache
def _drawn(problem: Problem, is_plain: bool) -> Problem:
    """The network of a study, none of whose matrices begins at 0."""

    def init(key: Array, hparams: HParams) -> Params:
        def drawn(place: int, leaf: Array) -> Array:
            if leaf.ndim < 2 or not jnp.issubdtype(leaf.dtype, jnp.floating):
                return leaf
            noise = jax.random.normal(jax.random.fold_in(key, place), leaf.shape, leaf.dtype)
            return jnp.where((leaf != 0).any(), leaf, noise / math.sqrt(math.prod(leaf.shape[:-1])))

        leaves, tree = jax.tree.flatten(problem.init(key, hparams))
        return jax.tree.unflatten(tree, [drawn(place, leaf) for place, leaf in enumerate(leaves)])

    if is_plain:
        return problem._replace(init=init, train_loss=problem.val_loss, perturb=None)
    return problem._replace(init=init)


@functools.cache
def _outputs(problem: Problem) -> Callable[[Params, HParams, PyTree], Array]:
    """What a network gives, [n, k], also where it gives one number for each example."""

    def embed(params: Params, hparams: HParams, inputs: PyTree) -> Array:
        outputs = problem.apply(params, hparams, inputs)
        return outputs.reshape(outputs.shape[0], -1)

    return embed


def strategy(setup: Setup) -> Augmentation | None:
    """What `condense.augmentation` draws from; None for "none", and for what is no image.

    Raises:
      UserError: an unknown operation.
    """
    return augmentation_of(setup, setup.config.condense.augmentation if setup.kind.unit == "images" else "none")


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
    """The real examples that a condensed part stands for."""
    return request.run.setup.train if request.part == "train" else request.run.setup.val


def real_pool(request: Request) -> ClassPool:
    """The same, class by class; without classes all in one."""
    real = real_images(request)
    return class_pool(real.inputs, real.labels, request.run.setup.data.num_classes, real.weights)


def full_trainings(setup: Setup, images: int) -> float:
    """So many images seen in training, in full trainings of a candidate."""
    training, count = setup.training, setup.train.labels.shape[0]
    return images / (training.steps * min(training.batch_size or count, count))
