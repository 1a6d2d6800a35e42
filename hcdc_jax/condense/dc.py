"""Gradient matching: DC (arXiv 2006.05929) and, for images, DSA (arXiv 2102.08259).

Networks are trained on the synthetic images; along the way the synthetic images of every class are moved so that the
gradient they give points where the gradient of real images of the class points. DSA is DC with every pair of batches
seen through one draw of an augmentation; `idc.py` has another distance, and networks that are trained on real images.
Without an augmentation nothing asks what the inputs are. Labels that are numbers to predict make all examples one
class.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hcdc_jax.batches.augment import Augmentation
from hcdc_jax.condense.base import AnyImageRates, Condenser, descend, image_optimizer, learned_fields
from hcdc_jax.condense.class_batches import ClassPool, ClassTable, draw_per_class, siamese, sum_over_classes
from hcdc_jax.condense.epoch_training import augmented, even_batches, train_from
from hcdc_jax.condense.gradient_matching import gradient_distance
from hcdc_jax.containers import Container
from hcdc_jax.problem import Problem
from hcdc_jax.training.train import Training
from hcdc_jax.types import Array, Batch, HParams, Params, Variables

LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
"""(outer_steps, inner_epochs) that DC uses, by images per class."""


def published_loops(images_per_class: float) -> tuple[int, int]:
    """(outer_steps, inner_epochs) of DC for so many images per class; of the nearest published number by ratio."""
    return LOOPS[min(LOOPS, key=lambda published: abs(math.log(published / images_per_class)))]


class DCData(NamedTuple):
    """What the steps read.

    Attributes:
      pool: the real images.
      rates: of the synthetic images; DC has 0.1.
      relay_rate: step size of gradient descent of the networks.
      synthetic: their classes, see `synthetic_table`.
    """

    pool: ClassPool
    rates: AnyImageRates
    relay_rate: float | Array = 0.01
    synthetic: ClassTable | None = None


class DCState(NamedTuple):
    """Carried from step to step.

    Attributes:
      variables: of the container.
      opt_state: of what the container learns; it lives through changes of the network.
      relay: the network under which gradients are compared; of DC and DSA its parameters.
      hparams: of the relay.
      step: number of steps done.
    """

    variables: Variables
    opt_state: optax.OptState
    relay: Any
    hparams: HParams
    step: Array


class DCInfo(NamedTuple):
    """One step.

    Attributes:
      distance: sum over classes of the distance of gradients, before the step.
    """

    distance: Array


class Relays(NamedTuple):
    """The networks under which gradients are compared.

    Attributes:
      begin: `begin(key, data) -> (relay, hparams)`, a fresh one; what a relay is besides its parameters is its own.
      params: `params(relay)`, its parameters.
      train: `train(key, relay, hparams, variables, data) -> relay`, what happens to it between two steps.
    """

    begin: Callable[[Array, Any], tuple[Any, HParams]]
    params: Callable[[Any], Params]
    train: Callable[[Array, Any, HParams, Variables, Any], Any]


class Matching(NamedTuple):
    """One step of matching, as far as methods share it.

    Attributes:
      outer_steps: steps before a fresh relay is drawn; see `LOOPS`.
      batch_size: real images per class and step.
      augmentation: siamese, one draw per class and step.
      classes_at_once: classes worked on side by side; all by default. Less needs less memory.
      synthetic_per_class: synthetic images of each class in a step, drawn anew; all by default.
    """

    outer_steps: int = 10
    batch_size: int = 256
    augmentation: Augmentation | None = None
    classes_at_once: int | None = None
    synthetic_per_class: int | None = None


def matched_gradients(
    problem: Problem,
    container: Container,
    relays: Relays,
    options: Matching,
    *,
    distance: Callable[[Params, Params], Array] = gradient_distance,
    rates_at: Callable[[Any, Array], Any] = lambda data, step: data.rates,
) -> Condenser:
    """The condenser that DC, DSA and IDC are; one step moves the images once (one `ol` of Algorithm 1 of DC).

    Args:
      problem: the network. `val_loss`, which has no regularisers, is what is matched.
      container: stores the synthetic images, sorted by class, equally many of each, or see `DCData.synthetic`.
      relays: networks that the gradients are those of.
      options: of a step.
      distance: between the gradients of the real and of the synthetic images of a class.
      rates_at: `rates_at(data, step)`, step sizes of what the container learns.
    """

    def init(key, variables, data):
        relay, hparams = relays.begin(key, data)
        opt_state = image_optimizer(data.rates).init(learned_fields(variables))
        return DCState(variables, opt_state, relay, hparams, jnp.zeros((), jnp.int32))

    def step(key, state, data):
        key_relay, key_real, key_augment, key_train = jax.random.split(key, 4)
        relay, hparams = jax.lax.cond(
            state.step % options.outer_steps == 0,
            lambda: relays.begin(key_relay, data),
            lambda: (state.relay, state.hparams),
        )

        def of_class(real: Batch, synthetic: Batch) -> Array:
            gradient = functools.partial(jax.grad(problem.val_loss), relays.params(relay), hparams)
            return distance(gradient(real), gradient(synthetic))

        value, gradient = sum_over_classes(
            siamese(of_class, options.augmentation),
            key_augment,
            draw_per_class(key_real, data.pool, options.batch_size),
            container,
            state.variables,
            at_once=options.classes_at_once,
            per_class=options.synthetic_per_class,
            table=data.synthetic,
        )
        optimizer = image_optimizer(rates_at(data, state.step))
        variables, opt_state = descend(optimizer, gradient, state.opt_state, state.variables)
        relay = jax.lax.cond(
            (state.step + 1) % options.outer_steps == 0,  # the next step draws a fresh one
            lambda: relay,
            lambda: relays.train(key_train, relay, hparams, variables, data),
        )
        return DCState(variables, opt_state, relay, hparams, state.step + 1), DCInfo(value)

    return Condenser(init, step)


@functools.cache
def dc(
    problem: Problem,
    container: Container,
    draw_hparams: Callable[[Array], HParams],
    *,
    outer_steps: int = 10,
    inner_epochs: int = 50,
    batch_size: int = 256,
    augmentation: Augmentation | None = None,
    classes_at_once: int | None = None,
    synthetic_per_class: int | None = None,
) -> Condenser:
    """Gradient matching of images under networks that are trained on the synthetic ones.

    Args:
      problem: the network; `train_loss` trains the relay. See `matched_gradients`.
      container: see `matched_gradients`.
      draw_hparams: `draw_hparams(key) -> hparams` of a fresh relay; `gradient_matching.constant` or `drawn_from`.
      outer_steps: see `Matching`.
      inner_epochs: epochs that the relay trains on the synthetic images between two steps.
      batch_size: real images per class and step, and the most synthetic images in a batch of the relay.
      augmentation: siamese, one draw per class and step; the relay trains with one draw per image.
      classes_at_once: see `Matching`.
      synthetic_per_class: see `Matching`.
    """

    def begin(key, data):
        del data
        key_hparams, key_init = jax.random.split(key)
        hparams = draw_hparams(key_hparams)
        return problem.init(key_init, hparams), hparams

    def train(key, relay, hparams, variables, data):
        batch: Batch = container.decode(variables)
        per_epoch, size = even_batches(batch.labels.shape[0], batch_size)
        training = Training(data.relay_rate, "sgd", inner_epochs * per_epoch, batch_size=size)
        return train_from(key, augmented(problem, augmentation), relay, hparams, batch, training)

    relays = Relays(begin, lambda relay: relay, train)
    options = Matching(outer_steps, batch_size, augmentation, classes_at_once, synthetic_per_class)
    return matched_gradients(problem, container, relays, options)


def dsa(
    problem: Problem,
    container: Container,
    draw_hparams: Callable[[Array], HParams],
    *,
    augmentation: Augmentation = Augmentation(),
    **options,
) -> Condenser:
    """`dc` with an augmentation."""
    return dc(problem, container, draw_hparams, augmentation=augmentation, **options)
