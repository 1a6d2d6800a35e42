"""Synthetic images as free pixels, with labels that are given."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.containers.base import Container
from hcdc_jax.errors import check_name
from hcdc_jax.types import Array, Batch, PyTree


class ImageStart(NamedTuple):
    """Images on the host that a container starts from, or other arrays of floats.

    Attributes:
      images: [n, height, width, channels], normalised as the network reads them; of a study whatever its network reads,
        a pytree with leading axis [n].
      labels: [n] int, or [n, num_classes] class probabilities. Condensers that work class by class want them sorted,
        equally many of each.
    """

    images: Any
    labels: np.ndarray


class ImageVariables(NamedTuple):
    """Variables of synthetic images: the pixels are learned, labels and weights are given.

    Attributes:
      pixels: [n, height, width, channels], or a pytree with leading axis [n].
      labels: [n] int or [n, num_classes] float; of numbers to predict [n] float.
      weights: [n] float.
    """

    pixels: PyTree
    labels: Array
    weights: Array


STARTS = ("real", "noise")


@functools.cache
def image_container(start: str = "real") -> Container:
    """A container whose numbers are the pixels themselves.

    Args:
      start: "real", the pixels of the `ImageStart`, or "noise", standard normal pixels of its shape.

    Raises:
      UserError: another start.
    """
    check_name("start of images", start, STARTS, where="in 'condense.init'")

    def init(key, start_images):
        images = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), start_images.images)
        labels = jnp.asarray(start_images.labels)
        labels = labels.astype(float if jnp.issubdtype(labels.dtype, jnp.floating) else jnp.int32)
        noise = jax.tree.map(lambda leaf: jax.random.normal(key, leaf.shape, leaf.dtype), images)
        pixels = noise if start == "noise" else images
        return ImageVariables(pixels, labels, jnp.ones(len(labels), float))

    return Container(init, given, lambda variables, places: given(taken(variables, places)), taken)


def given(variables: ImageVariables) -> Batch:
    """The pixels as they are, with their labels."""
    return Batch(variables.pixels, variables.labels, jax.lax.stop_gradient(variables.weights))


def taken(variables: ImageVariables, places: Array) -> ImageVariables:
    """The variables of the images at `places` [k] alone."""
    return jax.tree.map(lambda leaf: leaf[jnp.asarray(places)], variables)


def as_they_are(images: Array) -> Array:
    """The images."""
    return images
