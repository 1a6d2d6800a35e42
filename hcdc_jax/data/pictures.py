"""Pictures in folders, one folder per class: which there are, and how a file becomes an array.

A picture is read as one sees it: turned as its rotation tag says, transparent pixels on white, palettes as colours.
"""

from __future__ import annotations

import collections
import os
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hcdc_jax.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".gif", ".tif", ".tiff")
_GREY, _COLOUR = ("1", "L", "LA"), ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr")
_LITTER = ("__macosx", "@eadir", "thumbs.db", "desktop.ini")
"""What systems put beside pictures, in small letters; nobody's data, and so not told."""
_SEVERAL = ("GIF", "PNG", "TIFF", "WEBP")
"""Formats of which a file may hold several pictures. (So may MPO, what phones call JPEG; its first is the picture.)"""
_ORIENTATION = 0x0112
"""Number of the rotation tag."""
TURNED = "are turned as their rotation tag says"
OPAQUE = "have transparent pixels, which are shown on white"
CMYK = "are CMYK and become RGB without a colour profile"
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


class Listing(NamedTuple):
    """What lies in a folder.

    Attributes:
      pictures: names, sorted, with sizes in bytes.
      others: how many there are of each kind of thing that is no picture, such as ".txt files" and "folders".
    """

    pictures: list[tuple[str, int]]
    others: collections.Counter[str]


class Picture(NamedTuple):
    """A picture as one sees it.

    Attributes:
      pixels: bytes [h, w, 1 or 3].
      changes: what was done to it: some of `TURNED`, `OPAQUE`, `CMYK`.
    """

    pixels: np.ndarray
    changes: tuple[str, ...]


def is_litter(name: str) -> bool:
    """Whether something is hidden or an operating system's, by its name."""
    return name.startswith(".") or name.lower() in _LITTER


def class_folders(root: Path) -> list[str]:
    """Names of the folders below `root`, in alphabetical order: a class's number is its place among them."""
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not is_litter(path.name))


def listed(folder: Path) -> Listing:
    """What lies in a folder, without what is hidden; nothing where there is no folder.

    Raises:
      UserError: a picture is a link to nothing.
    """
    pictures, others = [], collections.Counter[str]()
    if not folder.is_dir():
        return Listing(pictures, others)
    with os.scandir(folder) as entries:  # a million files: names and sizes at once
        for entry in entries:
            if is_litter(entry.name):
                continue
            suffix = Path(entry.name).suffix.lower()
            if entry.is_dir():
                others["folders"] += 1
            elif suffix not in SUFFIXES:
                others[f"{suffix or 'nameless'} files"] += 1
            elif not entry.is_file():
                raise UserError(f"{entry.path} is a link to nothing, or no file; mend or remove it")
            else:
                pictures.append((entry.name, entry.stat().st_size))
    return Listing(sorted(pictures), others)


def read_picture(path: Path) -> Picture:
    """The pixels of a picture, in grey where it is grey.

    Raises:
      UserError: it cannot be read, its pixels are not 8-bit grey or colours, or the file holds several.
    """
    return _pixels(*_opened(path))


def picture_of(picture: Any, where: str) -> Picture:
    """As `read_picture`, of an image that Pillow has opened; `where` names it in errors.

    Raises:
      UserError: as `read_picture`.
    """
    try:
        return _pixels(*_as_seen(picture, where))
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise UserError(f"{where} cannot be read as a picture; replace or remove it") from error


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
    picture = _opened(path)[0].convert("RGB")
    width, height = picture.size
    if rng is not None:
        box = _random_box(rng, width, height, cut.least_area)
        return np.asarray(picture.resize((cut.side, cut.side), _linear(), box=box))
    scale = cut.shorter / min(width, height)
    width, height = (max(cut.shorter, round(scale * length)) for length in (width, height))
    picture = picture.resize((width, height), _linear())
    left, top = (width - cut.side) // 2, (height - cut.side) // 2
    return np.asarray(picture.crop((left, top, left + cut.side, top + cut.side)))


def _pixels(picture: Any, changes: tuple[str, ...]) -> Picture:
    pixels = np.asarray(picture)
    return Picture(pixels[..., None] if pixels.ndim == 2 else pixels, changes)


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


def _opened(path: Path) -> tuple[Any, tuple[str, ...]]:
    """The picture, as `_as_seen`, with its file closed; and what was done to it."""
    try:
        from PIL import Image, UnidentifiedImageError  # only here: nothing else of the library decodes pictures
    except ImportError as error:
        raise UserError(f"reading {path} needs Pillow; install it with: pip install pillow") from error
    try:
        with Image.open(path) as picture:
            return _as_seen(picture, str(path))
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} has more pixels than Pillow reads; make it smaller") from error
    except (OSError, SyntaxError, ValueError, EOFError, UnidentifiedImageError) as error:
        raise UserError(f"{path} cannot be read as a picture; replace or remove it") from error


def _as_seen(picture: Any, where: str) -> tuple[Any, tuple[str, ...]]:
    """A picture of Pillow's, decoded, upright, opaque, in mode L or RGB; and what was done to it."""
    if picture.mode not in _GREY + _COLOUR:
        raise UserError(f"{where} has pixels of mode {picture.mode}; save it as 8-bit grey or RGB")
    frames = getattr(picture, "n_frames", 1)
    if picture.format in _SEVERAL and frames > 1:
        raise UserError(f"{where} holds {frames} pictures; save the one that is meant, or remove it")
    picture.load()
    turn = _turn(picture)
    seen, changes = _opaque(picture)
    return (seen, changes) if turn is None else (seen.transpose(turn), (*changes, TURNED))


def _turn(picture: Any) -> Any:
    """What brings a picture upright; None where it is, or where its tags make no sense."""
    from PIL.Image import Transpose

    try:
        orientation = picture.getexif().get(_ORIENTATION)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return None
    turns = {
        2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
    }  # fmt: skip
    return turns.get(orientation)


def _opaque(picture: Any) -> tuple[Any, tuple[str, ...]]:
    """The picture in mode L or RGB, transparent pixels on white, and what was done to it."""
    mode = "L" if picture.mode in _GREY else "RGB"
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        from PIL import Image

        layered = picture.convert("RGBA")
        if layered.getchannel("A").getextrema()[0] < 255:
            white = Image.new("RGBA", layered.size, "white")
            return Image.alpha_composite(white, layered).convert(mode), (OPAQUE,)
        picture = layered
    return picture.convert(mode), (CMYK,) if picture.mode == "CMYK" else ()
