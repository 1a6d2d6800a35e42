"""The rank stage: every candidate scored on the condensed data of every method; and random search on one of them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax import files
from hcdc_jax.artefact import Condensed, load_condensed
from hcdc_jax.candidates import Scores, evaluate, memory_budget, memory_chunk_size
from hcdc_jax.config import config_hash
from hcdc_jax.pipeline import recipes
from hcdc_jax.pipeline.clock import Elapsed, measured
from hcdc_jax.pipeline.halves import Place, read_half, snapshots
from hcdc_jax.pipeline.recipes.base import Recipe
from hcdc_jax.pipeline.setup import RANK, SEARCH, Run, Setup, key_for
from hcdc_jax.train import train
from hcdc_jax.types import Array, Batch


def rank(run: Run) -> None:
    """Ranks the candidates by every method and seed: `results/<method>_seed<k>.npz`.

    Raises:
      UserError: condensed data is missing, damaged or not what its card says.
    """
    config = run.setup.config
    jobs = [(seed, method) for seed in config.seeds for method in config.methods]
    left = [job for job in jobs if not _path(run.folder, *job).exists()]
    what = f"ranking {len(run.setup.candidates)} candidates, {len(jobs)} rankings"
    for seed, method in run.progress.track(left, what, len(jobs) - len(left)):
        files.write_npz(_path(run.folder, seed, method), _rank_one(run.setup, run.folder, method, seed))


def _path(folder: Path, seed: int, method: str) -> Path:
    return folder / "results" / f"{method}_seed{seed}.npz"


def _rank_one(setup: Setup, folder: Path, name: str, seed: int) -> dict[str, Any]:
    config, val_recipe = setup.config, recipes.get(setup.config, name).val
    half = read_half(Place(folder, recipes.train_recipe(config, name).name, "train", seed))
    train_batch, cost, matched, extra = half.batch, half.cost, half.matched, {}
    if isinstance(val_recipe, Recipe):
        condensed = load_condensed(folder, name, seed, config_hash=config_hash(config))
        train_batch, val, stored = condensed.train, condensed.val, condensed.card["stored_scalars"]
        place = Place(folder, val_recipe.name, "val", seed)
        val_half = read_half(place)
        cost, matched = cost.plus(val_half.cost), val_half.matched
        extra = _trace(setup, val_recipe, place, train_batch)
        _write_adjacency(folder / "results" / f"{name}_seed{seed}_adjacency.npz", condensed)
    else:
        val = val_recipe(setup, seed)
        stored = sum(leaf.size for leaf in jax.tree.leaves(half.variables)) + _real_scalars(setup)
    scores, elapsed = mean_scores(setup, _rank_keys(setup, seed), setup.candidates, train_batch, val)
    return {
        "hparams": np.asarray(setup.candidates),
        **{field: np.asarray(values) for field, values in scores._asdict().items()},
        "matched_hparams": matched,
        "seconds_condense": cost.seconds,
        "seconds_training": cost.training_seconds,
        "seconds_rank": elapsed.run,
        "seconds_compile": cost.compile_seconds + elapsed.compile,
        "full_trainings_used": cost.full_trainings,
        "stored_scalars": stored,
    } | extra


def _real_scalars(setup: Setup) -> int:
    """What a rival that validates on real data must keep: all features and edges, since any node may be reached."""
    return setup.data.num_nodes * setup.data.num_features + setup.data.edges.size


def _rank_keys(setup: Setup, seed: int) -> list[Array]:
    """One key per initialisation that scores are averaged over."""
    return [jax.random.fold_in(key_for(RANK, seed), i) for i in range(setup.config.training.proxy_inits)]


def mean_scores(
    setup: Setup, keys: list[Array], candidates: Array, train_batch: Batch, val_batch: Batch
) -> tuple[Scores, Elapsed]:
    """Scores of the candidates on condensed data, averaged over the initialisations of the keys, and their time.

    A candidate that fails from one initialisation has failed.
    """
    with measured() as elapsed:
        runs = [
            evaluate(key, setup.problem, candidates, train_batch, val_batch, training=setup.training) for key in keys
        ]
        means = jax.tree.map(lambda *leaves: np.mean([np.asarray(leaf) for leaf in leaves], 0), *runs)
    return means._replace(status=means.status == 1), elapsed


def _trace(setup: Setup, recipe: Recipe, place: Place, train_batch: Batch) -> dict[str, np.ndarray]:
    """Losses [t, n] of all candidates on the snapshots of S_val: what held-out rank correlations are made of."""
    found = snapshots(place)
    if not found:
        return {}
    decode = jax.jit(recipe.container(setup, "val").decode)
    batches = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(decode(variables) for variables in found.values()))
    budget = memory_budget(jax.local_devices()[0].platform)
    fitting = memory_chunk_size(setup.problem, setup.candidates[0], train_batch, budget=budget)
    chunk_size = min(fitting, len(setup.candidates))
    losses = [
        _losses_on(key, setup.problem, setup.candidates, train_batch, batches, setup.training, chunk_size=chunk_size)
        for key in _rank_keys(setup, place.seed)
    ]
    return {"trace_steps": np.array(list(found)), "trace_loss": np.mean(losses, 0).T}


@functools.partial(jax.jit, static_argnames=("problem", "chunk_size"))
def _losses_on(key, problem, candidates, train_batch, batches, training, *, chunk_size):
    """[n, t] validation losses of the candidates, each trained once, on t batches."""

    def one(hparams):
        params, _ = train(key, problem, hparams, train_batch, training)
        return jax.lax.map(lambda batch: problem.val_loss(params, hparams, batch), batches)

    return jax.lax.map(one, candidates, batch_size=chunk_size)


def _write_adjacency(path: Path, condensed: Condensed) -> None:
    """The weights of the propagation P_1 of both halves, for the figure of the learned graph."""
    arrays = {}
    for part, batch in (("train", condensed.train), ("val", condensed.val)):
        terms = np.asarray(batch.inputs.edges)
        if terms.shape[-1] < 2:
            return  # filters of order 0 do not propagate
        arrays[part] = np.abs(terms[..., 1])
        arrays[f"{part}_labels"] = np.where(np.asarray(batch.weights) > 0, np.asarray(batch.labels), -1)
    files.write_npz(path, arrays)


def search(setup: Setup, folder: Path, num_candidates: int, seed: int) -> tuple[np.ndarray, Scores, Elapsed]:
    """Random search on the primary artefact of a run.

    Args:
      setup: the run.
      folder: of the run.
      num_candidates: fresh draws from the prior.
      seed: of the draw.

    Returns:
      The candidates [n, h] and their `Scores`, best loss first, and the time it took.
    """
    condensed = load_condensed(folder, config_hash=config_hash(setup.config))
    candidates = setup.space.sample(key_for(SEARCH, seed), num_candidates)
    keys = _rank_keys(setup, condensed.card["seed"])
    scores, elapsed = mean_scores(setup, keys, candidates, condensed.train, condensed.val)
    order = np.argsort(scores.loss, kind="stable")
    return np.asarray(candidates)[order], Scores(*(values[order] for values in scores)), elapsed
