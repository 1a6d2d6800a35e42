"""EDC: images with the statistics of real ones in networks that were trained on these (arXiv 2404.13733).

A batch of images, equally many of each class or of some of them, is moved by Adam until several observers recognise its
images and read the same means and variances from them as from the real data, in every layer. Then comes the next batch:
no step looks at more. Each step goes through one observer, in turn. G-VBSM (arXiv 2311.17950) is the case `alpha` = 1
without flatness.

Where the paper and its code differ the paper's form is the default: see `Flatness` and `statistics.Mode`; and for how
new networks are trained on the images, `protocols.PROTOCOLS`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import optax

from hcdc_jax.batches.augment import apply, draw_crop
from hcdc_jax.condense.base import Condenser
from hcdc_jax.condense.statistics import Mode, Moments, Statistics, emphasis, moments_of, views
from hcdc_jax.containers import ImageVariables
from hcdc_jax.containers.images import taken
from hcdc_jax.errors import UserError, check_name
from hcdc_jax.models.layer_inputs import LayerInputs
from hcdc_jax.problem import mean_loss
from hcdc_jax.types import Array, Batch, Params

BETAS = (0.5, 0.9)
"""Of Adam, as in SRe2L and all that came from it."""

Flatness: TypeAlias = Literal["none", "paper", "code"]
"""How the images' logits are kept close to those of their moving average.

- "paper": KL(softmax(z / tau) || softmax(z_average / tau)), the mean over images.
- "code": KL(softmax(z_average / tau) || softmax(z / tau)), the mean over images and classes.
"""


class ObserverTarget(NamedTuple):
    """An observer and what it reads from the real data.

    Attributes:
      params: of the network.
      statistics: of the real data.
    """

    params: Params
    statistics: Statistics


class EDCData(NamedTuple):
    """What the steps read; numbers are traced.

    Attributes:
      observers: in the order of the condenser's `looks`.
      low: [c] black, in the units of the pixels; they are kept between it and `high`.
      high: [c] white.
      start: images to start from in place of the container's, which cannot know the observers; None for those.
      image_rate: Adam step at the start of a batch; it falls to 0 along half a cosine.
      alpha: weight of the statistics of all images; those of the batch's classes have 1 - alpha.
      matching_weight: of the statistics, r; the cross-entropy has 1.
      first_layer: factor of the statistics of the first layer, see `statistics.emphasis`.
      momentum: of the moving average of the batch's statistics.
      crop_area: least share of an image that an observer is shown; 1 for all of it.
      flip: probability of a mirror.
      flatness_weight: of the flatness term.
      flatness_decay: of the moving average of the images.
      flatness_temperature: tau.
    """

    observers: tuple[ObserverTarget, ...]
    low: Array
    high: Array
    start: Array | None = None
    image_rate: float | Array = 0.05
    alpha: float | Array = 0.5
    matching_weight: float | Array = 0.01
    first_layer: float | Array = 10.0
    momentum: float | Array = 0.8
    crop_area: float | Array = 0.5
    flip: float | Array = 0.5
    flatness_weight: float | Array = 0.25
    flatness_decay: float | Array = 0.99
    flatness_temperature: float | Array = 4.0


class Average(NamedTuple):
    """A moving average of the statistics that one observer read from a batch.

    Attributes:
      mean: of each view, [f].
      variance: of each view, [f].
      count: [] how often it was updated; it starts at 0, and what reads it takes out that bias.
    """

    mean: tuple[Array, ...]
    variance: tuple[Array, ...]
    count: Array


class EDCState(NamedTuple):
    """Carried from step to step; all but `variables` and `step` start anew with each batch.

    Attributes:
      variables: of all images.
      opt_state: of the images of the batch.
      smooth: moving average of the images of the batch.
      averages: one for each observer.
      step: number of steps done.
    """

    variables: ImageVariables
    opt_state: optax.OptState
    smooth: Array
    averages: tuple[Average, ...]
    step: Array


class EDCInfo(NamedTuple):
    """One step, before it moves the images.

    Attributes:
      distance: what is minimised.
      cross_entropy: of the observer.
      matching: of statistics, before its weight.
      flatness: before its weight.
    """

    distance: Array
    cross_entropy: Array
    matching: Array
    flatness: Array


@functools.cache
def edc(
    looks: tuple[Callable[[Params, Array], LayerInputs], ...],
    num_classes: int,
    *,
    iterations: int = 2000,
    batch_size: int | None = None,
    flatness: Flatness = "paper",
    mode: Mode = "paper",
) -> Condenser:
    """EDC as a condenser of pixels, `iterations` steps for each batch.

    Args:
      looks: observers, of `layer_inputs`; step t goes through number t modulo how many there are.
      num_classes: number of classes.
      iterations: steps of a batch.
      batch_size: images of a batch, a multiple or a divisor of the number of classes; all by default.
      flatness: see `Flatness`.
      mode: in which the observers' statistics were measured; says how far `first_layer` goes.

    Returns:
      A condenser whose variables are `ImageVariables` sorted by class, equally many of each, and whose data are
      `EDCData`. Its `init` raises `UserError` where the images do not make such batches.
    """
    check_name("flatness", flatness, get_args(Flatness))
    adam = optax.scale_by_adam(*BETAS, eps=1e-8)

    def fresh(pixels: Array, data: EDCData) -> tuple[Any, Array, tuple[Average, ...]]:
        averages = tuple(_empty(target.statistics) for target in data.observers)
        return adam.init(pixels), pixels, averages

    def init(key, variables, data):
        del key
        count = variables.labels.shape[0]
        size = _checked_size(count, num_classes, batch_size)
        if data.start is not None:
            variables = variables._replace(pixels=data.start)
        return EDCState(variables, *fresh(variables.pixels[:size], data), jnp.zeros((), jnp.int32))

    def step(key, state, data):
        count = state.variables.labels.shape[0]
        places = batch_places(
            state.step // iterations, count, num_classes, _checked_size(count, num_classes, batch_size)
        )
        batch = taken(state.variables, places)
        pixels = _within(batch.pixels, data)
        carried = (state.opt_state, state.smooth, state.averages)
        turn = state.step % iterations
        opt_state, smooth, averages = jax.tree.map(
            lambda new, old: jnp.where(turn == 0, new, old), fresh(pixels, data), carried
        )
        _, height, width, _ = pixels.shape
        crop = draw_crop(key, data.crop_area, (height, width), flip=data.flip)

        def through(number: int):
            def observe(_):
                target = data.observers[number]
                loss = functools.partial(_loss, looks[number], target, data, flatness, mode, averages[number])
                (_, (info, average)), slope = jax.value_and_grad(loss, has_aux=True)(
                    pixels, apply(crop, jax.lax.stop_gradient(smooth)), batch.labels, crop
                )
                return info, slope, (*averages[:number], average, *averages[number + 1 :])

            return observe

        observers = [through(number) for number in range(len(looks))]
        info, slope, averages = jax.lax.switch(state.step % len(looks), observers, None)
        direction, opt_state = adam.update(slope, opt_state)
        rate = data.image_rate * 0.5 * (1 + jnp.cos(jnp.pi * turn / iterations))
        moved = _within(pixels - rate * direction, data)
        smooth = data.flatness_decay * smooth + (1 - data.flatness_decay) * moved
        variables = state.variables._replace(pixels=state.variables.pixels.at[places].set(moved))
        return EDCState(variables, opt_state, smooth, averages, state.step + 1), info

    return Condenser(init, step)


def num_batches(count: int, num_classes: int, batch_size: int | None) -> int:
    """Batches that `count` images make.

    Raises:
      UserError: they do not divide into batches as `batch_places` has them.
    """
    return count // _checked_size(count, num_classes, batch_size)


def batch_places(number: Array, count: int, num_classes: int, size: int) -> Array:
    """[size] places of the images of a batch among `count` images sorted by class; sorted by class, too.

    A batch that is smaller than the number of classes has one image of each of some; the others follow, before the
    second image of any class.
    """
    parts = max(num_classes // size, 1)
    classes, each = num_classes // parts, count // num_classes
    of_batch = number % parts * classes + jnp.arange(classes)
    per_class = size // classes
    within = number // parts * per_class + jnp.arange(per_class)
    return (each * of_batch[:, None] + within[None]).reshape(-1)


def matching_loss(found: tuple[Moments, ...], target: Statistics, shares: Array, alpha: Array, factors: Array) -> Array:
    """Distance of statistics of a batch from those of the real data (Eq. 5 of EDC with its Forms 1 and 2).

    Sum over views of alpha (|mean - mean_all| + |variance - variance_all|) and of 1 - alpha times the same distance
    from the mean over the batch's classes of means and variances of classes; distances are not squared.

    Args:
      found: of each view.
      target: of the real data.
      shares: [num_classes] of each class in the batch.
      alpha: in [0, 1].
      factors: [views].
    """
    terms = []
    for mine, theirs in zip(found, target, strict=True):
        for name in ("mean", "variance"):
            value, whole = getattr(mine, name), getattr(theirs.whole, name)
            of_classes = jnp.matmul(shares, getattr(theirs.classes, name), precision=jax.lax.Precision.HIGHEST)
            terms.append(alpha * _length(value - whole) + (1 - alpha) * _length(value - of_classes))
    return jnp.vdot(jnp.repeat(factors, 2), jnp.stack(terms))


def flatness_loss(logits: Array, smooth: Array, temperature: float | Array, form: Flatness) -> Array:
    """Divergence between softened logits [n, num_classes] of images and of their moving average; see `Flatness`."""
    ours, theirs = (jax.nn.log_softmax(scores / temperature) for scores in (logits, smooth))
    if form == "paper":
        return (jnp.exp(ours) * (ours - theirs)).sum(-1).mean()
    return (jnp.exp(theirs) * (theirs - ours)).mean()


def _loss(look, target, data, flatness, mode, average, pixels, smooth, labels, crop):
    """What a step minimises in the pixels, `EDCInfo`, and the new average of the observer."""
    seen = look(target.params, apply(crop, pixels))
    weights = jnp.ones(labels.shape[0], pixels.dtype)
    cross_entropy = mean_loss(seen.logits, Batch(pixels, labels, weights))
    batch = tuple(moments_of(view, weights) for view in views(seen))
    average, found = _averaged(average, batch, data.momentum)
    num_classes = target.statistics[0].classes.weight.shape[0]
    shares = jnp.zeros(num_classes, pixels.dtype).at[labels].add(1 / labels.shape[0])
    factors = emphasis(seen, data.first_layer, mode)
    matching = matching_loss(found, target.statistics, shares, data.alpha, factors)
    flat = jnp.zeros(())
    if flatness != "none":
        flat = flatness_loss(seen.logits, look(target.params, smooth).logits, data.flatness_temperature, flatness)
    loss = cross_entropy + data.matching_weight * matching + data.flatness_weight * flat
    return loss, (EDCInfo(loss, cross_entropy, matching, flat), average)


def _averaged(average: Average, batch: tuple[Moments, ...], momentum: Array) -> tuple[Average, tuple[Moments, ...]]:
    """The average after this batch; and moments with its values, without bias, and the slopes of the batch."""
    count = average.count + 1
    bias = 1 - jnp.asarray(momentum) ** count

    def moved(old: tuple[Array, ...], new: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(momentum * a + (1 - momentum) * jax.lax.stop_gradient(b) for a, b in zip(old, new, strict=True))

    mean = moved(average.mean, tuple(moments.mean for moments in batch))
    variance = moved(average.variance, tuple(moments.variance for moments in batch))
    found = tuple(
        Moments(moments.weight, _valued(m / bias, moments.mean), _valued(v / bias, moments.variance))
        for moments, m, v in zip(batch, mean, variance, strict=True)
    )
    return Average(mean, variance, count), found


def _valued(value: Array, slope: Array) -> Array:
    """The one in value, the other in slope."""
    return value + slope - jax.lax.stop_gradient(slope)


def _empty(target: Statistics) -> Average:
    zeros = tuple(jnp.zeros_like(view.whole.mean) for view in target)
    return Average(zeros, zeros, jnp.zeros((), jnp.int32))


def _within(pixels: Array, data: EDCData) -> Array:
    return jnp.clip(pixels, data.low[None, None, None], data.high[None, None, None])


def _length(difference: Array) -> Array:
    """Euclidean length; the number under the root keeps its slope finite where nothing differs."""
    return jnp.sqrt(jnp.sum(difference**2) + 1e-12)


def _checked_size(count: int, num_classes: int, batch_size: int | None) -> int:
    size = count if batch_size is None else batch_size
    if size % num_classes and num_classes % size:
        raise UserError(
            f"edc.batch_size = {size} does not divide into {num_classes} classes; each batch has equally many images "
            "of each, or one of each class of a part that divides them"
        )
    if count % size:
        raise UserError(
            f"{count} images do not make batches of {size}; choose edc.batch_size among the multiples of {num_classes} "
            f"that divide {count}"
        )
    return size
