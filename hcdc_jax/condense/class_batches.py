"""Class by class: real images drawn per class, synthetic images cut per class, losses that sum over classes.

Synthetic examples come sorted by class, as `class_sample` gives them: equally many of each, or as a table says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.batches.augment import Augmentation, apply, draw
from hcdc_jax.batches.images import StreamedInputs
from hcdc_jax.condense.base import learned_fields
from hcdc_jax.condense.coresets import Selection, uniform
from hcdc_jax.containers import Container
from hcdc_jax.errors import UserError
from hcdc_jax.types import Array, Batch, PyTree, Variables


class ClassPool(NamedTuple):
    """Real images with a table of who belongs to which class.

    Attributes:
      images: [n, height, width, channels]; what is only ever indexed may be `StreamedInputs`.
      members: [num_classes, largest class] int, positions in `images`; rows of smaller classes end in repeats.
      sizes: [num_classes] int.
    """

    images: Any
    members: Array
    sizes: Array


def class_pool(images: np.ndarray | Array | StreamedInputs, labels: np.ndarray | Array, num_classes: int) -> ClassPool:
    """The pool of real images [n, h, w, c] with labels [n].

    Raises:
      UserError: labels that are not 0 ... num_classes - 1, or a class without an image.
    """
    labels = np.asarray(labels)
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(f"labels must be 0 ... {num_classes - 1}, found {labels.min()} ... {labels.max()}")
    sizes = np.bincount(labels, minlength=num_classes)
    if sizes.min() == 0:
        raise UserError(f"class {sizes.argmin()} has no image; number the classes without gaps")
    members = [np.resize(np.flatnonzero(labels == c), sizes.max()) for c in range(num_classes)]
    if not isinstance(images, StreamedInputs):
        images = jnp.asarray(images, float)
    return ClassPool(images, jnp.asarray(np.stack(members)), jnp.asarray(sizes))


def class_sample(
    rng: np.random.Generator, labels: np.ndarray, counts: Sequence[int] | np.ndarray, select: Selection = uniform
) -> np.ndarray:
    """Positions of examples of each class, sorted by class; of a class with fewer than it is asked for all.

    Args:
      rng: for selections at random.
      labels: [n].
      counts: [num_classes] examples that each class is asked for.
      select: a `coresets.Selection`.

    Raises:
      UserError: a class without any, or counts that are more than any class has.
    """
    sizes = np.bincount(labels, minlength=len(counts))
    if sizes.min() == 0:
        raise UserError(f"class {sizes.argmin()} has no example here; draw the parts anew, or leave the class out")
    given = np.minimum(sizes, counts)
    if (sizes < counts).all():
        raise UserError(
            f"{counts[0]} examples of class 0 are to be condensed, which has {sizes[0]}, and no class has what it is "
            "asked for: lower condense.images_per_class or condense.val_factor"
        )
    return np.concatenate([select(rng, np.flatnonzero(labels == c), given[c]) for c in range(len(counts))])


def draw_per_class(key: Array, pool: ClassPool, size: int) -> Batch:
    """Real images without replacement, `size` of each class: inputs [num_classes, size, h, w, c].

    A class with fewer images gives all of them, and the rest of its rows has weight 0.
    """
    num_classes, largest = pool.members.shape
    size = min(size, largest)
    # The images with the largest of independent uniform numbers are a uniform sample without replacement.
    numbers = jax.random.uniform(key, pool.members.shape)
    exists = jnp.arange(largest)[None] < pool.sizes[:, None]
    numbers, places = jax.lax.top_k(jnp.where(exists, numbers, -1.0), size)
    chosen = jnp.take_along_axis(pool.members, places, axis=1)
    labels = jnp.broadcast_to(jnp.arange(num_classes, dtype=jnp.int32)[:, None], (num_classes, size))
    return Batch(pool.images[chosen], labels, (numbers >= 0).astype(pool.images.dtype))


def split_by_class(batch: PyTree, num_classes: int) -> PyTree:
    """Leaves [num_classes * k, ...], sorted by class, as [num_classes, k, ...].

    Raises:
      UserError: a length that is no multiple of the number of classes.
    """

    def split(leaf):
        if leaf.shape[0] % num_classes:
            raise UserError(
                f"{leaf.shape[0]} synthetic examples do not divide into {num_classes} classes; this condenser wants "
                "equally many of each class, sorted by class"
            )
        return leaf.reshape(num_classes, -1, *leaf.shape[1:])

    return jax.tree.map(split, batch)


def siamese(
    loss: Callable[[Batch, Batch], Array], augmentation: Augmentation | None
) -> Callable[[Array, Batch, Batch], Array]:
    """`loss(key, real, synthetic)` under one draw of the augmentation for both; without one, `loss` as it is."""
    if augmentation is None:
        return lambda key, real, synthetic: loss(real, synthetic)

    def augmented(key, real, synthetic):
        _, height, width, _ = synthetic.inputs.shape
        parameters = draw(key, augmentation, (height, width))
        real, synthetic = (b._replace(inputs=apply(parameters, b.inputs)) for b in (real, synthetic))
        return loss(real, synthetic)

    return augmented


def sum_over_classes(
    loss: Callable[[Array, Batch, Batch], Array],
    key: Array,
    real: Batch,
    container: Container,
    variables: Variables,
    *,
    at_once: int | None = None,
    per_class: int | None = None,
    counts: tuple[int, ...] | None = None,
) -> tuple[Array, dict[str, Any]]:
    """The sum of `loss(key, real, synthetic)` over classes, and its gradient in what the container learns.

    Each class is differentiated down to its own synthetic inputs before the next one is touched, so that memory grows
    with `at_once` and not with the number of classes.

    Args:
      loss: of one class.
      key: split over classes.
      real: batch with leading axis [num_classes].
      container: of the synthetic examples.
      variables: its variables.
      at_once: classes that are worked on side by side; all by default.
      per_class: synthetic images of each class, drawn without replacement, of containers that decode single ones; all
        by default. Time and memory then do not grow with how many there are.
      counts: synthetic examples of each class, where they are not equally many. Smaller classes are then filled up
        with repeats of weight 0, so that every class takes the time of the largest; a loss must know weights.

    Returns:
      The sum, and the gradient with respect to `learned_fields(variables)`.
    """
    num_classes = real.labels.shape[0]
    # `split` below gives the keys that `fold_in` gives for 0 ... num_classes - 1.
    key_drawn = jax.random.fold_in(key, num_classes)
    if counts is None or len(set(counts)) == 1:
        decode_some = _drawn(key_drawn, container, variables, num_classes, per_class)
    else:
        decode_some = _drawn_unequal(key_drawn, container, counts, per_class)

    def decode(fields):
        decoded = decode_some(variables._replace(**fields))
        return decoded.inputs, decoded

    inputs, pull_back, decoded = jax.vjp(decode, learned_fields(variables), has_aux=True)
    synthetic = split_by_class(decoded, num_classes)

    def one(arguments):
        key, real, synthetic = arguments

        def of_inputs(inputs):
            return loss(key, real, synthetic._replace(inputs=inputs))

        return jax.value_and_grad(of_inputs)(synthetic.inputs)

    keys = jax.random.split(key, num_classes)
    values, slopes = jax.lax.map(one, (keys, real, synthetic), batch_size=min(at_once or num_classes, num_classes))
    (gradient,) = pull_back(slopes.reshape(inputs.shape))
    return values.sum(), gradient


def _drawn(
    key: Array, container: Container, variables: Variables, num_classes: int, per_class: int | None
) -> Callable[[Variables], Batch]:
    """`decode` of `per_class` examples of each class, drawn at random, sorted by class."""
    count = jax.eval_shape(container.decode, variables).labels.shape[0] // num_classes
    if per_class is None or per_class >= count:
        return container.decode
    decode_at = container.decode_at
    if decode_at is None:
        raise UserError("this container decodes all examples at once; leave out condense.synthetic_per_class")
    keys = jax.random.split(key, num_classes)
    within = jax.vmap(lambda key: jax.random.permutation(key, count)[:per_class])(keys)
    places = (count * jnp.arange(num_classes)[:, None] + within).reshape(-1)
    return lambda variables: decode_at(variables, places)


def _drawn_unequal(
    key: Array, container: Container, counts: tuple[int, ...], per_class: int | None
) -> Callable[[Variables], Batch]:
    """As `_drawn`, of classes of these sizes; each is filled up to equally many with repeats of weight 0."""
    sizes, largest = np.array(counts), max(counts)
    starts = np.cumsum(sizes) - sizes
    exists, within = np.arange(largest) < sizes[:, None], np.arange(largest) % sizes[:, None]
    if per_class is not None and per_class < largest:
        if container.decode_at is None:
            raise UserError("this container decodes all examples at once; leave out condense.synthetic_per_class")
        numbers = jnp.where(exists, jax.random.uniform(key, exists.shape), -1.0)
        numbers, chosen = jax.lax.top_k(numbers, per_class)
        exists, within = numbers >= 0, jnp.take_along_axis(jnp.asarray(within), chosen, axis=1)
    places, weights = (starts[:, None] + within).reshape(-1), exists.reshape(-1)

    def decode(variables: Variables) -> Batch:
        if container.decode_at is None:
            batch = jax.tree.map(lambda leaf: leaf[places], container.decode(variables))
        else:
            batch = container.decode_at(variables, jnp.asarray(places))
        return batch._replace(weights=batch.weights * weights)

    return decode
