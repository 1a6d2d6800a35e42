"""A container: images that are the same left and right, whose left half is stored; twice as many for a budget."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from hcdc_jax.extend import Batch, Container, ImageVariables, NamedContainer, Setup, per_class


@functools.cache  # equal containers are one object: nothing that takes one compiles twice
def symmetric(width: int) -> Container:
    """Images [n, h, width, c] whose right half is the mirrored left one; an odd column in the middle belongs to it."""
    half = (width + 1) // 2

    def init(key, start):
        del key
        images = jnp.asarray(start.images, jnp.float32)
        both = 0.5 * (images + images[:, :, ::-1])
        labels = jnp.asarray(start.labels, jnp.int32)
        return ImageVariables(both[:, :, :half], labels, jnp.ones(len(labels)))

    def decode(variables):
        mirrored = variables.pixels[:, :, : width - half][:, :, ::-1]
        images = jnp.concatenate([variables.pixels, mirrored], axis=2)
        return Batch(images, variables.labels, jax.lax.stop_gradient(variables.weights))

    def take(variables, places):
        return jax.tree.map(lambda leaf: leaf[jnp.asarray(places)], variables)

    return Container(init, decode, lambda variables, places: decode(take(variables, places)), take)


def _container(setup: Setup, part: str) -> Container:
    del part
    return symmetric(setup.data.image_shape[1])


def _per_class(setup: Setup, part: str, factor: float) -> float:
    _, width, _ = setup.data.image_shape
    return factor * per_class(setup.config, part) * width / ((width + 1) // 2)


SYMMETRIC = NamedContainer("images that are the same left and right", "images", _container, _per_class)
