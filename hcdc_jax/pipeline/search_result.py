"""What a search found and what it cost: the content of `search_<method>.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from hcdc_jax import metrics
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.pipeline import recipes
from hcdc_jax.pipeline.clock import Elapsed
from hcdc_jax.pipeline.condensed_parts import Place, read_part
from hcdc_jax.pipeline.copies import copies
from hcdc_jax.pipeline.hcdc.targets import Matched
from hcdc_jax.pipeline.recipes.base import Cost, Recipe
from hcdc_jax.pipeline.recipes.hcdc import pays_for_hypergradients
from hcdc_jax.pipeline.reporting import full_training_seconds
from hcdc_jax.pipeline.setup import Run, Setup
from hcdc_jax.pipeline.taught.taught_parts import teachers_of, train_place
from hcdc_jax.progress import silent
from hcdc_jax.search import Halving, History, break_even
from hcdc_jax.training.candidates import Scores


class Found(NamedTuple):
    """The first stage: all candidates, the places of the best different ones, and its time."""

    history: History
    places: np.ndarray
    elapsed: Elapsed


class Retrained(NamedTuple):
    """The second stage: candidates [k, h], their scores on the real validation and test parts, and its time.

    Attributes:
      hparams: [k, h].
      val: on the real validation part.
      test: on the real test part.
      elapsed: of the trainings.
      with_hypergradients: whether that holds hypergradients, so that it says nothing of a training alone.
      given_up: what trainings that were given up midway took, in full trainings; their time is in `elapsed`.
    """

    hparams: np.ndarray
    val: Scores
    test: Scores
    elapsed: Elapsed
    with_hypergradients: bool = False
    given_up: float = 0.0


class Rival(NamedTuple):
    """Successive halving on the full data, the score of its winner on the test part, and its time."""

    halving: Halving
    test: Scores
    elapsed: Elapsed


def outcome(
    setup: Setup, folder: Path, found: Found, retrained: Retrained | None, rival: Rival | None
) -> dict[str, Any]:
    """What was found, by us and by the rival, and how far it is from the best of the truth."""
    history, best = found.history, _best_of_truth(folder)

    def named(hparams: np.ndarray) -> dict[str, float]:
        return dict(zip(setup.space.hparam_names, np.asarray(hparams).tolist(), strict=True))

    def chosen(hparams: np.ndarray, val_loss: Any, test: Scores) -> dict[str, Any]:
        accuracy = float(test.accuracy)
        return {
            "hparams": named(hparams),
            "settings": setup.space.settings(hparams),
            "val_loss": float(val_loss),
            "test_loss": float(test.loss),
            "test_accuracy": accuracy,
            "regret_test_accuracy": None if best is None else 100 * (best - accuracy),
        }

    selected, halving, finalists = None, None, []
    if retrained is not None:
        finalists = [
            {
                "hparams": named(retrained.hparams[i]),
                "val_loss": float(retrained.val.loss[i]),
                "val_accuracy": float(retrained.val.accuracy[i]),
                "test_accuracy": float(retrained.test.accuracy[i]),
            }
            for i in range(len(retrained.hparams))
        ]
        i = int(np.argmin(retrained.val.loss))
        test = jax.tree.map(lambda leaf: leaf[i], retrained.test)
        if np.isfinite(retrained.val.loss[i]):  # else all of them diverged
            selected = chosen(retrained.hparams[i], retrained.val.loss[i], test)
    if rival is not None:
        halving = chosen(rival.halving.winner, rival.halving.loss, rival.test)
    return {
        "candidates": len(history.loss),
        "failed": int((~history.status).sum()),
        "best": found.places.tolist(),
        "finalists": finalists,
        "selected": selected,
        "successive_halving": halving,
        "truth": None if best is None else {"best_test_accuracy": best},
    }


def price(
    setup: Setup,
    folder: Path,
    card: Mapping[str, Any],
    found: Found,
    retrained: Retrained | None,
    rival: Rival | None,
    matched: Matched | None = None,
) -> dict[str, Any]:
    """Time and full trainings of every part, and from how many candidates on they are worth it.

    Args:
      setup: the run.
      folder: of the run.
      card: of the condensed data that was searched on.
      found: the first stage.
      retrained: the second stage, if there was one.
      rival: successive halving, if it was run.
      matched: full trainings that the search itself began from; charged as far as the condensed data has not paid them.
    """
    cost = _condense_cost(setup, folder, card["method"], card["seed"])
    if cost is not None and matched is not None:
        cost = cost if cost.full_trainings else cost.plus(matched.cost)
        cost = cost if pays_for_hypergradients(setup, card["method"]) else cost.plus(matched.gradient_cost)
    count = 0 if retrained is None else len(retrained.hparams)
    parts = {"search": found.elapsed}
    trainings = {
        "condense": None if cost is None else cost.full_trainings,
        "retrain": float(count) + (0.0 if retrained is None else retrained.given_up),
    }
    seen = [full_training_seconds(folder)]
    if retrained is not None:
        parts["retrain"] = retrained.elapsed
        if not retrained.with_hypergradients:
            seen.append(retrained.elapsed.run / count)
    if rival is not None:
        parts["successive_halving"] = rival.elapsed
        trainings["successive_halving"] = rival.halving.full_trainings
        seen.append(rival.elapsed.run / rival.halving.full_trainings)
    # The fastest way of training in full that was seen: it is what a rival would use.
    full = min((seconds for seconds in seen if seconds is not None), default=None)
    pays = None
    if full is not None and cost is not None:
        # Finalists count as one even where none was trained: a search that ends without a network has not ended.
        untimed = cost.full_trainings - cost.timed_trainings
        spent, each = cost.seconds + untimed * full, found.elapsed.run / len(found.history.loss)
        if retrained is not None and retrained.with_hypergradients:
            spent += max(retrained.elapsed.run - count * full, 0.0)
        pays = {
            "all_in_full": metrics.break_even(spent, each, full, max(count, 1)),
            "successive_halving": break_even(spent, each, full, setup.training.steps, retrained=max(count, 1)),
        }
    return {
        "seconds": {"condense": None if cost is None else cost.seconds}
        | {name: elapsed.run for name, elapsed in parts.items()},
        "compile_seconds": {"condense": None if cost is None else cost.compile_seconds}
        | {name: elapsed.compile for name, elapsed in parts.items()},
        "full_training_seconds": full,
        "full_trainings": trainings,
        "break_even_candidates": pays,
    }


def _best_of_truth(folder: Path) -> float | None:
    """The highest test accuracy that the truth's candidates have from its first seed; None without a truth."""
    path = folder / "results" / "truth.npz"
    if not path.exists():
        return None
    arrays = read_arrays(path)
    return float(np.where(arrays["status"][0], arrays["test_accuracy"][0], 0.0).max())


def _condense_cost(setup: Setup, folder: Path, method: str, seed: int) -> Cost | None:
    """What both parts of condensed data took to make; None where the run folder does not hold them."""
    val = recipes.get(setup.config, method).val
    if not isinstance(val, Recipe):
        return None
    places = [train_place(folder, setup.config, method, seed), Place(folder, val.name, "val", seed)]
    if not all(place.finished.exists() for place in places):
        return None
    ours, theirs = (read_part(place).cost for place in places)
    cost = ours.plus(theirs)
    for copy in copies(Run(setup, folder, silent())):
        if copy.of == seed:
            again = _condense_cost(copy.run.setup, copy.run.folder, method, copy.seed) or Cost()
            if theirs.full_trainings:  # which the copy has found
                again = again._replace(full_trainings=0.0, timed_trainings=0.0)
            cost = cost.plus(again)
    if recipes.is_taught(setup.config, method) and not theirs.full_trainings:
        cost = cost.plus(teachers_of(Run(setup, folder, silent()), seed).cost)
    return cost
