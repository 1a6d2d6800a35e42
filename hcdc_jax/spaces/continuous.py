"""What a space of hyperparameters is: where candidates are drawn, how wide the prior is, what a model reads."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, ParamSpec, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import hadamard
from scipy.stats import qmc

from hcdc_jax import arguments
from hcdc_jax.errors import UserError
from hcdc_jax.types import Array

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

Option: TypeAlias = str | int | float | bool
"""Of a choice, as tables name it."""


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
      prior_std: h numbers, the standard deviation of each hyperparameter under the prior, where it is active;
        hypergradients are multiplied by it before they are compared, so that a unit change means the same for every
        hyperparameter.
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
      keys: h names under which `read` gives a dict by name: `activation` for all coordinates of that choice. Empty in
        spaces that are read as something else.
      options: of each of `choices` the options by name, in the order of its coordinates, which follow one another.
        `from_unit` takes such a choice from its first coordinate alone, equal shares of [0, 1] in turn. Empty where
        choices have no names.
      discrete: the coordinates of choices that are made whole: no model is trained between their options, and
        hypergradients say nothing of them.
      active: `active(hparams [h]) -> bool [h]`, which hyperparameters do anything at this point; the others stand at
        their centres, so that points which differ in nothing else are equal. None: all.
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
    keys: tuple[str, ...] = ()
    options: tuple[tuple[Option, ...], ...] = ()
    discrete: tuple[int, ...] = ()
    active: Callable[[Array], Array] | None = None

    def settings(self, hparams: Any) -> dict[str, Any]:
        """A candidate [h] by name: what the losses read where that is numbers by name, else those of the vector.

        A choice is its option, or words for a mixture of options; what is not active is left out.
        """
        read, hparams = self.read(jnp.asarray(hparams)), np.asarray(hparams)
        read = read._asdict() if hasattr(read, "_asdict") else read
        if not isinstance(read, dict):
            return dict(zip(self.hparam_names, hparams.tolist(), strict=True))
        found = {name: np.asarray(value).tolist() for name, value in read.items() if value is not None}
        for name, (places, options) in self.named.items():
            found[name] = _in_words(hparams[list(places)], options)
        active = self._active_at(hparams[None])[0]
        idle = {key for key, on in zip(self.keys, active, strict=False) if not on}
        return {name: value for name, value in found.items() if name not in idle}

    def columns(self, hparams: Any) -> dict[str, list[Any]]:
        """Columns of a table of candidates [n, h]: numbers as stored, choices by name, None where not active."""
        hparams = np.asarray(hparams)
        active, columns = self._active_at(hparams), {}
        for name, place, options in self.asked():
            values: list[Any] = hparams[:, place].tolist()
            if options is not None:
                values = [_in_words(row, options) for row in hparams[:, place : place + len(options)]]
            columns[name] = [value if on else None for value, on in zip(values, active[:, place], strict=True)]
        return columns

    @property
    def named(self) -> dict[str, tuple[tuple[int, ...], tuple[Option, ...]]]:
        """Coordinates and options of the choices that have names, by name."""
        choices = zip(self.choices[: len(self.options)], self.options, strict=True)
        return {self.keys[places[0]]: (places, options) for places, options in choices}

    def asked(self) -> list[tuple[str, int, tuple[Option, ...] | None]]:
        """What may be decided for itself, in order: name, first coordinate, and the options of a choice with names."""
        choices = {places[0]: (name, options) for name, (places, options) in self.named.items()}
        within = {place for places, _ in self.named.values() for place in places[1:]}
        numbers = {place: (name, None) for place, name in enumerate(self.hparam_names) if place not in within}
        return [(name, place, options) for place, (name, options) in (numbers | choices).items()]

    def _active_at(self, hparams: np.ndarray) -> np.ndarray:
        """[n, h] which hyperparameters of candidates [n, h] are active."""
        if self.active is None:
            return np.ones(hparams.shape, bool)
        return np.asarray(_compiled(self.active)(jnp.asarray(hparams)))

    def has_slope(self, hparams: Array) -> Array:
        """[h] where a hypergradient at a point [h] says something: of what is active, and not of discrete choices."""
        smooth = jnp.asarray(~np.isin(np.arange(len(self.hparam_names)), self.discrete))
        return smooth if self.active is None else smooth & self.active(hparams)

    def check(self, hparams: Any) -> None:
        """Checks that candidates [n, h] make choices: weights from 0 on of sum 1, one of them 1 where it is discrete.

        Raises:
          UserError: one does not.
        """
        for name, (places, options) in self.named.items():
            weights = np.asarray(hparams)[:, list(places)]
            whole = (weights >= -1e-4).all(1) & (np.abs(weights.sum(1) - 1) < 1e-3)
            wanted = "weights from 0 on that sum to 1"
            if {*places} <= {*self.discrete}:
                whole &= weights.max(1) > 1 - 1e-3
                wanted = "one weight of 1, the others 0"
            if not whole.all():
                row = int(np.argmin(whole))
                raise UserError(
                    f"candidate {row} makes no choice of {name!r} in the space {self.name!r}: the "
                    f"weights of {', '.join(map(str, options))} are {weights[row].tolist()}; give {wanted}"
                )

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
        if self.choices:
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


def _in_words(weights: np.ndarray, options: Sequence[Option]) -> Option:
    """The option whose weight is 1; words where several have some."""
    if weights.max() > 1 - 1e-3:
        return options[int(weights.argmax())]
    return " + ".join(f"{w:.2g} {option}" for w, option in zip(weights, options, strict=True) if w > 1e-3)


@functools.cache
def _compiled(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """A function of a point [h] as one of points [n, h], compiled once."""
    return jax.jit(jax.vmap(function))


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
