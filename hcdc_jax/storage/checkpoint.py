"""Checkpoints of a run: the state of a condenser after a step, so that a killed run continues to the same result.

The only file that knows orbax, and it imports it when first used, because importing it takes most of a second.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.errors import UserError
from hcdc_jax.storage.files import sha256
from hcdc_jax.types import PyTree

NUM_KEPT = 2

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
    import orbax.checkpoint as ocp

    content = _to_bytes(state)
    args = ocp.args.Composite(
        data=ocp.args.StandardSave({"bytes": np.frombuffer(content, np.uint8)}),
        about=ocp.args.JsonSave({"layout": _layout(state), "sha256": sha256(content)}),
    )
    try:
        with _quiet_orbax(), _manager(folder) as manager:
            for stale in manager.all_steps():
                if stale >= step:
                    manager.delete(stale)
            manager.save(step, args=args, force=True)
    except (OSError, ValueError) as error:
        reason = _disk_error(error)
        if reason is None:
            raise
        for leftover in Path(folder).glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(leftover, ignore_errors=True)
        raise UserError(
            f"cannot write a checkpoint to {folder}: {reason}; free space there and continue with --resume"
        ) from error


def restore_latest(folder: str | Path, like: PyTree) -> tuple[int, PyTree] | None:
    """The latest checkpoint that can be read and has the layout of `like`.

    A checkpoint that is damaged or was written for another state is passed over with a logged warning.

    Args:
      folder: where the checkpoints of one run lie; may not exist.
      like: a state with the wanted structure, shapes and dtypes; its values do not count.

    Returns:
      (step, state), or None if there is no such checkpoint.
    """
    if not Path(folder).is_dir():
        return None
    with _quiet_orbax(), _manager(folder) as manager:
        for step in sorted(manager.all_steps(), reverse=True):
            try:
                return step, _restore(manager, step, like)
            except Exception as error:  # orbax and tensorstore raise many kinds for damaged files
                reason = str(error) if isinstance(error, _OtherLayoutError) else f"damaged ({type(error).__name__})"
                _logger.warning("checkpoint %s of step %d is passed over: %s", folder, step, reason)
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


def _restore(manager: Any, step: int, like: PyTree) -> PyTree:
    import orbax.checkpoint as ocp

    about = manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]
    layout, wanted = about["layout"], _layout(like)
    for name in sorted(layout.keys() | wanted.keys()):
        if layout.get(name) != wanted.get(name):
            raise _OtherLayoutError(
                f"it holds {layout.get(name, 'nothing')} where the run has {wanted.get(name, 'nothing')} (at {name})"
            )
    data = manager.restore(step, args=ocp.args.Composite(data=ocp.args.StandardRestore()))["data"]["bytes"]
    content = np.asarray(data).tobytes()
    if sha256(content) != about["sha256"]:
        raise ValueError("its bytes have changed")
    return _from_bytes(content, like)


# All leaves travel as one array of bytes. Left to itself, orbax casts to other dtypes without a word, refuses empty
# arrays and NumPy's scalars, and drops leaves that it reads beside a damaged one with pages of stack traces.


def _to_bytes(state: PyTree) -> bytes:
    return b"".join(np.asarray(_raw(leaf)).tobytes() for leaf in jax.tree.leaves(state))


def _from_bytes(content: bytes, like: PyTree) -> PyTree:
    leaves, structure = jax.tree.flatten(like)
    restored, offset = [], 0
    for leaf in leaves:
        template = np.asarray(_raw(leaf))
        value = np.frombuffer(content, template.dtype, template.size, offset).reshape(template.shape)
        restored.append(_as(leaf, value))
        offset += value.nbytes
    return structure.unflatten(restored)


def _raw(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _as(leaf: Any, value: np.ndarray) -> Any:
    """`value` in the type of `leaf`."""
    if _is_key(leaf):
        return jax.random.wrap_key_data(jnp.asarray(value), impl=jax.random.key_impl(leaf))
    if isinstance(leaf, jax.Array):
        return jnp.asarray(value)
    if isinstance(leaf, np.ndarray):
        return value.copy()
    return value[()] if isinstance(leaf, np.generic) else value.item()


def _layout(state: PyTree) -> dict[str, str]:
    """Dtype and shape of each leaf by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): f"{_dtype(leaf)}{list(jnp.shape(leaf))}" for path, leaf in leaves}


def _dtype(leaf: Any) -> str:
    return str(leaf.dtype) if hasattr(leaf, "dtype") else type(leaf).__name__


def _manager(folder: str | Path) -> Any:
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(max_to_keep=NUM_KEPT, enable_async_checkpointing=False)
    return ocp.CheckpointManager(Path(folder).absolute(), options=options)


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Keeps orbax from logging stack traces of errors that are handled here."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _disk_error(error: OSError | ValueError) -> str | None:
    """What the operating system said, if `error` is about the disk: tensorstore wraps its errors in ValueError."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(code[1])) if code else None
