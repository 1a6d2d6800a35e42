"""Pictures in folders, one folder per class: which there are, and how a file becomes an array."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hcdc_jax.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_GREY, _COLOUR = ("1", "L"), ("RGB", "RGBA", "P", "PA", "LA", "CMYK", "YCbCr")
WIDEST = 4 / 3
"""Largest ratio of the sides of a random crop, in both directions; PyTorch's."""


class Cut(NamedTuple):
    """How a picture of any size becomes a square of colours.

    Attributes:
      side: of the square in pixels.
      shorter: length in pixels that the shorter side of the picture is given before the square is cut from its centre,
        at least `side`. ImageNet's usual test view is 224 of 256.
      least_area: of a random crop, as a share of the picture: what a square is enlarged or shrunk from where one is
        asked for at random. Its mirror is left to augmentation.
    """

    side: int
    shorter: int
    least_area: float = 0.08


def class_folders(root: Path) -> list[str]:
    """Names of the folders below `root`, in alphabetical order: a class's number is its place among them."""
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def picture_files(folder: Path) -> list[tuple[str, int]]:
    """Names of the pictures in a folder, sorted, with their sizes in bytes; none where there is no folder."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:  # a million files: names and sizes at once
        return sorted(
            (entry.name, entry.stat().st_size)
            for entry in entries
            if Path(entry.name).suffix.lower() in SUFFIXES and not entry.name.startswith(".")
        )


def read_picture(path: Path) -> np.ndarray:
    """The pixels of a picture as they are: bytes [h, w, 1 or 3].

    Raises:
      UserError: it cannot be read, or its pixels are not 8-bit grey or colours.
    """
    picture = _opened(path)
    if picture.mode in _GREY:
        return np.asarray(picture.convert("L"))[..., None]
    return np.asarray(picture.convert("RGB"))


def cut_picture(path: Path, cut: Cut, rng: np.random.Generator | None = None) -> np.ndarray:
    """A square of a picture, in colours: bytes [side, side, 3], resampled linearly with antialiasing.

    Args:
      path: of the picture.
      cut: see `Cut`.
      rng: draws a random resized crop, as PyTorch's: the area uniform from `least_area` to 1, the ratio of the sides
        from 3 : 4 to 4 : 3, uniform in its logarithm; after ten crops that do not fit the whole picture is shown.
        Without one the square is cut from the centre.

    Raises:
      UserError: as `read_picture`.
    """
    picture = _opened(path).convert("RGB")
    width, height = picture.size
    if rng is not None:
        box = _random_box(rng, width, height, cut.least_area)
        return np.asarray(picture.resize((cut.side, cut.side), _linear(), box=box))
    scale = cut.shorter / min(width, height)
    width, height = (max(cut.shorter, round(scale * length)) for length in (width, height))
    picture = picture.resize((width, height), _linear())
    left, top = (width - cut.side) // 2, (height - cut.side) // 2
    return np.asarray(picture.crop((left, top, left + cut.side, top + cut.side)))


def _random_box(
    rng: np.random.Generator, width: int, height: int, least_area: float
) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of a random part of a picture."""
    for _ in range(10):
        area, ratio = rng.uniform(least_area, 1) * width * height, WIDEST ** rng.uniform(-1, 1)
        across, down = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < across <= width and 0 < down <= height:
            left, top = rng.integers(width - across + 1), rng.integers(height - down + 1)
            return float(left), float(top), float(left + across), float(top + down)
    return 0.0, 0.0, float(width), float(height)


def _linear() -> Any:
    from PIL import Image

    return Image.Resampling.BILINEAR


def _opened(path: Path) -> Any:
    """The picture, decoded, with its file closed."""
    try:
        from PIL import Image, UnidentifiedImageError  # only here: nothing else of the library decodes pictures
    except ImportError as error:
        raise UserError(f"reading {path} needs Pillow; install it with: pip install pillow") from error
    try:
        with Image.open(path) as picture:
            if picture.mode not in _GREY + _COLOUR:
                raise UserError(f"{path} has pixels of mode {picture.mode}; save it as 8-bit grey or RGB")
            picture.load()
            return picture
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as error:
        raise UserError(f"{path} cannot be read as a picture; replace or remove it") from error
