"""Derivatives of what implicit differentiation computes, against finite differences of formulas written out."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from hcdc_jax.hypergradients import solvers as ls
from hcdc_jax.hypergradients.fixed_networks import Pool, Target, frozen_matching, known
from hcdc_jax.hypergradients.implicit import hypergradient, hypergradient_matching, response

pytestmark = pytest.mark.usefixtures("x64")

ARGUMENTS = ("params", "hparams", "train_batch", "val_batch")
SOLUTIONS = {
    "dense": ls.dense(),
    "dense, damped": ls.dense(damping=0.3),
    "conjugate_gradient": ls.conjugate_gradient(6),
    "chebyshev": ls.chebyshev(40, condition=12.0),
    "neumann": ls.neumann(200),
}
STEPS = {"neumann": ls.neumann(3, step_size=0.2), "identity": ls.identity(0.4)}
TARGET = np.array([0.3, -0.2])


def train_loss(params, hparams, batch):
    """Strictly convex, with third derivatives; H is nowhere the identity, and B is [2, 3]."""
    return val_loss(params, hparams, batch) + jnp.exp(hparams[1]) * jnp.sum(params**2)


def val_loss(params, hparams, batch):
    return jnp.mean(jnp.log(jnp.cosh(hparams[0] * batch @ params - jnp.sin(batch[:, 0]))))


def point():
    rng = np.random.default_rng(0)
    return rng.normal(size=3), np.array([1.2, -1.5]), rng.normal(size=(8, 3)), rng.normal(size=(5, 3))


def found(function, solver, *point):
    """What the library says, flat."""
    params, hparams, train, val = point
    if function == "hypergradient":
        return hypergradient(train_loss, val_loss, params, hparams, train, val, solver=solver)[0]
    if function == "response":
        return response(train_loss, params, hparams, train, solver=solver)[0].ravel()
    match = hypergradient_matching(train_loss, val_loss, params, hparams, train, val, TARGET, solver=solver)
    return ravel_pytree(match[:2])[0]


def written_out(function, damping, *point):
    """The formulas, with matrices."""
    params, hparams, train, val = point
    hessian = jax.hessian(train_loss)(params, hparams, train) + damping * np.eye(3)
    mixed = jax.jacfwd(jax.grad(train_loss), argnums=1)(params, hparams, train)
    jacobian = -jnp.linalg.inv(hessian) @ mixed
    if function == "response":
        return jacobian.T.ravel()

    def total(val):
        v, d = jax.grad(val_loss, argnums=(0, 1))(params, hparams, val)
        return d + jacobian.T @ v

    def distance(val):
        g = total(val)
        return 1 - g @ TARGET / (jnp.sqrt(g @ g + 1e-10) * jnp.sqrt(TARGET @ TARGET + 1e-10))

    return total(val) if function == "hypergradient" else ravel_pytree(jax.value_and_grad(distance)(val))[0]


def directions():
    """[4, size of the point]: one random direction in each argument, the others held."""
    rng, sizes = np.random.default_rng(1), [leaf.size for leaf in point()]
    rows = np.repeat(np.eye(4), sizes, axis=1)
    return jnp.asarray(rows * rng.normal(size=rows.shape))


def of_vector(function):
    """A function of a point as one of the vector of all its numbers."""
    flat, unravel = ravel_pytree(tuple(map(jnp.asarray, point())))
    return lambda x: function(*unravel(x)), flat


def slopes_by_differences(function):
    """[4, size of the result]."""
    function, x = of_vector(function)
    ahead, behind = (jax.jit(jax.vmap(function))(x[None] + step * directions()) for step in (1e-5, -1e-5))
    return np.asarray(ahead - behind) / 2e-5


@functools.cache
def expected(function, damping):
    return slopes_by_differences(functools.partial(written_out, function, damping))


def derivatives(function):
    """[4, size]: by forward mode in a `vmap` over directions, and by reverse mode in one over results."""
    function, x = of_vector(function)

    @jax.jit
    def both(x, along):
        forward = jax.vmap(lambda direction: jax.jvp(function, (x,), (direction,))[1])(along)
        return forward, along @ jax.jacrev(function)(x).T

    return both(x, directions())


def check(function, reference):
    assert np.all(np.abs(reference).max(axis=1)[reference.any(axis=1)] > 1e-3)
    for mode, slopes in zip(("forward", "reverse"), derivatives(function), strict=True):
        for name, slope, wanted in zip(ARGUMENTS, slopes, reference, strict=True):
            np.testing.assert_allclose(slope, wanted, rtol=1e-5, atol=1e-7, err_msg=f"{mode} mode in {name}")


@pytest.mark.parametrize(
    ("function", "solver"),
    [
        ("hypergradient", "dense"),
        ("hypergradient", "conjugate_gradient"),
        ("hypergradient", "chebyshev"),
        ("hypergradient", "neumann"),
        ("response", "dense, damped"),
        ("response", "chebyshev"),
        ("hypergradient_matching", "conjugate_gradient"),
    ],
)
def test_derivatives_are_those_of_the_solution(function, solver):
    damping = 0.3 if "damped" in solver else 0.0
    check(functools.partial(found, function, SOLUTIONS[solver]), expected(function, damping))


@pytest.mark.parametrize("solver", STEPS)
def test_derivatives_of_a_truncated_series_are_its_own(solver):
    function = functools.partial(found, "hypergradient", STEPS[solver])
    check(function, slopes_by_differences(function))


@pytest.mark.parametrize("solver", [*SOLUTIONS, "neumann, few", "identity"])
def test_derivatives_at_a_right_hand_side_of_zero_are_finite_and_stay_in_their_lane(solver):
    """A x = s b for s = 0, 1 and tiny, A = 3 / 4 in one direction and 3 / 2 in the other, times (1 + t)."""
    solver = {**SOLUTIONS, "neumann, few": ls.neumann(2), "identity": STEPS["identity"]}[solver]
    b, weights = jnp.asarray([1.0, -2.0]), jnp.asarray([0.5, 1.0])

    def of_scale(s, t):
        x, info = solver.solve(lambda v: (1 + t) * jnp.asarray([0.75, 1.5]) * v, s * b)
        return weights @ x, info

    lanes = jnp.asarray([0.0, 1.0, 1e-25, jnp.nan])

    @jax.jit
    @jax.vmap
    def slopes(s):
        (by_s, by_t), info = jax.grad(of_scale, argnums=(0, 1), has_aux=True)(s, 0.0)
        return by_s, by_t, jax.jvp(lambda s: of_scale(s, 0.0)[0], (s,), (1.0,))[1], info

    by_s, by_t, forward, info = slopes(lanes)
    np.testing.assert_allclose(by_s[:3], by_s[1], rtol=1e-12)  # x is linear in s
    np.testing.assert_allclose(forward[:3], by_s[1], rtol=1e-12)
    np.testing.assert_allclose(by_t[:3], by_t[1] * lanes[:3], rtol=1e-12)
    np.testing.assert_array_equal(info.diverged, [False, False, False, True])


def test_unknown_hypergradients_do_not_reach_the_derivative_in_the_scale():
    target = Target(jnp.ones(2), jnp.asarray([[1.0, jnp.nan], [2.0, 3.0]]))
    slopes = jax.jacrev(lambda scale: known(target, scale)[1])(jnp.ones(2))
    np.testing.assert_array_equal(slopes, [[[1, 0], [0, 0]], [[2, 0], [0, 3]]])


def test_frozen_matching_is_differentiable_in_what_it_holds():
    """The distance in the networks, and the gradient in the scale, which moves it."""
    params, hparams, _, val = map(jnp.asarray, point())
    target = Target(jnp.ones(1), TARGET[None])

    def match(params, scale):
        pool = Pool(params[None], hparams[None], jnp.asarray([[[0.3, -0.1, 0.2], [0.1, 0.4, -0.3]]]))
        d, slope, _ = frozen_matching(val_loss, pool, val, target, scale=scale)
        return jnp.append(slope.ravel(), d)

    at = (params, jnp.asarray([1.0, 2.0]))
    along = (jnp.asarray([0.3, -0.2, 0.5]), jnp.asarray([0.4, -0.3]))
    match = jax.jit(match)
    ahead, behind = (match(*(a + step * d for a, d in zip(at, along, strict=True))) for step in (1e-5, -1e-5))
    slopes = jax.jvp(match, at, along)[1]
    np.testing.assert_allclose(slopes, (ahead - behind) / 2e-5, rtol=1e-5, atol=1e-8)
