"""RandAugment (Cubuk et al., arXiv 1909.13719): a few operations in turn, drawn for each image, all equally strong.

Ranges are those of AutoAugment as torchvision has them, at magnitudes from 0 to 30; its defaults, 2 operations at 9,
are what EDC takes. Operations act on pixels between black and white, which `levels` finds. As in `augment`, a draw
carries the parameters of all operations and leaves those that were not chosen at the identity.

Of the published 14 operations two are missing: equalise, a table of 256 grey levels, has no meaning without them, and
posterise does nothing but round to fewer of them, to 128 at magnitude 9.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hcdc_jax.batches.augment import warped
from hcdc_jax.types import Array

OPERATIONS = (
    "identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "colour", "contrast",
    "sharpness", "solarise", "auto_contrast",
)  # fmt: skip
STRONGEST = 30
SHEAR, TRANSLATION, ANGLE, FACTOR = 0.3, 150 / 331, 30.0, 0.9
"""At the strongest: slope, share of the side, degrees, how far factors are from 1; in either direction."""
LUMA = (0.299, 0.587, 0.114)
"""How bright red, green and blue are (ITU-R BT.601)."""


class RandAugment(NamedTuple):
    """What is drawn from, how often, and how strong it is.

    Attributes:
      operations: names in `OPERATIONS`.
      num_ops: how many are drawn for each image, with replacement; they act in turn.
      magnitude: of all of them, from 0 to `STRONGEST`; at 0 nothing happens, but for "auto_contrast", which has none.
    """

    operations: tuple[str, ...] = OPERATIONS
    num_ops: int = 2
    magnitude: float = 9.0


class Levels(NamedTuple):
    """Black and white.

    Attributes:
      low: [c].
      high: [c].
    """

    low: Array
    high: Array


class Change(NamedTuple):
    """One operation and its parameters, or several with a leading axis.

    Attributes:
      operation: position in `RandAugment.operations`.
      matrix: [2, 2], from (row, column) of the result to that of the source, both around the centre.
      shift: [2] pixels, added to the source's (row, column).
      brightness: factor of the pixels.
      colour: factor of their distance from grey.
      contrast: factor of their distance from the image's mean grey.
      sharpness: factor of their distance from the blurred image.
      threshold: pixels above it are inverted.
      stretched: whether each channel is stretched from black to white.
    """

    operation: Array
    matrix: Array
    shift: Array
    brightness: Array
    colour: Array
    contrast: Array
    sharpness: Array
    threshold: Array
    stretched: Array


def levels(images: Array) -> Levels:
    """The least and the greatest value of each channel in images [n, h, w, c].

    Of a training set this is black and white, in whatever units it is; and where condensed pixels have left that range,
    as some methods let them, nothing that they hold is cut off.
    """
    return Levels(images.min((0, 1, 2)), images.max((0, 1, 2)))


def rand_augment(key: Array, settings: RandAugment, images: Array, black_and_white: Levels) -> Array:
    """Images [n, h, w, c], each under operations of its own.

    Args:
      key: decides all.
      settings: what is drawn from.
      images: between black and white; what is moved in from outside is black.
      black_and_white: in the units of the images.
    """
    n, height, width, _ = images.shape
    low, high = (level[None, None, None] for level in black_and_white)
    span = jnp.where(high > low, high - low, 1.0)
    keys = jax.random.split(key, (settings.num_ops, n))
    drawn = jax.vmap(jax.vmap(lambda key: draw(key, settings, (height, width))))(keys)

    def in_turn(pixels: Array, changes: Change) -> tuple[Array, None]:
        return jax.vmap(changed)(changes, pixels), None

    pixels, _ = jax.lax.scan(in_turn, (images - low) / span, drawn)
    return low + span * pixels


def draw(key: Array, settings: RandAugment, shape: tuple[int, int]) -> Change:
    """One operation, in one of its two directions.

    Args:
      key: decides both.
      settings: what to draw from.
      shape: (height, width) of the images.
    """
    uniform = jax.random.uniform(key, (2,))
    operation = (uniform[0] * len(settings.operations)).astype(jnp.int32)
    strength = jnp.asarray(settings.magnitude / STRONGEST)
    signed = jnp.where(uniform[1] < 0.5, strength, -strength)
    height, width = shape

    def if_drawn(name: str, value: Array, otherwise: float = 0.0) -> Array:
        if name not in settings.operations:
            return jnp.full_like(value, otherwise)
        return jnp.where(operation == settings.operations.index(name), value, otherwise)

    angle = if_drawn("rotate", jnp.deg2rad(ANGLE * signed))
    slope_x, slope_y = (if_drawn(name, SHEAR * signed) for name in ("shear_x", "shear_y"))
    whole = jnp.trunc(TRANSLATION * signed * jnp.array([height, width]))
    return Change(
        operation=operation,
        matrix=jnp.array([[jnp.cos(angle), jnp.sin(angle) + slope_y], [slope_x - jnp.sin(angle), jnp.cos(angle)]]),
        # Shears leave the upper left corner where it is, as published.
        shift=jnp.array([
            if_drawn("translate_y", whole[0]) + slope_y * width / 2,
            if_drawn("translate_x", whole[1]) + slope_x * height / 2,
        ]),
        brightness=if_drawn("brightness", 1 + FACTOR * signed, 1.0),
        colour=if_drawn("colour", 1 + FACTOR * signed, 1.0),
        contrast=if_drawn("contrast", 1 + FACTOR * signed, 1.0),
        sharpness=if_drawn("sharpness", 1 + FACTOR * signed, 1.0),
        threshold=if_drawn("solarise", 1 - strength, 1.0),
        stretched=if_drawn("auto_contrast", jnp.ones(()), 0.0) > 0,
    )  # fmt: skip


def changed(change: Change, pixels: Array) -> Array:
    """What an operation makes of an image [h, w, c] between 0, black, and 1, white."""
    pixels = warped(pixels[None], change.matrix, change.shift)[0]
    pixels = jnp.where(change.stretched, _stretched(pixels), pixels)
    pixels = jnp.where(pixels > change.threshold, 1 - pixels, pixels)
    grey = _grey(pixels)
    for factor, other in (
        (change.brightness, jnp.zeros_like(pixels)),
        (change.colour, grey),
        (change.contrast, grey.mean(keepdims=True)),
        (change.sharpness, _blurred(pixels)),
    ):
        # Exact where the factor is 1, which other + factor * (pixels - other) is not.
        pixels = factor * pixels + (1 - factor) * other
    return jnp.clip(pixels, 0.0, 1.0)


def _grey(pixels: Array) -> Array:
    """[h, w, 1] how bright an image [h, w, c] is; other channels than red, green and blue count alike."""
    if pixels.shape[-1] != len(LUMA):
        return pixels.mean(-1, keepdims=True)
    return (pixels * jnp.array(LUMA, pixels.dtype)[None, None]).sum(-1, keepdims=True)


def _stretched(pixels: Array) -> Array:
    low, high = pixels.min((0, 1), keepdims=True), pixels.max((0, 1), keepdims=True)
    return jnp.where(high > low, (pixels - low) / jnp.where(high > low, high - low, 1.0), pixels)


def _blurred(pixels: Array) -> Array:
    """The mean of 3 x 3 pixels with five times the weight on the one in the middle; the border stays as it is."""
    height, width, _ = pixels.shape
    if min(height, width) < 3:
        return pixels
    around = sum(pixels[i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3))
    return pixels.at[1:-1, 1:-1].set((around + 4 * pixels[1:-1, 1:-1]) / 13)
