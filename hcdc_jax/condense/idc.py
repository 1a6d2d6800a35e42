"""Gradient matching as IDC has it (arXiv 2205.14959, section 4.2), which is also the loss of HMN (arXiv 2310.07506).

DC trains its networks on the synthetic images, where they soon fit everything and their gradients vanish. Here they
are trained on the real ones, a few batches at a time, and the gradients of the convolutions are matched as they are,
with their lengths, instead of by their angles.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hcdc_jax.batches.augment import Augmentation
from hcdc_jax.condense.base import AnyImageRates, Condenser, scaled
from hcdc_jax.condense.class_batches import ClassPool, ClassTable
from hcdc_jax.condense.dc import Matching, Relays, matched_gradients
from hcdc_jax.condense.epoch_training import taught
from hcdc_jax.condense.gradient_matching import gradient_distance
from hcdc_jax.containers import Container
from hcdc_jax.errors import check_name
from hcdc_jax.problem import Problem
from hcdc_jax.training.train import Training, advance, begin
from hcdc_jax.types import Array, Batch, HParams, Params


def squared(difference: Array) -> Array:
    """Sum of squares."""
    return jnp.sum(difference**2)


def absolute(difference: Array) -> Array:
    """Sum of absolute values."""
    return jnp.sum(jnp.abs(difference))


def of_convolutions(size: Callable[[Array], Array], gradient_a: Params, gradient_b: Params) -> Array:
    """Sum of `size(a - b)` over the kernels of convolutions [height, width, inputs, outputs].

    Biases and linear layers do not count, as in IDC's code: the last layer knows the labels and would drown the rest.
    """
    pairs = zip(*map(jax.tree.leaves, (gradient_a, gradient_b)), strict=True)
    sizes = [size(a - b) for a, b in pairs if a.ndim == 4]
    return jnp.stack(sizes).sum() if sizes else jnp.zeros(())


DISTANCES: dict[str, Callable[[Params, Params], Array]] = {
    "squared": functools.partial(of_convolutions, squared),
    "absolute": functools.partial(of_convolutions, absolute),
    "cosine": gradient_distance,
}
"""IDC has "squared" for CIFAR and SVHN, "absolute" for MNIST, Fashion-MNIST and ImageNet, where squares let the few
large differences of the first layer decide; "cosine" is that of DC."""


class IDCData(NamedTuple):
    """What the steps read.

    Attributes:
      pool: the real images, class by class.
      real: the same images, in a row; the networks are trained on them.
      rates: of the synthetic images.
      num_steps: after which a cosine has brought the rates to 0.
      relay_rate: step size of the networks, which have momentum 0.9.
      synthetic: classes of the synthetic images, see `class_batches.synthetic_table`.
    """

    pool: ClassPool
    real: Batch
    rates: AnyImageRates
    num_steps: int | Array
    relay_rate: float | Array = 0.01
    synthetic: ClassTable | None = None


@functools.cache
def idc(
    problem: Problem,
    container: Container,
    draw_hparams: Callable[[Array], HParams],
    *,
    num_classes: int,
    distance: str = "squared",
    schedule: str = "constant",
    outer_steps: int = 100,
    relay_steps: int = 32,
    batch_size: int = 64,
    augmentation: Augmentation | None = None,
    relay_augmentation: Augmentation | None = None,
    cutmix: float = 0.5,
    weight_decay: float = 5e-4,
    classes_at_once: int | None = None,
    synthetic_per_class: int | None = 128,
) -> Condenser:
    """Gradient matching under networks that are trained on real images.

    What differs from IDC's code: all classes are matched before the images move, where it moves them class by class,
    and pixels are not cut off at black and white.

    Args:
      problem: the network. `val_loss`, which has no regularisers, is what is matched, and what it is trained on.
      container: stores the synthetic images, sorted by class; see `matched_gradients`.
      draw_hparams: `draw_hparams(key) -> hparams` of a fresh network; `gradient_matching.constant` or `drawn_from`.
      num_classes: of the labels, for CutMix.
      distance: a name in `DISTANCES`.
      schedule: of the step sizes of the synthetic images; "constant", or "cosine" down to 0 after `IDCData.num_steps`.
      outer_steps: steps before a fresh network is drawn.
      relay_steps: mini-batches of real images that a network trains on between two steps.
      batch_size: real images per class and step, and in a mini-batch of a network.
      augmentation: siamese, one draw per class and step.
      relay_augmentation: of what networks train on, with parameters for each image.
      cutmix: probability per mini-batch of a network.
      weight_decay: of a network, as PyTorch counts it.
      classes_at_once: see `Matching`.
      synthetic_per_class: see `Matching`.
    """
    check_name("distance of gradients", distance, DISTANCES)
    check_name("schedule", schedule, ("constant", "cosine"))
    student = taught(problem, relay_augmentation, cutmix, weight_decay, num_classes)

    def training(data):
        return Training(data.relay_rate, "momentum", batch_size=batch_size)

    def start(key, data):
        key_hparams, key_init = jax.random.split(key)
        hparams = draw_hparams(key_hparams)
        return begin(key_init, student, hparams, training(data)), hparams

    def train(key, relay, hparams, variables, data):
        del key, variables  # a network has a key of its own
        return advance(student, hparams, relay, data.real, training(data), relay_steps)

    def rates_at(data, step):
        if schedule == "constant":
            return data.rates
        return scaled(data.rates, 0.5 + 0.5 * jnp.cos(jnp.pi * step / data.num_steps))

    relays = Relays(start, lambda relay: relay.params, train)
    options = Matching(outer_steps, batch_size, augmentation, classes_at_once, synthetic_per_class)
    return matched_gradients(problem, container, relays, options, distance=DISTANCES[distance], rates_at=rates_at)
