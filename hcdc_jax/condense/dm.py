"""Distribution matching: class means in the features of random networks (DM, arXiv 2110.04181).

Each step draws a network that is never trained and moves the synthetic examples of every class so that their mean
feature vector comes closer to that of real ones of the class. No network is trained and nothing is differentiated
twice: the cheapest condenser of images, and of whatever else a network reads.

Where labels are numbers y to predict there are no classes, and the mean of features f alone would say nothing about
labels. Matched are then the means of f and of f y: of classes, as one-hot labels, these are class means and sizes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from hcdc_jax.batches.augment import Augmentation
from hcdc_jax.condense.base import AnyImageRates, Condenser, descend, image_optimizer, learned_fields
from hcdc_jax.condense.class_batches import ClassPool, ClassTable, draw_per_class, siamese, sum_over_classes
from hcdc_jax.containers import Container
from hcdc_jax.problem import Problem
from hcdc_jax.types import Array, Batch, HParams, Params, PyTree, Variables


class DMData(NamedTuple):
    """What the steps read.

    Attributes:
      pool: the real images.
      rates: of the synthetic images; the loss is a sum over features, so the rate belongs to a width. DM has 1 for
        2,048 features, 10 from 100 images per class on.
      synthetic: their classes, see `synthetic_table`.
    """

    pool: ClassPool
    rates: AnyImageRates
    synthetic: ClassTable | None = None


class DMState(NamedTuple):
    """Carried from step to step: the container's variables and their optimiser's state."""

    variables: Variables
    opt_state: optax.OptState


class DMInfo(NamedTuple):
    """One step: the sum over classes of squared distances of class means, before the update."""

    distance: Array


@functools.cache
def dm(
    problem: Problem,
    embed: Callable[[Params, HParams, PyTree], Array],
    container: Container,
    draw_hparams: Callable[[Array], HParams],
    *,
    batch_size: int = 256,
    augmentation: Augmentation | None = None,
    classes_at_once: int | None = None,
    synthetic_per_class: int | None = None,
) -> Condenser:
    """Distribution matching as a condenser.

    Args:
      problem: whose `init` draws the networks.
      embed: `embed(params, hparams, inputs) -> features [n, e]`, usually what the last linear layer reads.
      container: stores the synthetic images, sorted by class, equally many of each, or see `DMData.synthetic`.
      draw_hparams: `draw_hparams(key) -> hparams` of a network; `gradient_matching.constant` or `drawn_from`.
      batch_size: real images per class and step.
      augmentation: siamese, one draw per class and step; DM uses that of DSA.
      classes_at_once: classes worked on side by side; all by default. Less needs less memory.
      synthetic_per_class: synthetic images of each class in a step, drawn anew; all by default.
    """

    def init(key, variables, data):
        del key
        return DMState(variables, image_optimizer(data.rates).init(learned_fields(variables)))

    def step(key, state, data):
        key_hparams, key_init, key_real, key_augment = jax.random.split(key, 4)
        hparams = draw_hparams(key_hparams)
        params = problem.init(key_init, hparams)

        def mean_features(batch: Batch) -> Array:
            features = embed(params, hparams, batch.inputs)
            if jnp.issubdtype(batch.labels.dtype, jnp.floating):
                features = with_labels(features, batch.labels)
            return batch.weights @ features / batch.weights.sum()

        def distance(real: Batch, synthetic: Batch) -> Array:
            return jnp.sum((mean_features(real) - mean_features(synthetic)) ** 2)

        value, gradient = sum_over_classes(
            siamese(distance, augmentation),
            key_augment,
            draw_per_class(key_real, data.pool, batch_size),
            container,
            state.variables,
            at_once=classes_at_once,
            per_class=synthetic_per_class,
            table=data.synthetic,
        )
        variables, opt_state = descend(image_optimizer(data.rates), gradient, state.opt_state, state.variables)
        return DMState(variables, opt_state), DMInfo(value)

    return Condenser(init, step)


def with_labels(features: Array, labels: Array) -> Array:
    """Features [n, e] and their products with labels [n] or [n, k], numbers to predict: [n, e + e k]."""
    products = features[:, :, None] * labels.reshape(len(labels), 1, -1)
    return jnp.concatenate([features, products.reshape(len(labels), -1)], axis=1)
