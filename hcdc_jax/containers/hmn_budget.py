"""What a hierarchical memory network costs in stored numbers, and how many images a budget buys.

A budget is that of raw images: images per class x classes x pixels of an image (arXiv 2310.07506, section 4).
Everything stored counts towards it: memories, extractors and decoder.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import numpy as np

from hcdc_jax.containers.base import stored_scalars
from hcdc_jax.containers.hmn import HMNVariables, MemoryShapes, hmn_container
from hcdc_jax.containers.images import ImageStart
from hcdc_jax.errors import UserError

USUAL_SHAPES = {3_072: MemoryShapes(), 30_720: MemoryShapes(dataset=8, extracted=8, per_class=4, instance=8, width=32)}
"""By numbers per class, those of 1 and of 10 images of CIFAR-10. The paper's shapes are not known; these give its 85
and 219 images per class."""


class Ledger(NamedTuple):
    """Stored numbers of a network, part by part.

    Attributes:
      dataset_memory: of m_D.
      class_memories: of all m_C_c.
      instance_memories: of all m_I_{c,i}.
      extractors: of all f_c.
      decoder: of D.
      total: of everything.
      images: images that are generated from it.
    """

    dataset_memory: int
    class_memories: int
    instance_memories: int
    extractors: int
    decoder: int
    total: int
    images: int

    def __str__(self) -> str:
        """One line, part by part."""
        return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in self._asdict().items())


def ledger(variables: HMNVariables) -> Ledger:
    """The ledger of variables, or of their shapes: their leaves, counted."""
    parts = stored_scalars(variables)
    num_classes, per_class = variables.instance_memories.shape[:2]
    return Ledger(**parts, total=sum(parts.values()), images=num_classes * per_class)


@functools.cache
def planned_ledger(
    image_shape: tuple[int, int, int], num_classes: int, shapes: MemoryShapes, images_per_class: int
) -> Ledger:
    """The ledger of a network that generates so many images per class, without making one.

    Args:
      image_shape: (height, width, channels).
      num_classes: number of classes.
      shapes: of memories and networks.
      images_per_class: generated images of each class.
    """
    init = hmn_container(image_shape, num_classes, shapes).init
    start = ImageStart(np.zeros(0), np.repeat(np.arange(num_classes), images_per_class))
    return ledger(jax.eval_shape(lambda key: init(key, start), jax.random.key(0)))


def usual_shapes(images_per_class: float, image_shape: tuple[int, int, int]) -> MemoryShapes:
    """The shapes of `USUAL_SHAPES` whose budget is nearest by ratio to that of so many images."""
    numbers = images_per_class * math.prod(image_shape)
    return USUAL_SHAPES[min(USUAL_SHAPES, key=lambda known: abs(math.log(known / numbers)))]


def hmn_sizes(
    images_per_class: float, image_shape: tuple[int, int, int], num_classes: int, shapes: MemoryShapes
) -> int:
    """The largest number of generated images per class whose network fits into the budget.

    Args:
      images_per_class: the budget in raw images; 1.1 times it for condensing over budget by a tenth.
      image_shape: (height, width, channels).
      num_classes: number of classes.
      shapes: of memories and networks.

    Raises:
      UserError: not one image per class fits.
    """
    budget = math.floor(images_per_class * num_classes * math.prod(image_shape))
    one = planned_ledger(image_shape, num_classes, shapes, 1)
    if one.total > budget:
        raise UserError(
            f"a memory network of one image per class stores {one.total:,} numbers, and {images_per_class:g} raw "
            f"images per class are {budget:,}; raise condense.images_per_class or lower the sizes of [hmn]"
        )
    return 1 + (budget - one.total) // one.instance_memories
