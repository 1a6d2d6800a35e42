"""The condense stage: every half that the methods of a run need, each made once, resumable at any step."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax import checkpoint, files
from hcdc_jax.artefact import save_condensed
from hcdc_jax.condense.base import run
from hcdc_jax.config import config_hash
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.pipeline.clock import measured
from hcdc_jax.pipeline.progress import Progress
from hcdc_jax.pipeline.recipes import METHODS, RECIPES, Recipe, Request, Work, num_nodes, recipe_key
from hcdc_jax.pipeline.setup import Setup
from hcdc_jax.types import Batch, Variables

# Checkpoints, log lines and snapshots per condensation: often enough to lose little and to draw a curve.
NUM_PAUSES = 12


class Half(NamedTuple):
    """One finished half of a condensed data set.

    Attributes:
      variables: of its container.
      batch: decoded.
      account: seconds, compile_seconds, training_seconds, full_trainings and, of HCDC, matched [m, h].
    """

    variables: Variables
    batch: Batch
    account: dict[str, np.ndarray]


def train_recipe(setup: Setup, method: str) -> str:
    """The recipe that makes a method's S_train."""
    own = METHODS[method].train
    return own if own is not None else METHODS[setup.config.hcdc.train_method].train or "random"


def condense(setup: Setup, folder: Path, progress: Progress) -> None:
    """Makes the artefacts of all methods and seeds of a run; what is finished is not made again."""
    for seed in setup.config.seeds:
        for method in setup.config.methods:
            train = make_half(setup, train_recipe(setup, method), "train", seed, folder, progress, method)
            if METHODS[method].val not in RECIPES:
                continue  # a rival that validates on real data
            val = make_half(setup, METHODS[method].val, "val", seed, folder, progress, method, train.batch)
            save_condensed(
                folder,
                method=method,
                seed=seed,
                train=train.batch,
                val=val.batch,
                variables={"train": train.variables._asdict(), "val": val.variables._asdict()},
                config_hash=config_hash(setup.config),
                source={"name": setup.data.name, "checksum": setup.data.checksum},
                preprocessing=f"nodes hold {setup.config.space.basis} filter terms P_0 X ... P_{setup.config.space.order} X",
            )


def make_half(
    setup: Setup,
    recipe_name: str,
    part: str,
    seed: int,
    folder: Path,
    progress: Progress,
    method: str = "",
    condensed_train: Batch | None = None,
) -> Half:
    """Makes one half, or reads it if it is finished, or goes on where it was interrupted.

    Args:
      setup: the run.
      recipe_name: in `RECIPES`.
      part: "train" or "val".
      seed: of the method.
      folder: of the run.
      progress: told what is going on.
      method: whose log lines these are.
      condensed_train: S_train, for S_val.
    """
    recipe = RECIPES[recipe_name]
    name = f"{recipe_name}_{part}_seed{seed}"
    path = folder / "checkpoints" / f"{name}.npz"
    request = Request(setup, part, seed, condensed_train, folder / "checkpoints", progress)
    start = recipe.start(request)
    container = recipe.container(setup, num_nodes(setup, part))
    variables = container.init(recipe_key(part, seed), start)
    decode = jax.jit(container.decode)
    if path.exists():
        arrays = read_arrays(path)
        leaves = [jnp.asarray(arrays.pop(f"leaf{i:03d}")) for i in range(len(jax.tree.leaves(variables)))]
        variables = jax.tree.unflatten(jax.tree.structure(variables), leaves)
        return Half(variables, decode(variables), arrays)
    account = {"seconds": 0.0, "compile_seconds": 0.0, "training_seconds": 0.0, "full_trainings": 0}
    if recipe.condenser is not None:
        variables, account = _learn(request, recipe, container, variables, start, folder, name, method)
    arrays = {key: np.asarray(value) for key, value in account.items()}
    leaves = {f"leaf{i:03d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(variables))}
    files.write_npz(path, leaves | arrays)
    checkpoint.clear(folder / "checkpoints" / name)
    return Half(variables, decode(variables), arrays)


def _learn(
    request: Request, recipe: Recipe, container, variables, start, folder: Path, name: str, method: str
) -> tuple[Variables, dict[str, Any]]:
    setup, progress = request.setup, request.progress
    assert recipe.condenser is not None and recipe.work is not None
    with measured() as preparing:
        work: Work = jax.block_until_ready(recipe.work(request, start))
    condenser, steps = recipe.condenser(setup, container), recipe.steps(setup)
    key = recipe_key(request.part, request.seed)
    # Targets are timed where they are made: here they may have been read from disk.
    own = preparing.run if not work.full_trainings else 0.0
    state = condenser.init(key, variables, work.data)
    seconds = np.array([own + work.seconds, preparing.compile + work.compile_seconds])
    saved = checkpoint.restore_latest(folder / "checkpoints" / name, {"state": state, "seconds": seconds})
    done = 0
    if saved is not None:
        done, (state, seconds) = saved[0], (saved[1]["state"], np.asarray(saved[1]["seconds"]))
    pause = max(steps // NUM_PAUSES, 1)
    progress.start(f"{name}: matching", steps)
    if done == 0:
        _snapshot(folder, name, 0, state)
    while done < steps:
        logged: list[tuple[int, Any]] = []
        length = min(pause, steps - done)
        with measured() as matching:
            state = run(
                key, condenser, state, work.data, start=done, steps=done + length, every=length,
                report=lambda step, _, infos: logged.append((step, infos)),
            )  # fmt: skip
            jax.block_until_ready(state)
        done += length
        seconds = seconds + [matching.run, matching.compile]
        _log(folder, method, request, logged)
        _snapshot(folder, name, done, state)
        checkpoint.save(folder / "checkpoints" / name, done, {"state": state, "seconds": seconds})
        progress.update(done)
    account = {
        "seconds": float(seconds[0]),
        "compile_seconds": float(seconds[1]),
        "training_seconds": work.training_seconds,
        "full_trainings": work.full_trainings,
    }
    return state.variables, account | ({} if work.matched is None else {"matched": work.matched})


def _log(folder: Path, method: str, request: Request, logged: list[tuple[int, Any]]) -> None:
    for step, infos in logged:
        last = {field: float(values[-1]) for field, values in infos._asdict().items()}
        record = {"stage": "condense", "method": method, "part": request.part, "seed": request.seed, "step": step}
        files.append_jsonl(folder / "metrics.jsonl", record | last)


def _snapshot(folder: Path, name: str, step: int, state: Any) -> None:
    leaves = {f"leaf{i:03d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state.variables))}
    files.write_npz(folder / "checkpoints" / "snapshots" / name / f"{step:06d}.npz", leaves)


def snapshots(folder: Path, name: str, like: Variables) -> dict[int, Variables]:
    """The variables of one half along its condensation, by step."""
    structure = jax.tree.structure(like)
    found = {}
    for path in sorted((folder / "checkpoints" / "snapshots" / name).glob("*.npz")):
        arrays = read_arrays(path)
        found[int(path.stem)] = jax.tree.unflatten(structure, [jnp.asarray(arrays[k]) for k in sorted(arrays)])
    return found
