"""Cost of Hessian-vector products and hypergradients, in gradients of the training loss, with their peers."""

from __future__ import annotations

import contextlib
import functools

import jax
import jax.numpy as jnp
from jaxopt import implicit_diff
from jaxopt.linear_solve import solve_cg

import hcdc_jax as hc
from benchmarks.timing import graph, seconds
from hcdc_jax.hypergradients.krylov import lanczos_bounds
from hcdc_jax.models import spectral_gnn
from hcdc_jax.spaces import graph_filter


def trained():
    """A network on the real graph near its minimum: problem, then parameters, hyperparameters and both batches.

    What is timed takes the last four as arguments: as constants they would be folded while compiling.
    """
    data = graph()
    train, val = (hc.real_batch(data, index, order=2, basis="laplacian") for index in (data.train_idx, data.val_idx))
    problem = spectral_gnn(data.num_features, data.num_classes, hidden=32)
    hparams = graph_filter(2).sample(jax.random.key(0), 1)[0]
    fit = jax.jit(lambda key: hc.train(key, problem, hparams, train, hc.Training(steps=200))[0])
    return data.name, problem, (fit(jax.random.key(1)), hparams, train, val)


def hypergradients() -> dict:
    """Products, solves and memory against the number of terms."""
    name, problem, args = trained()

    @jax.jit
    def gradient(params, hparams, train, val):
        return jax.grad(problem.train_loss)(params, hparams, train)

    @jax.jit
    def ten_products(params, hparams, train, val):
        # Chained, as a solver does it, without the cost of one call per product.
        def product(_, vector):
            return jax.jvp(lambda p: jax.grad(problem.train_loss)(p, hparams, train), (params,), (vector,))[1]

        return jax.lax.fori_loop(0, 10, product, params)

    unit = seconds(gradient, *args)[0]
    rows: dict = {
        "graph": name,
        "gradient_seconds": unit,
        "hvp_in_gradients": seconds(ten_products, *args)[0] / 10 / unit,
    }
    for terms in (5, 20, 80):
        function = jax.jit(functools.partial(by_ours, problem, hc.neumann(terms)))
        run, compilation = seconds(function, *args, repeats=3)
        memory = function.lower(*args).compile().memory_analysis()
        rows[f"neumann_{terms}"] = {
            "in_gradients": run / unit,
            "compile_seconds": compilation,
            "temporary_megabytes": memory.temp_size_in_bytes / 1e6,
        }
    return rows


def solvers() -> dict:
    """Twenty steps of conjugate gradients: ours, jaxopt's own, lineax's where it is installed.

    The training loss is not convex where training stops. All three solve the system shifted by `damping`, which makes
    it positive definite: on the bare one only ours notices and stops.
    """
    name, problem, args = trained()
    damping = positive_definite_shift(problem, *args)
    functions = {
        "ours": functools.partial(by_ours, problem, hc.conjugate_gradient(20, damping=damping)),
        "jaxopt": functools.partial(by_jaxopt, problem, damped(damping, jaxopt_cg)),
    }
    with contextlib.suppress(ImportError):
        functions["lineax"] = functools.partial(by_jaxopt, problem, damped(damping, lineax_cg()))
    reference = jax.jit(functools.partial(by_ours, problem, hc.conjugate_gradient(500, damping=damping)))(*args)
    rows: dict = {"graph": name, "damping": damping}
    for peer, function in functions.items():
        compiled = jax.jit(function)
        run, compilation = seconds(compiled, *args, repeats=5)
        error = jnp.linalg.norm(compiled(*args) - reference) / jnp.linalg.norm(reference)
        rows[peer] = {"seconds": run, "compile_seconds": compilation, "relative_error": float(error)}
    return rows


def positive_definite_shift(problem, params, hparams, train, val) -> float:
    """Twice the depth of the lowest eigenvalue of the Hessian of the training loss."""
    del val

    @jax.jit
    def lowest(params, hparams, train):
        gradient = jax.grad(lambda p: problem.train_loss(p, hparams, train))
        return lanczos_bounds(lambda v: jax.jvp(gradient, (params,), (v,))[1], params, 50).lower

    return 2 * max(-float(lowest(params, hparams, train)), 0.0)


def damped(damping, solve):
    """Solves (A + damping) x = b divided by damping: lineax takes curvatures far below 1 for a singular system."""

    def solve_shifted(matvec, b):
        def shifted(v):
            return jax.tree.map(lambda product, leaf: product / damping + leaf, matvec(v), v)

        return solve(shifted, jax.tree.map(lambda leaf: leaf / damping, b))

    return solve_shifted


def jaxopt_cg(matvec, b):
    return solve_cg(matvec, b, maxiter=20)


def by_ours(problem, solver, params, hparams, train, val):
    return hc.hypergradient(problem.train_loss, problem.val_loss, params, hparams, train, val, solver=solver)[0]


def by_jaxopt(problem, solve, params, hparams, train, val):
    stationarity = jax.grad(problem.train_loss)
    v, direct = jax.grad(problem.val_loss, argnums=(0, 1))(params, hparams, val)
    (implicit,) = implicit_diff.root_vjp(lambda p, h: stationarity(p, h, train), params, (hparams,), v, solve=solve)
    return direct + implicit


def lineax_cg():
    import lineax

    def solve(matvec, b):
        structure = jax.eval_shape(lambda: b)
        operator = lineax.FunctionLinearOperator(matvec, structure, tags=lineax.positive_semidefinite_tag)
        return lineax.linear_solve(operator, b, lineax.CG(1e-6, 1e-6, max_steps=20), throw=False).value

    return solve
