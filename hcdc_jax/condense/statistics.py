"""Means and variances of what the layers of a network read, of all images and of each class, over any number of images.

Batches are looked at one after the other and their moments combined as Chan, Golub and LeVeque (1979) do it pairwise:
memory does not grow with the data, no difference of large squares is taken, and the order of batches does not matter.
A layer is seen in up to two `View`s (EDC, arXiv 2404.13733, after G-VBSM, arXiv 2311.17950): its channels over images
and pixels, and patches of `PATCH` x `PATCH` pixels over images, channels and pixels of the patch.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple, TypeAlias, TypeVar, get_args

import jax
import jax.numpy as jnp

from hcdc_jax.batches.augment import Augmentation, augment_at
from hcdc_jax.errors import check_name
from hcdc_jax.models.layer_inputs import LayerInputs
from hcdc_jax.types import Array, Batch, Params

T = TypeVar("T")

PATCH = 4
"""Side of a patch in pixels, as in the authors' code."""

TINY = 1e-12
"""What a weight of 0 is divided by in place of itself."""

Mode: TypeAlias = Literal["paper", "code"]
"""How statistics are measured and compared.

- "paper": variances over several images are those of all their numbers, whatever batch and image they came in. The
  first norm and the first convolution count more.
- "code": as the authors' code has it. Variances are less: of a class, the mean of the variances inside each of its
  images; of all images, the mean of the variances of the batches that they came in. The first convolution alone
  counts more. Observers learn from images that are shifted and mirrored at once, and that is how images are measured
  (by `augment_at`, in an order that is drawn), where "paper" has one of both in a step, and images as they are.
"""


class Moments(NamedTuple):
    """Of groups of numbers, [...] in all.

    Attributes:
      weight: [] how many images they are of.
      mean: [f].
      variance: [f], the mean square of what differs from the mean.
    """

    weight: Array
    mean: Array
    variance: Array


class ViewMoments(NamedTuple):
    """Of one view of one layer.

    Attributes:
      whole: of all images.
      classes: of the images of each class; leading axis [num_classes].
    """

    whole: Moments
    classes: Moments


@functools.partial(jax.tree_util.register_dataclass, data_fields=["key"], meta_fields=["augmentation"])
@dataclasses.dataclass(frozen=True)
class Shown:
    """How real images are looked at in mode "code".

    Attributes:
      key: of their order, and of what is done to each.
      augmentation: what that is; None for nothing.
    """

    key: Array
    augmentation: Augmentation | None = None


Statistics: TypeAlias = tuple[ViewMoments, ...]
"""Of all views of one network, in the order of `views`."""


def views(seen: LayerInputs) -> tuple[Array, ...]:
    """What moments are taken of: [n, k, f] for each view, n images with k numbers each of f kinds.

    Channels of the inputs of each norm, then channels and patches of those of each convolution.
    """
    convolved = [view for images in seen.convolved for view in (channels_of(images), _patches(images))]
    return (*(channels_of(images) for images in seen.normed), *convolved)


def channels_of(images: Array) -> Array:
    """[n, h, w, c] as [n, h w, c]."""
    n, height, width, channels = images.shape
    return images.reshape(n, height * width, channels)


def emphasis(seen: LayerInputs, first: float | Array, mode: Mode = "paper") -> Array:
    """[views] factors of views in a sum: `first` for both views of the first convolution, 1 for others.

    In mode "paper" it is that of the first norm, too.
    """
    count, norms = len(seen.normed) + 2 * len(seen.convolved), len(seen.normed)
    of_norm = [0] if norms and mode == "paper" else []
    return jnp.ones(count).at[jnp.array([*of_norm, norms, norms + 1])].set(first)


def moments_of(values: Array, weights: Array) -> Moments:
    """Moments of a view [n, k, f] of images with weights [n]."""
    means, variances = values.mean(1), values.var(1)
    share = weights / jnp.maximum(weights.sum(), TINY)
    mean = _product(share, means)
    return Moments(weights.sum(), mean, _product(share, variances + (means - mean[None]) ** 2))


def class_moments_of(values: Array, weights: Array, labels: Array, num_classes: int, mode: Mode = "paper") -> Moments:
    """Moments of each class of a view [n, k, f] of images with weights [n] and class numbers [n]; 0 for no images."""
    means, variances = values.mean(1), values.var(1)
    check_name("mode of statistics", mode, get_args(Mode))
    member = weights[None] * (labels[None] == jnp.arange(num_classes)[:, None])
    weight = member.sum(1)
    share = member / jnp.maximum(weight, TINY)[:, None]
    mean = _product(share, means)
    between = (means - mean[labels]) ** 2 if mode == "paper" else jnp.zeros_like(means)
    return Moments(weight, mean, _product(share, variances + between))


def combined(a: Moments, b: Moments) -> Moments:
    """Moments of two sets of images together."""
    weight, share = _weights(a, b)
    between = b.mean - a.mean
    variance = (1 - share) * a.variance + share * b.variance + share * (1 - share) * between**2
    return Moments(weight, a.mean + share * between, variance)


def averaged(a: Moments, b: Moments) -> Moments:
    """As `combined`, but the variance is the mean of both: what the authors' code does."""
    weight, share = _weights(a, b)
    return Moments(weight, a.mean + share * (b.mean - a.mean), a.variance + share * (b.variance - a.variance))


def statistics_of(
    seen: LayerInputs, labels: Array, weights: Array, num_classes: int, mode: Mode = "paper"
) -> Statistics:
    """Of one batch.

    Args:
      seen: what the layers of a network read of it.
      labels: [n] class numbers.
      weights: [n]; images of weight 0 do not count.
      num_classes: number of classes.
      mode: see `Mode`.
    """
    return tuple(
        ViewMoments(moments_of(view, weights), class_moments_of(view, weights, labels, num_classes, mode))
        for view in views(seen)
    )


def order_of(shown: Shown, count: int) -> Array:
    """[count] places of images in the order in which they are looked at."""
    return jax.random.permutation(jax.random.fold_in(shown.key, 0), count)


@jax.jit
def view_of(shown: Shown, images: Array, places: Array) -> Array:
    """Images [n, h, w, c], at these places [n] of the data, as they are looked at."""
    return augment_at(jax.random.fold_in(shown.key, 1), shown.augmentation, images, places)


def joined(a: Statistics, b: Statistics, mode: Mode = "paper") -> Statistics:
    """Of two sets of images together; to be folded over batches from any source."""
    check_name("mode of statistics", mode, get_args(Mode))
    join = combined if mode == "paper" else averaged
    return jax.tree.map(join, a, b, is_leaf=lambda node: isinstance(node, Moments))


@functools.partial(jax.jit, static_argnames=("look", "num_classes", "mode", "batch_size"))
def statistics(
    look: Callable[[Params, Array], LayerInputs],
    params: Params,
    batch: Batch,
    num_classes: int,
    *,
    mode: Mode = "paper",
    batch_size: int = 256,
    shown: Shown | None = None,
) -> Statistics:
    """Statistics of real images [n, h, w, c] with class numbers [n]; holds what `batch_size` of them need, no more.

    Args:
      look: a network of `layer_inputs`.
      params: its parameters.
      batch: the images.
      num_classes: number of classes.
      mode: see `Mode`.
      batch_size: images at once; decides the result of mode "code", which the authors take at 64.
      shown: in which order and how images are looked at; None for their own order, and as they are.
    """
    count = batch.labels.shape[0]
    order = jnp.arange(count) if shown is None else order_of(shown, count)

    def of_slice(place: Array, weights: Array) -> Statistics:
        place = order[place]
        images = batch.inputs[place]
        seen = look(params, images if shown is None else view_of(shown, images, place))
        return statistics_of(seen, batch.labels[place], weights, num_classes, mode)

    def join(a: Statistics, b: Statistics) -> Statistics:
        return joined(a, b, mode)

    return streamed(of_slice, join, count, batch_size)


def streamed(of_slice: Callable[[Array, Array], T], join: Callable[[T, T], T], count: int, batch_size: int) -> T:
    """What `count` images have together, from what slices of them have; to be called inside a jitted function.

    Args:
      of_slice: `of_slice(places [k], weights [k])`, of the images at these places; those of weight 0, which fill up the
        last slice, do not count.
      join: of two sets of images together.
      count: number of images.
      batch_size: images of a slice at most.
    """
    size = min(batch_size, count)
    places = jnp.arange(-(-count // size) * size).reshape(-1, size)

    def one(place: Array) -> T:
        return of_slice(place % count, jnp.where(place < count, 1.0, 0.0))

    def add(total: T, place: Array) -> tuple[T, None]:
        return join(total, one(place)), None

    return jax.lax.scan(add, one(places[0]), places[1:])[0]


def statistics_of_batches(
    look: Callable[[Params, Array], LayerInputs],
    params: Params,
    batches: Iterable[Batch],
    num_classes: int,
    *,
    mode: Mode = "paper",
) -> Statistics:
    """As `statistics`, of real images that come in batches from anywhere; holds what one of them needs.

    Args:
      look: see `statistics`; so are the others.
      params: see `statistics`.
      batches: at least one; those of one size share a program.
      num_classes: see `statistics`.
      mode: see `statistics`.
    """
    found = (_of_batch(look, params, batch, num_classes, mode) for batch in batches)
    return functools.reduce(lambda a, b: _joined(a, b, mode), found)


@functools.partial(jax.jit, static_argnames=("look", "num_classes", "mode"))
def _of_batch(look, params: Params, batch: Batch, num_classes: int, mode: Mode) -> Statistics:
    return statistics_of(look(params, batch.inputs), batch.labels, batch.weights, num_classes, mode)


_joined = jax.jit(joined, static_argnames="mode")


def _weights(a: Moments, b: Moments) -> tuple[Array, Array]:
    """The weight of both together, and the share [..., 1] of `b` in it."""
    weight = a.weight + b.weight
    return weight, (b.weight / jnp.maximum(weight, TINY))[..., None]


def _patches(images: Array) -> Array:
    """[n, h, w, c] as [n, numbers of a patch, patches]; sides are enlarged to the next multiple of `PATCH` before."""
    n, height, width, channels = images.shape
    down, right = (-(-side // PATCH) for side in (height, width))
    images = jax.image.resize(images, (n, PATCH * down, PATCH * right, channels), "linear")
    blocks = images.reshape(n, down, PATCH, right, PATCH, channels)
    return blocks.transpose(0, 2, 4, 5, 1, 3).reshape(n, PATCH * PATCH * channels, down * right)


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
