"""Smaller sets out of a condensed one, and one set out of two that condense different classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.batches.images import pixels_of
from hcdc_jax.condense.coresets import herding
from hcdc_jax.condensed import Condensed
from hcdc_jax.errors import UserError
from hcdc_jax.storage.codec import to_arrays
from hcdc_jax.types import Batch

CLASS_BY_CLASS = ("random", "herding", "kcenter", "dm", "dc", "dsa", "idc")
"""Methods whose condensed classes do not answer to one another, nor to hyperparameters: what may be merged."""


def subset(condensed: Condensed, per_class: int) -> Condensed:
    """So many examples of each class of S_train, and of S_val in proportion; a prefix of every larger subset.

    Examples are ranked class by class by herding (Welling 2009; iCaRL 1611.07725) in their inputs: those first whose
    running mean stays closest to the mean of their class. The best of every class come first, then the second best, so
    that a smaller subset is the start of a larger one. S_val is not matched anew: a set that was condensed at the
    smaller size ranks better where that counts. Classes that have fewer examples give all of them.

    Args:
      condensed: of images or arrays with classes.
      per_class: examples of each class of S_train.

    Returns:
      The same with fewer examples; `card["subset"]` says of what. It stores them as they are decoded.

    Raises:
      UserError: a graph, labels that are amounts, or more than any class has.
    """
    classes = {part: _classes(condensed, part) for part in ("train", "val")}
    largest = int(np.bincount(classes["train"]).max())
    if not 1 <= per_class <= largest:
        raise UserError(f"{per_class} examples per class of a set that has at most {largest}: ask for 1 to {largest}")
    counts = {"train": per_class, "val": max(round(per_class * len(classes["val"]) / len(classes["train"])), 1)}
    batches = {}
    for part, batch in (("train", condensed.train), ("val", condensed.val)):
        chosen = _first_of_each(_rows(batch), classes[part], counts[part])
        batches[part] = jax.tree.map(lambda leaf, chosen=chosen: np.asarray(leaf)[chosen], batch)
    about = {"per_class": per_class, "order": "herding in the inputs, class by class", "of": condensed.card["sha256"]}
    return _made(condensed, batches["train"], batches["val"], {**condensed.card, "subset": about})


def merge_condensed(first: Condensed, second: Condensed) -> Condensed:
    """One set of the classes of both, those of the second after those of the first: classes that are added later.

    Images of the second are prepared as those of the first are. A union is what condensing all classes at once would
    have given for real examples and, up to its draws, for DM; DC, DSA and IDC have matched gradients of networks that
    knew their own classes alone, as `card["merged"]` says.

    Raises:
      UserError: methods that do not condense class by class, graphs, tables, soft labels, or examples of other shapes.
    """
    for one in (first, second):
        if one.card["method"] not in CLASS_BY_CLASS:
            raise UserError(
                f"{one.card['method']} does not condense class by class: what it has matched holds for its own classes "
                f"alone; condense all classes together, or merge sets of {', '.join(CLASS_BY_CLASS)}"
            )
        if one.preparation is not None or np.asarray(one.train.labels).ndim != 1:
            raise UserError("tables and soft labels belong to the classes that they were learned on: condense anew")
    added = int(_classes(first, "train").max()) + 1
    train, val = (_joined(first, second, part, added) for part in ("train", "val"))
    parts = [{name: one.card.get(name) for name in ("method", "seed", "source", "sha256")} for one in (first, second)]
    methods = dict.fromkeys(one.card["method"] for one in (first, second))
    about = {"of": parts, "first_added_class": added, "note": "condensed apart; nothing was matched between the two"}
    return _made(first, train, val, {**first.card, "method": "+".join(methods), "merged": about})


def _classes(condensed: Condensed, part: str) -> np.ndarray:
    """[n] class numbers of all examples of S_train or S_val."""
    batch = getattr(condensed, part)
    labels = np.asarray(batch.labels)
    if hasattr(batch.inputs, "nodes"):
        raise UserError("nodes of a condensed graph are tied by its edges: condense at every size that you want")
    if labels.ndim > 2 or (labels.ndim == 1 and labels.dtype.kind == "f"):
        raise UserError("these labels are no classes, by which examples could be counted")
    return labels if labels.ndim == 1 else labels.argmax(1)


def _rows(batch: Batch) -> np.ndarray:
    """[n, d] inputs, flattened."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(batch.inputs)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], 1)


def _first_of_each(rows: np.ndarray, classes: np.ndarray, count: int) -> np.ndarray:
    """Places of the best `count` of each class, the best of all classes first, then the second best."""
    select, rng = herding(rows), np.random.default_rng(0)  # which herding does not ask
    members = [np.flatnonzero(classes == c) for c in np.unique(classes)]
    ranked = [select(rng, own, min(count, len(own))) for own in members]
    return np.array([own[place] for place in range(count) for own in ranked if place < len(own)])


def _joined(first: Condensed, second: Condensed, part: str, added: int) -> Batch:
    one, other = getattr(first, part), getattr(second, part)
    inputs, more = np.asarray(one.inputs), np.asarray(pixels_of(other.inputs, second.preprocessing))
    if (first.preprocessing is None) != (second.preprocessing is None) or inputs.shape[1:] != more.shape[1:]:
        raise UserError(f"examples of shapes {inputs.shape[1:]} and {more.shape[1:]}, or prepared in one set alone")
    if first.preprocessing is not None:
        more = np.asarray(first.preprocessing.apply(more))
    labels = [np.asarray(one.labels), _classes(second, part) + added]
    weights = [np.asarray(one.weights), np.asarray(other.weights)]
    joined = (np.concatenate(both) for both in ([inputs, more], labels, weights))
    return Batch(*map(jnp.asarray, joined))


def _made(condensed: Condensed, train: Batch, val: Batch, card: Mapping[str, Any]) -> Condensed:
    parts = {"train": train, "val": val}
    variables = {part: {"inputs": batch.inputs, "labels": batch.labels} for part, batch in parts.items()}
    ledger = {name: int(array.size) for name, array in to_arrays({"variables": variables}).items()}
    card = {**card, "ledger": ledger, "stored_scalars": sum(ledger.values())}
    return Condensed(train, val, card, variables, condensed.preprocessing, condensed.preparation)
