"""Solvers against numpy, and against everything that makes a solve go wrong."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxopt import linear_solve as jaxopt_solve
from numpy.polynomial import chebyshev as numpy_chebyshev

from hcdc_jax.errors import UserError
from hcdc_jax.hypergradients import krylov
from hcdc_jax.hypergradients import solvers as ls

ALL = {
    "neumann": ls.neumann(8),
    "neumann_fixed": ls.neumann(8, step_size=0.3),
    "chebyshev": ls.chebyshev(8),
    "conjugate_gradient": ls.conjugate_gradient(8),
    "dense": ls.dense(),
    "identity": ls.identity(0.5),
}

LINEAR = [name for name, solver in ALL.items() if solver.is_linear]


def symmetric(eigenvalues, seed=0):
    """Symmetric matrix with given eigenvalues."""
    eigenvalues = np.asarray(eigenvalues, float)
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(eigenvalues.size, eigenvalues.size)))[0]
    return jnp.asarray(q @ np.diag(eigenvalues) @ q.T)


def vector(size, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=size))


def product(matrix):
    return lambda v: jnp.matmul(matrix, v, precision="highest")


@functools.partial(jax.jit, static_argnums=0)
def solve(solver, matrix, b, state=None):
    return solver.solve(product(matrix), b, state)


@pytest.fixture
def spd(x64):
    return symmetric(np.geomspace(0.01, 2.95, 12))


def test_neumann_sums_one_term_more_than_it_spends_products(spd):
    b, a = vector(12), 0.2
    terms = [np.linalg.matrix_power(np.eye(12) - a * np.asarray(spd), j) @ b for j in range(6)]
    x, info = solve(ls.neumann(5, step_size=a), spd, b)
    np.testing.assert_allclose(x, a * sum(terms), rtol=1e-12)
    assert info.num_matvecs == 5 + 1  # the check of the residual
    np.testing.assert_allclose(info.residual, np.linalg.norm(b - spd @ x) / np.linalg.norm(b), rtol=1e-12)
    np.testing.assert_allclose(info.curvature, x @ spd @ x / (x @ x), rtol=1e-12)
    assert not info.diverged


@pytest.mark.parametrize("num_hvps", [0, 1, 7])
def test_chebyshev_residual_is_the_chebyshev_polynomial(x64, num_hvps):
    upper, condition = 2.0, 30.0
    eigenvalues = np.linspace(upper / condition, upper, 9)
    solver = ls.chebyshev(num_hvps, condition=condition, safety=1.0)
    state = krylov.Spectrum(jnp.asarray(upper), jnp.asarray(upper / condition), 0)
    x, info = solver.solve(lambda v: jnp.asarray(eigenvalues) * v, jnp.ones(9), state)
    lower = upper / condition
    polynomial = np.eye(num_hvps + 2)[-1]
    normal = numpy_chebyshev.chebval((upper + lower) / (upper - lower), polynomial)
    expected = numpy_chebyshev.chebval((upper + lower - 2 * eigenvalues) / (upper - lower), polynomial) / normal
    np.testing.assert_allclose(1 - eigenvalues * x, expected, atol=1e-12)
    assert info.num_matvecs == num_hvps + 1
    assert bool(jnp.all(jnp.isfinite(ls.chebyshev(num_hvps).solve(lambda v: 2 * v, jnp.ones(3))[0])))


def test_trap_3_cg_is_optimal_in_its_krylov_space_at_every_step(spd):
    b = vector(12)
    exact = np.linalg.solve(spd, b)
    space, errors = [np.asarray(b)], []
    for steps in range(1, 9):
        basis = np.linalg.qr(np.stack(space, 1))[0]
        optimal = basis @ np.linalg.solve(basis.T @ spd @ basis, basis.T @ b)
        x, info = solve(ls.conjugate_gradient(steps), spd, b)
        np.testing.assert_allclose(x, optimal, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(info.residual, np.linalg.norm(b - spd @ x) / np.linalg.norm(b), rtol=1e-9)
        errors.append((x - exact) @ spd @ (x - exact))
        space.append(np.asarray(spd) @ space[-1])
    assert np.all(np.diff(errors) < 0)


@pytest.mark.parametrize("name", LINEAR)
def test_linear_solvers_are_one_symmetric_map(spd, name):
    matrix = jax.vmap(lambda e: solve(ALL[name], spd, e)[0])(jnp.eye(12))
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
    b = vector(12)
    np.testing.assert_allclose(solve(ALL[name], spd, b)[0], matrix @ b, rtol=1e-10)
    # Differentiation sees the same map.
    gradient = jax.grad(lambda b: jnp.sum(vector(12, 5) * solve(ALL[name], spd, b)[0]))(b)
    np.testing.assert_allclose(gradient, matrix @ vector(12, 5), rtol=1e-10)


def test_truncated_cg_is_not_linear(spd):
    solver = ls.conjugate_gradient(4)
    assert not solver.is_linear
    u, v = vector(12), vector(12, 2)
    one, other = (a @ solve(solver, spd, b)[0] for a, b in ((u, v), (v, u)))
    assert abs(one - other) > 1e-3 * abs(one)


@pytest.mark.parametrize("name", list(ALL))
def test_trees_are_solved_as_their_flattening(spd, name):
    b = {"a": vector(8).reshape(2, 4), "b": (vector(4, 3),)}
    flat, unravel = jax.flatten_util.ravel_pytree(b)

    def tree_product(v):
        return unravel(spd @ jax.flatten_util.ravel_pytree(v)[0])

    # The state is made from the flat problem: the random start of Lanczos differs between structures.
    state = ALL[name].prepare(product(spd), flat)
    x, info = ALL[name].solve(tree_product, b, state)
    expected, expected_info = solve(ALL[name], spd, flat, state)
    assert jax.tree.structure(x) == jax.tree.structure(b)
    np.testing.assert_allclose(jax.flatten_util.ravel_pytree(x)[0], expected, rtol=1e-10)
    np.testing.assert_allclose(info.residual, expected_info.residual, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("name", list(ALL))
def test_trap_6_zero_tiny_and_nan_right_hand_sides_share_a_vmap(name):
    matrix = symmetric(np.geomspace(0.05, 2.5, 6)).astype(jnp.float32)
    b = vector(6).astype(jnp.float32)
    lanes = jnp.stack([b, 0 * b, 1e-30 * b, jnp.nan * b, 1e30 * b])
    x, info = jax.vmap(lambda b: solve(ALL[name], matrix, b))(lanes)
    alone = solve(ALL[name], matrix, b)[0]
    np.testing.assert_allclose(x[0], alone, rtol=1e-5)
    np.testing.assert_array_equal(x[1], 0)
    np.testing.assert_allclose(x[2] / 1e-30, alone, rtol=1e-4)
    np.testing.assert_allclose(x[4] / 1e30, alone, rtol=1e-4)
    np.testing.assert_array_equal(info.diverged, [False, False, False, True, False])
    np.testing.assert_array_equal(info.residual[1], 0)
    np.testing.assert_array_equal(info.negative_curvature[jnp.array([0, 1, 2, 4])], False)
    assert bool(jnp.all(jnp.isfinite(jnp.delete(x, 3, axis=0))))


@pytest.mark.parametrize("name", list(ALL))
def test_broken_matrices_stay_in_their_lane(x64, name):
    good = symmetric(np.geomspace(0.05, 2.5, 6))
    lanes = jnp.stack([good, jnp.full_like(good, jnp.nan), symmetric([-3.0, -1, 0.1, 1, 2, 2.5]), 0 * good])
    x, info = jax.vmap(lambda m: solve(ALL[name], m, vector(6)))(lanes)
    np.testing.assert_allclose(x[0], solve(ALL[name], good, vector(6))[0], rtol=1e-9)
    assert bool(jnp.all(jnp.isfinite(x[jnp.array([0, 2, 3])])))
    assert info.diverged[1]
    assert not info.diverged[0]


def test_cg_far_past_convergence_keeps_its_solution(x64):
    matrix, b = symmetric([1.0, 2.0, 3.0]), vector(3)
    x, info = solve(ls.conjugate_gradient(300), matrix, b)
    np.testing.assert_allclose(x, np.linalg.solve(matrix, b), rtol=1e-12)
    assert info.residual < 1e-12
    assert not info.diverged
    with_zero_tol = solve(ls.conjugate_gradient(300, tol=0.0), matrix, b)[0]
    np.testing.assert_allclose(with_zero_tol, x, rtol=1e-12)


def test_trap_2_neumann_detects_a_step_that_is_too_large(spd):
    b = vector(12)  # largest eigenvalue 2.95: without a step size the series explodes
    x, info = solve(ls.neumann(50, step_size=1.0), spd, b)
    assert info.diverged
    assert jnp.linalg.norm(x) < 1e4 * jnp.linalg.norm(b)
    x, info = solve(ls.neumann(5000, step_size=1e30), spd, b)
    assert info.diverged
    assert bool(jnp.all(jnp.isfinite(x)))
    x, info = solve(ls.neumann(5000), spd, b)
    assert not info.diverged
    np.testing.assert_allclose(x, np.linalg.solve(spd, b), rtol=1e-3)


@pytest.mark.parametrize("name", list(ALL))
def test_trap_4_negative_curvature_is_flagged(x64, name):
    matrix = symmetric([-1.0, -0.5, 0.1, 0.5, 1.0, 1.5])
    b = jnp.linalg.eigh(matrix)[1][:, 0] + 0.1 * vector(6)  # mostly along the most negative direction
    x, info = solve(ALL[name], matrix, b)
    assert info.negative_curvature
    assert bool(jnp.all(jnp.isfinite(x)))
    if name in ("neumann", "chebyshev"):
        assert info.diverged
    damped = solve(ls.neumann(400, damping=1.5), matrix, b)
    np.testing.assert_allclose(damped[0], np.linalg.solve(matrix + 1.5 * np.eye(6), b), rtol=1e-6)
    assert not damped[1].diverged


def test_a_barely_indefinite_matrix_is_flagged_before_its_series_grows(x64):
    matrix = symmetric([-0.05, 0.2, 0.4, 0.6, 0.8, 1.0])
    _, info = solve(ls.neumann(3), matrix, vector(6))
    assert info.negative_curvature
    assert not info.diverged
    _, info = solve(ls.neumann(400), matrix, vector(6))
    assert info.diverged


def test_trap_5_singular_matrices(x64):
    matrix = symmetric([0.0, 0.2, 0.5, 1.0, 1.5, 2.0])
    expected_map = np.linalg.pinv(matrix, rcond=1e-10)
    b = matrix @ vector(6)  # in the range, like every gradient at a flat direction
    for solver in (ls.dense(), ls.conjugate_gradient(5), ls.neumann(400)):
        x, info = solve(solver, matrix, b)
        np.testing.assert_allclose(x, expected_map @ b, atol=1e-9)
        assert info.residual < 1e-9
    x, info = solve(ls.dense(), matrix, vector(6))
    np.testing.assert_allclose(x, expected_map @ vector(6), atol=1e-9)
    assert info.residual > 1e-3  # what has no solution does not pretend to one


def test_damping_solves_the_damped_system_and_shows_its_bias(spd):
    b, mu = vector(12), 0.3
    expected = np.linalg.solve(spd + mu * np.eye(12), b)
    bias = np.linalg.norm(b - spd @ expected) / np.linalg.norm(b)
    for solver in (
        ls.neumann(300, damping=mu),
        ls.chebyshev(60, condition=12.0, damping=mu),
        ls.conjugate_gradient(12, damping=mu),
        ls.dense(damping=mu),
    ):
        x, info = solve(solver, spd, b)
        np.testing.assert_allclose(x, expected, rtol=1e-6)
        np.testing.assert_allclose(info.residual, bias, rtol=1e-6)


@pytest.mark.parametrize(
    "eigenvalues",
    [
        np.geomspace(1e-3, 3, 200),
        np.linspace(0.0, 1.0, 200),
        np.append(np.full(199, 0.5), 0.9),  # one outlier above a flat bulk: the hard case for power iteration
        np.append(np.linspace(0.0, 1.0, 199), -2.0),
        np.ones(200),
        np.zeros(200),
    ],
)
def test_lanczos_bounds_leave_neumann_stable(x64, eigenvalues):
    magnitude = np.max(np.abs(eigenvalues))
    spectrum = krylov.lanczos_bounds(lambda v: jnp.asarray(eigenvalues) * v, jnp.zeros(200), 10)
    assert spectrum.magnitude <= magnitude * (1 + 1e-9)
    assert spectrum.magnitude >= 0.95 * magnitude
    assert spectrum.lower >= min(eigenvalues.min(), 0) - 1e-9
    if eigenvalues.min() < 0:
        assert spectrum.lower < 0.9 * eigenvalues.min()


def test_preparation_is_spent_once_for_many_right_hand_sides(spd):
    solver, rhs = ls.neumann(8, power_iterations=6), jnp.stack([vector(12, s) for s in range(5)])
    state = solver.prepare(product(spd), rhs[0])
    x, info = jax.vmap(lambda b: solve(solver, spd, b, state))(rhs)
    alone = [solve(solver, spd, b) for b in rhs]
    np.testing.assert_allclose(x, jnp.stack([x for x, _ in alone]), rtol=1e-12)
    np.testing.assert_array_equal(info.num_matvecs, 8 + 1)
    assert state.num_matvecs == 6
    assert alone[0][1].num_matvecs == 8 + 1 + 6
    np.testing.assert_array_equal(solver.prepare(product(spd), 7 + rhs[1]).magnitude, state.magnitude)


@pytest.mark.parametrize("make", [ls.neumann, ls.chebyshev, ls.conjugate_gradient])
def test_unrolling_changes_nothing(spd, make):
    looped, unrolled = solve(make(5), spd, vector(12)), solve(make(5, unroll=True), spd, vector(12))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), looped, unrolled)


def test_cg_beats_normal_cg_of_jaxopt_at_equal_products(x64):
    matrix = symmetric(np.geomspace(4.1e-4, 0.737, 195))
    b = vector(195)
    exact = np.linalg.solve(matrix, b)
    ours = solve(ls.conjugate_gradient(50), matrix, b)[0]
    normal = jaxopt_solve.solve_normal_cg(product(matrix), b, maxiter=25, tol=0.0)

    def error(x):
        return np.linalg.norm(x - exact) / np.linalg.norm(exact)

    assert error(ours) < 0.1 * error(normal)
    # At 50 products rounding already moves either error by some percent.
    theirs = jaxopt_solve.solve_cg(product(matrix), b, maxiter=20, tol=0.0)
    np.testing.assert_allclose(error(solve(ls.conjugate_gradient(20), matrix, b)[0]), error(theirs), rtol=1e-6)


def test_equal_options_are_one_solver_and_wrong_ones_say_so():
    assert ls.neumann(20) is ls.neumann(20)
    assert ls.neumann(20) != ls.neumann(21)
    jitted = jax.jit(lambda b, solver: solver.solve(lambda v: 2 * v, b)[0], static_argnames="solver")
    np.testing.assert_allclose(jitted(jnp.ones(3), solver=ls.conjugate_gradient(2)), 0.5, rtol=1e-6)
    with pytest.raises(UserError, match="num_hvps of neumann must be a whole number from 0 on, got -1"):
        ls.neumann(-1)
    with pytest.raises(UserError, match="'auto' is neither a number nor 'power'"):
        ls.neumann(5, step_size="auto")
    with pytest.raises(UserError, match="num_hvps of conjugate_gradient must be a whole number from 1 on, got 0"):
        ls.conjugate_gradient(0)
    with pytest.raises(UserError, match="condition="):
        ls.chebyshev(5, condition=0.5)
