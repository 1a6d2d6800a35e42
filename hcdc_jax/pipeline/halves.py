"""The halves of condensed data sets: made once, kept in `checkpoints/`, taken up again at any step."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from hcdc_jax import checkpoint, files
from hcdc_jax.codec import to_arrays, to_batch, to_tree
from hcdc_jax.condense.base import run as run_condenser
from hcdc_jax.containers import Container, GraphVariables
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.errors import UserError
from hcdc_jax.pipeline.clock import measured
from hcdc_jax.pipeline.recipes.base import Cost, Learner, Recipe, Request, half_key
from hcdc_jax.pipeline.setup import Run
from hcdc_jax.types import Batch, Variables

NUM_PAUSES = 12
"""Checkpoints, log lines and snapshots per condensation: often enough to lose little and to draw a curve."""


class Half(NamedTuple):
    """One finished half of a condensed data set.

    Attributes:
      variables: of its container.
      batch: decoded.
      cost: of making it.
      matched: [m, h] candidates that it was matched on; m may be 0.
    """

    variables: Variables
    batch: Batch
    cost: Cost
    matched: np.ndarray


def make_half(
    run: Run, recipe: Recipe, part: str, seed: int, *, method: str, condensed_train: Batch | None = None
) -> Half:
    """Makes one half, or reads it if it is finished, or goes on where it was interrupted.

    Args:
      run: the run.
      recipe: how it is made.
      part: "train" or "val".
      seed: of the method.
      method: under whose name the steps are logged.
      condensed_train: S_train, for S_val.
    """
    path = _path(run.folder, recipe, part, seed)
    if not path.exists():
        setup = run.setup
        start, container = recipe.start(setup, part, seed), recipe.container(setup, part)
        variables, cost, matched = container.init(half_key(part, seed), start), Cost(), None
        if recipe.learner is not None:
            request = Request(run, part, seed, start, condensed_train)
            variables, cost, matched = _learn(request, recipe.name, recipe.learner, container, variables, method)
        batch = jax.jit(container.decode)(variables)
        if matched is None:
            matched = np.zeros((0, len(setup.space.hparam_names)), np.float32)
        half = Half(variables, batch, cost, matched)
        files.write_npz(path, to_arrays(half))
        checkpoint.clear(_checkpoints(run.folder, recipe.name, part, seed))
    return read_half(run.folder, recipe, part, seed)


def read_half(folder: Path, recipe: Recipe, part: str, seed: int) -> Half:
    """Reads a finished half.

    Raises:
      UserError: it is not there, or its file is damaged.
    """
    path = _path(folder, recipe, part, seed)
    if not path.exists():
        raise UserError(
            f"{folder} does not hold the S_{part} that {recipe.name} makes with seed {seed}: run `hcdc condense` on it "
            "first"
        )
    arrays = read_arrays(path)
    cost = Cost(*(float(arrays[f"cost/{field}"]) for field in Cost._fields))
    tree = to_tree(arrays)
    return Half(_variables(tree["variables"]), to_batch(tree["batch"]), cost, arrays["matched"])


def snapshots(folder: Path, recipe: Recipe, seed: int) -> dict[int, Variables]:
    """The variables of a learned S_val along its condensation, by step; empty if it was not learned."""
    found = sorted(_snapshots(folder, recipe.name, seed).glob("*.npz"))
    return {int(path.stem): _variables(to_tree(read_arrays(path))) for path in found}


class _Saved(NamedTuple):
    """What a checkpoint holds: the condenser's state, and the `Cost` so far as an array."""

    state: Any
    cost: np.ndarray


def _learn(
    request: Request, name: str, learner: Learner, container: Container, variables: Variables, method: str
) -> tuple[Variables, Cost, np.ndarray | None]:
    (setup, folder, progress), part, seed = request.run, request.part, request.seed
    work, condenser, steps = learner.work(request), learner.condenser(setup, container), learner.steps(setup)
    key, place = half_key(part, seed), _checkpoints(folder, name, part, seed)
    saved = _Saved(condenser.init(key, variables, work.data), np.asarray(work.cost))
    done, saved = checkpoint.restore_latest(place, saved) or (0, saved)
    if done == 0:
        _save_snapshot(folder, name, part, seed, 0, saved.state.variables)
    progress.start(f"{name}: S_{part}, seed {seed}", steps, done)
    while done < steps:
        length = min(pause_length(steps), steps - done)
        infos: list[Any] = []
        with measured() as elapsed:
            state = run_condenser(
                key, condenser, saved.state, work.data, start=done, steps=done + length, every=length,
                report=lambda step, state, info, infos=infos: infos.append(info),
            )  # fmt: skip
            jax.block_until_ready(state)
        done += length
        saved = _Saved(state, saved.cost + np.asarray(Cost(elapsed.run, elapsed.compile)))
        last = {field: float(values[-1]) for field, values in infos[0]._asdict().items()}
        record = {"stage": "condense", "method": method, "part": part, "seed": seed, "step": done}
        files.append_jsonl(folder / "metrics.jsonl", record | last)
        _save_snapshot(folder, name, part, seed, done, state.variables)
        checkpoint.save(place, done, saved)
        progress.update(done)
    if _equal(saved.state.variables, variables):
        progress.say(f"{name}: S_{part}, seed {seed}, is still what it started as; metrics.jsonl may say why")
    return saved.state.variables, Cost(*saved.cost.tolist()), work.matched


def pause_length(steps: int) -> int:
    """Steps of one compiled call: about `NUM_PAUSES` calls, all of one length if they can, since each is compiled."""
    lengths = range(max(steps // (2 * NUM_PAUSES), 1), max(2 * steps // NUM_PAUSES, 1) + 1)
    even = [length for length in lengths if steps % length == 0]
    return min(even or lengths, key=lambda length: abs(length - steps / NUM_PAUSES))


def _equal(a: Variables, b: Variables) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def _save_snapshot(folder: Path, name: str, part: str, seed: int, step: int, variables: Variables) -> None:
    if part == "val":  # curves are drawn of S_val only
        files.write_npz(_snapshots(folder, name, seed) / f"{step:06d}.npz", to_arrays(variables))


def _variables(tree: dict[str, Any]) -> GraphVariables:
    """`GraphVariables` from their codec, which stores nothing for an empty structure."""
    return GraphVariables(tree["features"], tree.get("structure", ()), tree["labels"], tree["weights"])


def _path(folder: Path, recipe: Recipe, part: str, seed: int) -> Path:
    return folder / "checkpoints" / f"{recipe.name}_{part}_seed{seed}.npz"


def _checkpoints(folder: Path, name: str, part: str, seed: int) -> Path:
    return folder / "checkpoints" / f"{name}_{part}_seed{seed}"


def _snapshots(folder: Path, name: str, seed: int) -> Path:
    return folder / "checkpoints" / "snapshots" / f"{name}_seed{seed}"
