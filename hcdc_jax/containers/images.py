"""Synthetic images as free pixels, with labels that are given."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.containers.base import Container
from hcdc_jax.errors import check_name
from hcdc_jax.types import Array, Batch


class ImageStart(NamedTuple):
    """Images on the host that a container starts from.

    Attributes:
      images: [n, height, width, channels], normalised as the network reads them.
      labels: [n] int, or [n, num_classes] class probabilities. Condensers that work class by class want them sorted,
        equally many of each.
    """

    images: np.ndarray
    labels: np.ndarray


class ImageVariables(NamedTuple):
    """Variables of synthetic images: the pixels are learned, labels and weights are given.

    Attributes:
      pixels: [n, height, width, channels].
      labels: [n] int or [n, num_classes] float.
      weights: [n] float.
    """

    pixels: Array
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
        images = jnp.asarray(start_images.images, float)
        labels = jnp.asarray(start_images.labels)
        labels = labels.astype(jnp.int32 if labels.ndim == 1 else images.dtype)
        pixels = jax.random.normal(key, images.shape, images.dtype) if start == "noise" else images
        return ImageVariables(pixels, labels, jnp.ones(len(images), images.dtype))

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
