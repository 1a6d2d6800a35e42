"""Checkpoints of a run: the state of a condenser after a step, so that a killed run continues to the same result.

One .npz for each step, written whole or not at all: the leaves in their order, and what stands where, by which a state
of another shape is told apart. A zip archive sums its members, so damage shows when they are read.
"""

from __future__ import annotations

import io
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.errors import UserError
from hcdc_jax.storage import files
from hcdc_jax.types import PyTree

NUM_KEPT = 2

_LAYOUT = "layout"
_logger = logging.getLogger(__name__)


def save(folder: str | Path, step: int, state: PyTree) -> None:
    """Saves `state` after `step`; when this returns it is on disk, and a kill before that leaves the older ones whole.

    Keeps the latest two. Checkpoints of the same or later steps, left by a run that was taken up again before them, are
    removed.

    Args:
      folder: where the checkpoints of one run lie.
      step: number of steps done, at least 0.
      state: any pytree of arrays, numbers and typed keys that this process can read whole.

    Raises:
      UserError: the disk is full or cannot be written.
    """
    content = io.BytesIO()
    members: dict[str, Any] = {str(i): _bytes_of(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
    members[_LAYOUT] = json.dumps(_layout(state))
    np.savez(content, **members)  # numbers hardly compress
    stale = [path for path in _saved(folder) if _step_of(path) >= step]
    for path in stale:
        path.unlink()
    files.write_bytes(Path(folder) / f"{step}.npz", content.getvalue())
    for path in _saved(folder)[NUM_KEPT:]:
        path.unlink()


def restore_latest(folder: str | Path, like: PyTree) -> tuple[int, PyTree] | None:
    """The latest checkpoint that can be read and has the layout of `like`.

    A checkpoint that is damaged or was written for another state is passed over with a logged warning.

    Args:
      folder: where the checkpoints of one run lie; may not exist.
      like: a state with the wanted structure, shapes and dtypes; its values do not count.

    Returns:
      (step, state), or None if there is no such checkpoint.
    """
    for path in _saved(folder):
        try:
            return _step_of(path), _restored(path, like)
        except Exception as error:  # NumPy and zipfile raise many kinds for damaged files
            reason = str(error) if isinstance(error, _OtherLayoutError) else f"damaged ({type(error).__name__})"
            _logger.warning("checkpoint %s is passed over: %s", path, reason)
    return None


def clear(folder: str | Path) -> None:
    """Removes all checkpoints of a run; no error if there are none.

    Raises:
      UserError: the folder cannot be removed.
    """
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UserError(f"cannot remove {folder}: {error.strerror}; remove it by hand") from error


class _OtherLayoutError(Exception):
    pass


def _saved(folder: str | Path) -> list[Path]:
    """The checkpoints of a folder, latest first."""
    return sorted((path for path in Path(folder).glob("*.npz") if path.stem.isdigit()), key=_step_of, reverse=True)


def _step_of(path: Path) -> int:
    return int(path.stem)


def _restored(path: Path, like: PyTree) -> PyTree:
    with open(path, "rb") as file, np.load(file) as arrays:
        layout, wanted = json.loads(str(arrays[_LAYOUT])), _layout(like)
        for name in sorted(layout.keys() | wanted.keys()):
            if layout.get(name) != wanted.get(name):
                raise _OtherLayoutError(
                    f"it holds {layout.get(name, 'nothing')} where the run has {wanted.get(name, 'nothing')} "
                    f"(at {name})"
                )
        leaves, structure = jax.tree.flatten(like)
        return structure.unflatten(_as(leaf, arrays[str(i)]) for i, leaf in enumerate(leaves))


def _bytes_of(leaf: Any) -> np.ndarray:
    """A leaf as bytes: types that NumPy does not have of its own, such as bfloat16, stand in no .npz."""
    return np.frombuffer(np.asarray(_raw(leaf)).tobytes(), np.uint8)


def _as(leaf: Any, content: np.ndarray) -> Any:
    """The value of such bytes, in the type, dtype and shape of `leaf`."""
    template = np.asarray(_raw(leaf))
    value = np.frombuffer(content.tobytes(), template.dtype).reshape(template.shape)
    if _is_key(leaf):
        return jax.random.wrap_key_data(jnp.asarray(value), impl=jax.random.key_impl(leaf))
    if isinstance(leaf, jax.Array):
        return jnp.asarray(value)
    if isinstance(leaf, np.ndarray):
        return value.copy()
    return value[()] if isinstance(leaf, np.generic) else value.item()


def _raw(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _layout(state: PyTree) -> dict[str, str]:
    """Dtype and shape of each leaf by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): f"{_dtype(leaf)}{list(jnp.shape(leaf))}" for path, leaf in leaves}


def _dtype(leaf: Any) -> str:
    return str(leaf.dtype) if hasattr(leaf, "dtype") else type(leaf).__name__
