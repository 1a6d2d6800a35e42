"""What condensed data say of a pool, for one seed: losses of all candidates and their slopes, after m full trainings.

The library's own stages make the condensed data; the full trainings that they match are read from the curves.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.race.curves import Curves
from benchmarks.race.tasks import LEARNED
from hcdc_jax import pipeline
from hcdc_jax.condense.hcdc import fit
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.hypergradients.fixed_networks import frozen_hypergradient, unrolled_response
from hcdc_jax.hypergradients.implicit import response
from hcdc_jax.pipeline.clock import measured
from hcdc_jax.pipeline.condensed_parts import Place, make_part, read_part
from hcdc_jax.pipeline.hcdc.matched_candidates import log_spread, stratified
from hcdc_jax.pipeline.hcdc.targets import folder_of
from hcdc_jax.pipeline.recipes import given_recipe
from hcdc_jax.pipeline.recipes.base import Cost
from hcdc_jax.pipeline.scoring import networks_on, rank_keys
from hcdc_jax.pipeline.setup import MATCHED, TRUTH, Run, Setup, key_for, solver_of
from hcdc_jax.pipeline.taught.taught_parts import make_train
from hcdc_jax.search.calibrated import Proxy
from hcdc_jax.spaces import Space
from hcdc_jax.storage import files
from hcdc_jax.storage.codec import to_arrays
from hcdc_jax.training.candidates import evaluate, over_chunks, side_by_side
from hcdc_jax.training.sharding import in_order, local_devices, mesh_of, over_candidates
from hcdc_jax.types import Array, Batch


class Cheap(NamedTuple):
    """What a seed's condensed data say.

    Attributes:
      design: [m] places in the pool of the candidates that are trained in full first, and matched.
      proxies: scores of the pool by name: of S_train with the S_val of each method, with real validation data, and with
        itself ("train_loss").
      seconds: by name, of condensing S_val and of scoring the pool on it, without compilation; "networks" has what they
        share: S_train, the pool trained on it, and slopes.
      compile_seconds: of all of it.
    """

    design: np.ndarray
    proxies: dict[str, Proxy]
    seconds: dict[str, float]
    compile_seconds: float


def cheap(run: Run, seed: int, pool: Curves) -> Cheap:
    """Condenses, and scores the pool; or reads what was made.

    Args:
      run: whose folder is the seed's own, and whose candidates are the pool.
      seed: of the design and of the condensed data.
      pool: the curves.
    """
    path = run.folder / "results" / "cheap.npz"
    if not path.exists():
        design = _design(run, seed, pool)
        pipeline.condensing.condense(run)
        files.write_npz(path, {"design": design, **_scored(run, seed)})
    arrays = read_arrays(path)
    names = [name.removesuffix("/log_loss") for name in arrays if name.endswith("/log_loss")]
    return Cheap(
        design=arrays["design"],
        proxies={name: Proxy(arrays[f"{name}/log_loss"], arrays.get(f"{name}/slope")) for name in names},
        seconds={name: float(arrays[f"{name}/seconds"]) for name in ("networks", *names)},
        compile_seconds=float(arrays["compile_seconds"]),
    )


def nearest(space: Space, pool: np.ndarray, points: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Places in the pool [n, h] of the nearest candidates that are free, each taken once: [k].

    Distances are in prior standard deviations, from the nearest point of a candidate's orbit.

    Args:
      space: of the candidates.
      pool: [n, h].
      points: [k, h], served in this order.
      free: [n] which may be taken; at least k.
    """
    scale, free, places = np.asarray(space.prior_std), free.copy(), []
    orbits = np.asarray(jax.vmap(space.equivalents)(jnp.asarray(pool))) / scale
    for point in np.asarray(points) / scale:
        distance = np.where(free, ((orbits - point) ** 2).sum(-1).min(1), np.inf)
        places.append(int(distance.argmin()))
        free[places[-1]] = False
    return np.array(places, int)


def _design(run: Run, seed: int, pool: Curves) -> np.ndarray:
    """Places of the matched candidates, by the rule of a run among those of the pool; kept as the run keeps its own."""
    setup, options = run.setup, run.setup.config.hcdc
    count, factorial = options.full_trainings, options.design == "factorial"
    draw = setup.space.factorial if factorial else setup.space.spread
    points = np.asarray(draw((options.seed, seed), count if factorial else options.oversampling * count))
    usable = np.isfinite(pool.loss[:, -1])
    places, spread = nearest(setup.space, pool.hparams, points[: usable.sum()], usable), np.nan
    with measured() as elapsed:
        if not factorial and options.oversampling > 1:
            recipe = given_recipe(setup.config)
            batch = make_part(run, recipe, "train", seed, method=recipe.name).batch
            scores = evaluate(
                key_for(MATCHED, seed), setup.problem_on(batch), jnp.asarray(pool.hparams[places]), batch, setup.val,
                training=setup.proxy_training,
            )  # fmt: skip
            losses = np.asarray(scores.loss)
            places, spread = np.asarray(stratified(places, losses, count)), log_spread(losses)
    record = {"hparams": pool.hparams[places], "spread": spread}
    times = {"seconds": elapsed.run, "compile_seconds": elapsed.compile}
    files.write_npz(run.folder / "checkpoints" / f"matched_candidates_seed{seed}.npz", record | times)
    for i, place in enumerate(places):
        files.write_npz(folder_of(run.folder, seed) / f"{i:03d}.npz", _target(setup, pool, place))
    return places


def _target(setup: Setup, pool: Curves, place: int) -> dict[str, Any]:
    """What `pipeline.targets` keeps of a full training. It costs nothing here: replays charge it."""
    hparams, key = jnp.asarray(pool.hparams[place]), key_for(TRUTH, 0)
    record = {
        "hparams": pool.hparams[place],
        "value": pool.loss[place, -1],
        "gradient": pool.hypergradient[place],
        "diverged": np.array(False),
        **dict.fromkeys(
            ("training_seconds", "compile_seconds", "target_seconds", "target_compile_seconds"), np.zeros(())
        ),
    }
    if not setup.config.labels.teachers:
        return record
    return record | to_arrays({"params": fit(key, setup.problem, hparams, setup.train, setup.training)})


def _scored(run: Run, seed: int) -> dict[str, np.ndarray]:
    setup = run.setup
    train = make_train(run, LEARNED[0], seed)
    parts = {name: read_part(Place(run.folder, name, "val", seed)) for name in LEARNED}
    batches = {name: condensed_part.batch for name, condensed_part in parts.items()}
    batches |= {"real_val": setup.val, "train_loss": _first_views(setup, train.batch)}
    keys = rank_keys(setup, seed)
    networks = networks_on(setup, keys, setup.candidates, train.batch)
    with measured() as sloping:
        slopes = _slopes(setup, keys, train.batch, tuple(batches.values()))
    shared = networks.elapsed.plus(sloping)
    arrays = {"networks/seconds": np.array(train.cost.seconds + shared.run)}
    compilation = train.cost.compile_seconds + shared.compile
    for (name, batch), slope in zip(batches.items(), slopes, strict=True):
        scores, elapsed = networks.on(batch)
        condensing = parts[name].cost if name in parts else Cost()
        with np.errstate(divide="ignore"):
            arrays[f"{name}/log_loss"] = np.log(np.asarray(scores.loss, np.float64))
        arrays[f"{name}/slope"] = slope
        arrays[f"{name}/seconds"] = np.array(elapsed.run - networks.elapsed.run + condensing.seconds)
        compilation += elapsed.compile - networks.elapsed.compile + condensing.compile_seconds
    return arrays | {"compile_seconds": np.array(compilation)}


def _first_views(setup: Setup, batch: Batch) -> Batch:
    """S_train as it is, where teachers labelled many views of it."""
    labels = setup.config.labels
    return jax.tree.map(lambda leaf: leaf[: len(leaf) // labels.views], batch) if labels.teachers else batch


def _slopes(setup: Setup, keys: list[Array], train: Batch, batches: tuple[Batch, ...]) -> list[np.ndarray]:
    """[n, h] slopes of the log loss on each of `batches`, the mean over networks trained on S_train from the keys."""
    problem, candidates = setup.problem_on(train), setup.candidates
    devices = local_devices()[:1]  # two of one CPU have waited for each other for ever here
    size, alone = side_by_side(problem, candidates[0], train, (), None, devices[0].platform)
    mesh = mesh_of(devices)
    chunks, replicate = over_candidates(candidates, min(size, -(-len(candidates) // mesh.size)), mesh)
    options, solver = setup.config.hcdc, solver_of(setup.config)

    def of_key(key: Array) -> list[tuple[Array, Array]]:
        shared = replicate((key, setup.proxy_training, train, batches))
        found = _sloped(
            problem, chunks, shared, solver=solver, unrolled=options.sensitivity == "unroll", direct=options.direct,
            mesh=mesh, alone=alone,
        )  # fmt: skip
        return in_order(mesh, found, len(candidates))

    sums = jax.tree.map(lambda *leaves: sum(np.asarray(leaf, np.float64) for leaf in leaves), *map(of_key, keys))
    return [slope / value[:, None] for value, slope in sums]


@functools.partial(jax.jit, static_argnames=("problem", "solver", "unrolled", "direct", "mesh", "alone"))
def _sloped(problem, chunks, shared, *, solver, unrolled, direct, mesh, alone):
    def one(shared, hparams):
        key, training, train_batch, batches = shared

        def fitted(hparams):
            return fit(key, problem, hparams, train_batch, training)

        if unrolled:
            params, jacobian = unrolled_response(fitted, hparams)
        else:
            params = fitted(hparams)
            jacobian, info = response(problem.train_loss, params, hparams, train_batch, solver=solver)
            bad = info.diverged.any()
            jacobian = jax.tree.map(lambda leaf: jnp.where(bad, jnp.nan, leaf), jacobian)
        return [
            frozen_hypergradient(problem.val_loss, params, hparams, jacobian, batch, direct=direct) for batch in batches
        ]

    return over_chunks(one, shared, chunks, mesh, alone)
