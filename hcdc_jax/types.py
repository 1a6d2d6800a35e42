"""Names for the pytrees that travel through the library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.errors import UserError

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


def as_batch(examples: Batch | Sequence[Any], part: str = "") -> Batch:
    """A `Batch` out of arrays, as scikit-learn and NumPy hold them:

        batch = hc.as_batch((X, y))

    Numbers come in the precision of JAX, float32 unless 64 bits are switched on; labels that are integers, or True and
    False, become int32, those in one column [n, 1] lose it.

    Args:
      examples: (inputs, labels) or (inputs, labels, weights); inputs are an array or a pytree of arrays with a leading
        axis of n examples, labels [n] or [n, k], weights [n], 1 if not given. A `Batch` is looked at, and stays what it
        is.
      part: what they are a part of, for errors, such as "training".

    Raises:
      UserError: no such pair, or what `check_examples` raises.
    """
    if isinstance(examples, Batch):
        check_examples(examples, part)
        return examples
    if not isinstance(examples, tuple | list) or len(examples) not in (2, 3):
        raise UserError(
            f"{_of(part)}examples must come as (inputs, labels), as (inputs, labels, weights) or as a hc.Batch"
        )
    given, labels = examples[0], np.asarray(examples[1])
    if any(np.ndim(leaf) == 0 and not hasattr(leaf, "dtype") for leaf in jax.tree.leaves(given)):
        given = np.asarray(given)  # nested lists of numbers, of which JAX would make a tree
    weights = np.asarray(examples[2] if len(examples) == 3 else np.ones(labels.shape[:1], np.float32))
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    on_host: Any = (given, labels, weights)
    check_examples(Batch(*on_host), part)
    given_labels = jnp.asarray(labels, jnp.int32 if labels.dtype.kind in "biu" else None)
    return Batch(jax.tree.map(jnp.asarray, given), given_labels, jnp.asarray(weights.astype(np.float64)))


def check_examples(batch: Batch, part: str = "") -> None:
    """Checks that a batch holds examples that can be learned from. Of a graph, whose nodes are no examples, labels and
    weights alone are looked at.

    Args:
      batch: on the host or on a device.
      part: what it is a part of, for errors, such as "training".

    Raises:
      UserError: no examples, or different numbers of them; what are no numbers, or not finite; weights below 0, or all
        0; labels of more than two axes.
    """
    named = {"labels": batch.labels, "weights": batch.weights}
    is_graph = hasattr(batch.inputs, "n_node")
    if not is_graph:
        leaves = jax.tree.leaves_with_path(batch.inputs)
        named |= {f"inputs{jax.tree_util.keystr(path)}": leaf for path, leaf in leaves}
    arrays = {name: _numbers(_of(part) + name, leaf) for name, leaf in named.items()}
    counts = {name: len(array) for name, array in arrays.items()}
    if min(counts.values()) == 0 or len(counts) < 3 - is_graph:
        raise UserError(f"{_of(part)}there are no examples: inputs or labels are empty")
    if len(set(counts.values())) > 1:
        said, axis = ", ".join(f"{count} {name}" for name, count in counts.items()), "one leading axis of examples"
        if part:
            raise UserError(f"the {part} part has {said}; inputs, labels and weights must have {axis}")
        raise UserError(f"inputs, labels and weights must have {axis}, got {said}")
    weights, labels = arrays["weights"], arrays["labels"]
    if weights.ndim != 1 or (weights < 0).any() or not weights.sum() > 0:
        raise UserError(f"{_of(part)}weights must be one number for each example, at least 0 and not all 0")
    if labels.ndim > 2:
        raise UserError(f"{_of(part)}labels must be [n] or [n, k], got the shape {labels.shape}")


def _of(part: str) -> str:
    return f"the {part} part: " if part else ""


def _numbers(name: str, leaf: Any) -> np.ndarray:
    """A leaf with a leading axis of examples, once it is known to hold finite numbers."""
    array = np.asarray(leaf)
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_)):
        is_label = name.endswith("labels")
        hint = "; number the classes, as np.unique(y, return_inverse=True)[1] does" if is_label else ""
        raise UserError(f"{name} must be arrays of numbers, got the type {array.dtype}{hint}")
    if array.ndim == 0:
        raise UserError(f"{name} must be arrays with a leading axis of examples, got a single number")
    if jnp.issubdtype(array.dtype, jnp.floating) and not np.isfinite(array).all():
        raise UserError(f"{name} hold NaN or infinite numbers: drop those examples, or fill them in")
    return array
