"""Mosaics of real crops that trained networks are surest of (RDED, arXiv 2312.03526): what EDC starts from.

Of each of a class's images some square crops are drawn; the one with the lowest loss stands for the image, and the
crops of lowest loss of the class are tiled. Nothing is optimised.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.condense.class_batches import ClassPool
from hcdc_jax.errors import UserError
from hcdc_jax.types import Array

LEAST_AREA = 0.08
"""Smallest share of the image that a crop shows; the default of PyTorch's random crops, which RDED keeps."""


def random_crops(key: Array, images: Array, count: int, side: int) -> Array:
    """`count` square crops [n, count, side, side, c] of each of the images [n, h, w, c], anywhere in them.

    Areas are uniform between `LEAST_AREA` and 1 of the largest square; crops are resampled linearly to `side` pixels.
    """
    n, height, width, channels = images.shape

    def one(key, image):
        uniform = jax.random.uniform(key, (3,))
        length = jnp.sqrt(LEAST_AREA + (1 - LEAST_AREA) * uniform[0]) * min(height, width)
        first = uniform[1:] * (jnp.array([height, width]) - length)
        scale = side / length
        shape = (side, side, channels)
        return jax.image.scale_and_translate(image, shape, (0, 1), jnp.stack([scale, scale]), -first * scale, "linear")

    keys = jax.random.split(key, (n, count))
    return jax.vmap(lambda keys, image: jax.vmap(lambda key: one(key, image))(keys))(keys, images)


def padded(crops: Array, shape: tuple[int, int]) -> Array:
    """Crops [n, side, side, c] in the middle of images of 0 of `shape` (height, width): as networks judge them."""
    borders = [total - side for total, side in zip(shape, crops.shape[1:3], strict=True)]
    return jnp.pad(crops, ((0, 0), *((border // 2, border - border // 2) for border in borders), (0, 0)))


def best_crops(losses: Array, crops: Array, count: int) -> tuple[Array, Array]:
    """Of each image the crop of lowest loss, and of those the `count` of lowest loss, lowest first.

    Args:
      losses: [n, k] of the crops.
      crops: [n, k, side, side, c].
      count: at most n.

    Returns:
      Losses [count] in ascending order, and their crops [count, side, side, c].
    """
    best = losses.argmin(1)
    rows = jnp.arange(losses.shape[0])
    losses = losses[rows, best]
    order = jnp.argsort(losses)[:count]
    return losses[order], crops[rows, best][order]


def tiled(crops: Array, factor: int) -> Array:
    """Images [n, factor s, factor s, c] of crops [n factor^2, s, s, c].

    Tile k takes the k-th n of the crops, so that each image has surer and less sure ones.
    """
    count, side = crops.shape[0] // factor**2, crops.shape[1]
    grid = crops.reshape(factor, factor, count, side, side, -1).transpose(2, 0, 3, 1, 4, 5)
    return grid.reshape(count, factor * side, factor * side, crops.shape[-1])


def check_mosaics(pool: ClassPool, per_class: int, *, factor: int, images: int) -> None:
    """Refuses mosaics that cannot be made, before any network is trained to judge their crops; see `mosaics`.

    Raises:
      UserError: a class has too few images, or tiles do not fill the image.
    """
    height, width = pool.images.shape[1:3]
    needed = per_class * factor**2
    short = int(np.asarray(pool.sizes).argmin())
    if min(images, int(pool.sizes[short])) < needed:
        raise UserError(
            f"mosaics of {factor} x {factor} tiles take {needed} images of each class for {per_class} of them: class "
            f"{short} has {int(pool.sizes[short])}, and edc.mosaic_images = {images} are looked at; lower "
            "edc.mosaic_factor or condense.images_per_class"
        )
    if height != width or height % factor:
        raise UserError(
            f"{height} x {width} pixels are no square of {factor} x {factor} tiles; change edc.mosaic_factor"
        )


def mosaics(
    key: Array,
    pool: ClassPool,
    judge: Callable[[Array, Array], Array],
    per_class: int,
    *,
    factor: int = 1,
    images: int = 300,
    crops: int = 5,
) -> np.ndarray:
    """Mosaics of every class, sorted by class: [num_classes per_class, h, w, c].

    Args:
      key: draws images and crops.
      pool: the real images.
      judge: `judge(images [n, h, w, c], labels [n]) -> losses [n]`.
      per_class: mosaics of each class.
      factor: tiles along each side; 1 leaves whole crops, as RDED does for small images.
      images: of each class that are looked at, drawn at random; all where there are fewer.
      crops: of each image.

    Raises:
      UserError: as `check_mosaics`.
    """
    check_mosaics(pool, per_class, factor=factor, images=images)
    height, width = pool.images.shape[1:3]
    needed = per_class * factor**2

    @jax.jit
    def of_class(key, real, label):
        drawn = random_crops(key, real, crops, height // factor)
        flat = drawn.reshape(-1, *drawn.shape[2:])
        losses = judge(padded(flat, (height, width)), jnp.full(len(flat), label))
        return tiled(best_crops(losses.reshape(-1, crops), drawn, needed)[1], factor)

    made = []
    for label, members in enumerate(pool.members):
        key_images, key_crops = jax.random.split(jax.random.fold_in(key, label))
        members = jax.random.permutation(key_images, members[: pool.sizes[label]])[:images]
        made.append(np.asarray(of_class(key_crops, pool.images[members], label)))
    return np.concatenate(made)
