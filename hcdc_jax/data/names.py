"""Names that arrays and parts of data go by, here and in the files of other tools, and what becomes of all others.

An array that nobody reads is never left out in silence: one that looks like a misspelt name, or like something that
decides what is trained on, is an error; of any other the data tells in its `notes`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from hcdc_jax.errors import UserError, did_you_mean, nearest

PARTS = ("train", "val", "test")
PART_WORDS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""What the parts are called: ours first, then OGB's, MedMNIST's, Hugging Face's."""

Names = Mapping[str, tuple[str, ...]]


def _of_parts(own: str, *patterns: str) -> dict[str, tuple[str, ...]]:
    return {
        f"{part}_{own}": tuple(pattern.format(word) for pattern in patterns for word in words)
        for part, words in PART_WORDS.items()
    }


GRAPH_NAMES: Names = {
    "features": ("features", "x", "feat", "node_feat"),
    **{name: (name,) for name in ("feat_indptr", "feat_indices", "feat_data", "feat_shape")},
    "labels": ("labels", "y", "label", "node_label"),
    "edge_index": ("edge_index",),
    "edge_weight": ("edge_weight", "edge_weights"),
    "edge_attr": ("edge_attr", "edge_feat"),
    **_of_parts("idx", "{}_idx", "{}_index", "idx_{}"),
    **_of_parts("mask", "{}_mask"),
}
"""Arrays of a graph by our name: ours first, then PyTorch Geometric's, DGL's and OGB's."""
IMAGE_NAMES: Names = {
    **_of_parts("images", "{}_images", "x_{}"),
    **_of_parts("labels", "{}_labels", "y_{}"),
    "class_names": ("class_names",),
}
"""Arrays of an image set by our name: ours, which are MedMNIST's, then Keras'."""
IMAGE_PART_NAMES: Names = {
    "images": ("images", "image", "x"), "labels": ("labels", "label", "y"), "class_names": ("class_names",),
}  # fmt: skip
"""The same of a file that holds one part."""

_DECIDING = {"idx", "index", "indices", "mask", "masks", "weight", "weights", "split", "splits"}
_DECIDING |= {word for words in PART_WORDS.values() for word in words}
ALIKE = 0.8
"""Likeness from which a name counts as misspelt: train_idxx is 0.95 like train_idx, label_names 0.7 like labels."""


class Read(NamedTuple):
    """Arrays by our names, and lines about those that are not read."""

    arrays: dict[str, np.ndarray]
    notes: tuple[str, ...]


def part_of(word: str) -> str | None:
    """The part that a word names, in small or large letters: "train", "val", "test", or none."""
    return next((part for part, words in PART_WORDS.items() if word.lower() in words), None)


def check_spelling(what: str, name: str, known: Iterable[str], *, where: str) -> None:
    """Checks that a name that is not read is not a known one with a slip in it.

    Raises:
      UserError: it looks like one.
    """
    near = nearest(name, known, ALIKE)
    if near:
        raise UserError(f"{where}: {what} {name!r} is not read; {did_you_mean(near)} Rename it, or leave it out")


def read_names(arrays: Mapping[str, np.ndarray], names: Names, *, where: str) -> Read:
    """The arrays by our names, of which each has several; small letters are as good as large ones.

    Args:
      arrays: by whatever they are called.
      names: what they may be called, by our name.
      where: the source, for messages.

    Raises:
      UserError: two arrays are one thing and differ, or one that is not read may have been meant to be.
    """
    ours = {other: own for own, others in names.items() for other in others}
    found: dict[str, np.ndarray] = {}
    called: dict[str, str] = {}
    unread = []
    for name, array in arrays.items():
        own = ours.get(name.lower())
        if own is None:
            unread.append(name)
        elif own not in found:
            found[own], called[own] = array, name
        elif not np.array_equal(found[own], array):
            raise UserError(
                f"{where}: {called[own]!r} and {name!r} are two names of one array and differ; leave one of them out"
            )
    check_unread(unread, names, where=where)
    return Read(found, (f"{where}: not read: {', '.join(sorted(unread))}",) if unread else ())


def check_unread(unread: Iterable[str], names: Names, *, where: str) -> None:
    """Checks that arrays that are not read were not meant to be.

    Raises:
      UserError: one looks like a misspelt name, or like something that decides what is learned.
    """
    known = [other for others in names.values() for other in others]
    for name in unread:
        check_spelling("array", name, known, where=where)
        if _DECIDING & set(re.split(r"[^a-z]+", name.lower())):
            raise UserError(
                f"{where}: array {name!r} looks like one that decides what is learned, and is not read; known are "
                f"{', '.join(names)}: rename it, or leave it out"
            )


def numbered(labels: np.ndarray, *, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels that are words as class numbers by the alphabet, with a line that says so; all others as they are."""
    if labels.dtype.kind not in "SU":
        return labels, ()
    words, numbers = np.unique(labels, return_inverse=True)
    if len(words) > labels.size // 2:
        raise UserError(f"{where}: {len(words)} of {labels.size} labels are different words; classes are needed")
    told = ", ".join(f"{word} = {number}" for number, word in enumerate(words.tolist()[:10]))
    return numbers.reshape(labels.shape), (f"{where}: labels are words and numbered by the alphabet: {told}",)


def class_numbers(labels: np.ndarray) -> np.ndarray:
    """Labels [n, 1], as OGB, MedMNIST and Keras keep them, as [n]; all others as they are."""
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
