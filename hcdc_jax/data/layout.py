"""What arrays of images do not say of themselves: which axis holds the channels, and what a pixel of 1 means.

Bytes are pixels from 0 to 255, floats pixels from 0 to 1. Arrays that are evidently laid out otherwise would give wrong
numbers without any error, so they are refused with how to mend them; what may be meant is told.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hcdc_jax.errors import UserError

_FEW = 4
"""Channels of ordinary images, at most: grey, grey and alpha, colours, colours and alpha."""
_SLACK = 1e-3
"""Rounding that pixels from 0 to 1 may show."""
_OVERSHOOT = 0.5
"""How far below 0 resampling may take pixels; -1 to 1 goes further."""
_LARGEST = 30.0
"""Beyond what standardised or whitened pixels reach, and far below 255."""


def layout_notes(images: Mapping[str, np.ndarray], *, where: str) -> tuple[str, ...]:
    """Checks the layout of the images [n, h, w, c] of each part, and returns what is to be told about it.

    Raises:
      UserError: channels stand first, floats are pixels of another range, or parts have different ones.
    """
    notes, ranges = [], {}
    for part, array in images.items():
        _check_axes(part, array, where=where)
        if array.dtype.kind == "b":
            continue
        ranges[part] = float(array.min()), float(array.max())
        check = _check_floats if array.dtype.kind == "f" else _check_integers
        notes += check(part, *ranges[part], where=where)
    height, width, channels = images["train"].shape[1:]
    if channels > _FEW:
        notes.append(f"{where}: images are read as {height} x {width} pixels of {channels} channels each")
    _check_alike(ranges, where=where)
    return tuple(notes)


def _check_axes(part: str, images: np.ndarray, *, where: str) -> None:
    if images.shape[1] <= _FEW < images.shape[3]:
        raise UserError(
            f"{where}: {part} images of shape {list(images.shape)} look like channels first; give [images, height, "
            "width, channels]: images.transpose(0, 2, 3, 1)"
        )


def _check_integers(part: str, low: float, high: float, *, where: str) -> list[str]:
    del low
    if high == 1:
        raise UserError(
            f"{where}: {part} images are whole numbers of 0 and 1 alone, and whole numbers are pixels from 0 to 255; "
            "give booleans: images.astype(bool)"
        )
    return []


def _check_floats(part: str, low: float, high: float, *, where: str) -> list[str]:
    if low >= -_SLACK and high <= 1 + _SLACK:
        return []
    what = f"{where}: {part} images are floats from {low:.4g} to {high:.4g}"
    if low < -_OVERSHOOT and low >= -1 - _SLACK and high <= 1 + _SLACK:
        raise UserError(f"{what}, and pixels lie from 0 to 1; give (images + 1) / 2")
    if max(high, -low) > _LARGEST:
        raise UserError(f"{what}, and pixels lie from 0 to 1; give bytes (images.astype(numpy.uint8)) or images / 255")
    if low >= 0:
        raise UserError(f"{what}, and pixels lie from 0 to 1; divide them by the largest value that a pixel may have")
    return [f"{what} and taken as they are; pixels usually lie from 0 to 1"]


def _check_alike(ranges: Mapping[str, tuple[float, float]], *, where: str) -> None:
    below = [part for part, (low, _) in ranges.items() if low < -_OVERSHOOT]
    not_below = [part for part, (low, _) in ranges.items() if low >= 0]
    if below and not_below:
        (first, other) = ((part, "{:.4g} to {:.4g}".format(*ranges[part])) for part in (below[0], not_below[0]))
        raise UserError(
            f"{where}: images of {first[0]} are floats from {first[1]}, those of {other[0]} from {other[1]}; prepare "
            "all parts alike"
        )
