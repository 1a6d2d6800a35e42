"""Pytrees of arrays as flat names and back: the inside of every .npz file that holds condensed data.

`train/inputs/nodes`, `variables/val/structure/Dense_0/kernel`, ...: nested dictionaries and NamedTuples become paths.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import jraph
import numpy as np

from hcdc_jax.types import Batch, PyTree


def to_arrays(tree: PyTree, prefix: str = "") -> dict[str, np.ndarray]:
    """The leaves of nested dictionaries and NamedTuples by their slash-joined path; None and () leave nothing.

    Raises:
      TypeError: a key of a dictionary is no word.
    """
    if tree is None or (isinstance(tree, tuple) and not tree):
        return {}
    fields = getattr(tree, "_fields", None)
    if fields is not None:
        tree = dict(zip(fields, tree, strict=True))
    if isinstance(tree, Mapping):
        arrays = {}
        for key, item in tree.items():
            if not isinstance(key, str) or not key or "/" in key:
                raise TypeError(f"cannot store the key {key!r} under {prefix!r}: keys must be words without '/'")
            arrays |= to_arrays(item, f"{prefix}/{key}" if prefix else key)
        return arrays
    array = np.asarray(tree)
    # bfloat16 and its like are no types of NumPy's own: an .npz would give them back as bytes.
    return {prefix: array.astype(np.float32) if array.dtype.kind == "V" else array}


def to_tree(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Nested dictionaries of JAX arrays from `to_arrays`; what left nothing is absent."""
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *path, last = name.split("/")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[last] = jnp.asarray(array)
    return tree


def to_batch(tree: Mapping[str, Any]) -> Batch:
    """A batch of arrays or of a graph from `to_tree`; what a graph lacked, such as senders, comes back as None.

    Raises:
      KeyError: `inputs`, `labels` or `weights` is absent.
    """
    inputs = tree["inputs"]
    if isinstance(inputs, dict) and inputs.keys() <= set(jraph.GraphsTuple._fields):
        fields: dict[str, Any] = dict.fromkeys(jraph.GraphsTuple._fields)
        inputs = jraph.GraphsTuple(**(fields | inputs))
    return Batch(inputs, tree["labels"], tree["weights"])
