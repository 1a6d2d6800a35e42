"""Search in two stages: on the condensed data of a run, then the best candidates on the full data."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from hcdc_jax.condensed import Condensed, load_condensed
from hcdc_jax.config import config_hash
from hcdc_jax.config.plans import SearchPlan
from hcdc_jax.errors import UserError
from hcdc_jax.pipeline.calibrating import search_calibrated
from hcdc_jax.pipeline.clock import measured
from hcdc_jax.pipeline.copies import condensed_copies
from hcdc_jax.pipeline.folder import FINGERPRINTS, describe
from hcdc_jax.pipeline.hcdc.beginnings import unmatched, why_not
from hcdc_jax.pipeline.hcdc.shifts import on_condensed, stated
from hcdc_jax.pipeline.scoring import descent_options, fitting_at_once, mean_of, mean_scores, rank_keys
from hcdc_jax.pipeline.search_result import Found, Retrained, Rival, outcome, price
from hcdc_jax.pipeline.setup import SEARCH, TRUTH, Run, Setup, check_in_memory, key_for
from hcdc_jax.progress import Progress, silent
from hcdc_jax.registry import first_line
from hcdc_jax.search import SEARCHES, History, in_batches, open_study, rungs, successive_halving
from hcdc_jax.storage import files
from hcdc_jax.training.candidates import Scores, evaluate_on, score
from hcdc_jax.types import Array

CALIBRATED = "calibrated"
"""Name of the search that reads more than condensed data, and so is none of `search.SEARCHES`."""

TOP = {CALIBRATED: 6}
"""How many are trained in full where the plan does not say: one, or what a method needs to learn where it was wrong."""

APART = 0.1
"""Prior standard deviations within which candidates are one: full trainings of both would say the same."""

LISTED = 10
"""Best candidates that are named in the result at least."""

_ARTEFACT = re.compile(r"(?P<method>.+)_seed(?P<seed>\d+)")


def searches() -> dict[str, str]:
    """The searches that a plan can name, each with one line about it."""
    of_all = {CALIBRATED: "each full training is chosen by what those before have told"}
    return of_all | {name: first_line(entry) for name, entry in SEARCHES.items()}


def check_search(name: str | None) -> None:
    """Checks that a plan can name this search, or none.

    Raises:
      UserError: there is none of that name.
    """
    if name not in (None, CALIBRATED):
        SEARCHES.look_up(name, also=[CALIBRATED])


def search(setup: Setup, folder: Path, plan: SearchPlan, progress: Progress | None = None) -> dict[str, Any]:
    """Searches on condensed data, trains the best on the full data, and writes what came of it.

    All trainings on the full data start from the first seed of the truth, so that their test accuracies can be held
    against the truth's.

    Args:
      setup: the run.
      folder: of the run; gets `search_<method>.json`, and `search.csv` with all candidates, best first.
      plan: the search.
      progress: told what is going on; nobody by default.

    Returns:
      The content of `search_<method>.json`; docs/search.md explains it. "selected" is None where every candidate or
      every full training failed, see `outcomes.nothing_found`.

    Raises:
      UserError: there is no such search or condensed data, it diverged or is not of this run or its data, fewer
        candidates than are to be trained in full, a calibrated search is asked for by name and cannot be made, Optuna
        is missing, or its study is of another space or other data. Nothing is written then.
    """
    progress = progress or silent()
    check_search(plan.method)
    if plan.storage is not None and plan.method != "optuna":
        named = plan.method or CALIBRATED
        raise UserError(f"a storage keeps Optuna's study, but the search is {named!r}; choose method 'optuna'")
    if plan.top is not None and plan.top > plan.num:
        raise UserError(f"--top {plan.top} of --num {plan.num} candidates: lower the one, or raise the other")
    if plan.top != 0 or plan.halving or plan.method == CALIBRATED:
        check_in_memory(setup, "training on the full data (which all but --method random --top 0 does)")
    condensed = _condensed(setup, folder, plan.artefact)
    plan, story = _settled(Run(setup, folder, progress), condensed, plan)
    assert plan.method is not None
    top = TOP.get(plan.method, 1) if plan.top is None else plan.top
    others, matched = condensed_copies(Run(setup, folder, progress), condensed), None
    if plan.method == CALIBRATED:
        found, retrained, calibration, matched = search_calibrated(
            Run(setup, folder, progress), condensed, others, num=plan.num, top=top, seed=plan.seed,
            best_of=lambda history: _best(setup, history, top),
        )  # fmt: skip
        story |= {"calibration": calibration}
    else:
        found = _search_condensed(setup, condensed, others, plan, top, progress)
        best = found.history.hparams[found.places[:top]]
        if 0 < len(best) < top:
            progress.say(f"only {len(best)} different candidates came to an end; those are trained in place of {top}")
        retrained = _retrain(setup, best, progress) if len(best) else None
    rival = _halve(setup, plan, progress) if plan.halving else None
    content = {
        **{name: getattr(plan, name) for name in ("method", "num", "seed")},
        "top": top,
        **{name: value for name, value in describe(setup).items() if name != "space"},
        "artefact": {name: condensed.card[name] for name in ("method", "seed")},
        "space": {
            "name": setup.space.name,
            "hparam_names": list(setup.space.hparam_names),
            "best": setup.space.columns(found.history.hparams[found.places]),
        },
        **outcome(setup, folder, found, retrained, rival),
        **price(setup, folder, condensed.card, found, retrained, rival, matched),
        **story,
        "history": found.history._asdict(),
    }
    files.write_json(folder / f"search_{plan.method}.json", content)
    files.write_text(folder / "search.csv", _csv(setup, found.history))
    return content


def _settled(run: Run, condensed: Condensed, plan: SearchPlan) -> tuple[SearchPlan, dict[str, Any]]:
    """The plan with a method, and what the result says of the choice.

    Raises:
      UserError: a calibrated search was asked for by name, and this run cannot make one.
    """
    if plan.method not in (None, CALIBRATED):
        return plan, {}
    why = why_not(run, condensed)
    if plan.method is None:
        why = why or unmatched(run, condensed)
    if why is None:
        return dataclasses.replace(plan, method=CALIBRATED), {}
    if plan.method is not None:
        raise UserError(f"a calibrated search cannot be made: {why}; choose --method random")
    run.progress.say(f"random search in place of a calibrated one: {why}")
    return dataclasses.replace(plan, method="random"), {"not_calibrated": why}


def _condensed(setup: Setup, folder: Path, name: str | None) -> Condensed:
    match = _ARTEFACT.fullmatch(name or "")
    method, seed = (match["method"], int(match["seed"])) if match else (name, None)
    condensed = load_condensed(folder, method, seed, config_hash=config_hash(setup.config))
    if condensed.card["source"]["checksum"] != setup.data.checksum:
        raise UserError(f"the data set {setup.data.name} has changed since {folder} was condensed; condense it anew")
    return condensed


def _best(setup: Setup, history: History, top: int) -> np.ndarray:
    """Places of the best different candidates, `LISTED` at least."""
    radius = APART * np.asarray(setup.space.prior_std)
    return history.best(max(top, LISTED), radius, equivalents=setup.space.equivalents)


def _search_condensed(
    setup: Setup,
    condensed: Condensed,
    others: list[tuple[Condensed, int]],
    plan: SearchPlan,
    top: int,
    progress: Progress,
) -> Found:
    key, parts = key_for(SEARCH, plan.seed), [(condensed, condensed.card["seed"]), *others]

    def evaluate_fn(candidates: Array) -> Scores:
        found = [
            mean_scores(setup, rank_keys(setup, seed), on_condensed(setup, one, candidates), one.train, one.val)[0]
            for one, seed in parts
        ]
        return mean_of(found)

    assert plan.method is not None  # it is settled
    extra: dict[str, Any] = {}
    if plan.method == "hypergradient":
        if stated(setup, condensed) is not None:
            raise UserError(
                f"hypergradient search does not know the shift of {condensed.card['method']}; choose another "
                "--artefact, or --method random"
            )
        extra = descent_options(setup, condensed.train, condensed.val, setup.proxy_training)
    if plan.storage is not None:
        study = open_study(plan.seed, storage=plan.storage, name=plan.study)
        extra = {"study": study, "sources": _sources(setup, condensed)}
    progress.start(f"{plan.method} search on the condensed data", plan.num, 0)
    with measured() as elapsed:
        history = SEARCHES[plan.method](key, setup.space, evaluate_fn, plan.num, report=progress.update, **extra)
    if len(history.loss) < plan.num:  # a grid, or descents of equal length
        progress.update(plan.num)
    return Found(history, _best(setup, history, top), elapsed)


def _sources(setup: Setup, condensed: Condensed) -> dict[str, str]:
    """What a loss on the condensed data depends on, the most telling first."""
    return {
        "data set": setup.data.checksum,
        "artefact": condensed.card["sha256"],
        "configuration": condensed.card["config_hash"],
        **{name: setup.facts[name] for name in FINGERPRINTS if name in setup.facts},
    }


def _retrain(setup: Setup, hparams: np.ndarray, progress: Progress) -> Retrained:
    def on_full_data(candidates: Array) -> tuple[Scores, ...]:
        return evaluate_on(
            key_for(TRUTH, 0), setup.problem, candidates, setup.train, (setup.val, setup.test), training=setup.training
        )

    progress.start("the best on the full data", len(hparams), 0)
    with measured() as elapsed:
        val, test = in_batches(on_full_data, hparams, min(fitting_at_once(setup), len(hparams)), progress.update)
    return Retrained(hparams, val, test, elapsed)


def _halve(setup: Setup, plan: SearchPlan, progress: Progress) -> Rival:
    """Successive halving among the candidates that random search draws with the same seed."""
    candidates = setup.space.sample(key_for(SEARCH, plan.seed), plan.num)
    total = sum(rung.kept for rung in rungs(plan.num, setup.training.steps))
    progress.start("successive halving on the full data", total, 0)
    with measured() as elapsed:
        halving = successive_halving(
            key_for(TRUTH, 0), setup.problem, candidates, setup.train, setup.val,
            training=setup.training, report=progress.update,
        )  # fmt: skip
    return Rival(halving, score(setup.problem, halving.params, jnp.asarray(halving.winner), setup.test), elapsed)


def _csv(setup: Setup, history: History) -> str:
    order = np.argsort(history.loss, kind="stable")
    scores = {"loss": history.loss[order], "accuracy": history.accuracy[order]}
    return files.csv_text(setup.space.columns(history.hparams[order]) | scores)
