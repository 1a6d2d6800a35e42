"""Class by class: real examples drawn per class, synthetic ones cut per class, losses that sum over classes.

Synthetic examples come sorted by class, equally many of each, as `class_sample` gives them; others need a
`ClassTable`. Examples with numbers to predict in place of classes are one class that keeps its labels. Inputs are
images, or any pytree of arrays with one leading axis.
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


class ClassTable(NamedTuple):
    """Who belongs to which class.

    Attributes:
      members: [num_classes, largest class] int, places of examples; rows of smaller classes end in repeats.
      sizes: [num_classes] int.
    """

    members: Array
    sizes: Array


class ClassPool(NamedTuple):
    """Real examples with a table of who belongs to which class.

    Attributes:
      images: [n, height, width, channels], or another array or pytree of arrays with leading axis [n]; what is only
        ever indexed may be `StreamedInputs`.
      members: [num_classes, largest class] int, see `ClassTable`.
      sizes: [num_classes] int.
      labels: [n] or [n, k] float, numbers to predict; None where labels are the classes.
      weights: [n] float, of each example in a mean; None where all are 1.
    """

    images: Any
    members: Array
    sizes: Array
    labels: Array | None = None
    weights: Array | None = None


def class_table(places: np.ndarray, labels: np.ndarray, num_classes: int | None) -> ClassTable:
    """The table of the examples at `places` [m] of labels [n]; without classes (None) all of them are one.

    Raises:
      UserError: labels that are not 0 ... num_classes - 1, or a class without an example.
    """
    of_class = np.zeros(len(places), int) if num_classes is None else labels[places]
    count = num_classes or 1
    if of_class.min(initial=0) < 0 or of_class.max(initial=0) >= count:
        raise UserError(f"labels must be 0 ... {count - 1}, found {of_class.min()} ... {of_class.max()}")
    sizes = np.bincount(of_class, minlength=count)
    if sizes.min() == 0:
        raise UserError(f"class {sizes.argmin()} has no example; number the classes without gaps")
    members = [np.resize(places[of_class == c], sizes.max()) for c in range(count)]
    return ClassTable(jnp.asarray(np.stack(members)), jnp.asarray(sizes))


def class_pool(
    images: PyTree, labels: np.ndarray | Array, num_classes: int | None, weights: np.ndarray | Array | None = None
) -> ClassPool:
    """The pool of real examples.

    Args:
      images: see `ClassPool`.
      labels: [n] classes, or numbers to predict.
      num_classes: None where labels are no classes.
      weights: [n] float; examples of weight 0 are never drawn.

    Raises:
      UserError: labels that are not 0 ... num_classes - 1, or a class without an example.
    """
    labels = np.asarray(labels)
    weights = None if weights is None or (np.asarray(weights) == 1).all() else np.asarray(weights)
    places = np.arange(len(labels)) if weights is None else np.flatnonzero(weights > 0)
    table = class_table(places, labels, num_classes)
    if not isinstance(images, StreamedInputs):
        images = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), images)
    given = None if num_classes is not None else jnp.asarray(labels, float)
    return ClassPool(images, *table, given, None if weights is None else jnp.asarray(weights, float))


def synthetic_table(labels: np.ndarray, num_classes: int | None) -> ClassTable | None:
    """Of synthetic examples that are not sorted by class, equally many of each; None where they are."""
    count = num_classes or 1
    if num_classes is not None and np.array_equal(labels, np.repeat(np.arange(count), len(labels) // count)):
        return None
    return class_table(np.arange(len(labels)), labels, num_classes)


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
    """Real examples without replacement, `size` of each class: inputs [num_classes, size, h, w, c].

    A class with fewer examples gives all of them, and the rest of its rows has weight 0.
    """
    chosen, exists = _drawn_places(key, ClassTable(pool.members, pool.sizes), size)
    inputs = jax.tree.map(lambda leaf: leaf[chosen], pool.images)
    if pool.labels is None:
        labels = jnp.broadcast_to(jnp.arange(len(chosen), dtype=jnp.int32)[:, None], chosen.shape)
    else:
        labels = pool.labels[chosen]
    weights = exists.astype(jax.tree.leaves(inputs)[0].dtype)
    return Batch(inputs, labels, weights if pool.weights is None else weights * pool.weights[chosen])


def _drawn_places(key: Array, table: ClassTable, size: int) -> tuple[Array, Array]:
    """Up to `size` places of each class without replacement, [num_classes, size], and which of them exist."""
    size = min(size, table.members.shape[1])
    # Those with the largest of independent uniform numbers are a uniform sample without replacement.
    numbers = jax.random.uniform(key, table.members.shape)
    exists = jnp.arange(table.members.shape[1])[None] < table.sizes[:, None]
    numbers, places = jax.lax.top_k(jnp.where(exists, numbers, -1.0), size)
    return jnp.take_along_axis(table.members, places, axis=1), numbers >= 0


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
    table: ClassTable | None = None,
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
      table: of the synthetic examples, where they are not sorted by class, equally many of each.

    Returns:
      The sum, and the gradient with respect to `learned_fields(variables)`.
    """
    num_classes = real.labels.shape[0]
    # `split` below gives the keys that `fold_in` gives for 0 ... num_classes - 1.
    key_drawn = jax.random.fold_in(key, num_classes)
    if table is None:
        decode_some = _drawn(key_drawn, container, variables, num_classes, per_class)
    else:
        decode_some = _drawn_unevenly(key_drawn, container, table, per_class)

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
    (gradient,) = pull_back(jax.tree.map(lambda slope, leaf: slope.reshape(leaf.shape), slopes, inputs))
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


def _drawn_unevenly(
    key: Array, container: Container, table: ClassTable, per_class: int | None
) -> Callable[[Variables], Batch]:
    """`decode` of as many examples of each class; of classes that have fewer, the rest has weight 0."""
    largest = table.members.shape[1]
    if container.decode_at is None and per_class is not None and per_class < largest:
        raise UserError("this container decodes all examples at once; leave out condense.synthetic_per_class")
    places, exists = _drawn_places(key, table, per_class or largest)

    def decode(variables: Variables) -> Batch:
        if container.decode_at is None:
            batch = jax.tree.map(lambda leaf: leaf[places.reshape(-1)], container.decode(variables))
        else:
            batch = container.decode_at(variables, places.reshape(-1))
        return batch._replace(weights=jnp.where(exists.reshape(-1), batch.weights, 0.0))

    return decode
