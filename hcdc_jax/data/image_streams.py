"""Pictures that are decoded when they are looked at: image sets of any size in constant memory.

What is held of a picture is its name, its size in bytes while it is listed, and its class. Its pixels exist from when
its batch is asked for until the batch is handed over; `Pictures.batches` has a few batches under way, no more.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hcdc_jax.data.image_files import has_parts, left_out_notes, part_folders, pictures_of_classes
from hcdc_jax.data.images import chosen, divide
from hcdc_jax.data.pictures import Cut, cut_picture, read_picture
from hcdc_jax.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures as an array [n, height, width, channels] of which only what is asked for is ever decoded.

    Decoding runs in threads: Pillow gives up Python's lock for it.

    Attributes:
      decode: `decode(number, rng) -> bytes [height, width, channels]`; the generator draws a random crop, None stands
        for the view that is always the same.
      numbers: [n] of the pictures.
      image_shape: (height, width, channels).
      prefetch: batches that are decoded at the same time or wait to be taken; memory holds no more pixels than those,
        and the batch that was taken last.
      threads: that decode; as many as there are cores, and four, by default.
    """

    decode: Callable[[int, np.random.Generator | None], np.ndarray]
    numbers: np.ndarray
    image_shape: tuple[int, int, int]
    prefetch: int = 2
    threads: int | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As of an array."""
        return len(self), *self.image_shape

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """The pictures at the places `index` [k], float32 [k, height, width, channels] from 0 to 1; all at once."""
        (images,) = self.batches([index])
        return images

    def take(self, index: np.ndarray) -> Pictures:
        """The pictures at the places `index`; nothing is decoded."""
        return dataclasses.replace(self, numbers=self.numbers[index])

    def batches(self, places: Iterable[np.ndarray], *, crops: int | None = None) -> Iterator[np.ndarray]:
        """Batches of pictures, one after the other.

        Args:
          places: [k] of each batch; may be endless.
          crops: seed of random crops, drawn anew for every batch and place, whatever thread decodes them; the view that
            is always the same if not given.

        Yields:
          float32 [k, height, width, channels] from 0 to 1: bytes divided by 255, as all image data.

        Raises:
          UserError: a picture cannot be read; the line names the file. What cannot be read is never left out silently:
            statistics of other images would be the result.
        """
        waiting: collections.deque[list[Future[np.ndarray]]] = collections.deque()
        pool = ThreadPoolExecutor(self.threads)
        try:
            for number, batch in enumerate(places):
                rngs = (None if crops is None else np.random.default_rng([crops, number, k]) for k in range(len(batch)))
                waiting.append(
                    [
                        pool.submit(self.decode, int(self.numbers[place]), rng)
                        for place, rng in zip(batch, rngs, strict=True)
                    ]
                )
                if len(waiting) >= self.prefetch:
                    yield self._gathered(waiting.popleft())
            while waiting:
                yield self._gathered(waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _gathered(self, decoded: list[Future[np.ndarray]]) -> np.ndarray:
        images = np.empty((len(decoded), *self.image_shape), np.float32)
        decoded.reverse()
        for image in images:
            np.divide(decoded.pop().result(), np.float32(255), out=image, dtype=np.float32, casting="unsafe")
        return images


class ImageStream(NamedTuple):
    """Labelled images in files: `ImageData` but for the pixels, which are decoded when they are looked at.

    Attributes:
      name: see `ImageData`.
      images: [n, height, width, channels], decoded where indexed.
      labels: [n] int32 class numbers from 0.
      train_idx: see `ImageData`.
      val_idx: see `ImageData`.
      test_idx: see `ImageData`.
      num_classes: see `ImageData`.
      class_names: see `ImageData`.
      checksum: SHA-256 over names and sizes of the files, how they are cut, and the arrays above. The files are not
        read for it: one that is changed and keeps its length is not noticed.
      notes: lines about what was left out; no part of the checksum.
    """

    name: str
    images: Pictures
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
        return self.images.image_shape


def read_image_stream(
    folder: str | Path, *, cut: Cut | None = None, split: int = 0, seed: int = 0, prefetch: int = 2
) -> ImageStream:
    """Lists the pictures of a folder, with a folder for each class, and decodes one of them.

    The layouts are those of `image_files.read_image_folder`, without .npz parts; so are classes, numbers and the draws
    of missing parts, so that the same folder gives the same data. All pictures are read as colours. Notes tell what is
    left out; what is done to single pictures is not counted, as none is looked at.

    Args:
      folder: where the files lie.
      cut: what pictures of any size are cut to; without it all must have the size of the first.
      split: number of the draw of missing parts.
      seed: of that draw.
      prefetch: see `Pictures`.

    Raises:
      UserError: there is no such folder, it has none of the layouts, or its pictures are not what one can train on.
    """
    folder = Path(folder)
    if not folder.is_dir() or has_parts(folder):
        what = "holds .npz parts, which are read whole" if folder.is_dir() else "is no folder"
        raise UserError(f"{folder} {what}; images in batches come from a folder of pictures for each class")
    if cut is not None and cut.shorter < cut.side:
        raise UserError(
            f"squares of {cut.side} pixels cannot be cut from pictures of {cut.shorter}; resize them to more"
        )
    roots, classes, left_out = part_folders(folder)
    digest, names, labels = hashlib.sha256(repr(cut).encode()), [], {}
    for part, root in roots.items():
        listed, others = pictures_of_classes(part, root, classes)
        left_out += others
        for name, files in zip(classes, listed, strict=True):
            names += [str((root / name / file).relative_to(folder)) for file, _ in files]
            digest.update(repr((part, name, files)).encode())
        labels[part] = np.repeat(np.arange(len(classes), dtype=np.int32), [len(files) for files in listed])
    divided = divide(labels, where=str(folder), class_names=classes, split=split, seed=seed)
    first = folder / names[0]
    shape = (cut.side, cut.side, 3) if cut else (*read_picture(first).pixels.shape[:2], 3)

    def decode(number: int, rng: np.random.Generator | None) -> np.ndarray:
        path = folder / names[number]
        if cut is not None:
            return cut_picture(path, cut, rng)
        picture = read_picture(path).pixels
        if picture.shape[:2] != shape[:2]:
            sizes = [f"{height} x {width}" for height, width in (shape[:2], picture.shape[:2])]
            raise UserError(
                f"pictures must have one size, but {first} has {sizes[0]} pixels and {path} {sizes[1]}; give "
                "the side to cut them to (data.side)"
            )
        return np.broadcast_to(picture, shape)

    pictures = Pictures(decode, np.arange(len(names)), shape, prefetch)
    notes = left_out_notes(folder, left_out)
    stream = ImageStream(folder.resolve().name, pictures, *divided, tuple(classes), digest.hexdigest(), notes)
    return _with_checksum(stream)


def stream_subset(
    data: ImageStream, *, train: int | None = None, val: int | None = None, test: int | None = None, seed: int = 0
) -> ImageStream:
    """As `images.subset`, and the same images; nothing is decoded.

    Raises:
      UserError: a part would have fewer images than there are classes.
    """
    kept, parts = chosen(data, {"train_idx": train, "val_idx": val, "test_idx": test}, seed)
    return _with_checksum(data._replace(images=data.images.take(kept), labels=data.labels[kept], **parts))


def _with_checksum(data: ImageStream) -> ImageStream:
    digest = hashlib.sha256(data.checksum.encode())
    for array in (data.images.numbers, data.labels, data.train_idx, data.val_idx, data.test_idx):
        digest.update(f"{array.dtype.str}{array.shape}".encode() + array.tobytes())
    return data._replace(checksum=digest.hexdigest())
