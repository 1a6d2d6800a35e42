"""Images stored small (multi-formation of IDC, arXiv 2205.14959, section 4.1).

IDC cuts each stored image into factor x factor tiles and enlarges every tile to the full size. Here the tiles are
stored one by one, which is the same numbers in another order, and works where the factor does not divide the image.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from hcdc_jax.containers.base import Container
from hcdc_jax.containers.images import ImageVariables, given, image_container, taken
from hcdc_jax.errors import UserError
from hcdc_jax.types import Batch


@functools.cache
def multi_formation_container(image_shape: tuple[int, int, int], factor: int = 2, start: str = "real") -> Container:
    """A container of tiles of height h // factor and width w // factor, enlarged linearly to images when decoded.

    factor^2 tiles hold no more numbers than one image. Pixels live where the real inputs do, as those of
    `image_container`; IDC's live in [0, 1], which is the same up to scale where inputs are standardised.

    Args:
      image_shape: (height, width, channels).
      factor: of IDC, by which sides are divided; IDC has 2, and 3 for ImageNet.
      start: "real", the images of the `ImageStart` made small, or "noise", standard normal tiles.

    Raises:
      UserError: another start, or a factor that leaves no pixel of a side.
    """
    height, width, channels = image_shape
    if factor > min(height, width):
        raise UserError(
            f"condense.formation_factor = {factor} leaves nothing of images of {height} x {width}; lower it to at most "
            f"{min(height, width)}"
        )
    whole = image_container(start)

    def init(key, start_images):
        images = jnp.asarray(start_images.images, float)
        small = jax.image.resize(images, (len(images), height // factor, width // factor, channels), "linear")
        return whole.init(key, start_images._replace(images=small))

    def decode(variables: ImageVariables) -> Batch:
        batch = given(variables)
        return batch._replace(inputs=jax.image.resize(batch.inputs, (len(batch.labels), *image_shape), "linear"))

    return Container(init, decode, lambda variables, places: decode(taken(variables, places)), taken)
