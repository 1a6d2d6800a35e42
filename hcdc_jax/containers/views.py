"""Images of any container with labels of teachers: one for each of several augmented views.

The views themselves are not stored: a key makes them again. What is stored besides the images are their labels.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hcdc_jax.batches.augment import Augmentation, views
from hcdc_jax.containers.base import Container
from hcdc_jax.types import Array, Batch, Variables


class ViewVariables(NamedTuple):
    """Variables of taught images.

    Attributes:
      images: variables of the container of the images.
      labels: [views, n, num_classes] class probabilities.
      key: raw data of the key that the views are drawn by.
    """

    images: Variables
    labels: Array
    key: Array


class ViewStart(NamedTuple):
    """What taught images start from; see `ViewVariables`.

    Attributes:
      images: variables.
      labels: of their views.
      key: typed, of the views.
    """

    images: Variables
    labels: Array
    key: Array


@functools.cache
def view_container(images: Container, augmentation: Augmentation) -> Container:
    """A container whose examples are the views [views n] of the images of another, view by view.

    Args:
      images: decodes the images; the weights that it gives count for all of their views.
      augmentation: makes the views but the first, which are the images themselves.
    """

    def init(key: Array, start: Any) -> ViewVariables:
        del key
        return ViewVariables(start.images, jnp.asarray(start.labels), jax.random.key_data(start.key))

    def decode(variables: ViewVariables) -> Batch:
        batch, (count, _, num_classes) = images.decode(variables.images), variables.labels.shape
        seen = views(jax.random.wrap_key_data(variables.key), augmentation, batch.inputs, count)
        return Batch(
            seen.reshape(-1, *batch.inputs.shape[1:]),
            variables.labels.reshape(-1, num_classes),
            jnp.tile(batch.weights, count),
        )

    return Container(init, decode)
