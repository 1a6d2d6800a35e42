"""Names for the pytrees that travel through the library."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import jax

Array: TypeAlias = jax.Array
PyTree: TypeAlias = Any

Params: TypeAlias = PyTree
"""Weights of one network (theta)."""

HParams: TypeAlias = PyTree
"""One candidate (lambda): a float array or a pytree of float arrays."""

Variables: TypeAlias = PyTree
"""What a container stores: the numbers that condensation learns."""


class Batch(NamedTuple):
    """Labelled examples as the losses read them; float leaves may be differentiated.

    Attributes:
      inputs: what the model reads: images [n, height, width, channels], rows of a table [n, d], or a
        `jraph.GraphsTuple` whose first n nodes are the labelled ones.
      labels: [n] int class numbers, [n, num_classes] float class probabilities, or under regression [n] float amounts.
      weights: [n] float, the weight of each example in a mean; 0 leaves an example out.
    """

    inputs: PyTree
    labels: Array
    weights: Array
