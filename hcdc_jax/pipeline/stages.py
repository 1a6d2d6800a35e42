"""The stages after condensing: truth, rank, search, report. Each reads the run folder and leaves its result there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hcdc_jax import files, report
from hcdc_jax.artefact import load_condensed
from hcdc_jax.candidates import Scores, evaluate, evaluate_on, memory_chunk_size
from hcdc_jax.config import config_hash
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.pipeline.clock import Elapsed, measured
from hcdc_jax.pipeline.condensing import make_half, snapshots, train_recipe
from hcdc_jax.pipeline.progress import Progress, silent
from hcdc_jax.pipeline.recipes import METHODS, RECIPES, num_nodes
from hcdc_jax.pipeline.setup import RANK, TRUTH, Setup, key_for, random_val_batch
from hcdc_jax.types import Batch


def truth(setup: Setup, folder: Path, progress: Progress) -> None:
    """Trains every candidate on the full data with every seed of the truth: `results/truth.npz`."""
    path = folder / "results" / "truth.npz"
    if path.exists():
        return
    n = len(setup.candidates)
    # At most an eighth of the candidates at once, so that progress shows and little is lost to a kill.
    width = max(1, min(memory_chunk_size(setup.problem, setup.candidates[0], setup.train), n // 8))
    seeds = range(setup.config.truth.seeds)
    chunks = [(seed, begin) for seed in seeds for begin in range(0, n, width)]
    parts: dict[int, list[dict[str, np.ndarray]]] = {seed: [] for seed in seeds}
    for seed, begin in progress.track(chunks, f"truth: {n} candidates x {len(seeds)} seeds on the full data"):
        part = folder / "checkpoints" / f"truth_seed{seed}" / f"{begin:06d}.npz"
        if not part.exists():
            files.write_npz(part, _truth_part(setup, seed, np.arange(begin, begin + width)))
        parts[seed].append(read_arrays(part))
    stacked = {
        name: np.stack([np.concatenate([part[name] for part in parts[seed]])[:n] for seed in seeds])
        for name in ("loss", "accuracy", "test_accuracy", "status")
    }
    seconds = {
        name: sum(float(part[name]) for seed in seeds for part in parts[seed])
        for name in ("seconds", "compile_seconds")
    }
    files.write_npz(path, {"hparams": np.asarray(setup.candidates), **stacked, **seconds})


def _truth_part(setup: Setup, seed: int, index: np.ndarray) -> dict[str, np.ndarray]:
    # The last chunk repeats the last candidate: one shape, one compiled program.
    candidates = setup.candidates[np.minimum(index, len(setup.candidates) - 1)]
    with measured() as elapsed:
        val, test = jax.block_until_ready(
            evaluate_on(
                key_for(TRUTH, seed), setup.problem, candidates, setup.train, (setup.val, setup.test),
                training=setup.training, chunk_size=len(index),
            )
        )  # fmt: skip
    return {
        "loss": np.asarray(val.loss),
        "accuracy": np.asarray(val.accuracy),
        "test_accuracy": np.asarray(test.accuracy),
        "status": np.asarray(val.status & test.status),
        "seconds": np.asarray(elapsed.run),
        "compile_seconds": np.asarray(elapsed.compile),
    }


def rank(setup: Setup, folder: Path, progress: Progress) -> None:
    """Ranks the candidates by every method and seed: `results/<method>_seed<k>.npz`."""
    jobs = [(seed, method) for seed in setup.config.seeds for method in setup.config.methods]
    for seed, method in progress.track(jobs, f"ranking {len(setup.candidates)} candidates by {len(jobs)} rankings"):
        path = folder / "results" / f"{method}_seed{seed}.npz"
        if not path.exists():
            files.write_npz(path, _rank_one(setup, folder, method, seed))


def _rank_one(setup: Setup, folder: Path, method: str, seed: int) -> dict[str, Any]:
    train_half = make_half(setup, train_recipe(setup, method), "train", seed, folder, silent())
    accounts = [train_half.account]
    if METHODS[method].val in RECIPES:
        condensed = load_condensed(folder, method, seed, config_hash=config_hash(setup.config))
        train, val, stored = condensed.train, condensed.val, condensed.card["stored_scalars"]
        val_half = make_half(setup, METHODS[method].val, "val", seed, folder, silent(), method, train)
        accounts.append(val_half.account)
    else:
        count = num_nodes(setup, "val")
        train, val = train_half.batch, setup.val
        if METHODS[method].val == "random_real":
            val = random_val_batch(setup, seed, count)
        stored = sum(leaf.size for leaf in jax.tree.leaves(train_half.variables)) + _real_scalars(setup)
        val_half = None
    scores, elapsed = mean_scores(setup, seed, train, (val,))
    total = {name: sum(float(a[name]) for a in accounts) for name in ("seconds", "compile_seconds", "full_trainings")}
    result = {
        "hparams": np.asarray(setup.candidates),
        **{name: np.asarray(values) for name, values in scores[0]._asdict().items()},
        "seconds_condense": total["seconds"],
        "seconds_rank": elapsed.run,
        "seconds_compile": elapsed.compile + total["compile_seconds"],
        "full_trainings_used": total["full_trainings"],
        "stored_scalars": stored,
        **{"matched_hparams": a["matched"] for a in accounts if "matched" in a},
    }
    if val_half is not None:
        result |= _trace(setup, folder, method, seed, train, val_half.variables)
        _write_adjacency(folder, f"{method}_seed{seed}", train, val)
    return result


def _real_scalars(setup: Setup) -> int:
    """What a rival that validates on real data must keep: all features and edges, since any node may be reached."""
    return setup.data.num_nodes * setup.data.num_features + setup.data.edges.size


def mean_scores(setup: Setup, seed: int, train: Batch, vals: tuple[Batch, ...]) -> tuple[tuple[Scores, ...], Elapsed]:
    """Scores of the candidates on condensed data, averaged over `training.proxy_inits` initialisations.

    A candidate that fails from one initialisation has failed.
    """
    keys = [jax.random.fold_in(key_for(RANK, seed), i) for i in range(setup.config.training.proxy_inits)]
    with measured() as elapsed:
        runs = [evaluate_on(key, setup.problem, setup.candidates, train, vals, training=setup.training) for key in keys]
        means = jax.tree.map(lambda *leaves: np.mean([np.asarray(leaf) for leaf in leaves], 0), *runs)
    return tuple(scores._replace(status=scores.status == 1) for scores in means), elapsed


def _trace(setup, folder, method, seed, train, like) -> dict[str, np.ndarray]:
    """Losses of all candidates on the snapshots of S_val: what the report's held-out rank correlations are made of."""
    name = f"{METHODS[method].val}_val_seed{seed}"
    found = snapshots(folder, name, like)
    if not found:
        return {}
    container = RECIPES[METHODS[method].val].container(setup, num_nodes(setup, "val"))
    decode = jax.jit(container.decode)
    scores, _ = mean_scores(setup, seed, train, tuple(decode(variables) for variables in found.values()))
    return {"trace_steps": np.array(list(found)), "trace_loss": np.stack([s.loss for s in scores])}


def _write_adjacency(folder: Path, name: str, train: Batch, val: Batch) -> None:
    """S' = P_1-propagation weights of both halves, for the figure of the learned graph."""
    arrays = {}
    for part, batch in (("train", train), ("val", val)):
        arrays[part] = np.abs(np.asarray(batch.inputs.edges)[..., 1])
        arrays[f"{part}_labels"] = np.where(np.asarray(batch.weights) > 0, np.asarray(batch.labels), -1)
    files.write_npz(folder / "results" / f"{name}_adjacency.npz", arrays)


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
    candidates = setup.space.sample(jax.random.fold_in(key_for(RANK, seed), 1), num_candidates)
    with measured() as elapsed:
        scores = evaluate(
            key_for(RANK, seed), setup.problem, candidates, condensed.train, condensed.val, training=setup.training
        )
        scores = jax.tree.map(np.asarray, scores)
    order = np.argsort(scores.loss, kind="stable")
    return np.asarray(candidates)[order], jax.tree.map(lambda leaf: leaf[order], scores), elapsed


def write_report(folder: Path) -> dict[str, Any]:
    """Adds what the report needs to know of the cost of a full training, and assembles the report."""
    path = folder / "results" / "info.json"
    if path.exists():
        info = json.loads(path.read_text(encoding="utf-8"))
        files.write_json(path, info | {"full_training_seconds": _full_training_seconds(folder)})
    return report.assemble(folder)


def _full_training_seconds(folder: Path) -> float | None:
    path = folder / "results" / "truth.npz"
    if path.exists():
        arrays = read_arrays(path)
        return float(arrays["seconds"]) / arrays["loss"].size
    targets = sorted((folder / "checkpoints").glob("targets_seed*/*.npz"))
    if not targets:
        return None
    return float(np.mean([read_arrays(target)["training_seconds"] for target in targets]))
