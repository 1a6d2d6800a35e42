"""Hyperparameter-calibrated data set condensation in JAX (arXiv 2405.17535).

Condense a data set into a tiny synthetic training and validation set on which the ranking of hyperparameters is kept,
then search on it in seconds. The command is `hcdc`; everything it does is a function here.
"""

# Public names stand in `__init__.pyi`, where each comes from; they are imported when they are first asked for.

import ast as _ast
import importlib as _importlib
from pathlib import Path as _Path
from typing import Any as _Any

_PLACES = {
    alias.name: node.module
    for node in _ast.parse(_Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    if isinstance(node, _ast.ImportFrom) and node.module
    for alias in node.names
}
__all__ = [*_PLACES]  # pyright: ignore


def __getattr__(name: str) -> _Any:
    place = _PLACES.get(name, __name__)
    # A name that stands nowhere else may be that of a room.
    module = _importlib.import_module(place) if place != __name__ else None
    value = getattr(module, name, None) or _room(f"{place}.{name}")
    if value is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def _room(name: str) -> _Any:
    try:
        return _importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return None


def __dir__() -> list[str]:
    return [*globals(), *__all__]
