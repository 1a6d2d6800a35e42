"""Approximate solutions of A x = b for a symmetric A that is known only through products A v.

Every solver honours one contract, `solve(matvec, b, state=None) -> (x, SolveInfo)`: b is any pytree of floats, the
number of products is static, a zero right-hand side gives exactly zero, and a lane of a `vmap` that has converged,
broken down or turned NaN never touches another. What does not depend on b (bounds on the spectrum, a factorisation)
is made by `prepare(matvec, like)`, so that many right-hand sides pay for it once.
"""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from hcdc_jax import arguments
from hcdc_jax.errors import UserError
from hcdc_jax.hypergradients import krylov
from hcdc_jax.hypergradients.krylov import MatVec
from hcdc_jax.hypergradients.linear_solver import LinearSolver, NoState, Outcome, damped, damped_by, make_solver
from hcdc_jax.types import Array, PyTree


class Eigendecomposition(NamedTuple):
    """A = vectors diag(values) vectors^T on the flattened right-hand side; num_matvecs products spent."""

    values: Array
    vectors: Array
    num_matvecs: int


class _Sum(NamedTuple):
    """Result of `_semi_iteration`: norms [num_hvps + 1] of the residuals before each step, `cut` if ended early."""

    x: PyTree
    norms: Array
    cut: Array
    negative_curvature: Array


def _semi_iteration(
    matvec: MatVec, b: PyTree, momenta: Array, gains: Array, growth_limit: float, unroll: int | bool
) -> _Sum:
    """Sums num_hvps + 1 steps d_k = momenta[k] d_{k-1} + gains[k] r_k, where r_k = b - A (d_0 + ... + d_{k-1})."""
    norm_b = krylov.norm(b)

    def step(carry, coefficients):
        x, residual, direction, alive = carry
        momentum, gain = coefficients
        product = matvec(direction)
        negative = alive & (krylov.dot(direction, product) < 0)
        updated = krylov.add_scaled(residual, -1, product)
        norm = krylov.norm(jax.lax.stop_gradient(updated))  # decides, and is no part of x
        alive = alive & (norm <= growth_limit * norm_b)
        residual = krylov.select(alive, updated, residual)
        following = krylov.add_scaled(krylov.scale(momentum, direction), gain, residual)
        # Steps of zero from here on: the sum stays what it was, and nothing can overflow.
        direction = krylov.select(alive, following, krylov.zeros_like(b))
        return (krylov.add_scaled(x, 1, direction), residual, direction, alive), (norm, negative)

    first = krylov.scale(gains[0], b)
    carry = (first, b, first, jnp.asarray(True))
    (x, _, _, alive), (norms, negative) = jax.lax.scan(step, carry, (momenta[1:], gains[1:]), unroll=unroll)
    return _Sum(x, jnp.concatenate([norm_b[None], norms]), ~alive, jnp.any(negative))


def _check_counts(name: str, num_hvps: int, power_iterations: int = 1, least: int = 0) -> None:
    arguments.check_count(f"num_hvps of {name}", num_hvps, least)
    arguments.check_count(f"power_iterations of {name}", power_iterations)


@functools.cache
def neumann(
    num_hvps: int,
    step_size: Literal["power"] | float = "power",
    damping: float = 0.0,
    *,
    power_iterations: int = 10,
    safety: float = 1.1,
    growth_tolerance: float = 1e-3,
    growth_limit: float = 1e3,
    unroll: int | bool = 1,
) -> LinearSolver:
    """Truncated Neumann series x = a sum_{j=0}^{num_hvps} (I - a (A + damping I))^j b: num_hvps + 1 terms.

    At a stationary point it equals num_hvps + 1 unrolled steps of gradient descent with learning rate a (Lorraine et
    al., "Optimizing Millions of Hyperparameters by Implicit Differentiation", 2020). Along an eigenvalue l the
    relative error is (1 - a l)^(num_hvps + 1): eigenvalues below about 1 / (a num_hvps) stay unresolved.

    Args:
      num_hvps: products with A in the series.
      step_size: a, or "power" for 1 / (safety * largest |eigenvalue|), estimated by `krylov.lanczos_bounds`. The series
        needs a < 2 / (largest eigenvalue).
      damping: added to every eigenvalue; biases the solution, which `SolveInfo.residual` shows.
      power_iterations: products spent on the step size, once for all right-hand sides of one `prepare`.
      safety: because the estimate is from below; the series has another factor of two in reserve.
      growth_tolerance: relative growth of a term over the one before that passes for rounding. More is divergence.
      growth_limit: once a term exceeds this many times ||b|| the sum ends, so that flagged results stay finite.
      unroll: see `jax.lax.scan`. True helps convolutions on CPU, which are slow inside a loop.

    Returns:
      A solver that is linear; derivatives are those of the series, see `LinearSolver`.

    Raises:
      UserError: counts that are negative or no whole numbers, or a step size that is neither a number nor "power".
    """
    _check_counts("neumann", num_hvps, power_iterations)
    if isinstance(step_size, str) and step_size != "power":
        raise UserError(f"neumann: step_size={step_size!r} is neither a number nor 'power'.")
    estimates = step_size == "power"

    def prepare(matvec: MatVec, like: PyTree) -> krylov.Spectrum | NoState:
        return krylov.lanczos_bounds(damped(matvec, damping), like, power_iterations) if estimates else NoState()

    def core(matvec: MatVec, b: PyTree, state: krylov.Spectrum | NoState) -> Outcome:
        gain, negative = jnp.asarray(0.0 if isinstance(step_size, str) else step_size), jnp.asarray(False)
        if isinstance(state, krylov.Spectrum):
            gain = 1 / jnp.where(state.magnitude == 0, 1, safety * state.magnitude)
            negative = state.lower < -growth_tolerance * state.magnitude
        gains = jnp.broadcast_to(gain, (num_hvps + 1,))
        total = _semi_iteration(damped(matvec, damping), b, jnp.zeros_like(gains), gains, growth_limit, unroll)
        # The terms of the series are the residuals; each must be smaller than the one before.
        grew = ~jnp.all(total.norms[1:] <= (1 + growth_tolerance) * total.norms[:-1])
        return Outcome(total.x, gain, num_hvps, total.cut | grew, negative | total.negative_curvature)

    return make_solver("neumann", core, is_linear=True, prepare=prepare)


@functools.cache
def chebyshev(
    num_hvps: int,
    condition: float | None = None,
    damping: float = 0.0,
    *,
    power_iterations: int = 15,
    safety: float = 1.1,
    growth_tolerance: float = 1e-3,
    growth_limit: float = 1e3,
    unroll: int | bool = 1,
) -> LinearSolver:
    """Chebyshev semi-iteration: of all polynomials of degree num_hvps, the smallest residual on an interval.

    The interval is [upper / condition, upper] with upper = safety * largest |eigenvalue|. Resolves far smaller
    eigenvalues than `neumann` at equal cost, but amplifies eigenvalues above the interval or below zero much faster:
    for Hessians at a minimum. Saad, "Iterative Methods for Sparse Linear Systems", algorithm 12.1.

    Args:
      num_hvps: products with A in the iteration.
      condition: ratio of the ends of the interval. None: (num_hvps + 2)^2 / 4, for which the residual on the interval
        is below about 0.04.
      damping: as in `neumann`.
      power_iterations: products spent on the upper end, once for all right-hand sides of one `prepare`.
      safety: because the estimate is from below; nothing else is in reserve here.
      growth_tolerance: growth of the residual over ||b|| that passes for rounding. More is divergence.
      growth_limit: as in `neumann`.
      unroll: see `jax.lax.scan`.

    Returns:
      A solver that is linear; derivatives are those of the solution, see `LinearSolver`: those of its polynomial in A
      oscillate and do not come nearer with more steps.

    Raises:
      UserError: counts that are negative or no whole numbers, or condition <= 1.
    """
    _check_counts("chebyshev", num_hvps, power_iterations)
    condition = max(2.0, (num_hvps + 2) ** 2 / 4) if condition is None else condition
    if condition <= 1:
        raise UserError(f"chebyshev: condition={condition} must be > 1.")
    momenta, gains = _chebyshev_coefficients(num_hvps, condition)

    def prepare(matvec: MatVec, like: PyTree) -> krylov.Spectrum:
        return krylov.lanczos_bounds(damped(matvec, damping), like, power_iterations)

    def core(matvec: MatVec, b: PyTree, state: krylov.Spectrum) -> Outcome:
        inverse = 1 / jnp.where(state.magnitude == 0, 1, safety * state.magnitude)
        scaled = inverse * jnp.asarray(gains, inverse.dtype)
        momentum = jnp.asarray(momenta, inverse.dtype)
        total = _semi_iteration(damped(matvec, damping), b, momentum, scaled, growth_limit, unroll)
        grew = ~jnp.all(total.norms <= (1 + growth_tolerance) * total.norms[0])
        negative = total.negative_curvature | (state.lower < -growth_tolerance * state.magnitude)
        return Outcome(total.x, scaled[0], num_hvps, total.cut | grew, negative)

    return make_solver("chebyshev", core, is_linear=True, prepare=prepare, solved=damped_by(damping))


def _chebyshev_coefficients(num_hvps: int, condition: float) -> tuple[list[float], list[float]]:
    """Momenta and gains for the interval [1 / condition, 1]."""
    centre, half_width = (1 + 1 / condition) / 2, (1 - 1 / condition) / 2
    momenta, gains, rho = [0.0], [1 / centre], half_width / centre
    for _ in range(num_hvps):
        following = 1 / (2 * centre / half_width - rho)
        momenta.append(following * rho)
        gains.append(2 * following / half_width)
        rho = following
    return momenta, gains


@functools.cache
def conjugate_gradient(
    num_hvps: int, tol: float = 1e-12, damping: float = 0.0, *, unroll: int | bool = 1
) -> LinearSolver:
    """Conjugate gradients that stop safely: at convergence and at non-positive curvature a lane keeps its x.

    The fastest solver at a minimum, and wrong away from one, where it divides by curvature of either sign: look at
    `negative_curvature`. Truncated CG is nonlinear in b, so gradients built from two solves are exact only as far as
    both have converged; with `neumann` and `chebyshev` they are exact at any number of steps.

    Args:
      num_hvps: most products with A.
      tol: relative residual at which a lane stops. Past it the recurrence divides rounding noise by rounding noise.
      damping: added to every eigenvalue.
      unroll: see `jax.lax.scan`.

    Returns:
      A solver that is not linear; `diverged` means a residual above 1, worse than x = 0. Derivatives are those of the
      solution, see `LinearSolver`.

    Raises:
      UserError: num_hvps < 1.
    """
    _check_counts("conjugate_gradient", num_hvps, least=1)

    def core(matvec: MatVec, b: PyTree, state: NoState) -> Outcome:
        del state
        product_with = damped(matvec, damping)
        squared_b = krylov.dot(b, b)

        def step(carry, _):
            (x, residual, direction, squared), negative = carry
            product = product_with(direction)
            curvature = krylov.dot(direction, product)
            wanted = (squared > tol**2 * squared_b) & ~negative
            alive = wanted & (curvature > 0)
            length = jnp.where(alive, squared, 0) / jnp.where(alive, curvature, 1)
            updated = krylov.add_scaled(residual, -length, product)
            following = krylov.dot(updated, updated)
            conjugate = krylov.add_scaled(updated, following / jnp.where(alive, squared, 1), direction)
            stepped = (krylov.add_scaled(x, length, direction), updated, conjugate, following)
            return (krylov.select(alive, stepped, carry[0]), negative | (wanted & (curvature <= 0))), None

        start = ((krylov.zeros_like(b), b, b, squared_b), jnp.asarray(False))
        ((x, residual, _, _), negative), _ = jax.lax.scan(step, start, length=num_hvps, unroll=unroll)
        return Outcome(x, jnp.zeros_like(squared_b), num_hvps, krylov.norm(residual) > krylov.norm(b), negative)

    return make_solver("conjugate_gradient", core, is_linear=False, solved=damped_by(damping))


@functools.cache
def dense(rcond: float | None = None, damping: float = 0.0) -> LinearSolver:
    """The oracle: writes A out, one product per entry of b, and applies its pseudo-inverse. For tests and tiny models.

    Args:
      rcond: eigenvalues up to rcond * largest |eigenvalue| count as zero, so that an exactly singular Hessian (shift
        of a softmax's bias, scale of a normalised layer) does not return noise. None: machine epsilon * len(b).
      damping: added to every eigenvalue.

    Returns:
      A solver that is linear; derivatives are those of the solution, within the range of a singular A.
    """
    highest = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

    def prepare(matvec: MatVec, like: PyTree) -> Eigendecomposition:
        flat, unravel = ravel_pytree(like)
        matrix = jax.vmap(lambda v: ravel_pytree(matvec(unravel(v)))[0])(jnp.eye(flat.size, dtype=flat.dtype))
        # Rounding makes rows and columns differ a little.
        values, vectors = jnp.linalg.eigh(krylov.single(matrix + matrix.T) / 2)
        return Eigendecomposition(values + damping, vectors, flat.size)

    def core(matvec: MatVec, b: PyTree, state: Eigendecomposition) -> Outcome:
        del matvec
        flat, unravel = ravel_pytree(b)
        relative = jnp.finfo(flat.dtype).eps * flat.size if rcond is None else rcond
        kept = jnp.abs(state.values) > relative * jnp.max(jnp.abs(state.values))
        inverse = jnp.where(kept, 1, 0) / jnp.where(kept, state.values, 1)
        x = highest(state.vectors, inverse * highest(krylov.single(flat), state.vectors))
        negative = jnp.any(kept & (state.values < 0))
        return Outcome(unravel(x.astype(flat.dtype)), jnp.zeros(()), 0, jnp.asarray(False), negative)

    return make_solver("dense", core, is_linear=True, prepare=prepare, solved=damped_by(damping))


@functools.cache
def identity(scale: float = 1.0) -> LinearSolver:
    """The approximate inverse scale * I, no product at all: T1-T2 of Luketina et al. (2016).

    Args:
      scale: what stands for the inverse of A.

    Returns:
      A solver that is linear.
    """

    def core(matvec: MatVec, b: PyTree, state: NoState) -> Outcome:
        del matvec, state
        return Outcome(krylov.scale(scale, b), jnp.asarray(scale), 0, jnp.asarray(False), jnp.asarray(False))

    return make_solver("identity", core, is_linear=True)
