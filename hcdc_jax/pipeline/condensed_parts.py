"""The parts of condensed data sets: made once, kept in `checkpoints/`, taken up again at any step."""

from __future__ import annotations

import functools
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from hcdc_jax.condense.base import Condenser, has_diverged, learned_fields
from hcdc_jax.condense.base import run as run_condenser
from hcdc_jax.containers import GraphVariables, HMNVariables, ImageVariables, ViewVariables
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.errors import DivergedError, UserError
from hcdc_jax.pipeline.clock import measured
from hcdc_jax.pipeline.pruning import pruned
from hcdc_jax.pipeline.recipes.base import Cost, LearnedVal, Learner, RankRequest, Recipe, Request, part_key
from hcdc_jax.pipeline.scoring import networks_on, rank_keys
from hcdc_jax.pipeline.setup import Run, Start
from hcdc_jax.progress import Progress
from hcdc_jax.storage import checkpoint, files
from hcdc_jax.storage.codec import to_arrays, to_batch, to_tree
from hcdc_jax.training.train import all_finite
from hcdc_jax.types import Array, Batch, Variables

NUM_PAUSES = 12
"""Checkpoints, log lines and snapshots per condensation: often enough to lose little and to draw a curve."""
MOST_PER_CALL = 100
"""Steps between two words of progress at most: on images seconds, where a pause may take an hour."""


class CondensedPart(NamedTuple):
    """One finished part of a condensed data set.

    Attributes:
      variables: of its container.
      batch: decoded.
      cost: of making it.
      matched: [m, h] candidates that it was matched on; m may be 0.
      facts: numbers by name that were learned besides, for the card.
      pruning: see `pruning.Outcome`; empty where nothing was pruned.
      why: it is not finite, in words, and what to change; None where it is.
    """

    variables: Variables
    batch: Batch
    cost: Cost
    matched: np.ndarray
    facts: dict[str, float]
    pruning: dict[str, np.ndarray]
    why: str | None = None

    @property
    def diverged(self) -> bool:
        """Whether its condensation did, or that of what it builds on."""
        return self.why is not None


class Place(NamedTuple):
    """Where one condensed part lies in a run folder.

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
        """The file of the finished condensed part."""
        return self.folder / "checkpoints" / f"{self.recipe}_{self.part}_seed{self.seed}.npz"

    @property
    def checkpoints(self) -> Path:
        """The folder of its checkpoints, until it is finished."""
        return self.finished.with_suffix("")

    @property
    def over_budget(self) -> Path:
        """The file of what was learned, before the surplus went; it stays, so that others may prune it otherwise."""
        return self.finished.with_name(f"{self.finished.stem}_over_budget.npz")

    @property
    def pruning(self) -> Path:
        """The folder of what pruning has found out, until it is finished."""
        return self.finished.with_name(f"{self.finished.stem}_pruning")

    @property
    def snapshots(self) -> Path:
        """The folder of what it looked like on its way."""
        return self.folder / "checkpoints" / "snapshots" / f"{self.recipe}_{self.part}_seed{self.seed}"


def make_part(
    run: Run,
    recipe: Recipe,
    part: str,
    seed: int,
    *,
    method: str,
    condensed_train: CondensedPart | None = None,
    relabel: Callable[[Start], Start] | None = None,
) -> CondensedPart:
    """Makes one condensed part, or reads it if it is finished, or goes on where it was interrupted.

    Args:
      run: the run.
      recipe: how it is made.
      part: "train" or "val".
      seed: of the method.
      method: under whose name the steps are logged.
      condensed_train: S_train, for S_val; where it diverged nothing is learned, and S_val is as little there.
      relabel: gives what the part starts from its labels; it keeps them if not given.
    """
    place = Place(run.folder, recipe.name, part, seed)
    if not place.finished.exists():
        setup = run.setup
        start = recipe.start(setup, part, seed)
        start = start if relabel is None else relabel(start)
        if recipe.learner is None:
            learned = _Learned(recipe.container(setup, part).init(part_key(part, seed), start), Cost(), None, {}, {})
        elif condensed_train is not None and condensed_train.diverged:
            lost = _nowhere(recipe.container(setup, part).init(part_key(part, seed), start))
            learned = _Learned(lost, Cost(), None, {}, {}, condensed_train.why)
        else:
            batch = None if condensed_train is None else condensed_train.batch
            request = Request(run, part, seed, start, batch)
            with jax.enable_x64(recipe.learner.dtype == "float64"):
                learned = _learn(request, place, recipe, recipe.learner, method)
            if setup.kind.surplus(setup, part):
                learned = _pruned(run, place, recipe, learned)
        matched = learned.matched
        if matched is None:
            matched = np.zeros((0, len(setup.space.hparam_names)), np.float32)
        decode = (recipe.finished or recipe.container)(setup, part).decode
        batch = jax.jit(decode)(learned.variables)
        condensed_part = CondensedPart(
            learned.variables, batch, learned.cost, matched, learned.facts, learned.pruning, learned.why
        )
        files.write_npz(place.finished, to_arrays(condensed_part))
        checkpoint.clear(place.checkpoints)
        shutil.rmtree(place.pruning, ignore_errors=True)
    return read_part(place)


def read_part(place: Place) -> CondensedPart:
    """Reads a finished condensed part.

    Raises:
      UserError: it is not there, or its file is damaged.
    """
    if not place.finished.exists():
        raise UserError(f"{place.folder} does not hold {place}: run `hcdc condense` on it first")
    arrays = read_arrays(place.finished)
    why = arrays.pop("why", None)
    # Folders of older versions know nothing of `timed_trainings`.
    cost = Cost(*(float(arrays.get(f"cost/{field}", 0.0)) for field in Cost._fields))
    tree = to_tree(arrays)
    facts = {name: float(value) for name, value in tree.get("facts", {}).items()}
    pruning = {name: np.asarray(values) for name, values in tree.get("pruning", {}).items()}
    variables = _variables(tree["variables"])
    if why is None and not all_finite(variables):
        why = f"{place}, has diverged; lower its rate and run in a new folder"
    words = None if why is None else str(why)
    return CondensedPart(variables, to_batch(tree["batch"]), cost, arrays["matched"], facts, pruning, words)


def read_over_budget(place: Place) -> Variables:
    """What was learned of a condensed part that was pruned then.

    Raises:
      UserError: it was not, or the file is damaged.
    """
    if not place.over_budget.exists():
        raise UserError(f"{place.folder} holds no {place}, before pruning: run `hcdc condense` with [pruning] first")
    return _variables(to_tree(read_arrays(place.over_budget))["variables"])


def rank_request(run: Run, seed: int, train: CondensedPart) -> RankRequest:
    """What a rival without S_val is asked, given the S_train of the run."""
    setup = run.setup
    networks = functools.cache(lambda: networks_on(setup, rank_keys(setup, seed), setup.candidates, train.batch))

    def learned(recipe: str) -> LearnedVal:
        condensed_part = read_part(Place(run.folder, recipe, "val", seed))
        return LearnedVal(condensed_part.batch, _scalars(condensed_part), condensed_part.cost, condensed_part.matched)

    return RankRequest(run, seed, train.batch, _scalars(train), networks, learned)


def _scalars(condensed_part: CondensedPart) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(condensed_part.variables))


def snapshots(place: Place) -> dict[int, Variables]:
    """The variables of a learned S_val along its condensation, by step; empty if it was not learned."""
    found = sorted(place.snapshots.glob("*.npz"))
    return {int(path.stem): _variables(to_tree(read_arrays(path))) for path in found}


class _Saved(NamedTuple):
    """What a checkpoint holds: the condenser's state, and the `Cost` so far as an array."""

    state: Any
    cost: np.ndarray


class _Learned(NamedTuple):
    """What learning leaves: see `CondensedPart`."""

    variables: Variables
    cost: Cost
    matched: np.ndarray | None
    facts: dict[str, float]
    pruning: dict[str, np.ndarray]
    why: str | None = None


def _pruned(run: Run, place: Place, recipe: Recipe, learned: _Learned) -> _Learned:
    """Without what is over the budget. The last checkpoint stays until this is done: nothing is learned twice."""
    container = recipe.container(run.setup, place.part)
    files.write_npz(place.over_budget, to_arrays({"variables": learned.variables}))
    found = pruned(run, place.seed, container, learned.variables, place.pruning, str(place))
    return learned._replace(
        variables=found.variables,
        cost=learned.cost.plus(found.cost),
        facts=learned.facts | found.facts,
        pruning=found.arrays,
    )


def _learn(request: Request, place: Place, recipe: Recipe, learner: Learner, method: str) -> _Learned:
    setup, folder, progress = request.run
    container = recipe.container(setup, place.part)
    variables = container.init(part_key(place.part, place.seed), request.start)
    try:
        work = learner.work(request)
    except DivergedError as error:
        why = f"{place}, learns nothing: {error}"
        progress.say(why)
        return _Learned(_nowhere(variables), Cost(), None, {}, {}, why)
    condenser, steps = learner.condenser(work.setup or setup, container), learner.steps(work.setup or setup)
    key = part_key(place.part, place.seed)
    saved = _Saved(condenser.init(key, variables, work.data), np.asarray(work.cost))
    done, saved = checkpoint.restore_latest(place.checkpoints, saved) or (0, saved)
    if done == 0:
        _save_snapshot(place, 0, variables)
    progress.start(str(place), steps, done)
    first, skipped, why = done, 0.0, None
    while done < steps:
        length = min(pause_length(steps), steps - done)
        with measured() as elapsed:
            state, infos = _advanced(key, condenser, saved.state, work.data, done, length, progress)
        done += length
        saved = _Saved(state, saved.cost + np.asarray(Cost(elapsed.run, elapsed.compile)))
        record = {"stage": "condense", "method": method, "part": place.part, "seed": place.seed, "step": done}
        said = _summary(infos)
        skipped += said.get("skipped", 0.0)
        files.append_jsonl(folder / "metrics.jsonl", record | said)
        if has_diverged(state.variables, variables):
            why = f"{place}, diverged by step {done} of {steps}; lower {learner.rate} and run in a new folder"
            progress.say(why)
            saved = _Saved(state._replace(variables=_nowhere(state.variables)), saved.cost)
            break
        _save_snapshot(place, done, state.variables)
        checkpoint.save(place.checkpoints, done, saved)
        progress.update(done)
    if skipped:
        progress.say(
            f"{place}: {skipped:.0f} of {done - first} steps diverged and were left out; if they are many, lower "
            f"{learner.rate}"
        )
    if _equal(saved.state.variables, variables):
        progress.say(f"{place}, is still what it started as; metrics.jsonl may say why")
    facts = {**work.facts, **learner.facts(saved.state)}
    return _Learned(_single(saved.state.variables), Cost(*saved.cost.tolist()), work.matched, facts, {}, why)


def _advanced(
    key: Array, condenser: Condenser, state: Any, data: Any, done: int, length: int, progress: Progress
) -> tuple[Any, Any]:
    """The state after `length` more steps, and what they said, stacked."""
    infos: list[Any] = []

    def tell(step: int, state: Any, info: Any) -> None:
        del state
        infos.append(jax.block_until_ready(info))
        if step < done + length:  # the last step is told once it is on disk
            progress.update(step)

    state = run_condenser(
        key, condenser, state, data, start=done, steps=done + length, every=call_length(length), report=tell
    )
    return jax.block_until_ready(state), jax.tree.map(lambda *parts: np.concatenate(parts), *infos)


def _summary(infos: Any) -> dict[str, float]:
    """What the last of some steps said, and how many of them were left out."""
    said = infos._asdict()
    return {name: float(values.sum() if name == "skipped" else values[-1]) for name, values in said.items()}


def pause_length(steps: int) -> int:
    """Steps up to a checkpoint: about `NUM_PAUSES` pauses, all of one length if they can, since each is compiled."""
    lengths = range(max(steps // (2 * NUM_PAUSES), 1), max(2 * steps // NUM_PAUSES, 1) + 1)
    even = [length for length in lengths if steps % length == 0]
    return min(even or lengths, key=lambda length: abs(length - steps / NUM_PAUSES))


def call_length(length: int) -> int:
    """Of `length` steps so many go into one compiled call, so that long condensations tell how far they are."""
    return max(part for part in range(1, min(length, MOST_PER_CALL) + 1) if length % part == 0)


def _single(variables: Variables) -> Variables:
    """Variables with no number in double precision."""
    return jax.tree.map(lambda leaf: leaf.astype(np.float32) if leaf.dtype == np.float64 else leaf, variables)


def _nowhere(variables: Variables) -> Variables:
    """Variables of which nothing that was learned is left: on NaN every candidate fails, and is reported so."""
    return variables._replace(**jax.tree.map(lambda leaf: np.nan * leaf, learned_fields(variables)))


def _equal(a: Variables, b: Variables) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def _save_snapshot(place: Place, step: int, variables: Variables) -> None:
    if place.part == "val":  # curves are drawn of S_val only
        files.write_npz(place.snapshots / f"{step:06d}.npz", to_arrays(_single(variables)))


def _variables(tree: dict[str, Any]) -> Variables:
    """Variables of a container from their codec, which stores nothing for an empty structure."""
    if "images" in tree:
        return ViewVariables(_variables(tree["images"]), tree["labels"], tree["key"])
    if "instance_memories" in tree:
        return HMNVariables(**tree)
    if "pixels" in tree:
        return ImageVariables(**tree)
    if "features" in tree:
        return GraphVariables(tree["features"], tree.get("structure", ()), tree["labels"], tree["weights"])
    return _by_name(tuple(tree))(**tree)


@functools.cache
def _by_name(fields: tuple[str, ...]) -> Any:
    """The form of variables whose container a plugin brings: decoding reads them by name."""
    return namedtuple("Variables", fields)
