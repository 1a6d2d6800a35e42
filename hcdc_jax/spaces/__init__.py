"""Search spaces. A new one is a function that returns a `Space` and a line in `_REGISTRY`; your own is a `box`."""

from __future__ import annotations

import inspect

from hcdc_jax.errors import check_name
from hcdc_jax.spaces.continuous import Space, box, either_sign, unit_l1
from hcdc_jax.spaces.graph_filter import appnp, bernnet, chebnet, gprgnn, graph_filter
from hcdc_jax.spaces.nas_bench_201 import discrete_cell, nas_bench_201, one_hot, softmax_mix
from hcdc_jax.spaces.regularisation import image_training, regularisation, tables
from hcdc_jax.spaces.training import filter_training, with_training, without_implicit_hypergradient

_REGISTRY = {
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


def get(name: str, **options) -> Space:
    """The registered space `name`, built with its own options.

    Raises:
      UserError: there is none of that name.
    """
    check_name("space", name, names())
    return _REGISTRY[name](**options)


def names() -> list[str]:
    """Names that `get` knows."""
    return sorted(_REGISTRY)


def options(name: str) -> tuple[str, ...]:
    """The options that `get` takes for the registered space `name`.

    Raises:
      UserError: there is none of that name.
    """
    check_name("space", name, names())
    return tuple(inspect.signature(_REGISTRY[name]).parameters)


__all__ = [
    "Space",
    "appnp",
    "bernnet",
    "box",
    "chebnet",
    "discrete_cell",
    "either_sign",
    "filter_training",
    "get",
    "gprgnn",
    "graph_filter",
    "image_training",
    "names",
    "nas_bench_201",
    "one_hot",
    "options",
    "regularisation",
    "softmax_mix",
    "tables",
    "unit_l1",
    "with_training",
    "without_implicit_hypergradient",
]
