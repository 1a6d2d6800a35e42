"""Spaces of independent hyperparameters by name: numbers, choices among options, and what depends on a choice."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hcdc_jax import arguments
from hcdc_jax.errors import UserError, check_name
from hcdc_jax.spaces.choices import Bounds, Choice, Entry, When
from hcdc_jax.spaces.continuous import Option, Space, as_is, one_object
from hcdc_jax.types import Array


class _Scale(NamedTuple):
    """How a value between `above` and `below` is stored: as `to(value)`, which `back` undoes."""

    prefix: str
    to: Callable[[float], float]
    back: Callable[[Array], Array]
    above: float
    below: float


_SCALES = {
    "linear": _Scale("", float, as_is, -math.inf, math.inf),
    "log": _Scale("log_", math.log, jnp.exp, 0.0, math.inf),
    "logit": _Scale("logit_", lambda value: math.log(value / (1 - value)), jax.nn.sigmoid, 0.0, 1.0),
}


class _Part(NamedTuple):
    """A hyperparameter of a box.

    Attributes:
      key: its name.
      low: in the coordinates of the vector.
      high: likewise.
      scale: of a number; "linear" for the weights of a choice.
      options: of a choice, else empty.
      names: theirs; options 1 and 1.0 are equal, their names are not.
      relaxed: whether a choice is.
      conditions: names of choices, each with the numbers of the options with which this acts.
    """

    key: str
    low: float
    high: float
    scale: str
    options: tuple[Option, ...] = ()
    names: tuple[str, ...] = ()
    relaxed: bool = False
    conditions: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def stored(self) -> tuple[str, ...]:
        """Names of its coordinates."""
        return tuple(f"{self.key}={name}" for name in self.names) or (_SCALES[self.scale].prefix + self.key,)

    @property
    def centre(self) -> tuple[float, ...]:
        """Where it stands while it does not act."""
        k = len(self.options)
        if not k:
            return ((self.low + self.high) / 2,)
        return (1 / k,) * k if self.relaxed else (1.0, *[0.0] * (k - 1))


def box(name: str, bounds: Mapping[str, Entry]) -> Space:
    """Independent hyperparameters by name, which is all it takes to search those of your own:

        space = hc.spaces.box("mine", {"weight_decay": (1e-5, 1e-2, "log"), "gain": (0.5, 2)})
        candidates = space.sample(jax.random.key(0), 1000)

    and in the losses `h = space.read(hparams)`, then `h["weight_decay"]`, `h["gain"]`. A hyperparameter on the scale
    "log" is stored as its logarithm under the name `log_...`, one on the scale "logit", for shares between 0 and 1, as
    log(p / (1 - p)) under `logit_...`; `read` gives them back as they were named. Numbers are drawn uniformly, as they
    are stored. `choice` among options, which are drawn evenly, and what acts only `when` a choice is made:

        {"penalty": choice(["none", "l2"]), "weight_decay": when((1e-5, 1e-2, "log"), penalty="l2")}

    Equal arguments give one object.

    Args:
      name: of the space.
      bounds: (low, high) or (low, high, scale), a `choice`, or either in a `when`; in the order of the vector.

    Raises:
      UserError: no hyperparameter, two that are stored under one name, an unknown scale, or bounds that are not finite
        with low < high inside the scale; a condition on what is no choice or option, in a circle, or that never holds.
    """
    if not bounds:
        raise UserError(f"space {name!r} has no hyperparameters; give at least one, as in {{'gain': (0.5, 2)}}")
    parts = tuple(_part(name, key, entry, bounds) for key, entry in bounds.items())
    known = [label for part in parts for label in {*part.stored, *([part.key] if part.options else [])}]
    twice = next((label for label in known if known.count(label) > 1), None)
    if twice is not None:
        raise UserError(f"space {name!r} stores two hyperparameters under the name {twice!r}: rename one")
    _check_conditions(name, parts)
    return _box(name, parts)


@one_object
def _box(name: str, parts: tuple[_Part, ...]) -> Space:
    owner = np.repeat(np.arange(len(parts)), [len(part.stored) for part in parts])
    low, high = (np.asarray(bound, np.float32)[owner] for bound in ([p.low for p in parts], [p.high for p in parts]))
    first = np.searchsorted(owner, np.arange(len(parts))).tolist()
    spans = {part.key: slice(at, at + len(part.stored)) for part, at in zip(parts, first, strict=True)}
    centre = np.concatenate([part.centre for part in parts]).astype(np.float32)
    choices = [part for part in parts if part.options]
    shares = np.array([1 / len(part.options) if part.options else 0 for part in parts])[owner]  # of draws, by option
    linear = np.array([part.scale == "linear" for part in parts])[owner]
    active = _activity(_in_order(name, parts), spans, owner) if any(part.conditions for part in parts) else None

    def pinned(hparams):
        return hparams if active is None else jnp.where(active(hparams), hparams, centre)

    def from_unit(u):
        values = jnp.broadcast_to(low, u.shape) + jnp.broadcast_to(high - low, u.shape) * u
        for part in choices:
            span, k = spans[part.key], len(part.options)
            option = jnp.clip(jnp.floor(k * u[..., span.start]), 0, k - 1).astype(int)
            values = values.at[..., span].set(jax.nn.one_hot(option, k, dtype=values.dtype))
        return pinned(values)

    def decided(hparams):
        for part in choices:
            span = spans[part.key]
            hparams = hparams.at[span].set(_nearest(part, hparams[span]))
        return hparams

    def project(hparams):
        return pinned(jnp.clip(decided(hparams), low, high))

    def domain(hparams):
        return jnp.where(linear, project(hparams), pinned(decided(hparams)))

    def read(hparams):
        arguments.check_width(name, names, hparams)
        hparams = pinned(hparams)
        return {part.key: _read(part, hparams, spans[part.key]) for part in parts}

    names = tuple(stored for part in parts for stored in part.stored)

    def once(function: Callable[[Array], Any]) -> Callable[[Array], Any]:
        """One program, where choices make many small steps of it, which are slow one by one."""
        return jax.jit(function) if choices else function

    return Space(
        name,
        names,
        once(from_unit),
        tuple(np.where(shares == 0, (high - low) / np.sqrt(12.0), np.sqrt(shares * (1 - shares))).tolist()),
        once(project),
        once(read),
        domain=once(domain),
        choices=tuple(tuple(range(*spans[part.key].indices(len(owner)))) for part in choices),
        keys=tuple(parts[i].key for i in owner),
        options=tuple(part.options for part in choices),
        discrete=tuple(i for i, part in enumerate(parts[i] for i in owner) if part.options and not part.relaxed),
        active=active and once(active),
    )


def _activity(ordered: list[_Part], spans: Mapping[str, slice], owner: np.ndarray) -> Callable[[Array], Array]:
    """`active(hparams [..., h]) -> bool [..., h]`, see `Space`.

    Args:
      ordered: the hyperparameters, each after those that it depends on.
      spans: coordinates of each.
      owner: [h] places in `spans` of what each coordinate belongs to.
    """

    def active(hparams):
        on = {}
        for part in ordered:
            here = jnp.ones(hparams.shape[:-1], bool)
            for parent, wanted in part.conditions:
                weights = hparams[..., spans[parent]][..., np.array(wanted)]
                here &= on[parent] & (weights.sum(-1) > 0)
            on[part.key] = here
        return jnp.stack([on[key] for key in spans], -1)[..., owner]

    return active


def _nearest(part: _Part, weights: Array) -> Array:
    """The nearest weights [k] that a choice may have."""
    if part.relaxed:
        return optax.projections.projection_simplex(weights)
    return jax.nn.one_hot(weights.argmax(), len(part.options), dtype=weights.dtype)


def _read(part: _Part, hparams: Array, span: slice) -> Array:
    """What the losses read of its coordinates."""
    if not part.options:
        return _SCALES[part.scale].back(hparams[span.start])
    return _along_simplex(hparams[span]) if part.relaxed else jax.lax.stop_gradient(hparams[span])


@jax.custom_jvp
def _along_simplex(weights: Array) -> Array:
    """The weights [k] as they are; their derivatives are those along the simplex, which no candidate leaves.

    The slope across it is the same for all options and often the largest: Adam would follow nothing else.
    """
    return weights


@_along_simplex.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (weights,), (moved,) = primals, tangents
    return weights, moved - moved.mean()


def _part(space: str, key: str, entry: Entry, bounds: Mapping[str, Entry]) -> _Part:
    conditions = ()
    if isinstance(entry, When):
        conditions = tuple((parent, _wanted(space, key, parent, wanted, bounds)) for parent, wanted in entry.conditions)
        entry = entry.what
    if isinstance(entry, Choice):
        names = tuple(str(option) for option in entry.options)
        return _Part(key, 0.0, 1.0, "linear", entry.options, names, entry.relaxed, conditions)
    return _Part(key, *_checked(space, key, entry), conditions=conditions)


def _wanted(
    space: str, key: str, parent: str, wanted: tuple[Option, ...], bounds: Mapping[str, Entry]
) -> tuple[int, ...]:
    """Numbers of the options of a choice that a condition names."""
    found = {name: entry.what if isinstance(entry, When) else entry for name, entry in bounds.items()}
    known = [name for name, entry in found.items() if isinstance(entry, Choice)]
    where = f"in the condition of {key!r} of the space {space!r}"
    if not known:
        raise UserError(f"space {space!r} has no choice {parent!r}, on which {key!r} depends: add it")
    check_name("choice", parent, known, where=where)
    parent_choice = found[parent]
    assert isinstance(parent_choice, Choice)
    names = [str(option) for option in parent_choice.options]
    for option in wanted:
        check_name("option", str(option), names, where=f"{where} on {parent!r}")
    return tuple(sorted({names.index(str(option)) for option in wanted}))


def _in_order(space: str, parts: tuple[_Part, ...]) -> list[_Part]:
    """The hyperparameters, each after those that it depends on.

    Raises:
      UserError: some depend on one another.
    """
    ordered: list[_Part] = []
    while left := [part for part in parts if part not in ordered]:
        done = {part.key for part in ordered}
        ready = [part for part in left if {parent for parent, _ in part.conditions} <= done]
        if not ready:
            raise UserError(
                f"conditions of the space {space!r} go in a circle through {', '.join(part.key for part in left)}: let "
                "one of them go without"
            )
        ordered += ready
    return ordered


def _check_conditions(space: str, parts: tuple[_Part, ...]) -> None:
    """Checks that each hyperparameter acts somewhere.

    Raises:
      UserError: one never does, or conditions go in a circle.
    """
    needs: dict[str, dict[str, frozenset[int]]] = {}
    for part in _in_order(space, parts):
        mine: dict[str, frozenset[int]] = {}
        asked = [(parent, frozenset(wanted)) for parent, wanted in part.conditions]
        above = [item for parent, _ in asked for item in needs[parent].items()]
        for parent, wanted in asked + above:
            mine[parent] = mine.get(parent, wanted) & wanted
            if not mine[parent]:
                raise UserError(
                    f"space {space!r}: no option of {parent!r} ever lets {part.key!r} act; mend its condition"
                )
        needs[part.key] = mine


def _checked(space: str, key: str, bounds: Bounds) -> tuple[float, float, str]:
    """Bounds in the coordinates of the vector, and the scale."""
    where = f"space {space!r}: the bounds of {key!r}"
    try:
        low, high, name = bounds if len(bounds) == 3 else (*bounds, "linear")
        low, high = float(low), float(high)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where} must be (low, high) or (low, high, scale), got {bounds!r}") from error
    check_name("scale", name, _SCALES, where=f"in the bounds of {key!r} of the space {space!r}")
    scale = _SCALES[name]
    # As they are stored: what rounds to infinity, or to one number, is no interval either.
    with np.errstate(over="ignore"):
        rounded = np.float32(low), np.float32(high)
    if not (np.isfinite(rounded).all() and rounded[0] < rounded[1]):
        raise UserError(f"{where} must be finite with low < high, got ({low:g}, {high:g})")
    if not (scale.above < rounded[0] and rounded[1] < scale.below):
        inside = "above 0" if scale.below == math.inf else "between 0 and 1, without both,"
        raise UserError(f"{where} must be {inside} on the scale {name!r}, got ({low:g}, {high:g})")
    return scale.to(low), scale.to(high), name
