"""What a linear solver is, and what all share: right-hand sides of magnitude 1, derivatives, how far to trust one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hcdc_jax.hypergradients import krylov
from hcdc_jax.hypergradients.krylov import MatVec
from hcdc_jax.types import Array, PyTree


class SolveInfo(NamedTuple):
    """How far a solve can be trusted.

    Attributes:
      residual: ||b - A x|| / ||b|| with the undamped A, so that the bias of damping shows; 0 for b = 0.
      curvature: x^T A x / ||x||^2, negative only if A is not positive semidefinite; 0 for x = 0.
      num_matvecs: products with A that were spent, preparation and the check of the residual included.
      step_size: gain of the first step; 0 where the solver has none.
      diverged: True if the iteration grew instead of shrinking, or x is not finite: more steps would make it worse.
      negative_curvature: True if any product showed a direction of negative curvature.
    """

    residual: Array
    curvature: Array
    num_matvecs: Array
    step_size: Array
    diverged: Array
    negative_curvature: Array


class NoState(NamedTuple):
    """What a solver without preparation prepares."""

    num_matvecs: int = 0


def _prepare_nothing(matvec: MatVec, like: PyTree) -> NoState:
    del matvec, like
    return NoState()


class LinearSolver(NamedTuple):
    """An approximate inverse of a symmetric linear map.

    The functions of `solvers` return the same object for the same arguments, so a solver may be a static
    argument of `jax.jit`.

    Derivatives with respect to b and to whatever A is made of exist in both modes. Those of `dense`,
    `conjugate_gradient` and `chebyshev` are those of the solution, dx = solve(db - dA x), right as far as the solve has
    converged. Those of `neumann` and `identity` are those of the series as it is summed, exact at any number of terms
    for a given step size; one that is estimated counts as a constant, which it is for a sum that has converged.

    Attributes:
      name: for reports.
      solve: `solve(matvec, b, state=None) -> (x, SolveInfo)`; x has the structure of b. Prepares its own state if
        given none.
      is_linear: True if the approximate inverse is a fixed symmetric linear map. Then the same solve is its own
        adjoint, and gradients built from two solves are exact at any number of steps.
      prepare: `prepare(matvec, like) -> state`, which must not depend on the values of `like`. A state has the
        attribute `num_matvecs`.
    """

    name: str
    solve: Callable[..., tuple[PyTree, SolveInfo]]
    is_linear: bool
    prepare: Callable[[MatVec, PyTree], Any] = _prepare_nothing


class Outcome(NamedTuple):
    """What only the solver itself can know about a solve."""

    x: PyTree
    step_size: Array
    num_matvecs: int
    diverged: Array
    negative_curvature: Array


def make_solver(
    name: str,
    core: Callable[..., Outcome],
    is_linear: bool,
    prepare: Callable = _prepare_nothing,
    solved: Callable[[MatVec], MatVec] | None = None,
):
    """Wraps `core(matvec, b, state) -> Outcome`, which sees only right-hand sides of magnitude 1 or 0.

    Squares of a right-hand side of 1e-20 underflow in float32; of one divided by its largest entry they do not. That
    entry and the state are constants of differentiation: the map from b to x is linear as it stands.

    Args:
      name: of the solver.
      core: the solver itself.
      is_linear: as in `LinearSolver`.
      prepare: as in `LinearSolver`.
      solved: what `core` solves with, made of the product with A: then x has the derivative of the solution,
        dx = solve(db - dA x), and nothing is differentiated through the steps. None: the derivative of the steps.
    """

    def approximate(matvec: MatVec, b: PyTree, state: Any, own: int) -> tuple[PyTree, SolveInfo]:
        largest = functools.reduce(jnp.maximum, [jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(b)])
        largest = jax.lax.stop_gradient(jnp.where(largest == 0, 1, largest))
        unit = jax.tree.map(lambda leaf: leaf / largest.astype(leaf.dtype), b)
        outcome = core(matvec, unit, jax.lax.stop_gradient(state))
        info = jax.lax.stop_gradient(_check(matvec, unit, outcome, own))
        return krylov.scale(largest, outcome.x), info

    def solve(matvec: MatVec, b: PyTree, state: Any = None) -> tuple[PyTree, SolveInfo]:
        own = 0
        if state is None:
            state = prepare(matvec, b)
            own = state.num_matvecs
        if solved is None:
            return approximate(matvec, b, state, own)
        return jax.lax.custom_linear_solve(
            solved(matvec), b, lambda _, b: approximate(matvec, b, state, own), symmetric=True, has_aux=True
        )

    return LinearSolver(name, solve, is_linear, prepare)


def _check(matvec: MatVec, b: PyTree, outcome: Outcome, own: int) -> SolveInfo:
    product = matvec(outcome.x)
    residual = krylov.divide(krylov.norm(krylov.add_scaled(b, -1, product)), krylov.norm(b))
    curvature = krylov.divide(krylov.dot(outcome.x, product), krylov.dot(outcome.x, outcome.x))
    return SolveInfo(
        residual=residual,
        curvature=curvature,
        num_matvecs=jnp.asarray(outcome.num_matvecs + own + 1, jnp.int32),
        step_size=jnp.asarray(outcome.step_size, residual.dtype),
        diverged=outcome.diverged | ~jnp.isfinite(residual),
        negative_curvature=outcome.negative_curvature | (curvature < 0),
    )


def damped(matvec: MatVec, damping: float) -> MatVec:
    return (lambda v: krylov.add_scaled(matvec(v), damping, v)) if damping else matvec


def damped_by(damping: float) -> Callable[[MatVec], MatVec]:
    return functools.partial(damped, damping=damping)
