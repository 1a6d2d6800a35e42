"""The digits of scikit-learn as images and as a nearest-neighbour graph: small, bundled, enough for a demonstration."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hcdc_jax.data.graphs import GraphData, build_graph
from hcdc_jax.data.images import ImageData, Part, build_images
from hcdc_jax.errors import UserError

NUM_NEIGHBOURS = 8
TRAIN_PER_CLASS = 20
NUM_VAL = 400
NUM_TEST = 800
IMAGE_TEST_SHARE = 1 / 4
IMAGE_VAL_SHARE = 1 / 3  # of what the test part leaves: as large as that


def load_digits_graph(*, split: int = 0, seed: int = 0, data_dir: Path | None = None) -> GraphData:
    """1,797 images of 8 x 8 pixels, each joined to the 8 images nearest to it (Euclidean distance of pixels).

    Features are pixels / 16, centred; an edge joins two images if either is among the other's nearest. Each pair
    (split, seed) draws its own 20 training nodes per class, 400 validation nodes and 800 test nodes.

    Raises:
      UserError: `split` is negative.
    """
    from sklearn.datasets import load_digits  # only here: it takes longer to import than the rest of the package

    del data_dir  # the images come with scikit-learn
    if split < 0:
        raise UserError(f"digits_graph: split {split} does not exist; splits count from 0")
    pixels, labels = load_digits(return_X_y=True)
    train, val, test = _draw_parts(labels, np.random.default_rng([seed, split]))
    features = pixels / 16 - (pixels / 16).mean(axis=0)
    return build_graph("digits_graph", features, _nearest(pixels), labels, train, val, test, where="digits_graph")


def load_digits_images(*, split: int = 0, seed: int = 0, data_dir: Path | None = None) -> ImageData:
    """1,797 images of 8 x 8 pixels in shades of grey from 0 to 1 (the source counts to 16).

    Each pair (split, seed) draws its own parts: half of each class for training, a quarter each to validate and test.

    Raises:
      UserError: `split` is negative.
    """
    from sklearn.datasets import load_digits

    del data_dir
    pixels, labels = load_digits(return_X_y=True)
    return build_images(
        "digits_images", {"train": Part(pixels.reshape(-1, 8, 8, 1) / 16, labels)},
        where="digits_images", class_names=tuple("0123456789"),
        val_share=IMAGE_VAL_SHARE, test_share=IMAGE_TEST_SHARE, split=split, seed=seed,
    )  # fmt: skip


def _nearest(points: np.ndarray) -> np.ndarray:
    """Edges [2, n * 8] from each point to its nearest ones; of equally near points the first ones count.

    Exact, and so the same on every machine, for whole numbers such as raw pixels.
    """
    squares = np.sum(points**2, axis=1)
    distances = squares[:, None] + squares[None, :] - 2 * points @ points.T
    np.fill_diagonal(distances, np.inf)
    neighbours = np.argsort(distances, axis=1, kind="stable")[:, :NUM_NEIGHBOURS]
    return np.stack([np.repeat(np.arange(len(points)), NUM_NEIGHBOURS), neighbours.reshape(-1)])


def _draw_parts(labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    order = rng.permutation(len(labels))
    train = np.concatenate([order[labels[order] == c][:TRAIN_PER_CLASS] for c in range(labels.max() + 1)])
    rest = order[~np.isin(order, train)]
    return np.sort(train), np.sort(rest[:NUM_VAL]), np.sort(rest[NUM_VAL : NUM_VAL + NUM_TEST])
