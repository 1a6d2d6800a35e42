"""Differentiable siamese augmentation (DSA, arXiv 2102.08259): drawn by keys, applied by pure functions.

`draw` makes the parameters, `apply` uses them. One draw applied to a real and to a synthetic batch is siamese; a draw
per image (`augment`) is what training uses. Every draw carries the parameters of all operations and leaves those that
were not chosen at the identity, so an image is resampled once, no branch depends on data, and `vmap` over draws does no
more work than a loop.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from hcdc_jax.errors import UserError, check_name
from hcdc_jax.types import Array

OPERATIONS = ("color", "crop", "cutout", "flip", "scale", "rotate")
NO_MIRRORS = ("mnist", "svhn", "digits_images")
"""Data sets whose images mean something else in a mirror: DSA does not flip them."""
VIEW_OPERATIONS = (*OPERATIONS, "cutmix")
"""What views are made by: their labels are given after the images, so that these may be mixed."""


class Augmentation(NamedTuple):
    """Which operations are drawn from, and their ranges; the defaults are those of DSA.

    Attributes:
      operations: names in `OPERATIONS`. Digits and house numbers do without "flip".
      brightness: width of the uniform summand around 0.
      saturation: upper end of the uniform factor around the mean of the channels; the lower end is 0.
      contrast: lowest uniform factor around the mean of the image; the highest is 1 above it.
      crop: largest shift, as a share of each side.
      cutout: side of the square, as a share of each side.
      flip: probability.
      scale: largest factor per axis; the smallest is its inverse.
      rotate: largest angle in degrees, in both directions.
      acting: of the operations, "one" at a time, or "all" at once, as networks are commonly trained: colours, then one
        resampling that shifts, mirrors, scales and rotates, then the hole.
    """

    operations: tuple[str, ...] = OPERATIONS
    brightness: float = 1.0
    saturation: float = 2.0
    contrast: float = 0.5
    crop: float = 0.125
    cutout: float = 0.5
    flip: float = 0.5
    scale: float = 1.2
    rotate: float = 15.0
    acting: Literal["one", "all"] = "one"


class Draw(NamedTuple):
    """Parameters of one draw, or of one per image with leading axis [n].

    Attributes:
      operation: position in `Augmentation.operations`; not read where all of them act.
      brightness: summand.
      saturation: factor.
      contrast: factor.
      matrix: [2, 2], from (row, column) of the result to that of the source, both around the centre.
      shift: [2] pixels, added to the source's (row, column).
      hole: [2, 2], first (row, column) of the square that becomes 0, and the first ones after it.
    """

    operation: Array
    brightness: Array
    saturation: Array
    contrast: Array
    matrix: Array
    shift: Array
    hole: Array


def parse(text: str, known: tuple[str, ...] = OPERATIONS) -> Augmentation:
    """The augmentation with the operations of a strategy such as "color_crop_cutout_flip_scale_rotate".

    Args:
      text: names of operations, joined by "_".
      known: the names that there are.

    Raises:
      UserError: an operation is unknown or listed twice, or there is none.
    """
    operations = tuple(text.split("_")) if text else ()
    for name in operations:
        check_name("operation", name, known, where=f"in the augmentation {text!r}")
    if not operations or len(set(operations)) < len(operations):
        raise UserError(
            f"augmentation {text!r}: each operation once, and at least one; join some of {', '.join(known)} by '_'"
        )
    return Augmentation(operations)


def settings_of(augmentation: Augmentation | None) -> dict[str, Any] | None:
    """What an augmentation is made of, for records: without `acting` at its default, as in records older than it."""
    if augmentation is None:
        return None
    fields = augmentation._asdict()
    return fields if augmentation.acting == "all" else {name: fields[name] for name in fields if name != "acting"}


def draw_crop(key: Array, least_area: float | Array, shape: tuple[int, int], *, flip: float = 0.5) -> Draw:
    """A part of the image, enlarged to its size, and a mirror: what the field calls a random resized crop.

    The area is uniform between `least_area` and 1, the ratio of the sides between 3/4 and 4/3, uniform in its
    logarithm. Sides that would be longer than the image's are cut down to those, where others draw again.

    Args:
      key: decides all.
      least_area: as a share of the image; 1 leaves all of it.
      shape: (height, width) of the images.
      flip: probability of the mirror.
    """
    uniform = jax.random.uniform(key, (5,))
    area, ratio = least_area + (1 - least_area) * uniform[0], (4 / 3) ** (2 * uniform[1] - 1)
    sides = jnp.minimum(jnp.sqrt(area * jnp.stack([1 / ratio, ratio])), 1.0)
    sides = jnp.where(jnp.asarray(least_area) < 1, sides, 1.0)
    mirror = jnp.where(uniform[4] < flip, -1.0, 1.0)
    room = (1 - sides) * (jnp.asarray(shape, uniform.dtype) - 1)  # between centres of pixels: no border is seen
    one, none = jnp.ones_like(area), jnp.zeros_like(area)
    return Draw(
        operation=jnp.zeros((), jnp.int32),
        brightness=none,
        saturation=one,
        contrast=one,
        matrix=jnp.diag(sides * jnp.stack([one, mirror])),
        shift=room * (uniform[2:4] - 0.5),
        hole=jnp.zeros((2, 2), uniform.dtype),
    )


def draw_crop_each(
    key: Array, least_area: float | Array, shape: tuple[int, int], num_images: int, *, flip: float = 0.5
) -> Draw:
    """`draw_crop` for each image: leaves [n, ...]."""
    return jax.vmap(lambda key: draw_crop(key, least_area, shape, flip=flip))(jax.random.split(key, num_images))


def draw(key: Array, augmentation: Augmentation, shape: tuple[int, int]) -> Draw:
    """One operation and its parameters, or those of all operations where all act.

    Args:
      key: decides all.
      augmentation: what to draw from.
      shape: (height, width) of the images.
    """
    key_operation, key_parameters = jax.random.split(key)
    return _draw(_draw_operation(key_operation, augmentation), key_parameters, augmentation, shape)


def draw_each(key: Array, augmentation: Augmentation, shape: tuple[int, int], num_images: int) -> Draw:
    """`draw` with one operation for all, parameters for each image, as networks are trained in DSA: leaves [n, ...]."""
    key_operation, key_parameters = jax.random.split(key)
    operation = _draw_operation(key_operation, augmentation)
    keys = jax.random.split(key_parameters, num_images)
    return jax.vmap(lambda key: _draw(operation, key, augmentation, shape))(keys)


def apply(parameters: Draw, images: Array) -> Array:
    """Augments images [n, h, w, c], all alike or, if the leaves of `parameters` have an axis [n], each in its own way.

    Differentiable in the images and in the real-valued parameters. Colours are not clipped; 0 fills what comes from
    outside, which is the mean of normalised images.
    """
    if parameters.operation.ndim:
        return jax.vmap(lambda one, image: apply(one, image[None])[0])(parameters, images)
    return _cut(parameters, warped(_color(parameters, images), parameters.matrix, parameters.shift))


def augment(key: Array, augmentation: Augmentation | None, images: Array) -> Array:
    """Images [n, h, w, c] with one operation and parameters for each image; as they are without an augmentation."""
    if augmentation is None:
        return images
    n, height, width, _ = images.shape
    return apply(draw_each(key, augmentation, (height, width), n), images)


def augment_at(key: Array, augmentation: Augmentation | None, images: Array, places: Array) -> Array:
    """As `augment`, images [n, h, w, c] of a data set where the view of each depends on its place [n] alone.

    The same images look the same in whatever batches and order they come.
    """
    if augmentation is None:
        return images
    _, height, width, _ = images.shape

    def drawn(place: Array) -> Draw:
        return draw(jax.random.fold_in(key, place), augmentation, (height, width))

    return apply(jax.vmap(drawn)(places), images)


def views(key: Array, augmentation: Augmentation, images: Array, count: int) -> Array:
    """`count` views [count, n, h, w, c] of images [n, h, w, c]: the images themselves, then augmented.

    All operations act in turn, as in the training of networks, each with parameters of its own for every image. Of
    `VIEW_OPERATIONS`: "cutmix" is `cut_mixed`, among the images of a view.
    """

    def view(key: Array) -> Array:
        seen = images
        for place, operation in enumerate(augmentation.operations):
            own = jax.random.fold_in(key, place)
            if operation == "cutmix":
                seen = cut_mixed(own, seen)
            else:
                seen = augment(own, augmentation._replace(operations=(operation,)), seen)
        return seen

    augmented = jax.vmap(lambda i: view(jax.random.fold_in(key, i)))(jnp.arange(1, count))
    return jnp.concatenate([images[None], augmented])


def cut_mixed(key: Array, images: Array) -> Array:
    """Images [n, h, w, c], each with a box of another one, as CutMix mixes them (arXiv 1905.04899).

    Every image has a box of its own; whoever gives labels to the results sees what became of them.
    """
    size_key, place_key, partner_key = jax.random.split(key, 3)
    count, shape = images.shape[0], images.shape[1:3]
    boxes = jax.vmap(lambda size, place: cut_box(size, place, shape))(
        jax.random.split(size_key, count), jax.random.split(place_key, count)
    )
    return jnp.where(boxes[..., None], images[jax.random.permutation(partner_key, count)], images)


def cut_box(size_key: Array, place_key: Array, shape: tuple[int, ...]) -> Array:
    """The box of CutMix, True inside: [h, w].

    Its area is uniform in [0, 1] before the border cuts it off, which is the authors' Beta distribution at its default.
    """
    sizes = jnp.array(shape)
    side = jnp.floor(sizes * jnp.sqrt(jax.random.uniform(size_key)))
    centre = jnp.floor(sizes * jax.random.uniform(place_key, (2,)))
    first, end = centre - side // 2, centre + side // 2
    rows, columns = (
        (jnp.arange(n) >= low) & (jnp.arange(n) < high) for n, low, high in zip(shape, first, end, strict=True)
    )
    return rows[:, None] & columns[None]


def fitting(augmentation: Augmentation, data_name: str) -> Augmentation:
    """The augmentation without "flip" where the images of a data set mean something else in a mirror."""
    if data_name not in NO_MIRRORS:
        return augmentation
    return augmentation._replace(operations=tuple(name for name in augmentation.operations if name != "flip"))


def warped(images: Array, matrix: Array, shift: Array) -> Array:
    """Bilinear resampling of images [n, h, w, c], zero outside; exact for whole shifts and flips.

    Args:
      images: resampled all alike.
      matrix: see `Draw`.
      shift: see `Draw`.
    """
    n, height, width, channels = images.shape
    dtype = images.dtype
    rows, columns = jnp.arange(height, dtype=dtype), jnp.arange(width, dtype=dtype)
    centre = jnp.array([(height - 1) / 2, (width - 1) / 2], dtype)
    grid = jnp.stack(jnp.meshgrid(rows - centre[0], columns - centre[1], indexing="ij")).reshape(2, -1)
    # Written out: a reduced matmul precision would blur whole coordinates.
    matrix, shift = matrix.astype(dtype), shift.astype(dtype)
    source = matrix[:, :1] * grid[:1] + matrix[:, 1:] * grid[1:] + (centre + shift)[:, None]
    corner = jnp.floor(source)
    part = source - corner
    flat = images.reshape(n, height * width, channels)
    total = jnp.zeros_like(flat)
    for down in (0, 1):
        for right in (0, 1):
            row, column = corner[0] + down, corner[1] + right
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            weight = (part[0] if down else 1 - part[0]) * (part[1] if right else 1 - part[1]) * inside
            place = jnp.where(inside, row * width + column, 0).astype(jnp.int32)
            total = total + weight[None, :, None] * flat[:, place]
    return total.reshape(images.shape)


def _draw_operation(key: Array, augmentation: Augmentation) -> Array:
    return jax.random.randint(key, (), 0, len(augmentation.operations))


def _draw(operation: Array, key: Array, augmentation: Augmentation, shape: tuple[int, int]) -> Draw:
    uniform = jax.random.uniform(key, (11,))

    def if_drawn(name: str, value: Array, otherwise: float) -> Array:
        if name not in augmentation.operations:
            return jnp.full_like(value, otherwise)
        if augmentation.acting == "all":
            return value
        return jnp.where(operation == augmentation.operations.index(name), value, otherwise)

    def between(number: Array, low: float, high: float) -> Array:
        return low + (high - low) * number

    angle = if_drawn("rotate", jnp.deg2rad(between(uniform[3], -augmentation.rotate, augmentation.rotate)), 0.0)
    mirror = if_drawn("flip", jnp.where(uniform[4] < augmentation.flip, -1.0, 1.0), 1.0)
    scale = if_drawn("scale", between(uniform[5:7], 1 / augmentation.scale, augmentation.scale), 1.0)
    rotation = jnp.array([[jnp.cos(angle), jnp.sin(angle)], [-jnp.sin(angle), jnp.cos(angle)]])
    width = augmentation.brightness / 2
    return Draw(
        operation=operation,
        brightness=if_drawn("color", between(uniform[0], -width, width), 0.0),
        saturation=if_drawn("color", between(uniform[1], 0.0, augmentation.saturation), 1.0),
        contrast=if_drawn("color", between(uniform[2], augmentation.contrast, augmentation.contrast + 1.0), 1.0),
        matrix=rotation * scale[:, None] * jnp.stack([jnp.ones_like(mirror), mirror])[None],
        shift=if_drawn("crop", _shift(uniform[7:9], augmentation, shape), 0.0),
        hole=if_drawn("cutout", _hole(uniform[9:11], augmentation, shape), 0.0),
    )


def _shift(uniform: Array, augmentation: Augmentation, shape: tuple[int, int]) -> Array:
    most = jnp.array([int(side * augmentation.crop + 0.5) for side in shape], uniform.dtype)
    return jnp.floor(uniform * (2 * most + 1)) - most


def _hole(uniform: Array, augmentation: Augmentation, shape: tuple[int, int]) -> Array:
    sides = jnp.array([int(side * augmentation.cutout + 0.5) for side in shape], uniform.dtype)
    # A hole of even side has its centre between pixels, of which there is one more than there are pixels.
    centre = jnp.floor(uniform * (jnp.array(shape, uniform.dtype) + 1 - sides % 2))
    first = centre - sides // 2
    return jnp.stack([first, first + sides])


def _color(parameters: Draw, images: Array) -> Array:
    images = images + parameters.brightness.astype(images.dtype)
    for factor, axes in ((parameters.saturation, (3,)), (parameters.contrast, (1, 2, 3))):
        mean = images.mean(axes, keepdims=True)
        # Exact where the factor is 1, which mean + (images - mean) is not.
        images = factor.astype(images.dtype) * images + (1.0 - factor).astype(images.dtype) * mean
    return images


def _cut(parameters: Draw, images: Array) -> Array:
    first, end = parameters.hole
    rows, columns = jnp.arange(images.shape[1]), jnp.arange(images.shape[2])
    in_rows, in_columns = (rows >= first[0]) & (rows < end[0]), (columns >= first[1]) & (columns < end[1])
    hole = in_rows[:, None] & in_columns[None, :]
    return jnp.where(hole[None, :, :, None], 0.0, images)
