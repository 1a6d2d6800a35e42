"""What a container is: the map from learned numbers to a data set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from hcdc_jax.types import Array, Batch, Variables


class Container(NamedTuple):
    """Pure functions. Any condenser can learn the variables of any container.

    The examples of a graph hang together; where they do not, as those of images, single ones can be had and removed.

    Attributes:
      init: `init(key, start) -> variables`; `start` is what the container starts from, such as real examples.
      decode: `decode(variables) -> Batch`; differentiable in the float leaves that are learned.
      decode_at: `decode_at(variables, places [k] int) -> Batch` of the examples at these places of `decode`, for the
        work and memory of k examples; places may be traced. None where examples cannot be had singly.
      take: `take(variables, places [k] int) -> variables` that store these examples alone, in this order; places lie on
        the host. None where examples cannot be removed.
    """

    init: Callable[[Array, Any], Variables]
    decode: Callable[[Variables], Batch]
    decode_at: Callable[[Variables, Array], Batch] | None = None
    take: Callable[[Variables, Array], Variables] | None = None


def stored_scalars(variables: Variables) -> dict[str, int]:
    """How many numbers each field of a container's variables holds; of arrays or of their shapes."""
    return {name: sum(leaf.size for leaf in jax.tree.leaves(getattr(variables, name))) for name in variables._fields}
