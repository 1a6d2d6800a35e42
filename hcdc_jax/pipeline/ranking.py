"""The rank stage: every candidate scored on the condensed data of every method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.condensed import read_condensed
from hcdc_jax.config import config_hash
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.errors import DivergedError
from hcdc_jax.pipeline import recipes
from hcdc_jax.pipeline.clock import Elapsed
from hcdc_jax.pipeline.condensed_parts import CondensedPart, Place, rank_request, read_part, snapshots
from hcdc_jax.pipeline.copies import copies
from hcdc_jax.pipeline.hcdc.shifts import on_condensed, stated
from hcdc_jax.pipeline.recipes.base import RankRequest, RankResult, Recipe
from hcdc_jax.pipeline.scoring import Networks, mean_of, networks_on, rank_keys
from hcdc_jax.pipeline.setup import Run, Setup
from hcdc_jax.pipeline.taught.taught_parts import teachers_of, train_place
from hcdc_jax.problem import Problem
from hcdc_jax.storage import files
from hcdc_jax.training.candidates import WHY_ALL_FAIL, Scores, ask_each, scored_at_once
from hcdc_jax.types import Array, Batch, HParams, Params


def rank(run: Run) -> None:
    """Ranks the candidates by every method and seed: `results/<method>_seed<k>.npz`.

    Raises:
      UserError: condensed data is missing, damaged or not what its card says.
    """
    config = run.setup.config
    for copy in copies(run):
        rank(copy.run)
    jobs = [(seed, method) for seed in config.seeds for method in config.methods]
    # Rows that train on one S_train share its networks, which are kept while they follow one another.
    jobs.sort(key=lambda job: (job[0], train_place(run.folder, config, job[1], job[0]).recipe))
    left = [job for job in jobs if not _path(run.folder, *job).exists()]
    what = f"ranking {len(run.setup.candidates)} candidates, {len(jobs)} rankings"
    condensed_part, trial, at = None, None, None
    for seed, method in run.progress.track(left, what, len(jobs) - len(left)):
        place = train_place(run.folder, config, method, seed)
        if condensed_part is None or trial is None or place != at:
            condensed_part, at = read_part(place), place
            trial = rank_request(run, seed, condensed_part)
        ranking = _with_copies(run, method, seed, _rank_one(run, method, condensed_part, trial))
        if not ranking["status"].any() and "why" not in ranking:
            run.progress.say(f"{method}, seed {seed}: every candidate failed: {WHY_ALL_FAIL}")
        files.write_npz(_path(run.folder, seed, method), ranking)


def _path(folder: Path, seed: int, method: str) -> Path:
    return folder / "results" / f"{method}_seed{seed}.npz"


def _rank_one(run: Run, name: str, condensed_part: CondensedPart, trial: RankRequest) -> dict[str, Any]:
    setup, config, seed = run.setup, run.setup.config, trial.seed
    val = recipes.get(config, name).val
    if condensed_part.pruning:
        files.write_npz(run.folder / "results" / f"{name}_seed{seed}_pruning.npz", condensed_part.pruning)
    sees_train = recipes.sees_train(name)
    try:
        if condensed_part.diverged and sees_train:
            raise DivergedError(condensed_part.why)
        verdict, extra = _on_condensed(trial, val, name) if isinstance(val, Recipe) else (val(trial), {})
    except DivergedError as error:
        verdict, extra = _nothing(trial), {"why": np.array(str(error))}
    cost, matched = verdict.cost, verdict.matched
    if sees_train:
        cost = condensed_part.cost.plus(cost)
    if sees_train and recipes.is_taught(config, name) and (matched is None or not len(matched)):
        # Who was fitted to the m full trainings has paid for those that teach.
        paid = teachers_of(run, seed)
        cost, matched = cost.plus(paid.cost), paid.paid
    matched = np.zeros((0, setup.candidates.shape[1]), np.float32) if matched is None else matched
    if verdict.shift is not None:
        extra = extra | {"shift": verdict.shift / np.asarray(setup.space.prior_std)}
    return {
        "hparams": np.asarray(setup.candidates),
        **{field: np.asarray(values) for field, values in verdict.scores._asdict().items()},
        "matched_hparams": matched,
        "seconds_condense": cost.seconds,
        "seconds_training": cost.training_seconds,
        "seconds_rank": verdict.elapsed.run,
        "seconds_compile": cost.compile_seconds + verdict.elapsed.compile,
        "full_trainings_used": cost.full_trainings,
        "full_trainings_timed": cost.timed_trainings,
        "stored_scalars": verdict.stored_scalars,
    } | extra


def _with_copies(run: Run, name: str, seed: int, ranking: dict[str, Any]) -> dict[str, Any]:
    """The mean over all copies of the condensed data, and the sum of what they cost.

    Copies on which every candidate fails are left out. Full trainings that were matched are those of the first copy.
    """
    others = [copy for copy in copies(run) if copy.of == seed and name in copy.run.setup.config.methods]
    if not others:
        return ranking
    rankings = [ranking, *(read_arrays(_path(copy.run.folder, copy.seed, name)) for copy in others)]
    heard = [one for one in rankings if one["status"].any()] or rankings[:1]
    if len(heard) < len(rankings):
        run.progress.say(f"{name}, seed {seed}: {len(rankings) - len(heard)} of {len(rankings)} copies say nothing")
    scores = mean_of([Scores(*(one[field] for field in Scores._fields)) for one in heard])
    traces = {"trace_loss": np.mean([one["trace_loss"] for one in heard], 0)} if "trace_loss" in heard[0] else {}
    sums = {field: sum(one[field] for one in rankings) for field in _OF_EACH}
    made = [one for one in rankings[1:] if not len(one["matched_hparams"])]
    sums |= {field: ranking[field] + sum(one[field] for one in made) for field in _OF_TRAININGS}
    return heard[0] | {field: np.asarray(values) for field, values in scores._asdict().items()} | traces | sums


_OF_EACH = ("seconds_condense", "seconds_training", "seconds_rank", "seconds_compile", "stored_scalars")
_OF_TRAININGS = ("full_trainings_used", "full_trainings_timed")


def _nothing(trial: RankRequest) -> RankResult:
    """What a method says that has nothing to go by: every candidate fails."""
    n = len(trial.run.setup.candidates)
    failed = Scores(jnp.full(n, jnp.inf), jnp.zeros(n), jnp.zeros(n, bool))
    return RankResult(failed, Elapsed(), trial.train_scalars)


def _on_condensed(trial: RankRequest, recipe: Recipe, name: str) -> tuple[RankResult, dict[str, Any]]:
    """The verdict of both condensed parts, and how S_val came to it."""
    setup, folder, seed = trial.run.setup, trial.run.folder, trial.seed
    condensed = read_condensed(folder, name, seed, config_hash=config_hash(setup.config))
    place = Place(folder, recipe.name, "val", seed)
    condensed_part = read_part(place)
    if not condensed_part.diverged:
        setup.kind.keep_figure(folder / "results", f"{name}_seed{seed}", condensed)
    shift = stated(setup, condensed)
    if shift is None:
        networks = trial.networks()
    else:
        candidates = on_condensed(setup, condensed, setup.candidates)
        networks = networks_on(setup, rank_keys(setup, seed), candidates, condensed.train)
    scores, elapsed = networks.on(condensed.val)
    trace = _trace(setup, recipe, place, networks, condensed.train)
    if condensed_part.why is not None:
        trace["why"] = np.array(condensed_part.why)
    return RankResult(
        scores, elapsed, condensed.card["stored_scalars"], condensed_part.cost, condensed_part.matched, shift
    ), trace


def _trace(setup: Setup, recipe: Recipe, place: Place, networks: Networks, train_batch: Batch) -> dict[str, np.ndarray]:
    """Losses [t, n] of the candidates on the snapshots of S_val: what held-out rank correlations are made of."""
    found = snapshots(place)
    if not found:
        return {}
    decode = jax.jit(recipe.container(setup, "val").decode)
    batches = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(decode(variables) for variables in found.values()))
    problem, candidates = networks.problem, networks.candidates
    at_once = scored_at_once(problem, candidates, train_batch)
    losses = [ask_each(_losses, problem, params, candidates, batches, at_once=at_once) for params in networks.params]
    return {"trace_steps": np.array(list(found)), "trace_loss": np.mean(losses, 0).T}


def _losses(problem: Problem, params: Params, hparams: HParams, batches: Batch) -> Array:
    """[t] validation losses of a trained candidate on t batches, stacked."""
    return jax.lax.map(lambda batch: problem.val_loss(params, hparams, batch), batches)
