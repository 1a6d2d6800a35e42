"""What a container is: the map from learned numbers to a data set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from hcdc_jax.types import Array, Batch, Variables


class Container(NamedTuple):
    """A pair of pure functions. Any condenser can learn the variables of any container.

    Attributes:
      init: `init(key, start) -> variables`; `start` is what the container starts from, such as real examples.
      decode: `decode(variables) -> Batch`; differentiable in the float leaves that are learned.
    """

    init: Callable[[Array, Any], Variables]
    decode: Callable[[Variables], Batch]
