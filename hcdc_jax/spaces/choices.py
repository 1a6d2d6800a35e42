"""Choices among options, and what depends on one: how they are declared in a `box`, and how models read them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.errors import UserError
from hcdc_jax.spaces.continuous import Option
from hcdc_jax.types import Array, PyTree

Bounds = tuple[float, float] | tuple[float, float, str]


@dataclasses.dataclass(frozen=True)
class Choice:
    """What `choice` returns."""

    options: tuple[Option, ...]
    relaxed: bool


@dataclasses.dataclass(frozen=True)
class When:
    """What `when` returns: `what`, and by the name of each choice that it depends on the options with which it acts."""

    what: Bounds | Choice
    conditions: tuple[tuple[str, tuple[Option, ...]], ...]


Entry: TypeAlias = Bounds | Choice | When


def choice(options: Sequence[Option], *, relaxed: bool = False) -> Choice:
    """A hyperparameter that is one of some options, for a `box`.

        space = hc.spaces.box("mine", {"activation": hc.spaces.choice(["relu", "tanh", "gelu"], relaxed=True)})

    It takes one coordinate of the vector for each option, its weight, and is read as these weights [k], of which one is
    1 in all draws. Models read them with `mix` or `chosen`.

    Args:
      options: two or more, different ones; strings or numbers, by which tables name them.
      relaxed: a model may be trained at mixtures, weights on a simplex, as DARTS does (arXiv 1806.09055). Its weights
        have hypergradients then, and descents move them. Without, candidates take one option, and hypergradients are
        those of the other hyperparameters.

    Raises:
      UserError: fewer than two options, one twice, or one that is no string or number.
    """
    given = [options] if isinstance(options, str) else list(options)
    for option in given:
        if not isinstance(option, str | int | float):
            raise UserError(f"an option of a choice is a string or a number, got {option!r}")
    if len(given) < 2:
        raise UserError(f"a choice needs two options or more, got {given!r}: leave it out, or list others")
    names = [str(option) for option in given]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"the option {twice!r} stands twice in a choice among {', '.join(names)}: name each once")
    return Choice(tuple(given), relaxed)


def when(what: Bounds | Choice, /, **conditions: Option | Sequence[Option]) -> When:
    """A hyperparameter that acts only where choices are made in some way, for a `box`.

        bounds = {"penalty": choice(["none", "l2"]), "weight_decay": when((1e-5, 1e-1, "log"), penalty="l2")}

    Where it does not act it stands at its centre, so that candidates which differ in it alone are equal; it has no
    hypergradient there, and tables leave it blank. The centre of a choice is an even mixture where it is relaxed, else
    its first option. With a relaxed choice it acts wherever one of the options has a weight above 0.

    Args:
      what: bounds, or a choice.
      conditions: by the name of a choice the option, or a list of options, with which it acts; all must hold.

    Raises:
      UserError: no condition, or one inside another.
    """
    if isinstance(what, When):
        raise UserError("a condition stands around another one: give all of them to one `when`")
    if not conditions:
        raise UserError("`when` names no condition, as in when((0.5, 0.99), optimizer='sgd')")
    return When(
        what,
        tuple(
            (name, (options,) if isinstance(options, str | int | float) else tuple(options))
            for name, options in conditions.items()
        ),
    )


def mix(weights: Array, values: Sequence[PyTree]) -> PyTree:
    """The values of the options of a relaxed choice, mixed by its weights: `hc.mix(h["activation"], [a, b, c])`.

    Args:
      weights: [k], as a choice is read.
      values: k arrays, numbers or trees of them, all of one shape.

    Raises:
      UserError: other than k values.
    """
    _check_values(weights, values)
    return jax.tree.map(lambda *leaves: sum(w * leaf for w, leaf in zip(weights, leaves, strict=True)), *values)


def chosen(weights: Array, values: Sequence[PyTree]) -> PyTree:
    """The value of the option that is chosen, whatever the others are, be they infinite; arguments as of `mix`.

    All are computed: one program serves all candidates.

    Raises:
      UserError: other than k values.
    """
    _check_values(weights, values)
    taken = jnp.asarray(weights) > 0.5

    def one(*leaves: Array) -> Array:
        return sum((jnp.where(on, leaf, 0) for on, leaf in zip(taken, leaves, strict=True)), jnp.zeros((), int))

    return jax.tree.map(one, *values)


def _check_values(weights: Array, values: Sequence[PyTree]) -> None:
    if np.shape(weights) != (len(values),):
        raise UserError(f"{len(values)} values for weights {list(np.shape(weights))} of a choice: give one an option")
