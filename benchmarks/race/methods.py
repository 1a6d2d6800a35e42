"""Searches, replayed on tables: in which order each would train the candidates of a pool in full, at what cost."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.race.cheap import Cheap, nearest
from benchmarks.race.curves import Curves
from hcdc_jax.pipeline.hcdc.matched_candidates import log_spread
from hcdc_jax.pipeline.hcdc.targets import EXPLODED, SLIGHT
from hcdc_jax.search import History, open_study
from hcdc_jax.search.calibrated import APART, Advice, calibrated
from hcdc_jax.search.foretelling import cannot_win, line
from hcdc_jax.spaces import Space

MORE = 8
"""Full trainings after the first m, by searches that think before each."""
LONG = 64
"""Full trainings in all, by searches that do not."""
ETA = 3


class Table(NamedTuple):
    """What a replay reads.

    Attributes:
      space: of the candidates.
      pool: their learning curves.
      cheap: what the condensed data of the seed say.
      seed: of the method.
    """

    space: Space
    pool: Curves
    cheap: Cheap
    seed: int

    @property
    def loss(self) -> np.ndarray:
        """[n] after a full training."""
        return self.pool.loss[:, -1]


class Trail(NamedTuple):
    """The candidates that a search trained in full, in order.

    Attributes:
      places: [t] in the pool.
      cost: [t] in full trainings, of all that was spent until each was done.
      thinking: [t] seconds that the search itself took until then.
      weights: by expert, before each training that one was asked about.
    """

    places: np.ndarray
    cost: np.ndarray
    thinking: np.ndarray
    weights: list[dict[str, float]]


class Method(NamedTuple):
    """A search.

    Attributes:
      about: in words.
      replay: on a table.
      proxies: whose condensed losses it reads.
      gradients: whether it reads hypergradients of full trainings.
    """

    about: str
    replay: Callable[[Table], Trail]
    proxies: tuple[str, ...] = ()
    gradients: bool = False


def one_by_one(places: Sequence[int] | np.ndarray, thinking: Sequence[float] | None = None) -> Trail:
    """A trail of full trainings that cost nothing else."""
    places = np.asarray(places, int)
    return Trail(places, np.arange(1.0, len(places) + 1), np.asarray(thinking or np.zeros(len(places))), [])


def random_search(table: Table) -> Trail:
    """Candidates in a random order."""
    order = np.random.default_rng([table.seed, 1]).permutation(len(table.loss))
    return one_by_one(order[:LONG])


def bracket(pool: Curves, alive: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Successive halving from rung `first` on, trainings resumed: who is trained in full, and the cost until each is.

    Args:
      pool: the curves.
      alive: [k] places that enter.
      first: their first rung.
    """
    share, num, before, cost = pool.steps / pool.steps[-1], len(alive), 0.0, 0.0
    for level, rung in enumerate(range(first, len(share) - 1), start=1):
        cost += len(alive) * (share[rung] - before)
        order = np.argsort(pool.loss[alive, rung], kind="stable")
        alive, before = alive[order[: max(num // ETA**level, 1)]], share[rung]
    return alive, cost + (1 - before) * np.arange(1, len(alive) + 1)


def successive_halving(table: Table) -> Trail:
    """One bracket over the whole pool."""
    places, cost = bracket(table.pool, np.arange(len(table.loss)), 0)
    return Trail(places, cost, np.zeros(len(places)), [])


def hyperband(table: Table) -> Trail:
    """Brackets that begin at every rung in turn (Li et al. 2018, arXiv 1603.06560), with new candidates each."""
    left = np.random.default_rng([table.seed, 2]).permutation(len(table.loss))
    places, costs, spent, levels = [], [], 0.0, len(table.pool.steps)
    while spent < LONG and len(left):
        for halvings in reversed(range(levels)):
            count = -(-levels * ETA**halvings // (halvings + 1))
            entering, left = left[:count], left[count:]
            if len(entering):
                found, cost = bracket(table.pool, entering, levels - 1 - halvings)
                places.append(found)
                costs.append(spent + cost)
                spent = costs[-1][-1]
    joined = np.concatenate(places)
    return Trail(joined, np.concatenate(costs), np.zeros(len(joined)), [])


def tpe(table: Table, *, first: bool = False) -> Trail:
    """Optuna's TPE, one trial at a time; the nearest candidate that was not trained yet stands for its proposal.

    Args:
      table: what is replayed.
      first: whether it begins with the m candidates that others begin with, not with draws of its own.
    """
    import optuna

    study, names = open_study(table.seed), table.space.hparam_names
    distributions = {name: optuna.distributions.FloatDistribution(0.0, 1.0) for name in names}
    free = np.isfinite(table.loss)
    places, seconds = [], []

    def tell(place: int) -> None:
        unit = dict(zip(names, table.pool.unit[place].tolist(), strict=True))
        value = float(np.log(table.loss[place]))
        study.add_trial(optuna.trial.create_trial(params=unit, distributions=distributions, value=value))
        places.append(place)
        free[place] = False

    begin = time.perf_counter()
    for place in table.cheap.design if first else ():
        tell(int(place))
        seconds.append(time.perf_counter() - begin)
    while len(places) < min(LONG, len(free)) and free.any():
        trial = study.ask(fixed_distributions=distributions)
        point = table.space.from_unit(np.array([trial.params[name] for name in names], np.float32))
        study.tell(trial, state=optuna.trial.TrialState.FAIL)  # what was trained in its place is told instead
        tell(int(nearest(table.space, table.pool.hparams, np.asarray(point)[None], free)[0]))
        seconds.append(time.perf_counter() - begin)
    return one_by_one(places, seconds)


def best_first(table: Table, *, proxy: str, design: bool) -> Trail:
    """Candidates in the order of a cheap score, after the m that it was matched to, where it was."""
    score = table.cheap.proxies[proxy].log_loss
    before = table.cheap.design if design else np.zeros(0, int)
    history = History(table.pool.hparams, score, score, np.isfinite(score))
    radius = APART * np.asarray(table.space.prior_std)
    avoided = table.pool.hparams[before]
    return one_by_one([*before, *history.best(MORE, radius, avoided, table.space.equivalents)])


@threadpool_limits.wrap(limits=1, user_api="blas")  # of matrices as small as these threads make a fit 90 times as long
def guided(
    table: Table,
    *,
    proxies: Sequence[str] = (),
    asked: Callable[[str], bool] = lambda name: True,
    temperature: float = 1.0,
    symmetries: bool = True,
    sure: float | None = None,
    told: bool = True,
) -> Trail:
    """`calibrated` search after the m candidates of the design.

    Args:
      table: what is replayed.
      proxies: that it knows.
      asked: of the name of an expert, whether it is asked.
      temperature: of the weights.
      symmetries: whether it knows those of the space.
      sure: from which probability of not winning on a training is stopped at a rung; None: all are trained in full.
      told: whether the search is told what was foretold of those that were stopped, else that they diverged.
    """
    space = table.space if symmetries else table.space._replace(orbit=None)
    known, slopes = {name: table.cheap.proxies[name] for name in proxies}, believed(table)
    experts = calibrated(space, table.pool.hparams, known).experts
    search = calibrated(space, table.pool.hparams, known, temperature=temperature, asked=tuple(filter(asked, experts)))
    design, begin = table.cheap.design, time.perf_counter()
    state = search.tell(search.init(), design, table.loss[design], slopes[design])
    places, seconds, weights = list(design), [0.0] * len(design), []
    cost = [*np.arange(1.0, len(design) + 1)]
    spent = cost[-1]
    while spent <= len(design) + MORE - 1 + 1e-9:
        advice: Advice = search.ask(state)
        if not len(advice.places):
            break
        (place,) = advice.places
        share, end = (1.0, np.nan) if sure is None else stopped_at(table.pool, np.array(places), place, sure)
        spent += share
        if share < 1:
            state = search.tell(state, [place], [np.exp(end) if told else np.nan], None, advice)
            continue
        state = search.tell(state, [place], table.loss[[place]], slopes[[place]], advice)
        places.append(int(place))
        cost.append(spent)
        seconds.append(time.perf_counter() - begin)
        weights.append(advice.weights)
    return Trail(np.array(places, int), np.array(cost), np.array(seconds), weights)


def stopped_at(pool: Curves, trained: np.ndarray, place: int, sure: float) -> tuple[float, float]:
    """Share of a training after which it is stopped, 1 where it is not, and the log loss that is foretold of its end.

    It is looked at after a ninth and a third of its steps, or at the rungs that are nearest.

    Args:
      pool: the curves.
      trained: [k] places of those that were trained in full.
      place: of the one that is trained.
      sure: see `cannot_win`.
    """
    shares = pool.steps / pool.steps[-1]
    for wanted in (1 / 9, 1 / 3):
        rung = int(np.abs(np.log(shares / wanted)).argmin())
        midway, ended = np.log(pool.loss[trained, rung]), np.log(pool.loss[trained, -1])
        here = float(np.log(pool.loss[place, rung]))
        if rung < len(shares) - 1 and cannot_win(midway, ended, here, sure=sure):
            good = np.isfinite(midway) & np.isfinite(ended)
            foretold = line(midway[good], ended[good], np.asarray(here))[0] if np.isfinite(here) else np.nan
            return float(shares[rung]), float(foretold)
    return 1.0, np.nan


def believed(table: Table) -> np.ndarray:
    """[n, h] hypergradients without those that exploded, by the rule of `pipeline.targets.believed`."""
    loss, gradient = table.loss, table.pool.hypergradient
    with np.errstate(invalid="ignore"):  # of who diverged
        sizes = np.linalg.norm(np.asarray(table.space.prior_std) * gradient / loss[:, None], axis=1)
    limit = max(EXPLODED * log_spread(loss[table.cheap.design]), SLIGHT)
    return np.where((sizes <= limit)[:, None], gradient, np.nan)


def without_slopes(name: str) -> bool:
    """Whether an expert reads no hypergradients."""
    return "hypergradients" not in name


def _values(name: str) -> bool:
    return name == "values"


KNOWN = ("hcdc", "real_val")
"""Cheap scores that calibrated search knows."""


def _of(about: str, *, gradients: bool = True, **options: Any) -> Method:
    return Method(about, functools.partial(guided, **options), options.get("proxies", ()), gradients)


METHODS: Mapping[str, Method] = {
    "random": Method("random order", random_search),
    "successive_halving": Method("successive halving of the whole pool", successive_halving),
    "hyperband": Method("Hyperband on new candidates in each bracket", hyperband),
    "tpe": Method("Optuna's TPE", tpe),
    "tpe_first": Method("Optuna's TPE from the first m", functools.partial(tpe, first=True)),
    "hcdc_best": Method(
        "the best by hcdc after the first m", functools.partial(best_first, proxy="hcdc", design=True), ("hcdc",), True
    ),
    "real_val_best": Method(
        "the best by S_train and real validation data, nothing before them",
        functools.partial(best_first, proxy="real_val", design=False),
        ("real_val",),
    ),
    "surrogate": _of("Gaussian process on values", asked=_values, gradients=False),
    "surrogate_grad": _of("Gaussian process with hypergradients", asked=lambda name: name == "hypergradients"),
    "calibrated": _of("calibrated search", proxies=KNOWN),
    "no_condensed": _of("calibrated without condensed data"),
    "early_stopping": _of(
        "Gaussian process on values, trainings stopped midway", asked=_values, gradients=False, sure=0.95
    ),
    "no_hypergradients": _of(
        "calibrated without hypergradients, with value_only in place of hcdc",
        proxies=("value_only", "real_val"),
        asked=without_slopes,
        gradients=False,
    ),
    "no_symmetries": _of("calibrated without the space's symmetries", proxies=KNOWN, symmetries=False),
    "no_evidence": _of("calibrated with equal weights", proxies=KNOWN, temperature=np.inf),
}
"""All searches, by name."""
