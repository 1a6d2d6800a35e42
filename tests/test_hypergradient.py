"""Exactness of hypergradients and of matching gradients, and the traps on the way (bars A1 to A10)."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bilevel import (
    Bilevel,
    Dense,
    blobs,
    cross_entropy,
    dense_hypergradient,
    flat,
    minimiser,
    mlp_init,
    mlp_problem,
    mlp_train_loss,
    mlp_val_loss,
    relative_error,
    write_out,
)
from jax.flatten_util import ravel_pytree
from jaxopt import implicit_diff
from jaxopt import linear_solve as jaxopt_solve

from hcdc_jax.hypergradients import distances
from hcdc_jax.hypergradients import solvers as ls
from hcdc_jax.hypergradients.fixed_networks import (
    Pool,
    Target,
    frozen_hypergradient,
    frozen_matching,
    unrolled_hypergradient,
    unrolled_response,
)
from hcdc_jax.hypergradients.implicit import hypergradient, hypergradient_matching, matching_distance, response

pytestmark = pytest.mark.usefixtures("x64")

STATIC = ("solver", "direct", "precision")
total = jax.jit(hypergradient, static_argnums=(0, 1), static_argnames=STATIC)
matching = jax.jit(hypergradient_matching, static_argnums=(0, 1), static_argnames=(*STATIC, "distance"))


@pytest.fixture(scope="module")
def mlp():
    """51 parameters, 5 hyperparameters, at a strict minimum."""
    with jax.enable_x64(True):
        return mlp_problem()


@pytest.fixture(scope="module")
def written_out(mlp):
    with jax.enable_x64(True):
        return write_out(mlp)


@pytest.fixture(scope="module")
def target(mlp):
    with jax.enable_x64(True):
        return {"log_decay": jnp.asarray([0.2, -0.1]), "mixture": jnp.asarray([-0.3, 0.25, 0.1])}


# Ridge regression with a gain inside the model: everything in closed form, and cheap to compile.


def ridge_val_loss(params, hparams, batch):
    return jnp.mean((hparams["gain"] * (batch["x"] @ params["w"]) - batch["y"]) ** 2)


def ridge_train_loss(params, hparams, batch):
    return ridge_val_loss(params, hparams, batch) + jnp.sum(jnp.exp(hparams["log_decay"]) * params["w"] ** 2)


def ridge_fit(hparams, batch):
    x = hparams["gain"] * batch["x"]
    gram = x.T @ x / x.shape[0] + jnp.diag(jnp.exp(hparams["log_decay"]))
    return {"w": jnp.linalg.solve(gram, x.T @ batch["y"] / x.shape[0])}


def ridge_objective(hparams, train_batch, val_batch):
    return ridge_val_loss(ridge_fit(hparams, train_batch), hparams, val_batch)


def ridge_problem(seed=0):
    kx, ky, kv = jax.random.split(jax.random.key(seed), 3)
    x, xv = jax.random.normal(kx, (20, 6)), jax.random.normal(kv, (9, 6))
    batch = {"x": x, "y": jnp.sin(x[:, 0]) + jax.random.normal(ky, (20,))}
    hparams = {"gain": jnp.asarray(1.3), "log_decay": jnp.linspace(-2, -1, 6)}
    val_batch = {"x": xv, "y": jnp.sin(xv[:, 0])}
    return Bilevel(ridge_train_loss, ridge_val_loss, ridge_fit(hparams, batch), hparams, batch, val_batch)


@pytest.fixture
def ridge():
    return ridge_problem()


def take(tree, index):
    return jax.tree.map(lambda x: x[index], tree)


# --------------------------------------------------------------------------------------------------------------------
# Exactness


def test_a7_closed_form_of_ridge_regression(ridge):
    exact = jax.jit(jax.grad(ridge_objective))(ridge.hparams, *ridge[4:])
    for solver in (ls.dense(), ls.conjugate_gradient(10), ls.neumann(400), ls.chebyshev(60, condition=40.0)):
        g, info = total(*ridge, solver=solver)
        assert relative_error(g, exact) < 1e-8, solver.name
        assert info.train_gradient_norm < 1e-13
        assert not info.diverged
        np.testing.assert_allclose(info.value, ridge_objective(ridge.hparams, *ridge[4:]), rtol=1e-12)


def test_a7_agrees_with_the_custom_root_of_jaxopt(ridge):
    solve = functools.partial(jaxopt_solve.solve_cg, tol=1e-12)
    root = implicit_diff.custom_root(jax.grad(ridge_train_loss), solve=solve)
    fit = root(lambda init, hparams, batch: ridge_fit(hparams, batch))

    def objective(hparams):
        return ridge_val_loss(fit(None, hparams, ridge.train_batch), hparams, ridge.val_batch)

    theirs = jax.jit(jax.grad(objective))(ridge.hparams)
    assert relative_error(total(*ridge, solver=ls.conjugate_gradient(10))[0], theirs) < 1e-6


def test_a3_total_hypergradient_is_the_slope_of_retraining(mlp, written_out):
    """And trap 1: the direct term, with its sign."""
    g, info = total(*mlp, solver=ls.dense())
    assert relative_error(g, dense_hypergradient(mlp, written_out, mlp.val_batch)) < 1e-10

    minimise, val_loss = minimiser(mlp_train_loss, mlp.params), jax.jit(mlp_val_loss)

    def retrained(lam):
        hparams = ravel_pytree(mlp.hparams)[1](lam)
        return val_loss(minimise(mlp.params, hparams, mlp.train_batch), hparams, mlp.val_batch)

    lam, step = flat(mlp.hparams), 1e-4
    slopes = [(retrained(lam + step * e) - retrained(lam - step * e)) / (2 * step) for e in jnp.eye(lam.size)]
    assert relative_error(g, jnp.stack(slopes)) < 1e-5

    assert relative_error(flat(g) - flat(info.direct), jnp.stack(slopes)) > 0.1
    np.testing.assert_array_equal(info.direct["log_decay"], 0)


@pytest.mark.parametrize(("distance", "direct"), [("cosine", True), ("relative_l2", False)])
def test_a1_a2_matching_gradient(mlp, written_out, target, distance, direct):
    @jax.jit
    def oracle(x):
        """The distance as a plain function of the validation inputs, through a dense solve."""
        g = dense_hypergradient(mlp, written_out, {**mlp.val_batch, "x": x}, direct)
        return distances.get(distance)(jnp.ones(1), g[None], jnp.ones(1), flat(target)[None])

    d, grad, info = matching(*mlp, target, solver=ls.dense(), distance=distance, direct=direct)
    x = mlp.val_batch["x"]
    np.testing.assert_allclose(d, oracle(x), rtol=1e-10)
    assert relative_error(grad["x"], jax.jit(jax.grad(oracle))(x)) < 1e-10  # A1
    directions = jax.random.normal(jax.random.key(0), (4, *x.shape))
    slopes = jnp.stack([(oracle(x + 1e-5 * e) - oracle(x - 1e-5 * e)) / 2e-5 for e in directions])
    assert relative_error(jnp.sum(directions * grad["x"][None], axis=(1, 2)), slopes) < 1e-6  # A2
    np.testing.assert_array_equal(grad["y"], 0)  # integer labels
    assert grad["y"].dtype == mlp.val_batch["y"].dtype
    assert not info.diverged


def test_a4_neumann_is_unrolled_gradient_descent_at_a_stationary_point(mlp):
    steps, rate = 20, 0.3

    def unrolled(hparams):
        def step(params, _):
            gradient = jax.grad(mlp_train_loss)(params, hparams, mlp.train_batch)
            return jax.tree.map(lambda w, g: w - rate * g, params, gradient), None

        return mlp_val_loss(jax.lax.scan(step, mlp.params, length=steps)[0], hparams, mlp.val_batch)

    g, _ = total(*mlp, solver=ls.neumann(steps - 1, step_size=rate))
    assert relative_error(g, jax.jit(jax.grad(unrolled))(mlp.hparams)) < 1e-10


@pytest.mark.parametrize("name", ["neumann", "chebyshev", "identity"])
def test_a5_truncated_linear_solvers_have_exact_matching_gradients(ridge, name):
    solver = {"neumann": ls.neumann(4), "chebyshev": ls.chebyshev(4), "identity": ls.identity()}[name]
    target = {"gain": jnp.asarray(0.3), "log_decay": jnp.ones(6)}

    def distance(x):
        g, info = hypergradient(*ridge._replace(val_batch={**ridge.val_batch, "x": x}), solver=solver)
        return distances.cosine(info.value[None], flat(g)[None], info.value[None], flat(target)[None])

    d, grad, _ = matching(*ridge, target, solver=solver)
    value, through_the_solver = jax.jit(jax.value_and_grad(distance))(ridge.val_batch["x"])
    np.testing.assert_allclose(d, value, rtol=1e-12)
    assert relative_error(grad["x"], through_the_solver) < 1e-10


def test_a6_a8_cg_on_an_ill_conditioned_network():
    problem = mlp_problem(sizes=(5, 12, 6, 3), log_decay=(-3.5, -4.0))
    written_out = write_out(problem)
    assert 1e3 < np.linalg.cond(written_out.hessian) < 1e4
    exact = dense_hypergradient(problem, written_out, problem.val_batch, direct=False)
    v = jax.jit(lambda: flat(jax.grad(problem.val_loss)(problem.params, problem.hparams, problem.val_batch)))()

    def error(solve):
        x = jax.jit(lambda h, v: solve(lambda x: h @ x, v))(written_out.hessian, v)
        return relative_error(-np.asarray(written_out.mixed) @ np.asarray(x), exact)

    for num_hvps, bar in ((20, 0.06), (50, 1e-5)):
        ours = error(lambda matvec, b, k=num_hvps: ls.conjugate_gradient(k).solve(matvec, b)[0])
        assert ours <= bar
        normal = functools.partial(jaxopt_solve.solve_normal_cg, maxiter=num_hvps // 2, tol=0.0)
        assert ours < 0.1 * error(normal)

    with jax.enable_x64(False):  # A8
        single = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.float64 else x, problem[2:])
        g, info = total(*problem[:2], *single, solver=ls.conjugate_gradient(60), direct=False)
        g = flat(g)
    assert g.dtype == jnp.float32
    assert relative_error(g.astype(float), exact) < 1e-4
    assert not info.diverged


def test_a10_memory_does_not_grow_with_the_number_of_steps(ridge):
    large = ridge._replace(train_batch=jax.tree.map(lambda x: jnp.concatenate([x] * 50), ridge.train_batch))

    def temporary_bytes(num_hvps):
        lowered = matching.lower(*large, ridge.hparams, solver=ls.neumann(num_hvps, step_size=0.1))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(80) <= 1.1 * temporary_bytes(5)


# --------------------------------------------------------------------------------------------------------------------
# Transformations


def test_matching_distance_has_the_matching_gradient_under_grad_jit_and_vmap(ridge):
    solver, target = ls.neumann(15, step_size=0.1), jax.tree.map(lambda h: h + 0.1, ridge.hparams)

    def scalar(batch):
        return 3 * matching_distance(*ridge._replace(val_batch=batch), target, solver=solver)

    batches = jax.tree.map(lambda x: jnp.stack([x, x + 0.1]), ridge.val_batch)
    values, grads = jax.jit(jax.vmap(jax.value_and_grad(scalar)))(batches)
    for i in range(2):
        d, grad, _ = matching(*ridge._replace(val_batch=take(batches, i)), target, solver=solver)
        np.testing.assert_allclose(values[i], 3 * d, rtol=1e-12)
        assert relative_error(take(grads, i), jax.tree.map(lambda g: 3 * g, grad)) < 1e-12


def test_candidates_in_a_vmap_are_alone_and_a_broken_one_stays_alone(ridge):
    hparams = jax.tree.map(lambda h: jnp.stack([h, h + 0.2, h]), ridge.hparams)
    params = jax.vmap(ridge_fit, in_axes=(0, None))(hparams, ridge.train_batch)
    params["w"] = params["w"].at[2].set(jnp.nan)
    g, info = jax.jit(jax.vmap(lambda p, h: hypergradient(*ridge.at(p, h))))(params, hparams)
    np.testing.assert_array_equal(info.diverged, [False, False, True])
    for i in range(2):
        alone, _ = total(*ridge.at(*take((params, hparams), i)))
        assert relative_error(take(g, i), alone) < 1e-12


def test_new_values_do_not_trace_again(ridge):
    traces = []

    def counted(params, hparams, batch):
        traces.append(None)
        return ridge_train_loss(params, hparams, batch)

    matching(counted, *ridge[1:], ridge.hparams, solver=ls.neumann(3))
    count = len(traces)
    assert count > 0
    matching(counted, *ridge_problem(seed=5)[1:], ridge.hparams, solver=ls.neumann(3))
    assert len(traces) == count


def test_losses_may_close_over_mapped_and_differentiated_values(ridge):
    solver = ls.neumann(3, step_size=0.1)

    def with_offset(offset):
        def train_loss(params, hparams, batch):
            return ridge_train_loss(params, hparams, batch) + offset * jnp.sum(params["w"] ** 2)

        def val_loss(params, hparams, batch):
            return ridge_val_loss(params, hparams, batch) + offset * jnp.sum(params["w"])

        return flat(hypergradient(train_loss, val_loss, *ridge[2:], solver=solver)[0])

    run, offset = jax.jit(with_offset), jnp.asarray(0.1)
    np.testing.assert_allclose(jax.jit(jax.vmap(with_offset))(jnp.stack([offset, offset]))[1], run(offset), rtol=1e-12)
    slope = (run(offset + 1e-5) - run(offset - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.jit(jax.jacrev(with_offset))(offset), slope, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(with_offset))(offset), slope, rtol=1e-6)


# --------------------------------------------------------------------------------------------------------------------
# Frozen mode


class Three:
    """Three fitted ridge candidates, their responses by one solver, and targets for them."""

    def __init__(self, solver):
        self.ridge = ridge = ridge_problem()
        shifts = jnp.asarray([0.0, 0.3, -0.2])
        candidates = jax.tree.map(lambda h: h[None] + shifts.reshape((3,) + (1,) * h.ndim), ridge.hparams)
        params = jax.vmap(ridge_fit, in_axes=(0, None))(candidates, ridge.train_batch)

        def jacobian(params, hparams):
            return response(ridge_train_loss, params, hparams, ridge.train_batch, solver=solver)[0]

        self.pool = Pool(params, candidates, jax.jit(jax.vmap(jacobian))(params, candidates))
        self.target = Target(jnp.asarray([0.5, 0.8, 0.4]), jax.random.normal(jax.random.key(3), (3, 7)))


@pytest.fixture(scope="module")
def three():
    with jax.enable_x64(True):
        return Three(ls.dense())


@pytest.mark.parametrize("direct", [True, False])
def test_trap_8_frozen_mode_is_exact_mode(direct):
    solver = ls.neumann(7, step_size=0.1)
    three = Three(solver)
    val_batch = three.ridge.val_batch
    frozen = jax.jit(functools.partial(frozen_matching, direct=direct), static_argnums=0)
    d, grad, info = frozen(ridge_val_loss, three.pool, val_batch, three.target)
    matches = []
    for i in range(3):
        problem = three.ridge.at(*take(three.pool[:2], i))
        matches.append(matching(*problem, take(three.target, i), solver=solver, direct=direct))
        np.testing.assert_allclose(info.gradient[i], flat(matches[i][2].gradient), rtol=1e-10)
        np.testing.assert_allclose(info.value[i], matches[i][2].value, rtol=1e-12)
    np.testing.assert_allclose(d, np.mean([m[0] for m in matches]), rtol=1e-12)
    mean = jax.tree.map(lambda *g: sum(g) / 3, *[m[1] for m in matches])
    assert relative_error(grad, mean) < 1e-12


@pytest.mark.parametrize("distance", distances.names())
def test_frozen_gradient_is_the_derivative_of_the_joint_distance(three, distance):
    scale, target = jnp.linspace(0.5, 2.0, 7), three.target

    @jax.jit
    @jax.value_and_grad
    def oracle(batch):
        values, g = jax.vmap(lambda p, h, r: frozen_hypergradient(ridge_val_loss, p, h, r, batch))(*three.pool[:3])
        return distances.get(distance)(values, g * scale[None], target.value, target.gradient * scale[None])

    frozen = functools.partial(frozen_matching, ridge_val_loss, distance=distance, scale=scale)
    d, grad, _ = jax.jit(frozen)(three.pool, three.ridge.val_batch, target)
    value, expected = oracle(three.ridge.val_batch)
    np.testing.assert_allclose(d, value, rtol=1e-12)
    assert relative_error(grad, expected) < 1e-10


@pytest.mark.parametrize("at_once", [1, 2])
def test_frozen_candidates_in_turn_are_candidates_side_by_side(three, at_once):
    """Two of three at once leave one over."""
    batch = three.ridge.val_batch | {"steps": jnp.asarray(3), "seen": jnp.asarray(True)}
    frozen = functools.partial(frozen_matching, ridge_val_loss, distance="value_gradient")
    found, expected = (
        jax.jit(functools.partial(frozen, at_once=count))(three.pool, batch, three.target) for count in (at_once, None)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), found, expected)
    assert jax.tree.map(lambda leaf: leaf.dtype, found[1]) == jax.tree.map(lambda leaf: leaf.dtype, batch)


def test_frozen_matching_reads_any_container(three):
    def decode(variables):
        return {"x": jnp.tanh(variables["pixels"]), "y": three.ridge.val_batch["y"]}

    def through_container(params, hparams, variables):
        return ridge_val_loss(params, hparams, decode(variables))

    variables = {"pixels": three.ridge.val_batch["x"], "steps": jnp.asarray(3)}
    frozen = jax.jit(frozen_matching, static_argnums=0)
    _, grad, _ = frozen(through_container, three.pool, variables, three.target)
    _, plain, _ = frozen(ridge_val_loss, three.pool, decode(variables), three.target)
    slope = 1 - jnp.tanh(variables["pixels"]) ** 2
    assert relative_error(grad["pixels"], slope * plain["x"]) < 1e-10
    assert grad["steps"] == 0


def test_unrolled_response_and_hypergradient_agree(mlp):
    """Forward mode through an unfinished training, against reverse mode through the same."""
    start = mlp_init(jax.random.key(7), (4, 6, 3))

    def train(hparams):
        def step(params, _):
            gradient = jax.grad(mlp_train_loss)(params, hparams, mlp.train_batch)
            return jax.tree.map(lambda w, g: w - 0.5 * g, params, gradient), None

        return jax.lax.scan(step, start, length=12)[0]

    params, jacobian = jax.jit(functools.partial(unrolled_response, train))(mlp.hparams)
    value, g = frozen_hypergradient(mlp_val_loss, params, mlp.hparams, jacobian, mlp.val_batch)
    reverse, info = jax.jit(lambda h: unrolled_hypergradient(train, mlp_val_loss, h, mlp.val_batch))(mlp.hparams)
    assert relative_error(params, info.params) < 1e-12
    np.testing.assert_allclose(value, info.value, rtol=1e-12)
    assert relative_error(g, reverse) < 1e-10
    assert jax.tree.map(jnp.shape, jacobian) == jax.tree.map(lambda x: (5, *x.shape), params)


def test_response_is_the_derivative_of_the_fit(ridge):
    exact = jax.jit(jax.jacobian(ridge_fit))(ridge.hparams, ridge.train_batch)["w"]
    exact = jnp.concatenate([exact["gain"][:, None], exact["log_decay"]], axis=1).T
    solver = ls.conjugate_gradient(10)
    jacobian, info = jax.jit(lambda: response(*ridge[:1], *ridge[2:5], solver=solver))()
    np.testing.assert_allclose(jacobian["w"], exact, rtol=1e-10)
    assert info.residual.shape == (7,)
    assert bool(jnp.all(info.residual < 1e-10))


# --------------------------------------------------------------------------------------------------------------------
# Traps. Trap 1 is in A3, trap 3 in test_linear_solve (CG is optimal at every step), half of trap 8 in frozen mode.


def test_trap_2_a_hessian_above_two_breaks_only_a_fixed_step(ridge):
    hessian = write_out(ridge).hessian
    assert np.linalg.eigvalsh(hessian)[-1] > 2
    g, info = total(*ridge, solver=ls.neumann(50, step_size=1.0))
    assert info.diverged
    assert bool(jnp.all(jnp.isfinite(flat(g))))
    _, info = total(*ridge, solver=ls.neumann(50))
    assert not info.diverged
    assert info.solve.residual < 1e-2


def test_trap_4_before_convergence_negative_curvature_is_flagged(mlp):
    start = mlp._replace(params=jax.tree.map(lambda w: 3 * w, mlp_init(jax.random.key(3), (4, 6, 3))))
    written_out = write_out(start)
    lowest = float(jnp.linalg.eigvalsh(written_out.hessian)[0])
    assert lowest < -1e-2
    g, info = total(*start, solver=ls.dense())
    assert info.solve.negative_curvature
    assert info.train_gradient_norm > 1e-2
    damped = Dense(written_out.hessian - 2 * lowest * jnp.eye(flat(start.params).size), written_out.mixed)
    by_cg, info = total(*start, solver=ls.conjugate_gradient(100, damping=-2 * lowest))
    assert not info.diverged
    assert relative_error(by_cg, dense_hypergradient(start, damped, start.val_batch)) < 1e-6
    assert relative_error(by_cg, g) > 0.1


def test_trap_5_singular_hessian_from_an_unregularised_bias():
    batch, val_batch = blobs(jax.random.key(1), 40, 2), blobs(jax.random.key(2), 25, 2)
    hparams = {"decay": jnp.asarray(-3.0), "gain": jnp.asarray(1.2)}

    def val_loss(params, hparams, batch):
        return cross_entropy(hparams["gain"] * (batch["x"] @ params["w"]) + params["b"][None], batch["y"])

    def train_loss(params, hparams, batch):
        return val_loss(params, hparams, batch) + jnp.exp(hparams["decay"]) * jnp.sum(params["w"] ** 2)

    def pinned(loss):
        return lambda p, h, b: loss({"w": p["w"], "b": jnp.append(p["b"], 0.0)}, h, b)

    small = {"w": 0.1 * jax.random.normal(jax.random.key(0), (2, 3)), "b": jnp.zeros(2)}
    small = minimiser(pinned(train_loss), small)(small, hparams, batch)
    regular = Bilevel(pinned(train_loss), pinned(val_loss), small, hparams, batch, val_batch)
    exact = dense_hypergradient(regular, write_out(regular), val_batch)

    params = {"w": small["w"], "b": jnp.append(small["b"], 0.0)}
    singular = Bilevel(train_loss, val_loss, params, hparams, batch, val_batch)
    for solver in (ls.dense(), ls.conjugate_gradient(20)):
        g, info = total(*singular, solver=solver)
        assert relative_error(g, exact) < 1e-7, solver.name
        assert not info.diverged
        assert info.solve.residual < 1e-10


def nothing(params, hparams, batch):
    return 0.0 * jnp.sum(batch["x"])


def tiny(params, hparams, batch):
    return 1e-30 * ridge_val_loss(params, hparams, batch)


@pytest.mark.parametrize("val_loss", [nothing, tiny])
@pytest.mark.parametrize("solver", [ls.neumann(5), ls.conjugate_gradient(12)], ids=lambda s: s.name)
def test_trap_6_no_hypergradient_no_nan(ridge, val_loss, solver):
    for goal in (ridge.hparams, jax.tree.map(jnp.zeros_like, ridge.hparams)):
        d, grad, info = matching(*ridge._replace(val_loss=val_loss), goal, solver=solver)
        assert bool(jnp.all(jnp.isfinite(flat((d, grad)))))
        assert not info.diverged
        np.testing.assert_allclose(d, 1.0, atol=1e-12)  # the documented value at zero


def test_trap_6_one_hyperparameter_has_no_angle(ridge):
    def only_gain(loss):
        return lambda params, gain, batch: loss(params, {**ridge.hparams, "gain": gain}, batch)

    losses = only_gain(ridge_train_loss), only_gain(ridge_val_loss)
    single = Bilevel(*losses, ridge.params, ridge.hparams["gain"], *ridge[4:])
    _, grad, info = matching(*single, jnp.ones(()), solver=ls.dense())
    d, _, _ = matching(*single, -jnp.sign(info.gradient), solver=ls.dense())
    np.testing.assert_allclose(d, 2.0, atol=1e-6)
    assert np.linalg.norm(flat(grad)) < 1e-6
    _, grad, _ = matching(*single, jnp.ones(()), solver=ls.dense(), distance="relative_l2")
    assert np.linalg.norm(flat(grad)) > 1e-3


def test_trap_7_one_dropout_mask_in_all_products(ridge):
    def dropped(params, hparams, batch):
        mask = jax.random.bernoulli(batch["key"], 0.7, batch["x"].shape)
        return ridge_train_loss(params, hparams, {"x": batch["x"] * mask, "y": batch["y"]})

    answers = []
    for seed in range(2):
        noisy = ridge._replace(train_loss=dropped, train_batch={**ridge.train_batch, "key": jax.random.key(seed)})
        g, info = total(*noisy, solver=ls.conjugate_gradient(20))
        assert relative_error(g, dense_hypergradient(noisy, write_out(noisy), ridge.val_batch)) < 1e-10
        assert info.solve.residual < 1e-10
        answers.append(g)
    assert relative_error(*answers) > 1e-3


def test_trap_8_only_the_validation_set_receives_a_gradient(ridge):
    def scalar(constants, val_batch):
        params, hparams, train_batch, target = constants
        problem = ridge._replace(params=params, hparams=hparams, train_batch=train_batch, val_batch=val_batch)
        return matching_distance(*problem, target, solver=ls.identity(0.1))

    constants = (ridge.params, ridge.hparams, ridge.train_batch, ridge.hparams)
    others, moving = jax.grad(scalar, argnums=(0, 1))(constants, ridge.val_batch)
    np.testing.assert_array_equal(flat(others), 0)
    assert np.linalg.norm(flat(moving)) > 0


def test_trap_8_hyperparameters_act_in_both_losses(ridge):
    def held(loss):
        return lambda params, hparams, batch: loss(params, ridge.hparams, batch)

    full, _ = total(*ridge, solver=ls.dense())
    no_direct, _ = total(*ridge._replace(val_loss=held(ridge_val_loss)), solver=ls.dense())
    no_implicit, info = total(*ridge._replace(train_loss=held(ridge_train_loss)), solver=ls.dense())
    np.testing.assert_allclose(flat(no_direct) + flat(no_implicit), flat(full), rtol=1e-10)
    np.testing.assert_allclose(flat(no_implicit), flat(info.direct), rtol=1e-12)


def test_trap_9_transposition_tree_order_and_reduction(ridge):
    """B is [h, P] with h != P; leaves come in the order of ravel_pytree; losses are means."""
    exact = jax.jit(jax.grad(ridge_objective))(ridge.hparams, *ridge[4:])
    g, _ = total(*ridge, solver=ls.dense())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), g, exact)
    jacobian, _ = jax.jit(lambda: response(*ridge[:1], *ridge[2:5], solver=ls.dense()))()
    _, frozen = frozen_hypergradient(*ridge[1:4], jacobian, ridge.val_batch)
    np.testing.assert_allclose(frozen, ravel_pytree(exact)[0], rtol=1e-9)
    thrice = jax.tree.map(lambda x: jnp.concatenate([x, x, x]), ridge.val_batch)
    _, repeated = frozen_hypergradient(*ridge[1:4], jacobian, thrice)
    np.testing.assert_allclose(repeated, frozen, rtol=1e-12)


def test_trap_9_decay_outside_the_loss_is_invisible(ridge):
    g, _ = total(*ridge._replace(train_loss=ridge_val_loss), solver=ls.identity())
    np.testing.assert_array_equal(g["log_decay"], 0)


def precisions_of_products(jaxpr):
    """Precision of every matrix product in a jaxpr and in the jaxprs inside it."""
    found = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
            found.append(eqn.params["precision"])
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                found += precisions_of_products(inner)
    return found


def test_trap_10_products_run_in_full_precision(mlp, target):
    def run(precision, *args):
        return hypergradient_matching(*mlp[:2], *args, target, solver=ls.neumann(2), precision=precision)

    for precision, expected in (("highest", jax.lax.Precision.HIGHEST), (None, None)):
        jaxpr = jax.make_jaxpr(functools.partial(run, precision))(*mlp[2:])
        found = precisions_of_products(jaxpr.jaxpr)
        assert len(found) > 10
        assert set(found) == {None if expected is None else (expected, expected)}


def test_a_target_with_its_value_reaches_distances_that_read_values(ridge):
    def level(value_s, gradient_s, value_t, gradient_t):
        return jnp.sum((value_s - value_t) ** 2)

    options = {"solver": ls.identity(), "distance": level}
    d, grad, info = matching(*ridge, Target(jnp.asarray(0.1), ridge.hparams), **options)
    np.testing.assert_allclose(d, (info.value - 0.1) ** 2, rtol=1e-12)
    expected = jax.grad(lambda b: (ridge_val_loss(ridge.params, ridge.hparams, b) - 0.1) ** 2)(ridge.val_batch)
    assert relative_error(grad, expected) < 1e-10
    d, grad, _ = matching(*ridge, ridge.hparams, **options)  # no value, no opinion
    np.testing.assert_array_equal(flat((d, grad)), 0)
