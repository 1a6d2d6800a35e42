"""Continuous hyperparameter spaces: where candidates are drawn, how wide the prior is, what a model reads."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import hadamard
from scipy.stats import qmc

from hcdc_jax import arguments
from hcdc_jax.errors import UserError, check_name
from hcdc_jax.types import Array

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def one_object(factory: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Caches a factory so that equal arguments give one object, however they are passed.

    What is compiled for a space is found again by its functions, and those are new in every space that is made.
    """
    signature, cached = inspect.signature(factory), functools.cache(factory)

    @functools.wraps(factory)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return cached(*bound.args, **bound.kwargs)

    return call


def as_is(hparams: Array) -> Array:
    """The vector itself: what a model reads where no space says otherwise."""
    return hparams


class Space(NamedTuple):
    """A prior over candidates that are vectors of h real hyperparameters. Hashable, like a `Problem`.

    Attributes:
      name: registry name.
      hparam_names: the h names, in the order of the vector.
      from_unit: `from_unit(u [..., h]) -> [..., h]`, carries the uniform distribution on the unit cube to the prior.
      prior_std: h numbers, the standard deviation of each hyperparameter under the prior; hypergradients are multiplied
        by it before they are compared, so that a unit change means the same for every hyperparameter.
      project: `project(hparams [h]) -> [h]`, the nearest point of the space; keeps gradient steps inside it.
      read: `read(hparams [h]) -> what the model reads`, differentiable: a dict by name for a `box`, a `models.Setting`
        for graph filters.
      basis: polynomial basis of a space of graph filters, see `graphs.filter_terms`.
      domain: `domain(hparams [h]) -> [h]`, the nearest point at which a model can be trained, where that is more than
        the space: the logarithm of a weight decay may leave its prior, a dropout rate may not. None: `project`.
      mixed: `mixed(key, hparams [h], temperature) -> [h]`, a random point between the candidates of a discrete space
        that has this one as its nearest, and comes to it as the temperature falls to 0. None where there is nothing
        between them.
      orbit: `orbit(hparams [h]) -> [k, h]`, all points whose losses have the same distribution as this one's, itself
        first: the images under a finite group of k invertible, differentiable maps. None where there are no others.
      choices: the coordinates of each categorical choice; what fits a length scale fits one for all of a choice.
    """

    name: str
    hparam_names: tuple[str, ...]
    from_unit: Callable[[Array], Array]
    prior_std: tuple[float, ...]
    project: Callable[[Array], Array]
    read: Callable[[Array], Any] = as_is
    basis: str | None = None
    domain: Callable[[Array], Array] | None = None
    mixed: Callable[[Array, Array, float | Array], Array] | None = None
    orbit: Callable[[Array], Array] | None = None
    choices: tuple[tuple[int, ...], ...] = ()

    def settings(self, hparams: Any) -> dict[str, Any]:
        """A candidate [h] by name: what the losses read where that is numbers by name, else those of the vector."""
        read = self.read(jnp.asarray(hparams))
        read = read._asdict() if hasattr(read, "_asdict") else read
        if isinstance(read, dict):
            return {name: np.asarray(value).tolist() for name, value in read.items() if value is not None}
        return dict(zip(self.hparam_names, np.asarray(hparams).tolist(), strict=True))

    def admit(self, hparams: Array) -> Array:
        """The nearest hyperparameters [h] at which a model can be trained, inside the prior or not."""
        return (self.domain or self.project)(hparams)

    def equivalents(self, hparams: Array) -> Array:
        """The orbit [k, h] of a point [h], itself first; [1, h] in a space without symmetries."""
        return hparams[None] if self.orbit is None else self.orbit(hparams)

    def representative(self, hparams: Array) -> Array:
        """The same point [h] for all of an orbit: the one that comes last when they are sorted by their coordinates.

        Of filters that may change their sign, the one whose first coefficient is not negative.
        """
        points = self.equivalents(hparams)
        return points[jnp.lexsort(points.T[::-1])[-1]]

    def represents(self, hparams: Array) -> Array:
        """Whether a point [h] comes last of those of its orbit that lie in the space: true once in every orbit."""
        points = self.equivalents(hparams)
        # Members are compared with what the space makes of them; rounding must not tell a point from itself.
        inside = jnp.isclose(jax.vmap(self.project)(points), points, rtol=1e-5, atol=1e-6).all(1).at[0].set(True)
        last = jnp.lexsort((*jnp.where(inside[:, None], points, -jnp.inf).T[::-1],))[-1]
        return (points[last] == hparams).all()

    def sample(self, key: Array, num_candidates: int) -> Array:
        """Independent draws from the prior: [num_candidates, h].

        Raises:
          UserError: no key, or no candidates.
        """
        arguments.check_key("key", key)
        arguments.check_count("num_candidates", num_candidates)
        return self.from_unit(jax.random.uniform(key, (num_candidates, len(self.hparam_names))))

    def spread(self, seed: int | tuple[int, ...], num_candidates: int) -> Array:
        """Draws that fill the prior evenly, by a scrambled Sobol sequence: [num_candidates, h].

        Eight points in three dimensions fall into eight different octants. Few independent draws leave whole regions
        empty in which whatever is fitted to them is a guess. Where the space has symmetries only one point of each
        orbit is drawn: what all of them would say is asked once.

        Raises:
          UserError: a seed that is no whole number, or no candidates.
        """
        arguments.check_seed("seed", seed)
        arguments.check_count("num_candidates", num_candidates)
        sequence = qmc.Sobol(len(self.hparam_names), scramble=True, rng=np.random.default_rng(seed))
        # Whole powers of two keep the sequence balanced; any beginning of it is spread well too.
        points = self.from_unit(jnp.asarray(sequence.random_base2(_power_of_two(num_candidates)), jnp.float32))
        if self.orbit is None:
            return points[:num_candidates]
        kept, count = [], 0
        while True:
            kept.append(points[_representing(self)(points)])
            count += len(kept[-1])
            if count >= num_candidates:
                return jnp.concatenate(kept)[:num_candidates]
            points = self.from_unit(jnp.asarray(sequence.random(len(points)), jnp.float32))

    def factorial(self, seed: int | tuple[int, ...], num_candidates: int) -> Array:
        """A fractional factorial design, each hyperparameter high in half of it, else low: [num_candidates, h].

        Levels lie one standard deviation of a uniform draw from its middle. In any two hyperparameters all four pairs
        of levels are equally frequent, so that main effects do not blur one another (resolution III; Plackett and
        Burman 1946, Box and Hunter 1961). Columns of Sylvester's Hadamard matrix and their signs are drawn by the seed.

        Raises:
          UserError: num_candidates is no power of two above h, the space is one of choices, which have no levels, or it
            has symmetries, under which high and low levels may be the same.
        """
        arguments.check_seed("seed", seed)
        arguments.check_count("num_candidates", num_candidates)
        h = len(self.hparam_names)
        if self.orbit is not None:
            raise UserError(
                f"candidates of the space {self.name!r} come in groups of equals, which a factorial design would train "
                "again and again: set hcdc.design = 'strata'"
            )
        if self.mixed is not None:
            raise UserError(f"the choices of the space {self.name!r} have no levels: set hcdc.design = 'strata'")
        if num_candidates <= h or num_candidates & (num_candidates - 1):
            raise UserError(
                f"a factorial design of {h} hyperparameters takes a power of two above {h} of full trainings, not "
                f"{num_candidates}: set hcdc.full_trainings = {1 << h.bit_length()}, or hcdc.design = 'strata'"
            )
        rng = np.random.default_rng(seed)
        columns = hadamard(num_candidates)[:, 1 + rng.permutation(num_candidates - 1)[:h]]
        levels = 0.5 + rng.choice([-1, 1], h) * columns / np.sqrt(12.0)
        return self.from_unit(jnp.asarray(levels, jnp.float32))


@functools.cache
def _representing(space: Space) -> Callable[[Array], Array]:
    """`Space.represents` of points [n, h], compiled once for a space."""
    return jax.jit(jax.vmap(space.represents))


def _power_of_two(count: int) -> int:
    """The exponent of the smallest power of two, from 2 on, that is not below `count`."""
    return math.ceil(math.log2(max(count, 2)))


def either_sign(hparams: Array) -> Array:
    """The orbit [2, h] of a point [h] that may change its sign as a whole."""
    return jnp.stack([hparams, -hparams])


Bounds = tuple[float, float] | tuple[float, float, str]


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


def box(name: str, bounds: Mapping[str, Bounds]) -> Space:
    """The uniform prior on a box, which is all it takes to search hyperparameters of your own:

        space = hc.spaces.box("mine", {"weight_decay": (1e-5, 1e-2, "log"), "gain": (0.5, 2)})
        candidates = space.sample(jax.random.key(0), 1000)

    and in the losses `h = space.read(hparams)`, then `h["weight_decay"]`, `h["gain"]`. A hyperparameter on the scale
    "log" is stored as its logarithm under the name `log_...`, one on the scale "logit", for shares between 0 and 1, as
    log(p / (1 - p)) under `logit_...`; `read` gives them back as they were named. Equal arguments give one object.

    Args:
      name: of the space.
      bounds: (low, high) or (low, high, scale) of each hyperparameter, in the order of the vector.

    Raises:
      UserError: no hyperparameter, an unknown scale, or bounds that are not finite with low < high inside the scale.
    """
    if not bounds:
        raise UserError(f"space {name!r} has no hyperparameters; give at least one, as in {{'gain': (0.5, 2)}}")
    return _box(name, tuple((key, *_checked(name, key, value)) for key, value in bounds.items()))


@one_object
def _box(name: str, entries: tuple[tuple[str, float, float, str], ...]) -> Space:
    keys, low, high, scales = zip(*entries, strict=True)
    low, high = (np.asarray(bound, np.float32) for bound in (low, high))

    def from_unit(u):
        return jnp.broadcast_to(low, u.shape) + jnp.broadcast_to(high - low, u.shape) * u

    def project(hparams):
        return jnp.clip(hparams, low, high)

    def domain(hparams):
        return jnp.where(np.array(scales) == "linear", project(hparams), hparams)

    def read(hparams):
        arguments.check_width(name, names, hparams)
        return {key: _SCALES[scale].back(hparams[i]) for i, (key, scale) in enumerate(zip(keys, scales, strict=True))}

    names = tuple(_SCALES[scale].prefix + key for key, scale in zip(keys, scales, strict=True))
    return Space(name, names, from_unit, tuple(((high - low) / np.sqrt(12.0)).tolist()), project, read, domain=domain)


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


@one_object
def unit_l1(name: str, hparam_names: tuple[str, ...]) -> Space:
    """A uniform draw of [-1, 1]^h divided by its L1 norm: only the direction of the vector is searched."""

    def project(hparams):
        # A norm of 0 has no nearest point; the floor only keeps the division finite.
        return hparams / jnp.maximum(jnp.abs(hparams).sum(-1, keepdims=True), 1e-6)

    def from_unit(u):
        return project(2.0 * u - 1.0)

    # The standard deviation has no closed form as simple as the box's: it is measured once, on a fixed draw that is
    # large enough for two digits.
    reference = np.random.default_rng(0).uniform(-1, 1, (20_000, len(hparam_names)))
    prior_std = (reference / np.abs(reference).sum(1, keepdims=True)).std(0)
    return Space(name, hparam_names, from_unit, tuple(prior_std.tolist()), project)
