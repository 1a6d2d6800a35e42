"""Distances between what two validation sets say about the same candidates.

Every distance is `distance(value_s, gradient_s, value_t, gradient_t) -> scalar` over all m matched candidates at once:
values [m] are validation losses, gradients [m, h] are hypergradients, `_s` belongs to the synthetic set and `_t` to
the target. All are finite with finite gradients everywhere, zero vectors included; each states its value there.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from hcdc_jax.registry import Registry, first_line, function
from hcdc_jax.types import Array

Distance = Callable[[Array, Array, Array, Array], Array]


def safe_norm(x: Array, eps: float) -> Array:
    """sqrt(sum x^2 + eps^2) over the last axis: differentiable at zero, never below eps."""
    return jnp.sqrt(jnp.sum(x * x, axis=-1) + eps**2)


def cosine(value_s: Array, gradient_s: Array, value_t: Array, gradient_t: Array, eps: float = 1e-5) -> Array:
    """Mean over the candidates of 1 - cos(g_S, g_T), the distance of HCDC (arXiv 2405.17535).

    Blind to lengths, hence to everything when h = 1: its gradient is then zero away from g = 0. A candidate with
    g_S = 0 or g_T = 0 counts as 1.

    Args:
      value_s: [m], not used.
      gradient_s: [m, h].
      value_t: [m], not used.
      gradient_t: [m, h].
      eps: gradients shorter than this count as having no direction. It stands inside each norm: in the product of
        both it would underflow in float32 and leave 0 / 0.
    """
    del value_s, value_t
    return jnp.mean(1 - _cosines(gradient_s, gradient_t, eps))


def weighted_cosine(value_s: Array, gradient_s: Array, value_t: Array, gradient_t: Array, eps: float = 1e-5) -> Array:
    """Cosine distance in which candidate i weighs |g_T,i| / (|g_T,i| + median |g_T|), normalised to sum 1.

    Collapsed networks have a target close to zero whose direction is noise; plain cosine gives it full weight. A
    candidate with g_S = 0 or g_T = 0 counts as 1 times its weight; the weights are equal if all targets are zero.

    Args:
      value_s: [m], not used.
      gradient_s: [m, h].
      value_t: [m], not used.
      gradient_t: [m, h].
      eps: as in `cosine`.
    """
    del value_s, value_t
    norm = safe_norm(gradient_t, eps)
    weight = norm / (norm + jnp.median(norm))
    return jnp.sum(weight * (1 - _cosines(gradient_s, gradient_t, eps))) / jnp.sum(weight)


def relative_l2(value_s: Array, gradient_s: Array, value_t: Array, gradient_t: Array, eps: float = 1e-5) -> Array:
    """Relative squared error sum |g_S - g_T|^2 / (sum |g_T|^2 + eps^2) over all candidates; 0 if all are zero.

    Args:
      value_s: [m], not used.
      gradient_s: [m, h].
      value_t: [m], not used.
      gradient_t: [m, h].
      eps: bounds the ratio when all targets vanish; in the units of a hypergradient.
    """
    del value_s, value_t
    return jnp.sum((gradient_s - gradient_t) ** 2) / (jnp.sum(gradient_t**2) + eps**2)


def shared_l2(
    value_s: Array, gradient_s: Array, value_t: Array, gradient_t: Array, eps: float = 1e-5, min_cosine: float = 0.5
) -> Array:
    """Relative squared distance after one least-squares scale c >= 0 that all candidates share.

    Unlike a cosine it keeps the ratios of lengths between candidates, which order losses along a path. All zero
    gives 0; g_S = 0 against targets that are not zero gives 1.

    Args:
      value_s: [m], not used.
      gradient_s: [m, h].
      value_t: [m], not used.
      gradient_t: [m, h].
      eps: bounds the ratios at zero; in the units of a hypergradient.
      min_cosine: where g_S and g_T, each taken as one long vector, do not point the same way, the least-squares scale
        is degenerate: zero or negative, without a slope or with the wrong one. The scale is therefore never less than
        at a cosine of `min_cosine`, from where on the distance is a straight line in the cosine and leads back.
    """
    del value_s, value_t
    return _shared_scale_residual(gradient_s.ravel(), gradient_t.ravel(), eps, min_cosine)


def value(
    value_s: Array,
    gradient_s: Array,
    value_t: Array,
    gradient_t: Array,
    eps: float = 1e-5,
    min_cosine: float = 0.5,
    floor: float = 1e-8,
) -> Array:
    """Centred log values under one shared scale: 1 - r^2 for a correlation r >= min_cosine of the log losses.

    Blind to any power and factor between the losses, which no ranking sees. With one candidate it is 0.

    Args:
      value_s: [m] losses on the synthetic set.
      gradient_s: [m, h], not used.
      value_t: [m] losses of the target.
      gradient_t: [m, h], not used.
      eps: bounds the ratios where all values agree.
      min_cosine: as in `shared_l2`.
      floor: losses below it count as it, so that the logarithm stays finite.
    """
    del gradient_s, gradient_t
    return _shared_scale_residual(_centred_log(value_s, floor), _centred_log(value_t, floor), eps, min_cosine)


def value_gradient(
    value_s: Array,
    gradient_s: Array,
    value_t: Array,
    gradient_t: Array,
    eps: float = 1e-5,
    min_cosine: float = 0.5,
    floor: float = 1e-8,
    gradient_weight: float = 0.5,
) -> Array:
    """Centred log values and gradients of the log values as one long vector, under one shared scale.

    Each of the two parts is in units of its target's norm, so that neither drowns the other, whatever m and h. A part
    whose target is shorter than `eps` says nothing and drops out: the values of one candidate, however often it stands
    there.

    Args:
      value_s: [m] losses on the synthetic set.
      gradient_s: [m, h].
      value_t: [m] losses of the target.
      gradient_t: [m, h].
      eps: bounds the ratios at zero.
      min_cosine: as in `shared_l2`.
      floor: losses below it count as it, in the logarithm and in its derivative.
      gradient_weight: length of the gradient part of the target; the value part has length 1. Below 1 because values
        are what the training left behind, and hypergradients come from a truncated solve away from a minimum.
    """
    parts = [
        (_centred_log(value_s, floor), _centred_log(value_t, floor), 1.0),
        (_log_slope(value_s, gradient_s, floor), _log_slope(value_t, gradient_t, floor), gradient_weight),
    ]
    scales = [
        jnp.where(jnp.sum(target * target) > eps**2, weight / safe_norm(target, eps), 0.0)
        for _, target, weight in parts
    ]
    s = jnp.concatenate([scale * part for scale, (part, _, _) in zip(scales, parts, strict=True)])
    t = jnp.concatenate([scale * target for scale, (_, target, _) in zip(scales, parts, strict=True)])
    return _shared_scale_residual(s, t, eps, min_cosine)


def _cosines(a: Array, b: Array, eps: float) -> Array:
    return jnp.sum(a * b, axis=-1) / (safe_norm(a, eps) * safe_norm(b, eps))


def _centred_log(values: Array, floor: float) -> Array:
    logs = jnp.log(jnp.maximum(values, floor))
    return logs - jnp.mean(logs)


def _log_slope(values: Array, gradients: Array, floor: float) -> Array:
    return (gradients / jnp.maximum(values, floor)[:, None]).ravel()


def _shared_scale_residual(s: Array, t: Array, eps: float, min_cosine: float) -> Array:
    norm_s, norm_t = safe_norm(s, eps), safe_norm(t, eps)
    cosine_st = jnp.sum(s * t) / (norm_s * norm_t)
    scale = jnp.maximum(cosine_st, min_cosine) * norm_t / norm_s
    return jnp.sum((scale * s - t) ** 2) / norm_t**2


_BUILT_IN: dict[str, Distance] = {
    function.__name__: function for function in (cosine, weighted_cosine, relative_l2, shared_l2, value, value_gradient)
}
DISTANCES: Registry[Distance] = Registry(
    "distance",
    _BUILT_IN,
    group="hcdc_jax.hypergradients.distances",
    wanted="a function distance(value_s, gradient_s, value_t, gradient_t)",
    accept=function,
)
"""Distances by name, differentiable where they vanish and where all is 0."""

READ_VALUES = ("value", "value_gradient")
"""Names of those that ask for something where a candidate has no hypergradient."""


def names() -> list[str]:
    """Names that `get` knows."""
    return list(DISTANCES)


def about() -> dict[str, str]:
    """The distances that `get` knows, each with one line about it."""
    return {name: first_line(distance) for name, distance in DISTANCES.items()}


def get(distance: str | Distance) -> Distance:
    """Looks a distance up by name; a function is returned as it is.

    Raises:
      UserError: there is none of that name.
    """
    if callable(distance):
        return distance
    return DISTANCES.look_up(distance)
