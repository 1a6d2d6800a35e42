"""Search spaces. A new one is a function that returns a `Space` and a line in `SPACES`; your own is a `box`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from hcdc_jax.errors import UserError
from hcdc_jax.registry import Registry, first_line
from hcdc_jax.spaces.choices import choice, chosen, mix, when
from hcdc_jax.spaces.continuous import Space, either_sign, one_object, unit_l1
from hcdc_jax.spaces.graph_filter import appnp, bernnet, chebnet, gprgnn, graph_filter
from hcdc_jax.spaces.named import box
from hcdc_jax.spaces.nas_bench_201 import discrete_cell, nas_bench_201, one_hot, softmax_mix
from hcdc_jax.spaces.regularisation import image_training, regularisation, tables
from hcdc_jax.spaces.training import filter_training, with_training, without_implicit_hypergradient


def _accept(entry: Any) -> Callable[..., Space] | None:
    """A space as a function that returns it, the same object for the same options."""
    if isinstance(entry, Space):
        return lambda: entry
    made: Any = one_object(entry) if callable(entry) else None
    return made


_BUILT_IN: dict[str, Callable[..., Space]] = {
    "appnp": appnp,
    "bernnet": bernnet,
    "chebnet": chebnet,
    "filter_training": filter_training,
    "gprgnn": gprgnn,
    "graph_filter": graph_filter,
    "nas_bench_201": nas_bench_201,
    "regularisation": regularisation,
    "tables": tables,
}
SPACES: Registry[Callable[..., Space]] = Registry(
    "space",
    _BUILT_IN,
    group="hcdc_jax.spaces",
    wanted="a Space, or a function that returns one",
    accept=_accept,
    reserved=("own",),  # the space of a study
)
"""Functions that return a space, by its name; they take what they need of `order`, `basis` and `prior`."""


def get(name: str, **options) -> Space:
    """The registered space `name`, built with its own options.

    Raises:
      UserError: there is none of that name, or a plugin gives something else for it.
    """
    space = SPACES.look_up(name)(**options)
    if not isinstance(space, Space) or space.name != name:
        got = f"the space {space.name!r}" if isinstance(space, Space) else type(space).__name__
        raise UserError(f"what is registered as the space {name!r} must return a Space of that name, got {got}")
    return space


def names() -> list[str]:
    """Names that `get` knows."""
    return sorted(SPACES)


def about() -> dict[str, str]:
    """The spaces that `get` knows, each with one line about it."""
    return {name: first_line(SPACES[name]) for name in names()}


def options(name: str) -> tuple[str, ...]:
    """The options that `get` takes for the registered space `name`.

    Raises:
      UserError: there is none of that name.
    """
    return tuple(inspect.signature(SPACES.look_up(name)).parameters)


__all__ = [
    "SPACES",
    "Space",
    "about",
    "appnp",
    "bernnet",
    "box",
    "chebnet",
    "choice",
    "chosen",
    "discrete_cell",
    "either_sign",
    "filter_training",
    "get",
    "gprgnn",
    "graph_filter",
    "image_training",
    "mix",
    "names",
    "nas_bench_201",
    "one_hot",
    "options",
    "regularisation",
    "softmax_mix",
    "tables",
    "unit_l1",
    "when",
    "with_training",
    "without_implicit_hypergradient",
]
