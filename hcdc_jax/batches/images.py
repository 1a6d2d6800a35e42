"""Images as networks read them: standardised or whitened by statistics that travel with the condensed data.

The statistics are plain arrays in a NamedTuple, stored in the artefact (`Condensed.preprocessing`): `apply` prepares a
new image for a network trained on the condensed set, `invert` shows a condensed image to a person. Both are pure and
may be jitted, mapped and differentiated.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, NoReturn, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from hcdc_jax.data.image_streams import ImageStream, Pictures
from hcdc_jax.data.images import ImageData
from hcdc_jax.errors import UserError
from hcdc_jax.types import Array, Batch, PyTree

AnyArray: TypeAlias = Array | np.ndarray
# Whitening multiplies small directions by ten and more: reduced matmul precision would show.
PRECISION = jax.lax.Precision.HIGHEST
# Beyond so many times mean and deviation there are no pixels; bytes kept as floats are mostly further away.
FAR = 100.0


class Standardisation(NamedTuple):
    """(x - mean) / std in each channel.

    Attributes:
      mean: [channels].
      std: [channels].
    """

    mean: AnyArray
    std: AnyArray

    def apply(self, images: AnyArray) -> Array:
        """Standardised images [..., h, w, c], see `pixels`."""
        return (pixels(images, self.mean, self.std) - _channels(self.mean)) / _channels(self.std)

    def invert(self, images: AnyArray) -> Array:
        """The images [..., h, w, c] that `apply` makes `images` of."""
        return jnp.asarray(images) * _channels(self.std) + _channels(self.mean)


class Whitening(NamedTuple):
    """ZCA: the images, perhaps standardised, multiplied by (C + r I)^-1/2 with C the covariance of their pixels.

    C + r I = V diag(variances) V^T is stored, since V serves both directions. Two ways to fit it are in use, which
    differ in scale: `fit_whitening` (FRePo) and `fit_raw_whitening` (trajectory matching).

    Attributes:
      mean: [h, w, c] of the pixels.
      std: [c], by which channels are divided before C is taken; ones where they are not.
      vectors: V [h w c, h w c].
      variances: [h w c], with r in them.
    """

    mean: AnyArray
    std: AnyArray
    vectors: AnyArray
    variances: AnyArray

    def apply(self, images: AnyArray) -> Array:
        """Whitened images [n, h, w, c], see `pixels`."""
        centred = (pixels(images, self.mean, self.std) - jnp.asarray(self.mean)[None]) / _channels(self.std)
        return _rescaled(centred, self.vectors, jax.lax.rsqrt(jnp.asarray(self.variances)))

    def invert(self, images: AnyArray) -> Array:
        """The images [n, h, w, c] that `apply` makes `images` of."""
        coloured = _rescaled(jnp.asarray(images), self.vectors, jnp.sqrt(self.variances))
        return coloured * _channels(self.std) + jnp.asarray(self.mean)[None]


def pixels(images: AnyArray, mean: AnyArray | None = None, std: AnyArray | None = None) -> Array:
    """Images as readers of data give them: whole numbers are bytes and divided by 255, floats stay as they are.

    Args:
      images: [..., c], whole numbers or floats.
      mean: [..., c] of the pixels that the statistics are of, which say what floats cannot be.
      std: [c] of those pixels.

    Raises:
      UserError: the channels are not as many as those of the statistics, or floats are bytes by their size, which can
        be seen outside of compiled functions only.
    """
    if mean is not None and images.shape[-1] != mean.shape[-1]:
        raise UserError(
            f"images of shape {list(images.shape)} have {images.shape[-1]} channels in their last axis, and the "
            f"preprocessing is of {mean.shape[-1]}; give [images, height, width, channels]"
        )
    kind = images.dtype.kind
    traced = any(isinstance(array, Tracer) for array in (images, mean, std))
    if kind == "f" and mean is not None and std is not None and not traced and images.size:
        largest = max(images.max(), -images.min())
        if largest > FAR * (abs(mean).max() + abs(std).max()):
            raise UserError(
                f"the images hold floats up to {largest:.4g}, far from those that the preprocessing is of; give pixels "
                "from 0 to 1 (images / 255), or bytes"
            )
    if kind in "iu":
        return jnp.asarray(images, jnp.result_type(float)) / 255
    return jnp.asarray(images)


Preprocessing: TypeAlias = Standardisation | Whitening

PUBLISHED: Mapping[str, Standardisation] = {
    name: Standardisation(np.array(mean, np.float32), np.array(std, np.float32))
    for name, mean, std in (
        ("mnist", [0.1307], [0.3081]),
        ("fashion_mnist", [0.2861], [0.3530]),
        ("svhn", [0.4377, 0.4438, 0.4728], [0.1980, 0.2010, 0.1970]),
        ("cifar10", [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]),
        ("cifar100", [0.5071, 0.4866, 0.4409], [0.2673, 0.2564, 0.2762]),
        ("imagenet", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    )
}
"""The constants of the field's code, for comparison with published numbers. CIFAR-10's std is not that of its pixels
(0.247, 0.243, 0.262) but a mean over images that all of the literature has kept."""


def fit_standardisation(images: np.ndarray) -> Standardisation:
    """Mean and standard deviation of each channel of training images [n, h, w, c], in float64.

    Raises:
      UserError: a channel is the same everywhere.
    """
    return standardisation_of(_chunks(images))


def standardisation_of(batches: Iterable[np.ndarray]) -> Standardisation:
    """As `fit_standardisation`, of images [n, h, w, c] that come in batches; looks at each once.

    Raises:
      UserError: a channel is the same everywhere.
    """
    count, mean, squares = 0, np.zeros(()), np.zeros(())
    for batch in batches:
        pixels = np.asarray(batch, np.float64).reshape(-1, batch.shape[-1])
        own = pixels.mean(axis=0)
        # As Chan, Golub and LeVeque (1979) combine two sets: no difference of large sums of squares.
        share, between = len(pixels) / (count + len(pixels)), own - mean
        squares = squares + ((pixels - own) ** 2).sum(axis=0) + count * share * between**2
        mean, count = mean + share * between, count + len(pixels)
    std = np.sqrt(squares / count)
    if not std.all():
        raise UserError(f"channel {np.flatnonzero(std == 0)[0]} has the same value in all pixels of all images")
    return Standardisation(mean, std)


def fit_whitening(images: np.ndarray, *, eps: float = 0.1) -> Whitening:
    """ZCA of standardised training images [n, h, w, c], in float64; the work grows with (h w c)^2 n + (h w c)^3.

    As in the code of FRePo (arXiv 2206.00719): C is the covariance of pixels whose channels have deviation 1, and r a
    share of its mean variance. 10,000 images of CIFAR-10 then have pixels of deviation 0.48, and details are magnified
    up to 13 times.

    Args:
      images: the training images.
      eps: r in units of the mean variance of a pixel. It bounds how much the finest details, which are mostly noise,
        are magnified; with 0 the covariance must have full rank.

    Raises:
      UserError: the covariance is singular and `eps` is 0, or a channel is the same everywhere.
    """
    std = np.asarray(fit_standardisation(images).std)
    mean, moment = _centred_moment(images, std)
    covariance = moment / len(images)
    return Whitening(mean, std, *_decomposed(covariance, eps, unit=covariance.trace() / len(covariance)))


def fit_raw_whitening(images: np.ndarray, *, eps: float = 0.1) -> Whitening:
    """ZCA of training images [n, h, w, c] with pixels from 0 to 1 as they are; costs what `fit_whitening` does.

    As in the code of trajectory matching (MTT, arXiv 2203.11932), which calls kornia's ZCAWhitening(eps=0.1): channels
    are not divided by their deviations, C is the covariance over n - 1, and r is the same for all data. 10,000 images
    of CIFAR-10 then have pixels of deviation 0.26, and nothing is ever magnified more than eps^-1/2 = 3.2 times.

    Args:
      images: the training images.
      eps: r, in squared units of pixels.

    Raises:
      UserError: the covariance is singular and `eps` is 0.
    """
    std = np.ones(images.shape[-1])
    mean, moment = _centred_moment(images, std)
    return Whitening(mean, std, *_decomposed(moment / max(len(images) - 1, 1), eps, unit=1.0))


def to_preprocessing(arrays: Mapping[str, AnyArray]) -> Preprocessing:
    """The statistics from their arrays by name, as an artefact stores them.

    Raises:
      KeyError: the names are those of none.
    """
    for kind in (Standardisation, Whitening):
        if set(kind._fields) == arrays.keys():
            return kind(**arrays)
    raise KeyError(f"preprocessing of {', '.join(sorted(arrays))}")


def image_batch(data: ImageData | ImageStream, index: np.ndarray, preprocessing: Preprocessing | None = None) -> Batch:
    """The images `index` as a batch, each with weight 1; those of a stream are decoded for it.

    Args:
      data: where they are from.
      index: [n] numbers, such as `data.train_idx`.
      preprocessing: applied to them.
    """
    return _batch(_prepared(data.images[index], preprocessing), data.labels[index])


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True, eq=False)
class StreamedInputs:
    """Inputs of a batch that is as large as the data, and is decoded where it is looked at.

    Nothing in JAX takes them: they must be read in batches first, and whoever forgets that is told.

    Attributes:
      pictures: [n, h, w, c].
      preprocessing: applied to what is read of them.
      crops: whether training looks at random crops, see `Pictures.batches`.
    """

    pictures: Pictures
    preprocessing: Preprocessing | None = None
    crops: bool = False

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As of an array."""
        return self.pictures.shape

    def __getitem__(self, index: AnyArray) -> Array:
        """The images at the places `index` [k], as networks read them: [k, h, w, c]."""
        if isinstance(index, slice):
            _all_at_once()
        return _prepared(self.pictures[np.asarray(index)], self.preprocessing)

    def tree_flatten(self) -> NoReturn:
        """Refuses: an array of all images is what a stream is there to avoid."""
        _all_at_once()

    @classmethod
    def tree_unflatten(cls, described: object, children: object) -> StreamedInputs:
        """Never called."""
        raise NotImplementedError


def _all_at_once() -> NoReturn:
    raise UserError(
        "the training images are read in batches (data.stream), and what was asked for needs all of them in memory: "
        "leave it out, or set data.stream = false"
    )


def streamed_batch(
    data: ImageStream, index: np.ndarray, preprocessing: Preprocessing | None = None, *, crops: bool = False
) -> Batch:
    """The images `index` as a batch that is read by `read_batches`; its labels and weights are in memory."""
    return _batch(StreamedInputs(data.images.take(index), preprocessing, crops), data.labels[index])


def read_batches(batch: Batch, places: Iterable[np.ndarray], *, crops: int | None = None) -> Iterator[Batch]:
    """Mini-batches of a `streamed_batch`, the next ones under way while one is used.

    Args:
      batch: what is read.
      places: [k] of each mini-batch.
      crops: seed of random crops, for those who train on them; see `Pictures.batches`.

    Raises:
      UserError: a picture cannot be read.
    """
    inputs: StreamedInputs = batch.inputs
    labels, weights = np.asarray(batch.labels), np.asarray(batch.weights)
    waiting: collections.deque[np.ndarray] = collections.deque()

    def noted() -> Iterator[np.ndarray]:
        for index in places:
            waiting.append(index)
            yield index

    for images in inputs.pictures.batches(noted(), crops=crops):
        index = waiting.popleft()
        yield Batch(_prepared(images, inputs.preprocessing), jnp.asarray(labels[index]), jnp.asarray(weights[index]))


def places_in_order(count: int, size: int) -> Iterator[np.ndarray]:
    """0 ... count - 1, `size` at a time; the last ones may be fewer."""
    return (np.arange(start, min(start + size, count)) for start in range(0, count, size))


def _batch(inputs: PyTree, labels: np.ndarray) -> Batch:
    return Batch(inputs, jnp.asarray(labels, jnp.int32), jnp.ones(len(labels), jnp.float32))


def pixels_of(inputs: AnyArray, preprocessing: Preprocessing | None) -> np.ndarray:
    """What networks read as one sees it: [n, h, w, c], from 0 to 1 as far as it is images."""
    return np.asarray(inputs if preprocessing is None else preprocessing.invert(inputs))


def _prepared(images: np.ndarray, preprocessing: Preprocessing | None) -> Array:
    return jnp.asarray(images) if preprocessing is None else preprocessing.apply(images)


def _channels(statistic: AnyArray) -> Array:
    """[c] as [1, 1, 1, c]."""
    return jnp.asarray(statistic).reshape(1, 1, 1, -1)


def _rescaled(images: Array, vectors: AnyArray, scale: Array) -> Array:
    """V diag(scale) V^T of each flattened image."""
    flat = images.reshape(len(images), -1)
    inside = jnp.matmul(flat, vectors, precision=PRECISION) * scale[None]
    return jnp.matmul(inside, jnp.asarray(vectors).T, precision=PRECISION).reshape(images.shape)


def _chunks(images: np.ndarray, size: int = 5000) -> Iterator[np.ndarray]:
    """The images in float64, `size` at a time: all of CIFAR-10 at once would take another 1.2 GB."""
    for start in range(0, len(images), size):
        yield images[start : start + size].astype(np.float64)


def _centred_moment(images: np.ndarray, std: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean image [h, w, c], and the sum over images of x x^T [h w c, h w c], x what differs from it over `std`."""
    mean = np.asarray(sum(chunk.sum(axis=0) for chunk in _chunks(images))) / len(images)
    flats = (((chunk - mean) / std).reshape(len(chunk), -1) for chunk in _chunks(images))
    return mean, np.asarray(sum(flat.T @ flat for flat in flats))


def _decomposed(covariance: np.ndarray, eps: float, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvectors and eigenvalues of C + r I, with r = eps times the unit."""
    variances, vectors = np.linalg.eigh(covariance)
    variances = variances + eps * unit
    # Eigenvalues of a singular matrix come out as rounding errors of either sign.
    if variances[0] <= len(variances) * np.finfo(np.float64).eps * variances[-1]:
        raise UserError(f"the pixels of the training images do not vary in all directions; whiten with eps > {eps:g}")
    return vectors, variances
