"""Networks in their four dialects, pairs of functions, Flax linen, Flax NNX and Equinox, as one pair of functions."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from hcdc_jax.errors import UserError
from hcdc_jax.models.image import only_logits
from hcdc_jax.types import Array, Params, PyTree


class Network(NamedTuple):
    """A network, whatever it is made of.

    Attributes:
      init: `init(key, h) -> params`, h being what the space reads.
      apply: `apply(params, inputs, h, key) -> outputs`; key None: without noise, as in evaluation.
      noisy: whether it does anything with a key.
    """

    init: Callable[[Array, Any], Params]
    apply: Callable[[Params, PyTree, Any, Array | None], Array]
    noisy: bool


def network_of(network: Any, apply: Callable[..., Array] | None, example: PyTree, h: PyTree) -> Network:
    """The network that `make_problem` was given.

    Args:
      network: see `make_problem`.
      apply: see `make_problem`.
      example: see `make_problem`.
      h: shapes of what the space reads.

    Raises:
      UserError: it is none of what `make_problem` takes, or cannot be called as it must be.
    """
    if apply is not None:
        if not callable(apply):
            raise UserError(f"apply must be a function, got {type(apply).__name__}; inputs of a module go in example=")
        return _of_functions(network, apply)
    if isinstance(network, nn.Module):
        return _of_linen(lambda h: network, example, h)
    equinox = sys.modules.get("equinox")
    if isinstance(network, nnx.Module) or (equinox is not None and isinstance(network, equinox.Module)):
        raise UserError(
            f"{type(network).__name__} is built already, and every candidate starts from a network of its own: give a "
            "function that builds it, such as lambda rngs: Net(rngs=rngs) for NNX or lambda key: Net(key=key) for "
            "Equinox"
        )
    names = _parameters(network)
    for name, make in (("rngs", _of_nnx), ("key", _of_equinox)):
        if name in names:
            return make(network)
    if "h" in names:
        return _of_linen(network, example, h)
    raise UserError(
        f"cannot tell what {getattr(network, '__name__', network)!r} is: give init and apply, a module of Flax linen "
        "with an example, or a function of `rngs` (NNX) or of `key` (Equinox) that builds a network"
    )


def called_by_name(what: str, function: Callable[..., Any], *args: str, offered: Collection[str]) -> Callable[..., Any]:
    """`function` as one that takes all that is offered by name, and passes on what it has a parameter for.

    Args:
      what: its name in errors.
      function: `function(*args, ...)`.
      *args: what it takes by position.
      offered: what it may have as well.

    Raises:
      UserError: it wants something else.
    """
    names = _parameters(function)
    taken = [name for name in offered if name in names]
    try:
        inspect.signature(function).bind(*args, **dict.fromkeys(taken))
    except TypeError as error:
        raise UserError(
            f"{what} is called as {what}({', '.join(args)}), and by name with what it has a parameter for of "
            f"{', '.join(offered) or 'nothing'}; that does not go with its own parameters: {error}"
        ) from error
    except ValueError:  # written in C, and silent about its parameters
        pass

    def call(*values: Any, **named: Any) -> Any:
        return function(*values, **{name: named[name] for name in taken})

    return call


def _parameters(function: Callable[..., Any]) -> list[str]:
    try:  # metaclasses hide what a class is built from
        return list(inspect.signature(function.__init__ if isinstance(function, type) else function).parameters)
    except (TypeError, ValueError):
        return []


def _of_functions(init: Callable[..., Params], apply: Callable[..., Array]) -> Network:
    init_of = called_by_name("init", init, "key", offered=("h",))
    apply_of = called_by_name("apply", apply, "params", "inputs", offered=("h", "key"))

    def applied(params, inputs, h, key):
        return apply_of(params, inputs, h=h, key=key)

    return Network(lambda key, h: init_of(key, h=h), applied, "key" in _parameters(apply))


_TOLD: dict[str, Callable[[Any, Array | None], Any]] = {
    "h": lambda h, key: h,
    "key": lambda h, key: key,
    "train": lambda h, key: key is not None,
    "training": lambda h, key: key is not None,
    "deterministic": lambda h, key: key is None,
}


def _told(module: Any) -> tuple[Callable[[Any, Array | None], dict[str, Any]], bool]:
    """`named(h, key)`, what a call of the module is told by name, and whether that tells of noise."""
    called_by_name("__call__", module.__call__, "inputs", offered=_TOLD)
    taken = [name for name in _TOLD if name in _parameters(module.__call__)]

    def named(h: Any, key: Array | None) -> dict[str, Any]:
        return {name: _TOLD[name](h, key) for name in taken}

    return named, any(name != "h" for name in taken)


def _of_linen(module_of: Callable[..., nn.Module], example: PyTree, h: PyTree) -> Network:
    """Of `module_of(h)`, whose parameters are made for inputs like the example."""
    if example is None:
        raise UserError("a module of Flax linen learns its shapes from inputs: give example=X[:1]")
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, example))
    if len({leaf.shape[:1] for leaf in jax.tree.leaves(shapes)}) == 1:
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), shapes)
    built: list[nn.Module] = []
    jax.eval_shape(lambda h: built.append(module_of(h)), h)
    name, (named, noisy) = type(built[0]).__name__, _told(built[0])

    def applied(variables, inputs, h, key):
        rngs = None if key is None else {"params": key}  # which is the stream of all that have none of their own
        return module_of(h).apply(variables, inputs, rngs=rngs, **named(h, key))

    def init(key, h):
        inputs = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return module_of(h).init({"params": key}, inputs, **named(h, None))

    try:
        variables = jax.eval_shape(init, jax.random.key(0), h)
        kept = sorted(set(variables) - {"params"})
        if kept:
            raise _stateful(name, kept)
        jax.eval_shape(lambda variables, inputs, h: applied(variables, inputs, h, None), variables, shapes, h)
    except flax.errors.InvalidRngError as error:
        raise UserError(
            f"{name} draws random numbers in evaluation, too: give its __call__ a parameter `train`, and its dropout "
            "deterministic=not train"
        ) from error
    return Network(
        lambda key, h: init(key, h)["params"],
        lambda params, inputs, h, key: only_logits(applied({"params": params}, inputs, h, key)),
        noisy,
    )


def _of_nnx(make: Callable[..., nnx.Module]) -> Network:
    model = make(rngs=nnx.Rngs(0))
    if not isinstance(model, nnx.Module):
        raise UserError(f"a function of `rngs` builds a network of Flax NNX, not a {type(model).__name__}")
    named, told = _told(model)
    graphs = {}
    for noise, set_mode in ((True, model.train), (False, model.eval)):
        set_mode()
        graphs[noise], _, streams, statistics, constants = nnx.split(model, nnx.Param, nnx.RngState, nnx.BatchStat, ...)
    if jax.tree.leaves(statistics):
        raise _stateful(type(model).__name__, ["BatchStat"])

    def init(key, h):
        del h
        return nnx.to_pure_dict(nnx.state(make(rngs=nnx.Rngs(key)), nnx.Param))

    def applied(params, inputs, h, key):
        drawn = streams if key is None else _streams_from(key, streams)
        return nnx.merge(graphs[key is not None], params, drawn, constants)(inputs, **named(h, key))

    return Network(init, applied, told or bool(jax.tree.leaves(streams)))


def _streams_from(key: Array, streams: PyTree) -> PyTree:
    """Streams of random numbers that all begin at this key."""
    leaves, tree = jax.tree.flatten(streams)
    begun = [
        jax.random.fold_in(key, place) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else jnp.zeros_like(leaf)
        for place, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(tree, begun)


def _of_equinox(make: Callable[..., Any]) -> Network:
    """Of a module that takes one example, as those of Equinox do; it is mapped over the batch."""
    try:
        import equinox  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            "a function of `key` builds a network of Equinox, which is not installed: pip install equinox; if it is an "
            "init, give its apply as well"
        ) from error
    model = make(key=jax.random.key(0))
    if not isinstance(model, equinox.Module):
        raise UserError(
            f"a function of `key` builds a network of Equinox, not a {type(model).__name__}: give its apply"
        )
    named, noisy = _told(model)
    params, rest = equinox.partition(model, equinox.is_inexact_array)
    structure = jax.tree.structure(params)
    rests = {noise: equinox.nn.inference_mode(rest, not noise) for noise in (True, False)}

    def init(key, h):
        del h
        made, _ = equinox.partition(make(key=key), equinox.is_inexact_array)
        # Functions inside the module are made anew each time, and JAX tells structures apart by them.
        return jax.tree.unflatten(structure, jax.tree.leaves(made))

    def applied(params, inputs, h, key):
        network = equinox.combine(params, rests[key is not None])
        if key is None:
            return jax.vmap(lambda one: network(one, **named(h, None)))(inputs)
        keys = jax.random.split(key, jax.tree.leaves(inputs)[0].shape[0])
        return jax.vmap(lambda one, key: network(one, **named(h, key)))(inputs, keys)

    return Network(init, applied, noisy)


def _stateful(name: str, kept: list[str]) -> UserError:
    return UserError(
        f"{name} keeps state between steps ({', '.join(kept)}), which a candidate's training cannot carry: normalise "
        "with GroupNorm, LayerNorm or InstanceNorm in place of BatchNorm"
    )
