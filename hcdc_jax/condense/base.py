"""What a condenser is, and the one driver that runs them all."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
import optax

from hcdc_jax.training.train import all_finite
from hcdc_jax.types import Array, PyTree, Variables

MOST_GROWTH = 100.0
"""Of the root mean square of the inputs. Condensed images and features stay within a few of their start's."""

_OF_EXAMPLES = ("pixels", "features", "instance_memories")
"""The field of a container's variables that tells its examples apart: the first that there is, else all that is
learned."""


class Condenser(NamedTuple):
    """A pair of pure functions; the driver adds `jit`, `scan`, checkpoints and progress.

    Condensers hash by their functions. Build them with cached factories, and a second seed compiles nothing.

    Attributes:
      init: `init(key, variables, data) -> state`; a state is a NamedTuple with a field `variables`.
      step: `step(key, state, data) -> (state, info)`; `info` is a NamedTuple of scalars with a field `distance`.
    """

    init: Callable[[Array, Variables, Any], Any]
    step: Callable[[Array, Any, Any], tuple[Any, Any]]


class GraphRates(NamedTuple):
    """Adam step sizes of a synthetic graph; traced.

    Attributes:
      features: of X', in the units of X'.
      structure: of whatever makes the adjacency.
    """

    features: Array
    structure: Array


class PixelRates(NamedTuple):
    """Adam step size of synthetic images, or of other arrays; traced.

    Attributes:
      pixels: in the units of the pixels; of a pytree of arrays a pytree of the same structure.
    """

    pixels: PyTree


class MemoryRates(NamedTuple):
    """Adam step sizes of a hierarchical memory network, part by part; traced.

    Attributes:
      dataset_memory: of m_D, in its units; memories start as standard normal numbers.
      class_memories: of m_C.
      instance_memories: of m_I.
      extractors: of the parameters of f_c.
      decoder: of those of D.
    """

    dataset_memory: Array
    class_memories: Array
    instance_memories: Array
    extractors: Array
    decoder: Array


class ImageRates(NamedTuple):
    """Step size and momentum of what an image container learns; traced.

    Attributes:
      learning_rate: of gradient descent.
      momentum: of gradient descent.
    """

    learning_rate: float | Array
    momentum: float | Array = 0.5


AnyImageRates: TypeAlias = ImageRates | PixelRates | MemoryRates
"""Of what a container of images learns: gradient descent for the first, Adam for the others."""


def scaled(rates: AnyImageRates, factor: float | Array) -> AnyImageRates:
    """The same with step sizes multiplied by a factor; a momentum stays what it is."""
    if isinstance(rates, ImageRates):
        return rates._replace(learning_rate=factor * rates.learning_rate)
    return jax.tree.map(lambda rate: factor * rate, rates)


def image_optimizer(rates: AnyImageRates) -> optax.GradientTransformation:
    """What moves `learned_fields`: gradient descent with momentum, as DC, DSA, DM and MTT have it for pixels.

    One step size cannot serve memories and networks, whose slopes differ by orders of magnitude: those have Adam.
    """
    return optax.sgd(rates.learning_rate, rates.momentum) if isinstance(rates, ImageRates) else adam(rates)


def learned_fields(variables: Variables) -> dict[str, PyTree]:
    """What condensing moves of a container's variables: all fields but the given `labels` and `weights`.

    `variables._replace(**fields)` puts them back.
    """
    return {name: getattr(variables, name) for name in variables._fields if name not in ("labels", "weights")}


def has_diverged(variables: Variables, start: Variables) -> bool:
    """Whether a number is not finite, or the inputs are out of all proportion to what they started as.

    A network with a norm sees no difference between large inputs and larger ones, so that these may stay finite.
    """

    def size(variables: Variables) -> float:
        fields = learned_fields(variables)
        inputs = next((fields[name] for name in _OF_EXAMPLES if name in fields), fields)
        numbers = np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(inputs)])
        return float(np.sqrt(np.mean(np.square(numbers))))

    return not all_finite(variables) or 0 < MOST_GROWTH * size(start) < size(variables)


def descend(
    optimizer: optax.GradientTransformation,
    gradient: dict[str, PyTree],
    opt_state: optax.OptState,
    variables: Variables,
) -> tuple[Any, optax.OptState]:
    """One step on the fields that `gradient` names: new variables and the optimiser's state."""
    fields = {name: getattr(variables, name) for name in gradient}
    updates, opt_state = optimizer.update(gradient, opt_state, fields)
    moved: dict[str, Any] = jax.tree.map(lambda value, update: value + update, fields, updates)
    return variables._replace(**moved), opt_state


def adam(rates: GraphRates | PixelRates | MemoryRates) -> optax.GradientTransformation:
    """Adam for the fields that `rates` names, of a container's variables or of `learned_fields`; others stay.

    Of a field whose rate is a pytree each leaf has its own.
    """
    names = {name: _leaf_names(name, rate) for name, rate in rates._asdict().items()}

    def label(variables: Variables | dict[str, PyTree]) -> Variables | dict[str, PyTree]:
        fields = variables if isinstance(variables, dict) else variables._asdict()
        labels = {name: names.get(name, "given") for name in fields}
        return labels if isinstance(variables, dict) else type(variables)(**labels)

    transforms: dict[Hashable, optax.GradientTransformation] = {"given": optax.set_to_zero()}
    leaves = zip(jax.tree.leaves(names), jax.tree.leaves(rates._asdict()), strict=True)
    transforms |= {name: optax.adam(rate) for name, rate in leaves}
    return optax.partition(transforms, label)


def _leaf_names(name: str, rate: PyTree) -> PyTree:
    tree = jax.tree.structure(rate)
    return jax.tree.unflatten(tree, [f"{name}/{place}" for place in range(tree.num_leaves)])


def run(
    key: Array,
    condenser: Condenser,
    state: Any,
    data: Any,
    *,
    start: int = 0,
    steps: int,
    every: int = 10,
    report: Callable[[int, Any, PyTree], None] | None = None,
) -> Any:
    """Advances `state` from step `start` to step `steps`.

    Step t uses the key `fold_in(key, t)`, so a run that continues from a checkpoint is the run that was not stopped.

    Args:
      key: of the whole run.
      condenser: what is run.
      state: its state after `start` steps.
      data: what its steps read.
      start: steps already done.
      steps: steps in all.
      every: steps per compiled call, between which `report` is called.
      report: `report(step, state, infos)` with `infos` stacked over the last steps; writes metrics and checkpoints.

    Returns:
      The state after `steps` steps.
    """
    while start < steps:
        length = min(every, steps - start)
        state, infos = _advance(key, state, data, start, condenser=condenser, length=length)
        start += length
        if report is not None:
            report(start, state, infos)
    return state


@functools.partial(jax.jit, static_argnames=("condenser", "length"))
def _advance(key, state, data, start, *, condenser, length):
    def body(state, step):
        return condenser.step(jax.random.fold_in(key, step), state, data)

    return jax.lax.scan(body, state, start + jax.numpy.arange(length))
