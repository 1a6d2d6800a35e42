"""Hypergradients by implicit differentiation, and how a validation set should change to give a wanted one.

Notation: L is the training loss, V the validation loss, theta the P parameters, lambda the h hyperparameters,

    H = d2L / dtheta2,   B = d2L / dlambda dtheta  [h, P],   v = dV/dtheta,   d = dV/dlambda (the direct term),
    response R = dtheta*/dlambda = -H^-1 B^T  [P, h],        hypergradient g = d + R^T v.

Neither H nor B contains the validation set S. So for a distance D(g) with u = dD/dg,

    dD/dS = d/dS of the derivative of V(theta, lambda; S) along (R u, u),

one more solve, for R u, whose right-hand side is free of S, and one backward pass over one forward derivative.

The engine of implicit differentiation is `jaxopt.implicit_diff`, with a `LinearSolver` in its `solve(matvec, b)` seam.
Products with H and B are forward over reverse or reverse over forward; reverse over reverse would cost twice as much.
Where theta and lambda stay put while S changes, take R once from `response` and go on in `frozen`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from hcdc_jax import arguments
from hcdc_jax.errors import UserError
from hcdc_jax.hypergradients import distances, krylov
from hcdc_jax.hypergradients.fixed_networks import LossFn, Target, float_gradient, linear_surrogate
from hcdc_jax.hypergradients.krylov import MatVec
from hcdc_jax.hypergradients.linear_solver import LinearSolver, SolveInfo
from hcdc_jax.hypergradients.solvers import neumann
from hcdc_jax.types import Array, HParams, Params, PyTree

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="JAXopt is no longer maintained", category=DeprecationWarning)
    from jaxopt import implicit_diff


class HypergradientInfo(NamedTuple):
    """How far to trust a hypergradient.

    Attributes:
      value: validation loss.
      solve: of the linear solve H x = v, up to its sign.
      train_gradient_norm: ||dL/dtheta||, which implicit differentiation takes for zero.
      direct: the direct term, structured like hparams, whether it was used or not.
      diverged: True if the solve diverged or the hypergradient is not finite.
    """

    value: Array
    solve: SolveInfo
    train_gradient_norm: Array
    direct: HParams
    diverged: Array


class MatchingInfo(NamedTuple):
    """How far to trust a match and its gradient.

    Attributes:
      value: validation loss.
      gradient: the hypergradient g_S, structured like hparams.
      solve: of the solve for g_S.
      adjoint: of the solve for the gradient with respect to the validation set.
      train_gradient_norm: as in `HypergradientInfo`.
      direct: as in `HypergradientInfo`.
      diverged: True if either solve diverged or g_S is not finite.
    """

    value: Array
    gradient: HParams
    solve: SolveInfo
    adjoint: SolveInfo
    train_gradient_norm: Array
    direct: HParams
    diverged: Array


def _matmul_precision(precision: str | None) -> AbstractContextManager:
    if precision is None:
        return nullcontext()
    try:
        return jax.default_matmul_precision(precision)
    except ValueError as error:
        known = "'highest', 'high', 'default', 'float32', 'tensorfloat32', 'bfloat16' or None"
        raise UserError(f"precision must be a matmul precision of JAX, such as {known}, got {precision!r}") from error


class _System(NamedTuple):
    """The training loss at one point, with everything that several solves there share."""

    train_loss: LossFn
    params: Params
    hparams: HParams
    batch: PyTree
    gradient: Params
    hvp: MatVec
    solver: LinearSolver
    state: Any


def _system(train_loss: LossFn, params: Params, hparams: HParams, batch: PyTree, solver: LinearSolver) -> _System:
    arguments.check_type("solver", solver, LinearSolver, "hc.neumann(20)")
    for name, tree in (("params", params), ("hparams", hparams)):
        arguments.check_floats(name, tree)
    train_loss = arguments.scalar("train_loss", train_loss)
    gradient, hvp = jax.linearize(lambda p: jax.grad(train_loss)(p, hparams, batch), params)
    return _System(train_loss, params, hparams, batch, gradient, hvp, solver, solver.prepare(hvp, params))


def _with_engine(system: _System, differentiate: Callable[[Callable], PyTree]) -> tuple[PyTree, SolveInfo]:
    """Calls one of jaxopt's implicit derivatives with our solver; returns also the info jaxopt has no place for.

    The product that jaxopt offers is set aside for the one linearisation that all solves share. H is symmetric, so
    that it serves forward and reverse derivatives alike.
    """
    infos: list[SolveInfo] = []

    def solve(matvec: MatVec, b: PyTree) -> PyTree:
        del matvec
        x, info = system.solver.solve(system.hvp, b, system.state)
        infos.append(info)
        return x

    return differentiate(solve), infos[0]


def _implicit_term(system: _System, v: Params) -> tuple[HParams, SolveInfo]:
    """Returns R^T v = -B H^-1 v."""

    def gradient(params: Params, hparams: HParams) -> Params:
        return jax.grad(system.train_loss)(params, hparams, system.batch)

    def slope(params: Params, hparams: HParams, x: Params) -> Array:
        return jax.jvp(lambda p: system.train_loss(p, hparams, system.batch), (params,), (x,))[1]

    # The reverse derivative of dL/dtheta along x is the gradient of its product with x: reverse over forward.
    stationarity = jax.custom_vjp(gradient)
    stationarity.defvjp(
        lambda params, hparams: (gradient(params, hparams), (params, hparams)),
        lambda point, x: jax.grad(slope, argnums=(0, 1))(*point, x),
    )
    point, args = system.params, (system.hparams,)
    return _with_engine(system, lambda solve: implicit_diff.root_vjp(stationarity, point, args, v, solve)[0])


def _response_along(system: _System, u: HParams) -> tuple[Params, SolveInfo]:
    """Returns R u = -H^-1 B^T u."""

    def stationarity(params: Params, hparams: HParams) -> Params:
        return jax.grad(system.train_loss)(params, hparams, system.batch)

    point, args = system.params, (system.hparams,)
    return _with_engine(system, lambda solve: implicit_diff.root_jvp(stationarity, point, args, (u,), solve))


def _count_preparation(info: SolveInfo, system: _System) -> SolveInfo:
    return info._replace(num_matvecs=info.num_matvecs + system.state.num_matvecs)


def _total(system: _System, val_loss: LossFn, val_batch: PyTree, direct: bool) -> tuple[HParams, HypergradientInfo]:
    slopes = jax.value_and_grad(arguments.scalar("val_loss", val_loss), argnums=(0, 1))
    value, (v, d) = slopes(system.params, system.hparams, val_batch)
    implicit, solve = _implicit_term(system, v)
    g = jax.tree.map(jnp.add, d, implicit) if direct else implicit
    info = HypergradientInfo(
        value=value,
        solve=_count_preparation(solve, system),
        train_gradient_norm=krylov.norm(system.gradient),
        direct=d,
        diverged=solve.diverged | ~jnp.all(jnp.isfinite(ravel_pytree(g)[0])),
    )
    return g, info


def hypergradient(
    train_loss: LossFn,
    val_loss: LossFn,
    params: Params,
    hparams: HParams,
    train_batch: PyTree,
    val_batch: PyTree,
    *,
    solver: LinearSolver = neumann(20),
    direct: bool = True,
    precision: str | None = "highest",
) -> tuple[HParams, HypergradientInfo]:
    """Total derivative of the validation loss of the trained network with respect to the hyperparameters.

    By the implicit function theorem at a stationary point of the training loss. HCDC (arXiv 2405.17535) drops the
    direct term, Lorraine et al. (2020) keep it. Works under jit and vmap, and has derivatives in both modes with
    respect to params, hparams and batches, each with the others held: see `LinearSolver` for whose they are.

    Args:
      train_loss: `train_loss(params, hparams, batch) -> scalar`, deterministic, with every regulariser inside: what it
        does not contain, H and B do not see.
      val_loss: `val_loss(params, hparams, batch) -> scalar`.
      params: trained parameters, near a minimum of `train_loss`.
      hparams: float array or pytree of float arrays.
      train_batch: the one batch behind all products with H and B.
      val_batch: validation batch.
      solver: approximate inverse of H.
      direct: False leaves out dV/dlambda, as the paper does; right only for hyperparameters that `val_loss` does not
        depend on.
      precision: of matrix products, as for `jax.default_matmul_precision`: the TF32 default of some accelerators
        limits what a solve can reach. None keeps the caller's.

    Returns:
      (g, info): g with the structure of hparams, and a `HypergradientInfo`, whose `solve` is constant in derivatives.

    Raises:
      UserError: leaves of params or hparams that are no floats, a loss that does not return one float, or a solver that
        is none.
    """
    with _matmul_precision(precision):
        return _total(_system(train_loss, params, hparams, train_batch, solver), val_loss, val_batch, direct)


def _as_rows(target: HParams | Target, value: Array) -> tuple[Array, Array]:
    """Value [1] and gradient [1, h] of a target for one candidate."""
    if isinstance(target, Target):
        return jnp.reshape(target.value, (1,)), ravel_pytree(target.gradient)[0][None]
    return jax.lax.stop_gradient(value), ravel_pytree(target)[0][None]


def _check_match(hparams: HParams, val_batch: PyTree, target: HParams | Target) -> None:
    arguments.check_real("val_batch", val_batch)
    name, gradient = ("target.gradient", target.gradient) if isinstance(target, Target) else ("target", target)
    arguments.check_real(name, gradient)
    arguments.check_alike(name, gradient, "hparams", hparams, vector=True)
    if isinstance(target, Target):
        arguments.check_shape("target.value", target.value, (), (1,), why="the loss of one candidate")


def hypergradient_matching(
    train_loss: LossFn,
    val_loss: LossFn,
    params: Params,
    hparams: HParams,
    train_batch: PyTree,
    val_batch: PyTree,
    target: HParams | Target,
    *,
    solver: LinearSolver = neumann(20),
    distance: str | distances.Distance = "cosine",
    direct: bool = True,
    precision: str | None = "highest",
) -> tuple[Array, PyTree, MatchingInfo]:
    """Distance between the hypergradient on `val_batch` and a target, and its gradient with respect to `val_batch`.

    The gradient takes one adjoint solve and never goes backwards through a solver, so memory does not grow with the
    number of its steps. It is exact for the distance as computed if `solver.is_linear`; otherwise as far as both
    solves have converged. params, hparams, train_batch and target are constants in it. What is returned may itself be
    differentiated, in both modes and in all of them, as `hypergradient` may.

    Args:
      train_loss: as in `hypergradient`.
      val_loss: as in `hypergradient`.
      params: as in `hypergradient`.
      hparams: as in `hypergradient`.
      train_batch: as in `hypergradient`.
      val_batch: what is differentiated: any pytree that `val_loss` reads.
      target: hypergradient on the real data, structured like hparams or [h] in the order of `ravel_pytree(hparams)`;
        or a `Target` that also has the loss. Without it, distances that read losses take ours, as a constant, for the
        target's.
      solver: the one that made the target: before convergence solvers disagree, even in sign.
      distance: name or function; see `distances`. It gets one candidate, m = 1.
      direct: as in `hypergradient`, and as in the making of the target.
      precision: as in `hypergradient`.

    Returns:
      (d, grad, info): distance, its gradient with the structure of val_batch (zeros for integer leaves), and a
      `MatchingInfo`.

    Raises:
      UserError: as `hypergradient`; a target of another structure or shape, a complex val_batch, a distance that is not
        one number, or none of that name.
    """
    with _matmul_precision(precision):
        system = _system(train_loss, params, hparams, train_batch, solver)
        _check_match(hparams, val_batch, target)
        g, info = _total(system, val_loss, val_batch, direct)
        flat, unravel = ravel_pytree(g)
        slopes = jax.value_and_grad(arguments.scalar("distance", distances.get(distance)), argnums=(0, 1))
        value = krylov.single(info.value)[None]
        d, (w, u) = slopes(value, krylov.single(flat)[None], *_as_rows(target, value))
        along = unravel(u[0].astype(flat.dtype))
        moved, adjoint = _response_along(system, along)
        tangents = (moved, along if direct else krylov.zeros_like(along))
        grad = float_gradient(
            lambda batch: linear_surrogate(val_loss, params, hparams, tangents, w[0], batch), val_batch
        )
    matching = MatchingInfo(
        value=info.value,
        gradient=g,
        solve=info.solve,
        adjoint=adjoint,
        train_gradient_norm=info.train_gradient_norm,
        direct=info.direct,
        diverged=info.diverged | adjoint.diverged,
    )
    return d, grad, matching


def matching_distance(
    train_loss: LossFn,
    val_loss: LossFn,
    params: Params,
    hparams: HParams,
    train_batch: PyTree,
    val_batch: PyTree,
    target: HParams | Target,
    **options: Any,
) -> Array:
    """The distance of `hypergradient_matching`, as a scalar to be differentiated by `jax.grad`.

    Its derivative with respect to `val_batch` is the one computed there; with respect to everything else it is zero
    by definition. Takes the same arguments, options by keyword. Reverse mode only: for forward mode, or derivatives
    with respect to everything else, differentiate the distance that `hypergradient_matching` returns.

    Returns:
      Scalar distance.
    """

    def matching(val_batch: PyTree, constants: tuple) -> tuple[Array, PyTree, MatchingInfo]:
        params, hparams, train_batch, target = constants
        return hypergradient_matching(train_loss, val_loss, params, hparams, train_batch, val_batch, target, **options)

    def pull_back(grad: PyTree, cotangent: Array) -> tuple[PyTree, None]:
        def scaled(leaf: Array) -> Array | np.ndarray:
            if not jnp.issubdtype(leaf.dtype, jnp.inexact):
                return np.zeros(leaf.shape, jax.dtypes.float0)
            return (cotangent * leaf).astype(leaf.dtype)

        return jax.tree.map(scaled, grad), None

    scalar = jax.custom_vjp(lambda val_batch, constants: matching(val_batch, constants)[0])
    scalar.defvjp(lambda val_batch, constants: matching(val_batch, constants)[:2], pull_back)
    return scalar(val_batch, (params, hparams, train_batch, target))


def response(
    train_loss: LossFn,
    params: Params,
    hparams: HParams,
    train_batch: PyTree,
    *,
    solver: LinearSolver = neumann(20),
    precision: str | None = "highest",
) -> tuple[PyTree, SolveInfo]:
    """Jacobian of the trained parameters with respect to the hyperparameters, R = dtheta*/dlambda = -H^-1 B^T.

    The h right-hand sides share the linearisation and the preparation of the solver, and under vmap every product. It
    may be differentiated as `hypergradient` may, whose arguments these are.

    Returns:
      (response, info): params-shaped leaves [h, ...] in the order of `ravel_pytree(hparams)`, and a `SolveInfo` with
      leading axis h, in which every entry counts the products of the shared preparation.

    Raises:
      UserError: leaves of params or hparams that are no floats, a loss that does not return one float, or a solver that
        is none.
    """
    with _matmul_precision(precision):
        system = _system(train_loss, params, hparams, train_batch, solver)
        flat, unravel = ravel_pytree(hparams)
        basis = jnp.eye(flat.size, dtype=flat.dtype)
        jacobian, info = jax.vmap(lambda direction: _response_along(system, unravel(direction)))(basis)
        return jacobian, _count_preparation(info, system)
