"""Readers of image files: one .npz, a folder of .npz parts, or folders of pictures, one folder per class."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hcdc_jax.data.images import ImageData, Part, build_images
from hcdc_jax.data.names import (
    ALIKE,
    IMAGE_NAMES,
    IMAGE_PART_NAMES,
    PART_WORDS,
    PARTS,
    check_spelling,
    class_numbers,
    part_of,
    read_names,
)
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.data.pictures import SUFFIXES, class_folders, listed, read_picture
from hcdc_jax.errors import UserError, nearest

_IMAGES = [name for own, names in IMAGE_NAMES.items() if own.endswith("_images") for name in names]


def holds_images(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether the arrays of an .npz are those of images, if misspelt, rather than of a graph."""
    names = {name.lower() for name in arrays}
    return "edge_index" not in names and ("images" in names or any(nearest(name, _IMAGES, ALIKE) for name in names))


def images_from_arrays(
    arrays: Mapping[str, np.ndarray], *, name: str, where: str, split: int = 0, seed: int = 0
) -> ImageData:
    """The data set that one .npz file describes.

    The file holds `train_images` [n, h, w, c] (bytes, or floats that are taken as they are), `train_labels` [n],
    `test_images` and `test_labels`, and optionally `val_images`, `val_labels` and `class_names`. A missing validation
    part is drawn from the training images. Keras' names (`x_train`, `y_train`) and OGB's of the parts (`valid_images`)
    are read too (`names.IMAGE_NAMES`); what is not read is told in the notes of the data, or refused where it may have
    been meant to be.

    Args:
      arrays: of the file.
      name: of the data set in reports.
      where: the file, for error messages.
      split: number of the draw of a missing validation part.
      seed: of that draw.

    Raises:
      UserError: an array is missing or wrong; the text says which and how.
    """
    arrays, notes = read_names(arrays, IMAGE_NAMES, where=where)
    parts = {}
    for part in PARTS:
        present = [f"{part}_{kind}" for kind in ("images", "labels") if f"{part}_{kind}" in arrays]
        if len(present) == 1 or (not present and part != "val"):
            missing = next(f"{part}_{kind}" for kind in ("images", "labels") if f"{part}_{kind}" not in arrays)
            held = ", ".join(sorted(arrays)) or "nothing"
            raise UserError(f"{where}: array {missing!r} is missing; the file holds {held}")
        if present:
            parts[part] = Part(arrays[f"{part}_images"], arrays[f"{part}_labels"])
    names = _class_names(arrays, where=where)
    return _noting(notes, build_images(name, parts, where=where, class_names=names, split=split, seed=seed))


def read_image_folder(folder: str | Path, *, name: str | None = None, split: int = 0, seed: int = 0) -> ImageData:
    """Reads images from a folder, in one of three layouts.

    - .npz parts: every file holds `images` and `labels` and has train, val or test as a word in its name
      (`mine_train_0.npz`); several files of one part are joined.
    - `train/<class>/*.png` and `test/<class>/*.png`, optionally `val/<class>/*.png`.
    - `<class>/*.png`: a test part is drawn from all, a validation part from the rest.

    Parts may have other usual names, in small or large letters (`names.PART_WORDS`). Pictures may be PNG, JPEG, BMP,
    WebP, GIF or TIFF of 8 bits; how they are read says `pictures`. They have one size, and colours if any of them has.
    Classes are the names of the folders in alphabetical order. A missing validation part is drawn from the training
    images. The notes of the data tell what was left out, and how many pictures are not shown as they are stored.

    Args:
      folder: where the files lie.
      name: of the data set in reports; by default the folder's name.
      split: number of the draw of missing parts.
      seed: of that draw.

    Raises:
      UserError: the folder has none of the layouts, or its files are not images one can train on.
    """
    folder = Path(folder)
    name = name or folder.resolve().name
    if has_parts(folder):
        return _read_parts(folder, name, split=split, seed=seed)
    tree = part_folders(folder)
    parts, changes, left_out = {}, collections.Counter[str](), tree.left_out
    for part, root in tree.roots.items():
        found = pictures_of_classes(part, root, tree.classes)
        parts[part] = _read_classes(root, tree.classes, found.pictures, changes)
        left_out += found.left_out
    if len({part.images.shape[-1] for part in parts.values()}) > 1:
        parts = {part: Part(_coloured(value.images), value.labels) for part, value in parts.items()}
    notes = (*left_out_notes(folder, left_out), *(f"{folder}: {n} pictures {what}" for what, n in changes.items()))
    data = build_images(name, parts, where=str(folder), class_names=tree.classes, split=split, seed=seed)
    return _noting(notes, data)


class Tree(NamedTuple):
    """Folders of pictures.

    Attributes:
      roots: by part, such as "train", the folder that holds one folder for each class.
      classes: their names; a class's number is its place.
      left_out: how many there are of each kind of thing beside these folders that is not read.
    """

    roots: dict[str, Path]
    classes: list[str]
    left_out: collections.Counter[str]


class ClassPictures(NamedTuple):
    """Pictures of one part.

    Attributes:
      pictures: of each class names and sizes in bytes, sorted.
      left_out: see `Tree`.
    """

    pictures: list[list[tuple[str, int]]]
    left_out: collections.Counter[str]


def part_folders(folder: Path) -> Tree:
    """The folders of train, val and test below one of pictures, which may be that of train itself, and the classes.

    Raises:
      UserError: there is no folder for each class, that of a part is missing, or a part has two.
    """
    names = class_folders(folder)
    roots: dict[str, Path] = {}
    for name in names:
        part = part_of(name)
        if part in roots:
            raise UserError(f"{folder} has two folders of {part}, {roots[part].name!r} and {name!r}; join them")
        if part is not None:
            roots[part] = folder / name
    roots = {part: roots[part] for part in PARTS if part in roots}
    for part in ("train", "test"):
        if roots and part not in roots:
            there = ", ".join(repr(root.name) for root in roots.values())
            raise UserError(f"{folder} has no folder {part!r} beside {there}; add it")
    left_out = collections.Counter[str]()
    if roots:
        for name in names:
            if part_of(name) is None:
                check_spelling(
                    "folder", name, [word for words in PART_WORDS.values() for word in words], where=str(folder)
                )
                left_out[f"folder {name!r}"] += 1
        left_out += _beside(folder)
    roots = roots or {"train": folder}
    classes = class_folders(roots["train"])
    if not classes:
        raise UserError(
            f"{folder} holds no images; expected are .npz parts such as mine_train.npz and mine_test.npz, or a folder "
            "of pictures for each class"
        )
    return Tree(roots, classes, left_out)


def pictures_of_classes(part: str, root: Path, classes: list[str]) -> ClassPictures:
    """The pictures of each class of one part.

    Raises:
      UserError: a class of the training part has none, or there is none at all, a class is unknown, or a picture is a
        link to nothing.
    """
    unknown = sorted(set(class_folders(root)) - set(classes))
    if unknown:
        raise UserError(f"{root} has a class {unknown[0]!r}, which the training part does not have; add it there")
    found = [listed(root / name) for name in classes]
    empty = [name for name, files in zip(classes, found, strict=True) if not files.pictures]
    if empty and part == "train":
        raise UserError(f"{root / empty[0]} holds no picture ({', '.join(SUFFIXES)}); add some or remove the folder")
    if len(empty) == len(classes):
        raise UserError(f"{root} holds no picture ({', '.join(SUFFIXES)})")
    left_out = sum((files.others for files in found), _beside(root))
    if "folders" in left_out:
        left_out["folders inside of classes"] = left_out.pop("folders")
    return ClassPictures([files.pictures for files in found], left_out)


def left_out_notes(folder: Path, left_out: Mapping[str, int]) -> tuple[str, ...]:
    """A line about what is not read, if there is anything."""
    if not left_out:
        return ()
    return (f"{folder}: left out: {', '.join(f'{count} {what}' for what, count in sorted(left_out.items()))}",)


def _beside(folder: Path) -> collections.Counter[str]:
    """What lies in a folder beside the folders in it."""
    files = listed(folder)
    beside = files.others.copy()
    beside.pop("folders", None)
    if files.pictures:
        beside["pictures outside of class folders"] = len(files.pictures)
    return beside


def has_parts(folder: Path) -> bool:
    """Whether a folder holds .npz parts that are named as such."""
    return folder.is_dir() and any(_part_of(path) for path in folder.glob("*.npz"))


def _part_of(path: Path) -> str | None:
    parts = [part for word in re.split(r"[^a-z]+", path.stem.lower()) if (part := part_of(word))]
    return parts[-1] if parts else None


def _read_parts(folder: Path, name: str, *, split: int, seed: int) -> ImageData:
    found: dict[str, list[Part]] = {part: [] for part in PARTS}
    names: tuple[str, ...] = ()
    notes: list[str] = []
    for path in sorted(folder.glob("*.npz"), key=_natural):
        part = _part_of(path)
        if part is None:
            notes.append(f"{folder}: left out: {path.name}, which names no part")
            continue
        arrays, of_file = read_names(read_arrays(path), IMAGE_PART_NAMES, where=str(path))
        notes += of_file
        if "images" not in arrays or "labels" not in arrays:
            held = ", ".join(sorted(arrays)) or "nothing"
            raise UserError(f"{path} is a part of {folder} and must hold images and labels; it holds {held}")
        found[part].append(Part(arrays["images"], class_numbers(arrays["labels"])))
        names = names or _class_names(arrays, where=str(path))
    for part in ("train", "test"):
        if not found[part]:
            raise UserError(f"{folder} holds no {part} part; add a file such as {name}_{part}.npz")
    parts = {part: _joined(values, folder, part) for part, values in found.items() if values}
    data = build_images(name, parts, where=str(folder), class_names=names, split=split, seed=seed)
    return _noting(notes, data)


def _joined(values: list[Part], folder: Path, part: str) -> Part:
    if len(values) == 1:
        return values[0]
    first, *rest = (value.images for value in values)
    if any(images.shape[1:] != first.shape[1:] or images.dtype != first.dtype for images in rest):
        raise UserError(f"{folder}: the files of {part} hold images of several sizes or types; give all the same")
    return Part(np.concatenate([value.images for value in values]), np.concatenate([value.labels for value in values]))


def _natural(path: Path) -> list[int | str]:
    """A key that puts part 2 before part 10."""
    return [int(word) if word.isdigit() else word for word in re.split(r"(\d+)", path.name)]


def _noting(notes: Iterable[str], data: ImageData) -> ImageData:
    return data._replace(notes=(*notes, *data.notes))


def _class_names(arrays: Mapping[str, np.ndarray], *, where: str) -> tuple[str, ...]:
    if "class_names" not in arrays:
        return ()
    names = arrays["class_names"]
    if names.ndim != 1 or names.dtype.kind not in "SU":
        raise UserError(f"{where}: class_names must be a list of words, got dtype {names.dtype}")
    return tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names.tolist())


def _read_classes(
    root: Path, classes: list[str], files: list[list[tuple[str, int]]], changes: collections.Counter[str]
) -> Part:
    """All pictures below `root`, bytes [n, h, w, 1 or 3], with the places of their folders in `classes` as labels.

    What is done to pictures is counted in `changes`.
    """
    pictures: list[np.ndarray] = []
    paths = [root / name / file for name, of_class in zip(classes, files, strict=True) for file, _ in of_class]
    for path in paths:
        picture, done = read_picture(path)
        changes.update(done)
        if pictures and picture.shape[:2] != pictures[0].shape[:2]:
            sizes = (f"{height} x {width}" for height, width in (pictures[0].shape[:2], picture.shape[:2]))
            raise UserError(
                f"{root}: pictures must have one size, but {paths[0].relative_to(root)} has {next(sizes)} pixels and "
                f"{path.relative_to(root)} {next(sizes)}; resize them"
            )
        pictures.append(picture)
    if len({picture.shape[-1] for picture in pictures}) > 1:
        pictures = [_coloured(picture) for picture in pictures]
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), [len(of_class) for of_class in files])
    return Part(np.stack(pictures), labels)


def _coloured(images: np.ndarray) -> np.ndarray:
    return images if images.shape[-1] == 3 else np.repeat(images, 3, axis=-1)
