"""A data set: bars in noise, made from a seed. One that is read from files looks for them in `data_dir`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hcdc_jax.extend import ImageData, images_from_arrays

SIDE, NUM_CLASSES = 6, 3


def bars(*, split: int, seed: int, data_dir: Path | None) -> ImageData:
    """Bars in noise; 240 images 6 x 6 x 1, 3 classes."""
    del data_dir
    arrays = {}
    for part, count in (("train", 180), ("test", 60)):
        rng = np.random.default_rng([seed, len(part)])
        labels = np.arange(count) % NUM_CLASSES
        images = 0.3 * rng.random((count, SIDE, SIDE, 1), np.float32)
        images[np.arange(count), 2 * labels + rng.integers(2, size=count)] += 0.6
        arrays |= {f"{part}_images": images, f"{part}_labels": labels}
    return images_from_arrays(arrays, name="bars", where="bars", split=split, seed=seed)
