"""The halves of condensed data sets: made once, kept in `checkpoints/`, taken up again at any step."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from hcdc_jax import checkpoint, files
from hcdc_jax.codec import to_arrays, to_batch, to_tree
from hcdc_jax.condense.base import run as run_condenser
from hcdc_jax.containers import Container, GraphVariables, ImageVariables
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.errors import UserError
from hcdc_jax.pipeline.clock import measured
from hcdc_jax.pipeline.recipes.base import Cost, Learner, Recipe, Request, Trial, half_key
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


class Place(NamedTuple):
    """Where one half lies in a run folder.

    Attributes:
      folder: of the run.
      recipe: name of the recipe that makes it.
      part: "train" or "val".
      seed: of the method.
    """

    folder: Path
    recipe: str
    part: str
    seed: int

    def __str__(self) -> str:
        return f"S_{self.part} of {self.recipe}, seed {self.seed}"

    @property
    def finished(self) -> Path:
        """The file of the finished half."""
        return self.folder / "checkpoints" / f"{self.recipe}_{self.part}_seed{self.seed}.npz"

    @property
    def checkpoints(self) -> Path:
        """The folder of its checkpoints, until it is finished."""
        return self.finished.with_suffix("")

    @property
    def snapshots(self) -> Path:
        """The folder of what it looked like on its way."""
        return self.folder / "checkpoints" / "snapshots" / f"{self.recipe}_{self.part}_seed{self.seed}"


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
    place = Place(run.folder, recipe.name, part, seed)
    if not place.finished.exists():
        setup = run.setup
        start, container = recipe.start(setup, part, seed), recipe.container(setup, part)
        variables = container.init(half_key(part, seed), start)
        cost, matched = Cost(), None
        if recipe.learner is not None:
            request = Request(run, part, seed, start, condensed_train)
            variables, cost, matched = _learn(request, place, recipe.learner, container, variables, method)
        if matched is None:
            matched = np.zeros((0, len(setup.space.hparam_names)), np.float32)
        decode = (recipe.finished or recipe.container)(setup, part).decode
        half = Half(variables, jax.jit(decode)(variables), cost, matched)
        files.write_npz(place.finished, to_arrays(half))
        checkpoint.clear(place.checkpoints)
    return read_half(place)


def read_half(place: Place) -> Half:
    """Reads a finished half.

    Raises:
      UserError: it is not there, or its file is damaged.
    """
    if not place.finished.exists():
        raise UserError(f"{place.folder} does not hold {place}: run `hcdc condense` on it first")
    arrays = read_arrays(place.finished)
    cost = Cost(*(float(arrays[f"cost/{field}"]) for field in Cost._fields))
    tree = to_tree(arrays)
    return Half(_variables(tree["variables"]), to_batch(tree["batch"]), cost, arrays["matched"])


def trial_of(run: Run, seed: int, train: Half) -> Trial:
    """What a rival without S_val is asked, given the S_train of the run."""
    return Trial(run, seed, train.batch, sum(leaf.size for leaf in jax.tree.leaves(train.variables)))


def snapshots(place: Place) -> dict[int, Variables]:
    """The variables of a learned S_val along its condensation, by step; empty if it was not learned."""
    found = sorted(place.snapshots.glob("*.npz"))
    return {int(path.stem): _variables(to_tree(read_arrays(path))) for path in found}


class _Saved(NamedTuple):
    """What a checkpoint holds: the condenser's state, and the `Cost` so far as an array."""

    state: Any
    cost: np.ndarray


def _learn(
    request: Request, place: Place, learner: Learner, container: Container, variables: Variables, method: str
) -> tuple[Variables, Cost, np.ndarray | None]:
    setup, folder, progress = request.run
    work, condenser, steps = learner.work(request), learner.condenser(setup, container), learner.steps(setup)
    key = half_key(place.part, place.seed)
    saved = _Saved(condenser.init(key, variables, work.data), np.asarray(work.cost))
    done, saved = checkpoint.restore_latest(place.checkpoints, saved) or (0, saved)
    if done == 0:
        _save_snapshot(place, 0, variables)
    progress.start(str(place), steps, done)
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
        record = {"stage": "condense", "method": method, "part": place.part, "seed": place.seed, "step": done}
        files.append_jsonl(folder / "metrics.jsonl", record | last)
        _save_snapshot(place, done, state.variables)
        checkpoint.save(place.checkpoints, done, saved)
        progress.update(done)
    if _equal(saved.state.variables, variables):
        progress.say(f"{place}, is still what it started as; metrics.jsonl may say why")
    return saved.state.variables, Cost(*saved.cost.tolist()), work.matched


def pause_length(steps: int) -> int:
    """Steps of one compiled call: about `NUM_PAUSES` calls, all of one length if they can, since each is compiled."""
    lengths = range(max(steps // (2 * NUM_PAUSES), 1), max(2 * steps // NUM_PAUSES, 1) + 1)
    even = [length for length in lengths if steps % length == 0]
    return min(even or lengths, key=lambda length: abs(length - steps / NUM_PAUSES))


def _equal(a: Variables, b: Variables) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def _save_snapshot(place: Place, step: int, variables: Variables) -> None:
    if place.part == "val":  # curves are drawn of S_val only
        files.write_npz(place.snapshots / f"{step:06d}.npz", to_arrays(variables))


def _variables(tree: dict[str, Any]) -> GraphVariables | ImageVariables:
    """Variables of either container from their codec, which stores nothing for an empty structure."""
    if "pixels" in tree:
        return ImageVariables(**tree)
    return GraphVariables(tree["features"], tree.get("structure", ()), tree["labels"], tree["weights"])
