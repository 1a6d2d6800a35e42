"""What a condenser is, and the one driver that runs them all."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from hcdc_jax.types import Array, PyTree, Variables


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


def graph_optimizer(rates: GraphRates) -> optax.GradientTransformation:
    """Adam for the features and the structure of `GraphVariables`; labels and weights stay as they are."""
    return optax.partition(
        {
            "features": optax.adam(rates.features),
            "structure": optax.adam(rates.structure),
            "given": optax.set_to_zero(),
        },
        lambda variables: type(variables)("features", "structure", "given", "given"),
    )


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
