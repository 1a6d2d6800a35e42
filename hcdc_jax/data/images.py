"""Labelled images in host memory, the checks they must pass, their parts, and their summary."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hcdc_jax.data.layout import layout_notes
from hcdc_jax.data.names import PARTS, class_numbers
from hcdc_jax.errors import UserError

VAL_SHARE = 0.1
"""Share of each class's training images that a drawn validation part takes: 5,000 of CIFAR-10."""
TEST_SHARE = 0.2
"""The same for a test part, where the data has none."""


class Part(NamedTuple):
    """Images of one part as a file holds them: [n, h, w, c] or [n, h, w], bytes or floats, and their labels [n]."""

    images: np.ndarray
    labels: np.ndarray


class ImageData(NamedTuple):
    """Images of one size with labels, as NumPy arrays on the host.

    Attributes:
      name: what the data is called in cards and reports.
      images: [n, height, width, channels] float32; bytes have been divided by 255, floats are as they came.
      labels: [n] int32 class numbers from 0.
      train_idx: int32 numbers of the training images; `val_idx` and `test_idx` alike. The three share no image.
      val_idx: see `train_idx`.
      test_idx: see `train_idx`.
      num_classes: number of classes, each with at least one training image.
      class_names: one for each class, or none at all.
      checksum: SHA-256 over the arrays above, 64 hexadecimal digits: equal if and only if the data is.
      notes: lines about what a reader changed or left out; no part of the checksum.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    train_idx: np.ndarray
    val_idx: np.ndarray
    test_idx: np.ndarray
    num_classes: int
    class_names: tuple[str, ...]
    checksum: str
    notes: tuple[str, ...] = ()

    @property
    def num_images(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        _, height, width, channels = self.images.shape
        return height, width, channels


def build_images(
    name: str,
    parts: Mapping[str, Part],
    *,
    where: str,
    class_names: Sequence[str] = (),
    val_share: float = VAL_SHARE,
    test_share: float = TEST_SHARE,
    split: int = 0,
    seed: int = 0,
) -> ImageData:
    """Checks the parts of an image data set against each other and puts them into the form of `ImageData`.

    A validation or test part that is not given is drawn from the training images, class by class, so that every class
    keeps its share. Each pair (split, seed) draws its own.

    Args:
      name: see `ImageData`.
      parts: images by "train" and, where the data has them, "val" and "test".
      where: the file or source, for error messages.
      class_names: see `ImageData`.
      val_share: share of each class that a drawn validation part takes of what a drawn test part has left.
      test_share: share of each class that a drawn test part takes.
      split: number of the draw, from 0.
      seed: of the draw.

    Raises:
      UserError: the parts do not make a data set one can train on; the text says which part and why.
    """
    _check_split(parts, split, where=where)
    given = {part: _checked(part, parts[part], where=where) for part in PARTS if part in parts}
    _check_alike(given, where=where)
    notes = layout_notes({part: value.images for part, value in given.items()}, where=where)
    labels = {part: value.labels for part, value in given.items()}
    divided = divide(
        labels, where=where, class_names=class_names, val_share=val_share, test_share=test_share, split=split, seed=seed
    )
    images = _pixels([value.images for value in given.values()])
    return _with_checksum(ImageData(name, images, *divided, tuple(class_names), "", notes))


class Division(NamedTuple):
    """Who belongs to which class and to which part; see `ImageData`."""

    labels: np.ndarray
    train_idx: np.ndarray
    val_idx: np.ndarray
    test_idx: np.ndarray
    num_classes: int


def divide(
    labels: Mapping[str, np.ndarray],
    *,
    where: str,
    class_names: Sequence[str] = (),
    val_share: float = VAL_SHARE,
    test_share: float = TEST_SHARE,
    split: int = 0,
    seed: int = 0,
) -> Division:
    """Numbers the images of the given parts one after the other, and draws parts that are missing.

    Args:
      labels: int32 of the images by "train" and, where the data has them, "val" and "test", in this order.
      where: see `build_images`; so are the others.
      class_names: see `build_images`.
      val_share: see `build_images`.
      test_share: see `build_images`.
      split: see `build_images`.
      seed: see `build_images`.

    Raises:
      UserError: the labels do not make a data set one can train on.
    """
    _check_split(labels, split, where=where)
    num_classes = _check_classes(labels, where=where)
    if class_names and len(class_names) != num_classes:
        raise UserError(f"{where}: class_names has {len(class_names)} names, the labels name {num_classes} classes")
    index, together = _numbers(labels), np.concatenate(list(labels.values()))
    rng = np.random.default_rng([seed, split])
    for part, share in (("test", test_share), ("val", val_share)):
        if part not in index:
            index[part] = draw(together, index["train"], share, rng, where=where)
            index["train"] = np.setdiff1d(index["train"], index[part])
    train, val, test = (index[part].astype(np.int32) for part in PARTS)
    return Division(together, train, val, test, num_classes)


def draw(labels: np.ndarray, pool: np.ndarray, share: float, rng: np.random.Generator, *, where: str) -> np.ndarray:
    """Sorted numbers of images of `pool` that make up `share` of each class, at least one and never all of a class.

    Raises:
      UserError: a class has a single image.
    """
    order = rng.permutation(pool)
    chosen = []
    for c in range(labels[pool].max() + 1):
        of_class = order[labels[order] == c]
        if len(of_class) < 2:
            raise UserError(
                f"{where}: class {c} has too few training images ({len(of_class)} left) to draw another part from; add "
                "images, or a part of its own"
            )
        chosen.append(of_class[: min(max(1, round(share * len(of_class))), len(of_class) - 1)])
    return np.sort(np.concatenate(chosen))


def subset(
    data: ImageData, *, train: int | None = None, val: int | None = None, test: int | None = None, seed: int = 0
) -> ImageData:
    """The data with at most so many images in each part, classes in proportion; images in no part are dropped.

    Args:
      data: the whole.
      train: images of the training part; None keeps all. `val` and `test` alike.
      val: see `train`.
      test: see `train`.
      seed: of the draw.

    Raises:
      UserError: a part would have fewer images than there are classes.
    """
    kept, parts = chosen(data, {"train_idx": train, "val_idx": val, "test_idx": test}, seed)
    return _with_checksum(data._replace(images=data.images[kept], labels=data.labels[kept], **parts))


def chosen(data: Any, counts: Mapping[str, int | None], seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What `subset` keeps.

    Args:
      data: of the attributes of a `Division`, and a name.
      counts: of images by the name of the part's attribute; None keeps all.
      seed: of the draw.

    Returns:
      The sorted numbers of the images that stay, and by part their places among these.

    Raises:
      UserError: as `subset`.
    """
    rng = np.random.default_rng(seed)
    parts = {}
    for part, count in counts.items():
        pool = getattr(data, part)
        if count is not None and count < data.num_classes:
            raise UserError(
                f"{data.name}: {count} images of {part.removesuffix('_idx')} are too few for {data.num_classes} classes"
            )
        parts[part] = pool if count is None or count >= len(pool) else _in_proportion(data.labels, pool, count, rng)
    kept = np.sort(np.concatenate(list(parts.values())))
    return kept, {part: np.searchsorted(kept, index).astype(np.int32) for part, index in parts.items()}


def shrunk(data: ImageData, factor: int) -> ImageData:
    """The data with means of `factor` x `factor` pixels in the place of single ones.

    Raises:
      UserError: the factor does not divide height and width.
    """
    if factor == 1:
        return data
    height, width, channels = data.image_shape
    if height % factor or width % factor:
        raise UserError(f"data.shrink = {factor} does not divide the {height} x {width} pixels of {data.name}")
    blocks = data.images.reshape(-1, height // factor, factor, width // factor, factor, channels)
    return _with_checksum(data._replace(images=blocks.mean((2, 4), dtype=np.float32)))


def mislabelled(data: ImageData, share: float, *, seed: int = 0) -> ImageData:
    """The data with the label of another class, any with the same chance, on a share of the training images.

    Classes then overlap as networks learn them. Validation and test part keep their labels.

    Args:
      data: the whole.
      share: of the training images, in [0, 1]; which ones is drawn at random.
      seed: of the draw.

    Raises:
      UserError: a class has no training image left.
    """
    count = round(share * len(data.train_idx))
    if count == 0:
        return data
    rng = np.random.default_rng([seed, 0, 1])  # not the stream of those who choose the images
    chosen = rng.choice(data.train_idx, count, replace=False)
    labels = data.labels.copy()
    labels[chosen] = (labels[chosen] + rng.integers(1, data.num_classes, count)) % data.num_classes
    empty = np.flatnonzero(np.bincount(labels[data.train_idx], minlength=data.num_classes) == 0)
    if empty.size:
        raise UserError(
            f"data.label_noise = {share} leaves class {empty[0]} of {data.name} without a training image; lower it, or "
            "take more training images"
        )
    return _with_checksum(data._replace(labels=labels))


def summary(data: ImageData) -> dict[str, int | str]:
    """Counts that describe an image data set, ready for a card or a table."""
    height, width, channels = data.image_shape
    return {
        "name": data.name,
        "images": data.num_images,
        "height": height,
        "width": width,
        "channels": channels,
        "classes": data.num_classes,
        "train": len(data.train_idx),
        "val": len(data.val_idx),
        "test": len(data.test_idx),
        "smallest_class": int(np.bincount(data.labels[data.train_idx]).min()),
        "checksum": data.checksum,
    }


def _in_proportion(labels: np.ndarray, pool: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` images of `pool`: first one of every class, then in the order in which the classes' shares fill up."""
    order = rng.permutation(pool)
    place = np.empty(len(order))
    for c in np.unique(labels[order]):
        of_class = np.flatnonzero(labels[order] == c)
        place[of_class] = (np.arange(len(of_class)) + 0.5) / len(of_class)
        place[of_class[0]] = 0
    return np.sort(order[np.argsort(place, kind="stable")[:count]])


def _checked(part: str, value: Part, *, where: str) -> Part:
    images, labels = value
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise UserError(
            f"{where}: {part} images must have shape [images, height, width, channels], got {list(images.shape)}"
        )
    if images.dtype.kind not in "biuf":
        raise UserError(f"{where}: {part} images must be bytes or floats, got dtype {images.dtype}")
    if not len(images):
        raise UserError(f"{where}: {part} holds no image")
    if images.dtype.kind in "iu" and images.dtype != np.uint8 and (images.min() < 0 or images.max() > 255):
        raise UserError(
            f"{where}: {part} images hold integers from {images.min()} to {images.max()}; whole numbers must lie in 0 "
            "to 255, others be given as floats"
        )
    if images.dtype.kind == "f":
        broken = ~np.isfinite(images).all(axis=(1, 2, 3))
        if broken.any():
            raise UserError(f"{where}: image {np.flatnonzero(broken)[0]} of {part} holds NaN or infinite numbers")
    labels = class_numbers(labels)
    if labels.shape != (len(images),):
        raise UserError(
            f"{where}: {part} labels must have shape [{len(images)}], one per image, got {list(labels.shape)}"
        )
    if labels.dtype.kind not in "iu":
        raise UserError(f"{where}: {part} labels must be integers, got dtype {labels.dtype}")
    if labels.min() < 0:
        raise UserError(f"{where}: {part} has the label {labels.min()}; classes count from 0")
    return Part(images, labels.astype(np.int32))


def _check_alike(parts: dict[str, Part], *, where: str) -> None:
    train = parts["train"].images
    for part, (images, _) in parts.items():
        if images.shape[1:] != train.shape[1:]:
            sizes = (" x ".join(map(str, shape[1:])) for shape in (train.shape, images.shape))
            raise UserError(
                f"{where}: images must have one size, but those of train have {next(sizes)} and those of {part} "
                f"{next(sizes)} (height x width x channels); resize them"
            )
        if (images.dtype.kind == "f") != (train.dtype.kind == "f"):
            raise UserError(
                f"{where}: images of train are {train.dtype}, those of {part} {images.dtype}; give all as bytes (0 to "
                "255) or all as floats"
            )


def _check_split(parts: Mapping[str, object], split: int, *, where: str) -> None:
    if split < 0 or (split and {"val", "test"} <= parts.keys()):
        held = "splits count from 0" if split < 0 else "the data has its own parts, which are split 0"
        raise UserError(f"{where}: split {split} does not exist; {held}")


def _check_classes(labels: Mapping[str, np.ndarray], *, where: str) -> int:
    largest = int(labels["train"].max())
    if largest >= len(labels["train"]):  # before anything is counted up to it
        count = len(labels["train"])
        raise UserError(f"{where}: train has the label {largest}, but only {count} images; renumber the labels")
    if largest < 1:
        raise UserError(f"{where}: the labels name fewer than two classes")
    for part, of_part in labels.items():
        if of_part.max() > largest:
            raise UserError(
                f"{where}: {part} has the label {of_part.max()}, but the classes of train are 0 to {largest}"
            )
    empty = np.flatnonzero(np.bincount(labels["train"]) == 0)
    if empty.size:
        raise UserError(f"{where}: class {empty[0]} of 0 to {largest} has no training image; renumber the labels")
    return largest + 1


def _numbers(labels: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Numbers of the images of each part, once the parts stand one after the other."""
    ends = np.cumsum([len(of_part) for of_part in labels.values()])
    return {part: np.arange(end - len(of_part), end) for (part, of_part), end in zip(labels.items(), ends, strict=True)}


def _pixels(images: list[np.ndarray]) -> np.ndarray:
    """All parts as one float32 array, filled in place: CIFAR-10 is 0.7 GB, of which there should be one copy."""
    pixels = np.empty((sum(map(len, images)), *images[0].shape[1:]), np.float32)
    start = 0
    for part in images:
        end = start + len(part)
        if part.dtype.kind in "iu":
            np.divide(part, np.float32(255), out=pixels[start:end], dtype=np.float32, casting="unsafe")
        else:
            pixels[start:end] = part
        start = end
    return pixels


def _with_checksum(data: ImageData) -> ImageData:
    digest = hashlib.sha256()
    for array in (data.images, data.labels, data.train_idx, data.val_idx, data.test_idx):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data.cast("B"))  # a view: a copy of CIFAR-10 would be 0.7 GB
    return data._replace(checksum=digest.hexdigest())
