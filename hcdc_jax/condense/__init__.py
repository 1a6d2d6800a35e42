"""Condensers. A new one is a file with a cached factory that returns a `Condenser`, and a line in `_REGISTRY`."""

from __future__ import annotations

from collections.abc import Callable

from hcdc_jax.condense.base import Condenser, run
from hcdc_jax.condense.dc import dc, dsa
from hcdc_jax.condense.dm import dm
from hcdc_jax.condense.edc import edc
from hcdc_jax.condense.gradient_matching import gradient_matching
from hcdc_jax.condense.hcdc import hcdc
from hcdc_jax.condense.hcdc_shared import hcdc_shared
from hcdc_jax.condense.idc import idc
from hcdc_jax.condense.kip import kip
from hcdc_jax.condense.mtt import mtt
from hcdc_jax.errors import check_name

_REGISTRY: dict[str, Callable[..., Condenser]] = {
    "dc": dc,
    "dm": dm,
    "dsa": dsa,
    "edc": edc,
    "gradient_matching": gradient_matching,
    "hcdc": hcdc,
    "hcdc_shared": hcdc_shared,
    "idc": idc,
    "kip": kip,
    "mtt": mtt,
}


def get(name: str) -> Callable[..., Condenser]:
    """The factory of the condenser `name`.

    Raises:
      UserError: there is none of that name.
    """
    check_name("condenser", name, names())
    return _REGISTRY[name]


def names() -> list[str]:
    """Names that `get` knows."""
    return sorted(_REGISTRY)


__all__ = [
    "Condenser",
    "dc",
    "dm",
    "dsa",
    "edc",
    "get",
    "gradient_matching",
    "hcdc",
    "hcdc_shared",
    "idc",
    "kip",
    "mtt",
    "names",
    "run",
]
