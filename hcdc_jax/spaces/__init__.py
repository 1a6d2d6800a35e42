"""Search spaces. A new one is a file that returns a `Space` and a line in `_REGISTRY`."""

from __future__ import annotations

from hcdc_jax.spaces.continuous import Space, box, unit_l1
from hcdc_jax.spaces.graph_filter import graph_filter

_REGISTRY = {
    "graph_filter": graph_filter,
}


def get(name: str, **options) -> Space:
    """The registered space `name`, built with its own options; the error of an unknown name lists the known ones."""
    if name not in _REGISTRY:
        raise KeyError(f"unknown space {name!r}; known: {', '.join(names())}")
    return _REGISTRY[name](**options)


def names() -> list[str]:
    """Names that `get` knows."""
    return sorted(_REGISTRY)


__all__ = ["Space", "box", "get", "graph_filter", "names", "unit_l1"]
