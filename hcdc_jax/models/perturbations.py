"""What training may do to images and labels; smooth in the strength, so that hypergradients see it."""

from __future__ import annotations

from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp

from hcdc_jax.batches.augment import cut_box
from hcdc_jax.types import Array, Batch

MixedLabels: TypeAlias = Literal["mixed", "own"]
"""Labels of images with a box of another one: in proportion to the pixels, or those of the image around the box."""


def probabilities(labels: Array, num_classes: int | None) -> Array:
    """Labels as class probabilities [n, num_classes]; those that are such, or amounts (None), stay as they are."""
    return labels if num_classes is None or labels.ndim != 1 else jax.nn.one_hot(labels, num_classes)


def smoothed(labels: Array, num_classes: int | None, share: Array) -> Array:
    """Class probabilities of which `share` is spread evenly over all classes (arXiv 1512.00567): [n, num_classes].

    Without classes labels are amounts of mean 0 [n], which lose that share of themselves: in both cases labels move
    towards what one would say without any input, were all classes equally frequent.
    """
    if num_classes is None:
        return (1 - share) * labels
    return (1 - share) * probabilities(labels, num_classes) + share / num_classes


def with_noise(key: Array, batch: Batch, size: Array) -> Batch:
    """Inputs with normal noise of the standard deviation `size` in every pixel."""
    return batch._replace(inputs=batch.inputs + size * jax.random.normal(key, batch.inputs.shape, batch.inputs.dtype))


def mixed_up(key: Array, batch: Batch, strength: Array, num_classes: int | None) -> Batch:
    """Each example with a share of another one, in image, label and weight: mixup (arXiv 1710.09412).

    The share is uniform in [0, strength / 2], where the original draws it from a Beta distribution: here it depends
    smoothly on the strength, by a line of code. At strength 1 an even mixture is the extreme case.

    Args:
      key: draws partners and shares.
      batch: images [n, ...].
      strength: in [0, 1].
      num_classes: of the labels; None if they are amounts.
    """
    partner_key, share_key = jax.random.split(key)
    count = batch.labels.shape[0]
    partner = jax.random.permutation(partner_key, count)
    share = 0.5 * strength * jax.random.uniform(share_key, (count,))

    def mix(values: Array) -> Array:
        weights = share.reshape(count, *[1] * (values.ndim - 1))
        return (1 - weights) * values + weights * values[partner]

    return Batch(mix(batch.inputs), mix(probabilities(batch.labels, num_classes)), mix(batch.weights))


def cut_mixed(key: Array, batch: Batch, chance: float, num_classes: int, labels: MixedLabels = "mixed") -> Batch:
    """With some probability a box of every image from another one, labels in proportion: CutMix (arXiv 1905.04899).

    One box for the whole batch, as the authors' code has it.

    Args:
      key: draws whether, where, and partners.
      batch: images [n, h, w, c].
      chance: probability that anything happens.
      num_classes: of the labels.
      labels: see `MixedLabels`; weights go with them.
    """
    chance_key, size_key, place_key, partner_key = jax.random.split(key, 4)
    box = cut_box(size_key, place_key, batch.inputs.shape[1:3]) & (jax.random.uniform(chance_key) < chance)
    partner = jax.random.permutation(partner_key, batch.labels.shape[0])
    kept = 1 - box.mean()

    def mix(values: Array) -> Array:
        return kept * values + (1 - kept) * values[partner]

    inputs = jnp.where(box[None, :, :, None], batch.inputs[partner], batch.inputs)
    if labels == "own":
        return batch._replace(inputs=inputs)
    return Batch(inputs, mix(probabilities(batch.labels, num_classes)), mix(batch.weights))


def relu_tanh(share: Array, x: Array) -> Array:
    """A mixture of two activations, `share` of it the rectifier's."""
    return share * jax.nn.relu(x) + (1 - share) * jnp.tanh(x)


def gaussian_dropout(key: Array, rate: Array | float, x: Array) -> Array:
    """Multiplies by independent normal numbers of the mean and variance that dropout at this rate has.

    Mean 1, variance p / (1 - p), as of m / (1 - p) with a mask m (Srivastava et al., JMLR 15, section 10). A mask jumps
    where the rate passes a draw, so a derivative along the draws misses most of what the rate does, however training is
    differentiated; these numbers are smooth in it.

    Args:
      key: draws the numbers.
      rate: p above 0, where the root has its slope, and below 1.
      x: any array.
    """
    return x * (1 + jnp.sqrt(rate / (1 - rate)) * jax.random.normal(key, x.shape, x.dtype))
