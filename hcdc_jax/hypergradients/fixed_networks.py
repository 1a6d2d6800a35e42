"""Matching with trained networks that stay put: no solver, no training, hundreds of steps in seconds.

When theta and lambda of a candidate are held fixed, its hypergradient on a validation set S is linear in the gradient
of the validation loss: g(S) = dV/dlambda + R^T dV/dtheta, with the response R = dtheta*/dlambda [P, h] computed once
(`hypergradient.response`, or `unrolled_response` here). For a distance D with u = dD/dg,

    dD/dS = d/dS of the derivative of V(theta, lambda; S) along (R u, u),

one backward pass over one forward derivative; V(theta, lambda; S) itself adds its own slope where D reads values.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from hcdc_jax import arguments
from hcdc_jax.hypergradients import distances
from hcdc_jax.hypergradients.krylov import single
from hcdc_jax.types import Array, HParams, Params, PyTree

LossFn = Callable[[Params, HParams, PyTree], Array]


class Target(NamedTuple):
    """What the real data say about m candidates.

    Attributes:
      value: [m] validation losses.
      gradient: [m, h] hypergradients in the order of `ravel_pytree(hparams)`; NaN where they are not known: a match
        then asks for nothing there. For a single candidate: a scalar value and a gradient [h] or structured like
        hparams.
    """

    value: Array
    gradient: PyTree


class Pool(NamedTuple):
    """m trained candidates; every leaf has a leading axis m.

    Attributes:
      params: trained parameters.
      hparams: the candidates.
      response: dtheta*/dlambda, params-shaped leaves [m, h, ...]; None leaves hypergradients their direct term alone.
      diverged: [m] whether the solve behind a response flagged itself; the match then asks for the candidate's value
        alone. None where nothing did.
    """

    params: Params
    hparams: HParams
    response: PyTree
    diverged: Array | None = None


class FrozenInfo(NamedTuple):
    """What the synthetic set says about m candidates.

    Attributes:
      value: [m] validation losses.
      gradient: [m, h] hypergradients, not yet multiplied by the scale of the match.
    """

    value: Array
    gradient: Array


class UnrolledInfo(NamedTuple):
    """By-products of an unrolled hypergradient.

    Attributes:
      value: validation loss of the trained network.
      params: its parameters.
    """

    value: Array
    params: Params


def unrolled_response(train: Callable[[HParams], Params], hparams: HParams) -> tuple[Params, PyTree]:
    """Trains, and differentiates the trained parameters with respect to the hyperparameters by forward mode.

    The exact Jacobian of the training as it is run, converged or not. Costs about h + 1 trainings in time and h + 1
    copies of the parameters in memory; no trajectory is stored.

    Args:
      train: pure function `train(hparams) -> params`.
      hparams: one candidate.

    Returns:
      (params, response): response has params-shaped leaves [h, ...] in the order of `ravel_pytree(hparams)`.

    Raises:
      UserError: leaves of hparams, or of what `train` returns, that are no floats.
    """
    arguments.check_floats("hparams", hparams)
    flat, unravel = ravel_pytree(hparams)

    def trained(x: Array) -> Params:
        params = train(unravel(x))
        arguments.check_floats("train(hparams)", params)
        return params

    def pushforward(direction: Array) -> tuple[Params, Params]:
        return jax.jvp(trained, (flat,), (direction,))

    return jax.vmap(pushforward, out_axes=(None, 0))(jnp.eye(flat.size, dtype=flat.dtype))


def unrolled_hypergradient(
    train: Callable[[HParams], Params], val_loss: LossFn, hparams: HParams, val_batch: PyTree
) -> tuple[HParams, UnrolledInfo]:
    """Total hypergradient by reverse mode through the whole training, direct term included.

    Args:
      train: pure function `train(hparams) -> params`; its step should be wrapped in `jax.checkpoint` where the
        trajectory does not fit into memory.
      val_loss: `val_loss(params, hparams, batch) -> scalar`.
      hparams: one candidate.
      val_batch: validation batch.

    Returns:
      (g, info): g with the structure of hparams, and an `UnrolledInfo`.

    Raises:
      UserError: leaves of hparams that are no floats, or a loss that does not return one float.
    """
    arguments.check_floats("hparams", hparams)
    val_loss = arguments.scalar("val_loss", val_loss)

    def objective(hparams: HParams) -> tuple[Array, Params]:
        params = train(hparams)
        return val_loss(params, hparams, val_batch), params

    (value, params), g = jax.value_and_grad(objective, has_aux=True)(hparams)
    return g, UnrolledInfo(value, params)


def frozen_hypergradient(
    val_loss: LossFn, params: Params, hparams: HParams, response: PyTree, val_batch: PyTree, *, direct: bool = True
) -> tuple[Array, Array]:
    """Hypergradient from a known response, g = dV/dlambda + R^T dV/dtheta: one gradient.

    Args:
      val_loss: `val_loss(params, hparams, batch) -> scalar`.
      params: trained parameters.
      hparams: one candidate.
      response: params-shaped leaves [h, ...]; None for the direct term alone.
      val_batch: validation batch.
      direct: False leaves out dV/dlambda.

    Returns:
      (value, g): validation loss, and hypergradient [h] in the order of `ravel_pytree(hparams)`.

    Raises:
      UserError: leaves of params or hparams that are no floats, a loss that does not return one float, or a response of
        another structure or shape.
    """
    for name, tree in (("params", params), ("hparams", hparams)):
        arguments.check_floats(name, tree)
    slopes = jax.value_and_grad(arguments.scalar("val_loss", val_loss), argnums=(0, 1))
    value, (v, d) = slopes(params, hparams, val_batch)
    flat_d = ravel_pytree(d)[0]
    if response is None:
        return value, flat_d
    rows = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((flat_d.size, *leaf.shape), leaf.dtype), v)
    arguments.check_alike("response", response, f"{flat_d.size} rows of params", rows)
    products = jax.tree.map(lambda r, x: jnp.tensordot(r, x, x.ndim, precision=jax.lax.Precision.HIGHEST), response, v)
    return value, sum(jax.tree.leaves(products), start=flat_d if direct else jnp.zeros_like(flat_d))


def frozen_matching(
    val_loss: LossFn,
    pool: Pool,
    val_batch: PyTree,
    target: Target,
    *,
    distance: str | distances.Distance = "cosine",
    scale: Array | None = None,
    direct: bool = True,
    at_once: int | None = None,
) -> tuple[Array, PyTree, FrozenInfo]:
    """Distance over m frozen candidates and its exact gradient with respect to `val_batch`.

    Equals the mean of `hypergradient_matching` over the candidates for distances that are means; costs two gradients
    of the validation loss per candidate and step.

    Args:
      val_loss: `val_loss(params, hparams, batch) -> scalar`. May contain the decoding of a container, with the
        container's variables as batch.
      pool: m trained candidates.
      val_batch: what is differentiated, any pytree.
      target: values [m] and hypergradients [m, h] on the real data.
      distance: name or function, joint over the candidates; see `distances`.
      scale: [h] prior standard deviation of each hyperparameter. Both hypergradients are multiplied by it, which makes
        them slopes per standard deviation, comparable between hyperparameters.
      direct: as in `frozen_hypergradient`.
      at_once: candidates worked on side by side; all by default. Less needs less memory, and on CPUs convolutions are
        faster one by one. What `val_loss` decodes is then decoded once for each turn, see `pulled_back`.

    Returns:
      (d, grad, info): distance, its gradient with the structure of val_batch (zeros for integer leaves), and a
      `FrozenInfo`.

    Raises:
      UserError: pool, target or scale of shapes that do not go together, a complex val_batch, or losses and distances
        that do not return one float.
    """

    def evaluate(network: Pool) -> tuple[Array, Array]:
        return frozen_hypergradient(
            val_loss, network.params, network.hparams, network.response, val_batch, direct=direct
        )

    _check_frozen(pool, val_batch, target, scale, at_once)
    pool = without_diverged(pool)
    values, gradients = _each(evaluate, pool, at_once)
    factor, wanted = known(target, jnp.ones(()) if scale is None else scale, pool.diverged)
    slopes = jax.value_and_grad(arguments.scalar("distance", distances.get(distance)), argnums=(0, 1))
    d, (w, u) = slopes(single(values), factor * single(gradients), target.value, wanted)
    flat, unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], pool.hparams))

    def tangents(network: Pool, u: Array) -> tuple[Params, HParams]:
        u = u.astype(flat.dtype)
        if network.response is None:
            return jax.tree.map(jnp.zeros_like, network.params), unravel(u)
        moved = jax.tree.map(lambda r: jnp.tensordot(u, r, 1, precision=jax.lax.Precision.HIGHEST), network.response)
        return moved, unravel(u if direct else jnp.zeros_like(u))

    def linearised(batch: PyTree) -> Array:
        # Backwards each network is computed again: nothing of one is kept for the next.
        @functools.partial(jax.checkpoint, prevent_cse=False)
        def surrogate(arguments: tuple[Pool, Array, Array]) -> Array:
            network, u, w = arguments
            return linear_surrogate(val_loss, network.params, network.hparams, tangents(network, u), w, batch)

        return jnp.sum(_each(surrogate, (pool, factor * u, w), at_once))

    return d, float_gradient(linearised, val_batch), FrozenInfo(values, gradients)


def _check_frozen(pool: Pool, val_batch: PyTree, target: Target, scale: Array | None, at_once: int | None) -> None:
    arguments.check_type("pool", pool, Pool, "hc.Pool(params, hparams, response)")
    arguments.check_type("target", target, Target, "hc.Target(value, gradient)")
    arguments.check_real("val_batch", val_batch)
    if at_once is not None:
        arguments.check_count("at_once", at_once)
    of_networks = {"params": pool.params, "hparams": pool.hparams}
    of_networks |= {} if pool.response is None else {"response": pool.response}
    m = arguments.check_rows("pool", of_networks)
    h = sum(np.size(leaf) for leaf in jax.tree.leaves(pool.hparams)) // m
    why = f"as the pool has {m} candidates of {h} hyperparameters"
    arguments.check_shape("target.value", target.value, (m,), why=why)
    arguments.check_shape("target.gradient", target.gradient, (m, h), why=why)
    if scale is not None:
        arguments.check_shape("scale", scale, (h,), (), (1, h), (m, h), why=why)
    if pool.diverged is not None:
        arguments.check_shape("pool.diverged", pool.diverged, (m,), why=why)


def without_diverged(pool: Pool) -> Pool:
    """The pool with responses of 0 where their solve diverged: whatever stands there may be infinite or NaN."""
    diverged = pool.diverged
    if diverged is None or pool.response is None:
        return pool

    def emptied(leaf: Array) -> Array:
        return jnp.where(diverged.reshape(-1, *[1] * (leaf.ndim - 1)), 0.0, leaf)

    return pool._replace(response=jax.tree.map(emptied, pool.response))


def known(target: Target, scale: Array, diverged: Array | None = None) -> tuple[Array, Array]:
    """Factors [m, h] of hypergradients, 0 where either side has none, and the target's times these.

    Args:
      target: NaN where it has none.
      scale: [h] or a scalar, the factor elsewhere.
      diverged: [m] whether the synthetic side has none.
    """
    there = ~jnp.isnan(target.gradient)
    if diverged is not None:
        there &= ~diverged[:, None]
    factor = jnp.where(there, scale, 0.0)
    # Not one `where` around the product: 0 times NaN would be its derivative in the scale.
    return factor, factor * jnp.where(there, target.gradient, 0.0)


def _each(function: Callable[[Any], Any], arguments: PyTree, at_once: int | None) -> Any:
    """`function` of each entry of the leading axes, `at_once` of them side by side, all for None."""
    if at_once == 1:  # without `vmap`, under which branches compute both sides
        return jax.lax.map(function, arguments)
    count = jax.tree.leaves(arguments)[0].shape[0]
    if at_once is None or at_once >= count:
        return jax.vmap(function)(arguments)
    return jax.lax.map(function, arguments, batch_size=at_once)


def linear_surrogate(
    val_loss: LossFn, params: Params, hparams: HParams, tangents: tuple[Params, HParams], weight: Array, batch: PyTree
) -> Array:
    """Derivative of the validation loss along `tangents` plus weight times the loss itself.

    With tangents (R u, u), u = dD/dg and weight dD/dvalue held constant, its gradient with respect to the batch is
    that of the distance D.
    """
    point = (params, hparams)
    tangents = jax.tree.map(lambda tangent, leaf: tangent.astype(jnp.result_type(leaf)), tangents, point)
    value, slope = jax.jvp(lambda p, h: val_loss(p, h, batch), point, tangents)
    return slope + weight * value


def float_gradient(function: Callable[[PyTree], Array], batch: PyTree) -> PyTree:
    """Gradient with the structure of `batch`, zeros for leaves that are not floating point."""

    def filled(gradient: Array, leaf: Array) -> Array:
        return jnp.zeros_like(leaf) if gradient.dtype == jax.dtypes.float0 else gradient

    return jax.tree.map(filled, jax.grad(function, allow_int=True)(batch), batch)


def pulled_back(slope: PyTree, decode: Callable[[PyTree], PyTree], variables: PyTree) -> PyTree:
    """Gradient with respect to `variables` of what has the gradient `slope` with respect to `decode(variables)`.

    Zeros for leaves that are not floating point, on both sides.
    """

    def along(variables: PyTree) -> Array:
        pairs = zip(jax.tree.leaves(slope), jax.tree.leaves(decode(variables)), strict=True)
        return sum((jnp.sum(s * x) for s, x in pairs if jnp.issubdtype(x.dtype, jnp.floating)), start=jnp.zeros(()))

    return float_gradient(along, variables)
