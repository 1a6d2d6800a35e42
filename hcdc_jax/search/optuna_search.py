"""Bayesian search by Optuna, a batch of trials at a time; the only file that imports it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from types import MappingProxyType, ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np

from hcdc_jax.errors import UserError
from hcdc_jax.search.base import EvaluateFn, History, Report, ignore, in_batches, seed_of
from hcdc_jax.spaces import Space
from hcdc_jax.types import Array

SPACE = "hcdc_space"
"""The attribute of a study that says which space it searches."""

SOURCES = "hcdc_sources"
"""The attribute that says what its values were measured on."""

_MEND = "name another study (--study NAME)"


def optuna_search(
    key: Array,
    space: Space,
    evaluate_fn: EvaluateFn,
    num: int,
    *,
    batch_size: int = 32,
    study: Any = None,
    sources: Mapping[str, str] = MappingProxyType({}),
    report: Report = ignore,
) -> History:
    """Asks Optuna for a batch of trials, scores it in one call, tells the results, and so on.

    Parameters of a trial are the places of hyperparameters in the prior, between 0 and 1 (for one that is uniform, the
    share of its range), so that every space looks to a sampler as its prior does; choices with names are categorical.
    The values themselves and the
    accuracy are attributes of the trial. Failed candidates are told as failed trials.

    Args:
      key: seeds the sampler, a TPE with constant liar: without that the trials of a batch huddle together. Not read if
        a study is given.
      space: what is searched.
      evaluate_fn: scores a batch; see `search.base`.
      num: trials.
      batch_size: trials that are asked for before any of them is told.
      study: an `optuna.Study` to go on with, by its own sampler; its earlier trials guide the search. Default: a new
        one in memory.
      sources: checksums by name of all that `evaluate_fn` scores on, which the study keeps: values of one data set say
        nothing of another. Not asked for where empty.
      report: told how many candidates are done.

    Returns:
      The trials of this call.

    Raises:
      UserError: Optuna is not installed; or the study minimises nothing, several things, over another space or on other
        sources. It is left as it is then.
    """
    study = open_study(seed_of(key)) if study is None else study
    distributions = claim(study, space, sources)
    batches, done = [], 0
    while done < num:
        size = min(batch_size, num - done)
        with _asked(study, distributions, size) as trials:
            places = np.array([_place(space, trial.params) for trial in trials], np.float32)
            candidates = np.asarray(space.from_unit(jnp.asarray(places)))
            history = History(candidates, *in_batches(evaluate_fn, candidates, batch_size))
        _tell(study, space, trials, history)
        batches.append(history)
        done += size
        report(done)
    return History(*map(np.concatenate, zip(*batches, strict=True)))


def open_study(seed: int, *, storage: str | None = None, name: str | None = None) -> Any:
    """A study that minimises by TPE with constant liar; new, or the one of that name in the storage.

    Args:
      seed: of the sampler.
      storage: URL of an Optuna storage, such as `sqlite:///search.db`; None keeps the study in memory.
      name: of the study.

    Raises:
      UserError: Optuna is not installed, or the storage cannot be opened.
    """
    optuna = _optuna()
    verbosity = optuna.logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # `multivariate` does not take pending trials into account in every version.
        sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True, multivariate=False)
    try:
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # it logs every study that it makes
        return optuna.create_study(
            storage=storage, study_name=name, sampler=sampler, direction="minimize", load_if_exists=True
        )
    except Exception as error:  # of the storage's own library, which is known to Optuna alone
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"Optuna cannot open the study {name!r} in {storage}: {reason}") from error
    finally:
        optuna.logging.set_verbosity(verbosity)


def claim(study: Any, space: Space, sources: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """Checks that a study searches this space on these sources and nothing else, and marks it as such.

    Returns:
      Distributions of its parameters by name.

    Raises:
      UserError: it does not, or has trials and does not say on what; then nothing of it is changed.
    """
    optuna = _optuna()
    title = f"the Optuna study {study.study_name!r}"
    if study.directions != [optuna.study.StudyDirection.MINIMIZE]:
        raise UserError(f"{title} does not minimise one value; {_MEND}")
    distributions: dict[str, Any] = {
        name: optuna.distributions.FloatDistribution(0.0, 1.0)
        if options is None
        else optuna.distributions.CategoricalDistribution(options)
        for name, _, options in space.asked()
    }
    ours, theirs = _description(space), study.user_attrs.get(SPACE)
    tried = [trial.distributions for trial in study.get_trials(deepcopy=False) if trial.distributions]
    foreign = [found for found in tried if found != distributions]
    if foreign or theirs not in (None, ours):
        known = theirs.get("hparam_names", ()) if isinstance(theirs, Mapping) else ()
        names = ", ".join(map(str, foreign[0] if foreign else known)) or "of unknown names"
        raise UserError(
            f"{title} searches another space ({names}) or other ranges than {space.name} "
            f"({', '.join(distributions)}); {_MEND}"
        )
    if sources:
        _check_sources(title, study.user_attrs.get(SOURCES), sources, tried=bool(tried))
        study.set_user_attr(SOURCES, dict(sources))
    study.set_user_attr(SPACE, ours)
    return distributions


def _check_sources(title: str, theirs: Any, ours: Mapping[str, str], *, tried: bool) -> None:
    if theirs is None and not tried:
        return
    if not isinstance(theirs, Mapping):
        raise UserError(f"{title} has trials and does not say on which data; {_MEND}")
    other = [name for name, checksum in ours.items() if theirs.get(name) != checksum]
    if other or theirs.keys() - ours.keys():
        raise UserError(f"{title} searches on another {other[0] if other else 'source'}; {_MEND}")


def _optuna() -> ModuleType:
    try:
        import optuna  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError("Optuna is not installed; install it with: pip install 'hcdc-jax[optuna]'") from error
    return optuna


def _description(space: Space) -> dict[str, Any]:
    """Tells spaces apart that differ in their ranges alone: two points of the cube, to five digits."""
    cube = jnp.broadcast_to(jnp.array([[0.2], [0.7]]), (2, len(space.hparam_names)))
    points = [[float(f"{value:.5g}") for value in point] for point in np.asarray(space.from_unit(cube))]
    return {"name": space.name, "hparam_names": list(space.hparam_names), "points": points}


def _place(space: Space, params: Mapping[str, Any]) -> np.ndarray:
    """[h] where the parameters of a trial stand in the unit cube."""
    place = np.full(len(space.hparam_names), 0.5)
    for name, at, options in space.asked():
        place[at] = params[name] if options is None else (options.index(params[name]) + 0.5) / len(options)
    return place


@contextlib.contextmanager
def _asked(study: Any, distributions: dict[str, Any], size: int) -> Iterator[list[Any]]:
    """Trials that count as failed if their scoring is interrupted, instead of running for ever."""
    fail = _optuna().trial.TrialState.FAIL
    trials = [study.ask(fixed_distributions=distributions) for _ in range(size)]
    try:
        yield trials
    except BaseException:
        for trial in trials:
            study.tell(trial, state=fail)
        raise


def _tell(study: Any, space: Space, trials: list[Any], history: History) -> None:
    fail = _optuna().trial.TrialState.FAIL
    for trial, hparams, loss, accuracy, status in zip(trials, *history, strict=True):
        trial.set_user_attr("hparams", dict(zip(space.hparam_names, hparams.tolist(), strict=True)))
        if status:
            trial.set_user_attr("accuracy", float(accuracy))
            study.tell(trial, float(loss))
        else:
            study.tell(trial, state=fail)
