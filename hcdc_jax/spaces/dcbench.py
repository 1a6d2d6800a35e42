"""Flaws of the harness in which DC-BENCH (arXiv 2207.09639) ranks cells, for baselines that are to be trained as there.

HCDC's Table 1 says that it follows that protocol. Its code reads the operations of a cell as one-hot vectors, and

- takes them for logits: a softmax makes 0.40 of the operation chosen, and 0.15 of each other one (`softmax`);
- makes them as wide as the last operation in the cell needs, so that the softmax knows no later ones (`narrow`);
- learns no scales and shifts in the norms of the cell's convolutions (`no_affine`);
- reads condensed images in the order in which they are stored, class by class, and the norms, which look at a batch,
  see one or two classes of ten at a time (`unshuffled`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from hcdc_jax.models import ImageSetting
from hcdc_jax.types import Array, HParams

FLAWS = ("softmax", "narrow", "no_affine", "unshuffled")


@functools.cache
def misread(read: Callable[[HParams], ImageSetting], flaws: tuple[str, ...]) -> Callable[[HParams], ImageSetting]:
    """What the harness makes of the cells that `read` finds in hyperparameters.

    Args:
      read: of a space of cells.
      flaws: of `FLAWS`; only "softmax" and "narrow" are about reading.
    """
    if "softmax" not in flaws:
        return read

    def softened(hparams: HParams) -> ImageSetting:
        setting = read(hparams)
        if setting.cell is None:
            return setting
        return setting._replace(cell=soft_weights(setting.cell, narrow="narrow" in flaws))

    return softened


def soft_weights(cell: Array, *, narrow: bool) -> Array:
    """The weights [6, 5] that the harness gives the operations of a cell [6, 5], one-hot.

    Args:
      cell: one weight of each edge is 1.
      narrow: operations that come after the last one in the cell have none.
    """
    if not narrow:
        return jax.nn.softmax(cell)
    places = jnp.arange(cell.shape[1])
    last = jnp.max(jnp.where((cell != 0).any(0), places, 0))
    return jax.nn.softmax(jnp.where(places <= last, cell, -jnp.inf))
