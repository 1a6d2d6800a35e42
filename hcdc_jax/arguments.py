"""Arguments of public functions, looked at before they are used: by their types, structures and shapes alone.

Nothing here reads a number, so under `jit` all of it happens once, while a function is traced, and costs nothing
afterwards. Whoever asks names the argument; each answer is one line with what was given and what is needed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.errors import UserError
from hcdc_jax.types import Array, PyTree

LONGEST = 160
"""Characters of a description; the rest of a long one is left out."""
TWO_PARTS = "give real and imaginary part as two arrays"


def check_type(name: str, value: object, wanted: type, example: str) -> None:
    """Checks that `value` is one of `wanted`, of which `example` is an expression.

    Raises:
      UserError: it is not.
    """
    if isinstance(value, wanted):
        return
    maker = _name_of(value)
    call = "" if maker is None else f"; {maker} must be called"
    raise UserError(f"{name} must be a {wanted.__name__}, such as {example}, got {described(value)}{call}")


def _name_of(value: object) -> str | None:
    """Of a class or a function."""
    return getattr(value, "__name__", None) if callable(value) else None


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Checks that `value` is a whole number of Python, or of NumPy, that is not below `least`.

    Raises:
      UserError: it is not.
    """
    if isinstance(value, (bool, jax.Array)) or not hasattr(value, "__index__"):
        raise UserError(f"{name} must be a whole number from {least} on, got {described(value)}")
    if operator.index(value) < least:
        raise UserError(f"{name} must be a whole number from {least} on, got {value}")


def check_key(name: str, key: Any) -> None:
    """Checks that `key` is one typed key of JAX.

    Raises:
      UserError: a number, a key of the old form, several keys, or something else.
    """
    dtype = getattr(key, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        shape = np.shape(key)
        if shape:
            raise UserError(f"{name} must be one key, got keys of shape {shape}; take one of them, or use jax.vmap")
        return
    if dtype == np.uint32 and np.shape(key) == (2,):
        raise UserError(f"{name} is a key of the old form, uint32[2]; make it by jax.random.key(seed)")
    mend = f"jax.random.key({key})" if isinstance(key, int) else "jax.random.key(0)"
    raise UserError(f"{name} must be a key, such as {mend}, got {described(key)}")


def check_seed(name: str, seed: Any) -> None:
    """Checks that `seed` is a whole number, or a tuple of some.

    Raises:
      UserError: it is not, such as a key.
    """
    for one in seed if isinstance(seed, tuple) else (seed,):
        if jnp.issubdtype(getattr(one, "dtype", np.int32), jax.dtypes.prng_key):
            raise UserError(f"{name} must be a whole number, such as 0, got a key; keys are for jax.random")
        check_count(name, one, 0)


def check_floats(name: str, tree: PyTree) -> None:
    """Checks that a tree has leaves, and that all are real floats: what something is differentiated in.

    Raises:
      UserError: they are not.
    """
    leaves = jax.tree.leaves_with_path(tree)
    if not leaves:
        raise UserError(f"{name} has no numbers: it is {described(tree)}; give at least one array of floats")
    for path, leaf in leaves:
        dtype = dtype_of(leaf)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            kind = dtype or type(leaf).__name__
            mend = TWO_PARTS if _is_complex(dtype) else "give it as float32, or leave it out"
            raise UserError(f"{_place(name, path)} is of type {kind}; only floats have gradients: {mend}")


def check_real(name: str, tree: PyTree) -> None:
    """Checks that no leaf of a tree is complex: such as of a batch that is differentiated.

    Raises:
      UserError: one is.
    """
    for path, leaf in jax.tree.leaves_with_path(tree):
        dtype = dtype_of(leaf)
        if _is_complex(dtype):
            raise UserError(f"{_place(name, path)} is of type {dtype}; only floats have gradients: {TWO_PARTS}")


def check_alike(name: str, tree: PyTree, like_name: str, like: PyTree, vector: bool = False) -> None:
    """Checks that two trees have the same structure and shapes; where `vector`, `tree` may also be `like`, ravelled.

    Raises:
      UserError: they do not.
    """
    size = sum(np.size(leaf) for leaf in jax.tree.leaves(like))
    if vector and jax.tree.structure(tree) == jax.tree.structure(0) and np.shape(tree) == (size,):
        return
    if jax.tree.structure(tree) != jax.tree.structure(like) or shapes(tree) != shapes(like):
        raise UserError(
            f"{name} is {described(tree)}, {like_name} {_is_or_are(like_name)} {described(like)}; give both the same "
            "structure and shapes"
        )


def check_rows(name: str, tree: PyTree) -> int:
    """The length of the leading axis that all leaves of a tree share.

    Raises:
      UserError: they do not, or it is 0.
    """
    leaves = jax.tree.leaves_with_path(tree)
    if not leaves:
        raise UserError(f"{name} has no numbers: it is {described(tree)}; give at least one array")
    first, count = _place(name, leaves[0][0]), None
    for path, leaf in leaves:
        place, shape = _place(name, path), np.shape(leaf)
        if not shape:
            raise UserError(f"{place} is a single number, where {name} needs a leading axis; use jnp.asarray([...])")
        if count is not None and shape[0] != count:
            raise UserError(f"{first} has {count} rows, {place} {shape[0]}; all of {name} must have as many")
        count = shape[0]
    if not count:
        raise UserError(f"{name} has 0 rows; give at least one")
    return count


def check_shape(name: str, value: Any, *wanted: tuple[int, ...], why: str) -> None:
    """Checks that an array has one of the wanted shapes.

    Raises:
      UserError: it has not.
    """
    if jax.tree.structure(value) != jax.tree.structure(0) or np.shape(value) not in wanted:
        raise UserError(f"{name} must be of shape {' or '.join(map(str, wanted))}, {why}; got {described(value)}")


def check_width(space: str, hparam_names: Sequence[str], hparams: Array) -> None:
    """Checks that hyperparameters are as many as those of a space.

    Raises:
      UserError: they are not.
    """
    needed, shape = len(hparam_names), np.shape(hparams)
    if len(shape) != 1 or shape[0] != needed:
        given = f"{shape[0]}" if len(shape) == 1 else f"shape {shape}"
        raise UserError(
            f"the space {space!r} has {needed} hyperparameters ({_cut(', '.join(hparam_names))}), got {given}; give "
            f"candidates of shape [n, {needed}]"
        )


def scalar(name: str, function: Callable[..., Any]) -> Callable[..., Array]:
    """`function`, which must return one real float; told while it is traced, not by another tracing.

    Raises:
      UserError: it is no function; or, when called, what `check_loss` raises.
    """
    if not callable(function):
        raise UserError(f"{name} must be a function that returns one number, got {described(function)}")

    def checked(*args: Any) -> Any:
        value = function(*args)
        check_loss(name, value)
        return value

    return checked


def check_loss(name: str, value: Any) -> None:
    """Checks what a loss returned: one real float.

    Raises:
      UserError: it returned something else.
    """
    if jax.tree.structure(value) != jax.tree.structure(0):
        raise UserError(
            f"{name} must return one number, got {type(value).__name__}; return the loss alone, nothing beside it"
        )
    shape, dtype = np.shape(value), dtype_of(value)
    if dtype is None:
        raise UserError(f"{name} must return one number, got {described(value)}")
    if shape != ():
        raise UserError(f"{name} must return one number, got shape {shape}; take the mean over the examples")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise UserError(f"{name} must return a float, got {dtype}; counts, labels and complex numbers have no gradient")


def dtype_of(leaf: Any) -> Any:
    """The type of an array or number as JAX takes it; None where it takes none."""
    try:
        return jnp.result_type(leaf)
    except (TypeError, ValueError):
        return None


def _is_complex(dtype: Any) -> bool:
    return dtype is not None and jnp.issubdtype(dtype, jnp.complexfloating)


def shapes(tree: PyTree) -> list[tuple[int, ...]]:
    """Shapes of the leaves."""
    return [np.shape(leaf) for leaf in jax.tree.leaves(tree)]


def described(value: Any) -> str:
    """What something is, for an error: of arrays the shape, of trees those of their leaves, else the thing itself."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array of shape {tuple(value.shape)}"
    if (known_as := _name_of(value)) is not None:
        return f"the {'class' if isinstance(value, type) else 'function'} {known_as}"
    if isinstance(value, (bool, int, float, complex, str, bytes, type(None))):
        return _cut(repr(value))
    if jax.tree.leaves(value) and not jax.tree_util.all_leaves([value]):
        return f"a {type(value).__name__} of shapes {_cut(str(jax.tree.map(np.shape, value)))}"
    return f"an empty {type(value).__name__}" if not jax.tree.leaves(value) else f"a {type(value).__name__}"


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _place(name: str, path: tuple[Any, ...]) -> str:
    return f"{name}{jax.tree_util.keystr(path)}"


def _is_or_are(name: str) -> str:
    return "are" if name.endswith("s") else "is"
