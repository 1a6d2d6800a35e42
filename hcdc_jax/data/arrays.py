"""Examples as arrays, of whatever kind: what a study brings whose network is its own."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import jax
import numpy as np

from hcdc_jax.data.table_preparation import Preparation
from hcdc_jax.data.tables import TableData
from hcdc_jax.errors import UserError
from hcdc_jax.types import Batch, PyTree, as_batch

PARTS = ("train", "val", "test")
DRAWN = 0.2
"""Share of the training part that a missing validation or test part is drawn from, each."""


class ArrayData(NamedTuple):
    """Examples in three parts, all of them in one row, on the host.

    Attributes:
      name: of the data set.
      inputs: pytree of arrays with leading axis [n].
      labels: [n] int class numbers, or float: [n] or [n, k] numbers.
      weights: [n] float, of each example in a mean.
      train_idx: places of the training part.
      val_idx: places of the validation part.
      test_idx: places of the test part.
      num_classes: of class numbers; None where labels are none.
      checksum: SHA-256 of all of it.
      notes: what a run should tell of it.
      preparation: of a table, what its rows have gone through; None of other arrays.
    """

    name: str
    inputs: PyTree
    labels: Any
    weights: Any
    train_idx: np.ndarray
    val_idx: np.ndarray
    test_idx: np.ndarray
    num_classes: int | None
    checksum: str
    notes: tuple[str, ...] = ()
    preparation: Preparation | None = None

    def batch(self, index: np.ndarray) -> Batch:
        """The examples at these places."""
        return jax.tree.map(lambda leaf: leaf[index], Batch(self.inputs, self.labels, self.weights))


def array_data(
    name: str, train: Batch, val: Batch | None = None, test: Batch | None = None, seed: int = 0
) -> ArrayData:
    """The data of a study.

    Args:
      name: of the data set.
      train: training examples; leaves of inputs, labels and weights have one leading axis.
      val: validation examples; a fifth of the training part, drawn by the seed, where they are not given.
      test: test examples; likewise.
      seed: of what is drawn.

    Raises:
      UserError: a part is empty or differs from the training part in its arrays, leading axes differ, numbers are not
        finite, or class numbers below 0.
    """
    given = {part: _on_host(part, batch) for part, batch in zip(PARTS, (train, val, test), strict=True) if batch}
    sizes = {part: len(batch.labels) for part, batch in given.items()}
    for part in given:
        _check_like(part, given[part], given["train"])
    inputs, labels, weights = jax.tree.map(lambda *leaves: np.concatenate(leaves), *given.values())
    places = dict(zip(given, np.split(np.arange(sum(sizes.values())), np.cumsum([*sizes.values()])[:-1]), strict=True))
    drawn = tuple(part for part in ("val", "test") if part not in given)
    own = np.random.default_rng(seed).permutation(places["train"])
    for part in drawn:
        count = max(round(DRAWN * sizes["train"]), 1)
        places[part], own = np.sort(own[:count]), own[count:]
    if drawn:
        places["train"] = np.sort(own)
    if not len(places["train"]):
        raise UserError(f"{name} has too few training examples to draw {' and '.join(drawn)} from: give these parts")
    notes = tuple(f"{name} has no {part} part: a fifth of the training examples, drawn, is it" for part in drawn)
    num_classes = int(labels.max()) + 1 if labels.dtype.kind in "iu" else None
    train_idx, val_idx, test_idx = (places[part] for part in PARTS)
    checksum = _checksum((inputs, labels, weights, train_idx, val_idx, test_idx))
    return ArrayData(name, inputs, labels, weights, train_idx, val_idx, test_idx, num_classes, checksum, notes)


def from_table(table: TableData) -> ArrayData:
    """The rows of a table, prepared."""
    train, val, test = (as_batch(tuple(getattr(table, part)), part) for part in PARTS)
    data = array_data(table.name, train, val, test)
    return data._replace(
        num_classes=table.num_classes, checksum=table.checksum, notes=table.notes, preparation=table.preparation
    )


def summary(data: ArrayData) -> dict[str, Any]:
    """Its counts."""
    counts: dict[str, Any] = {"examples": len(data.labels)}
    counts |= {part: len(getattr(data, f"{part}_idx")) for part in PARTS}
    counts["numbers"] = sum(int(np.prod(leaf.shape[1:], dtype=int)) for leaf in jax.tree.leaves(data.inputs))
    return counts | ({} if data.num_classes is None else {"classes": data.num_classes})


def _on_host(part: str, batch: Batch) -> Batch:
    batch = jax.tree.map(np.asarray, as_batch(batch, part))
    labels = batch.labels
    if labels.dtype.kind in "iu" and labels.ndim == 1 and labels.min() < 0:
        raise UserError(f"the {part} part: class numbers start at 0, found {labels.min()}; leave such examples out")
    if labels.dtype.kind in "iu" and labels.ndim > 1:
        raise UserError(
            f"the {part} part: labels of shape {labels.shape} are whole numbers; give [n] classes, or floats"
        )
    return batch


def _check_like(part: str, batch: Batch, train: Batch) -> None:
    def form(batch: Batch) -> tuple[Any, ...]:
        leaves, tree = jax.tree.flatten(batch)
        return tree, [(leaf.shape[1:], leaf.dtype.kind) for leaf in leaves]

    if form(batch) != form(train):
        raise UserError(
            f"the {part} part is not like the training part: {_form_words(batch)} here, {_form_words(train)} there"
        )


def _form_words(batch: Batch) -> str:
    leaves = jax.tree_util.tree_leaves_with_path(batch)
    return ", ".join(
        f"{_words(path)} {leaf.dtype}[n{''.join(f', {d}' for d in leaf.shape[1:])}]" for path, leaf in leaves
    )


def _words(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _checksum(arrays: Any) -> str:
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(arrays):
        digest.update(f"{path} {leaf.dtype} {leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
