"""Calibrated search on a run: what is known of the pool, and the full trainings that the search asks for."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.condense.hcdc import condensed_pool
from hcdc_jax.condensed import Condensed
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.hypergradients.fixed_networks import Pool, Target, frozen_hypergradient, without_diverged
from hcdc_jax.pipeline.clock import Elapsed, measured
from hcdc_jax.pipeline.hcdc.beginnings import targets_of
from hcdc_jax.pipeline.hcdc.matched_candidates import choose_candidates
from hcdc_jax.pipeline.hcdc.rungs import Curves, curves_of, never
from hcdc_jax.pipeline.hcdc.targets import Matched, believed, full_training, matched_targets
from hcdc_jax.pipeline.keeping import kept
from hcdc_jax.pipeline.recipes.base import Cost
from hcdc_jax.pipeline.scoring import mean_of, rank_keys, scores_on_each
from hcdc_jax.pipeline.search_result import Found, Retrained
from hcdc_jax.pipeline.setup import SEARCH, TRUTH, Run, Setup, key_for, solver_of
from hcdc_jax.pipeline.taught.taught_parts import given_train
from hcdc_jax.problem import Problem
from hcdc_jax.search import Advice, CalibratedSearch, CalibratedState, History, Proxy, calibrated
from hcdc_jax.search.base import even_batch_size, in_batches
from hcdc_jax.training.candidates import Scores, score
from hcdc_jax.types import Array, Batch

FORETELLS = 0.3
"""Rank correlation of full trainings with what a line through condensed losses says of each, drawn without it, from
which on the line is said to foretell them. With eight trainings one shuffled score in eighteen comes so far, and of
scores that are truly correlated by 0.8 five in six (simulated; leaving out turns what says nothing to -1)."""
LEAST_GAIN = 1e-3
"""Expected improvement of the log loss below which no training is asked for: a thousandth of the loss."""


class Calibrated(NamedTuple):
    """What a calibrated search found.

    Attributes:
      found: the pool with its predicted losses; the best, those that were trained in full first.
      trained: the full trainings that it asked for, lowest loss first; None where it asked for none.
      story: what it believed, and why it stopped, for the result.
      matched: the full trainings that it began from.
    """

    found: Found
    trained: Retrained | None
    story: dict[str, Any]
    matched: Matched


class _Copy(NamedTuple):
    """What networks are trained and asked on: S_train, S_val and other batches by name, and keys of the networks."""

    train: Batch
    batches: dict[str, Batch]
    keys: list[Array]


class _Pool(NamedTuple):
    """What is known of all candidates, the matched ones first.

    Attributes:
      candidates: [n, h].
      scores: of networks trained on S_train, by what they were asked about.
      slopes: [n, h] of these log losses, NaN where they were not computed; empty where they are never.
    """

    candidates: np.ndarray
    scores: dict[str, Scores]
    slopes: dict[str, np.ndarray]


class _Told(NamedTuple):
    """How far a search has come: the places that it had trained, their records, and all that is known.

    Those that were given up midway are apart, by place.
    """

    places: tuple[int, ...]
    records: tuple[dict[str, np.ndarray], ...]
    known: Matched
    pool: _Pool
    state: CalibratedState
    given_up: Mapping[int, dict[str, np.ndarray]] = MappingProxyType({})

    @property
    def spent(self) -> float:
        """Full trainings, and the shares of those that were given up."""
        return len(self.places) + sum(float(record["share"]) for record in self.given_up.values())


def search_calibrated(
    run: Run,
    condensed: Condensed,
    others: Sequence[tuple[Condensed, int]] = (),
    *,
    num: int,
    top: int,
    seed: int,
    best_of: Callable[[History], np.ndarray],
) -> Calibrated:
    """Searches a pool with the full trainings that HCDC has paid for, and asks for at most `top` more.

    Where the best of all is one of the first trainings it is trained once more, for its network: one above `top` then.

    Args:
      run: the run; its matched full trainings are read, or made where they are missing.
      condensed: S_train and S_val.
      others: copies of it, and their seeds; log losses are averaged over all.
      num: candidates of the pool, independent draws from the prior.
      top: full trainings at most.
      seed: of the pool.
      best_of: places of the best candidates of a history that are to be named.

    Raises:
      UserError: too few full trainings came to an end.
    """
    setup, run_seed = run.setup, condensed.card["seed"]
    matched = matched_targets(run, run_seed, choose_candidates(run, run_seed, given_train(run, run_seed)))
    known = matched._replace(params=None)  # those who teach have done so
    copies = [_asked(setup, one, own) for one, own in ((condensed, run_seed), *others)]
    m = len(known.hparams)
    with measured() as screening:
        drawn_now = setup.space.sample(key_for(SEARCH, seed), num)
        pool = _screened(run, copies, np.concatenate([known.hparams, drawn_now]))
        pool = _with_slopes(run, copies, pool, np.arange(m))
        search, target = _search(run, pool), believed(setup, known)
        state = search.tell(search.init(), np.arange(m), target.value, _whole(setup, target.gradient))
        told, advice = _Told((), (), known, pool, state), search.ask(state)
    why = "as many full trainings as it was given are done"
    run.progress.start("full trainings of the search", top, 0)
    while told.spent + 1 <= top:
        if not len(advice.places):
            why = "every other candidate is as good as the same as one that was trained"
            break
        if advice.gain[0] < LEAST_GAIN:
            why = "no candidate is expected to be better by a thousandth of the loss"
            break
        place, curves = int(advice.places[0]), _curves(run, condensed, told)
        record = _fully_trained(run, pool.candidates[place], curves)
        with measured() as thinking:
            if curves is not None and record["share"] < 1:
                told = _give_up(run, search, told, place, record, curves, advice)
            else:
                told = _tell(run, search, told, place, record, advice)
            told = told._replace(pool=_with_slopes(run, copies, told.pool, np.array([place])))
            search = _search(run, told.pool)
            advice = search.ask(told.state)
        screening = screening.plus(thinking)
        run.progress.update(len(told.places))
    losses = told.state.log_loss
    first = int(told.state.places[np.argmin(np.where(np.isfinite(losses), losses, np.inf))])
    if first < m and top:
        record = _fully_trained(run, pool.candidates[first])
        told = told._replace(places=(*told.places, first), records=(*told.records, record))
    found, trained = _result(told, advice, condensed.card["method"], screening, best_of)
    story = {
        "stopped": why,
        "weights": advice.weights,
        **_evidence(advice),
        "matched": m,
        "expected_gain": float(advice.gain[0]) if len(advice.places) else None,
        "asked_for": list(told.places),
        "given_up": list(told.given_up),
    }
    return Calibrated(found, trained, story, matched)


def _evidence(advice: Advice) -> dict[str, Any]:
    """Whether condensed losses foretell full trainings, by leaving each out, for the result."""
    ranks = {name: None if np.isnan(rank) else rank for name, rank in advice.ranks.items()}
    of_lines = [rank for name, rank in ranks.items() if name.endswith(" line") and rank is not None]
    return {"ranks": ranks, "condensed_losses_foretell": max(of_lines, default=-1.0) >= FORETELLS}


def _search(run: Run, pool: _Pool) -> CalibratedSearch:
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = {name: np.log(np.where(one.status, one.loss, np.nan)) for name, one in pool.scores.items()}
    logs = {name: values for name, values in logs.items() if np.isfinite(values).any()}  # who failed says nothing
    return calibrated(
        run.setup.space, pool.candidates, {name: Proxy(logs[name], pool.slopes.get(name)) for name in logs}
    )


def _asked(setup: Setup, condensed: Condensed, seed: int) -> _Copy:
    batches = {condensed.card["method"]: condensed.val, "real_val": setup.val, "train_loss": condensed.train}
    return _Copy(condensed.train, batches, rank_keys(setup, seed))


def _screened(run: Run, copies: Sequence[_Copy], candidates: np.ndarray) -> _Pool:
    """All candidates trained on S_train and asked about each batch, and log losses averaged over copies."""
    setup, batches = run.setup, copies[0].batches

    def evaluate_fn(some: Array) -> tuple[Scores, ...]:
        of_copies = [scores_on_each(setup, one.keys, some, one.train, tuple(one.batches.values())) for one in copies]
        return tuple(_log_mean(of_batch) for of_batch in zip(*of_copies, strict=True))

    run.progress.start("candidates on the condensed data", len(candidates), 0)
    found = in_batches(evaluate_fn, candidates, even_batch_size(len(candidates)), run.progress.update)
    # Networks that are asked together have no responses of their own, and partial slopes are none.
    none = setup.asks_jointly or not _takes_whole(setup)
    unknown = {} if none else {name: np.full(candidates.shape, np.nan) for name in batches}
    return _Pool(candidates, dict(zip(batches, found, strict=True)), unknown)


def _log_mean(scores: Sequence[Scores]) -> Scores:
    """Scores of copies as one: the mean of log losses, whose slope is the mean of slopes."""
    if len(scores) == 1:
        return scores[0]
    with np.errstate(divide="ignore"):
        loss = np.exp(np.mean([np.log(np.asarray(one.loss, np.float64)) for one in scores], 0))
    return mean_of(scores)._replace(loss=loss)


def _with_slopes(run: Run, copies: Sequence[_Copy], pool: _Pool, places: np.ndarray) -> _Pool:
    """The pool with the slopes of its log losses at some places, NaN where a response diverged."""
    if not pool.slopes:
        return pool
    slopes = {name: values.copy() for name, values in pool.slopes.items()}
    of_copies = [_slopes_on(run, one, jnp.asarray(pool.candidates[places])) for one in copies]
    for name in slopes:
        slopes[name][places] = np.mean([found[name] for found in of_copies], 0)
    return pool._replace(slopes=slopes)


def _slopes_on(run: Run, copy: _Copy, candidates: Array) -> dict[str, np.ndarray]:
    """[k, h] slopes of the log losses on each batch of a copy, NaN where a response diverged.

    Of networks from other initialisations than those that are scored: one each.
    """
    setup, problem = run.setup, run.setup.problem_on(copy.train)
    networks = condensed_pool(
        copy.keys[0], problem, candidates, copy.train, setup.proxy_training,
        solver=solver_of(setup.config), sensitivity=setup.config.hcdc.sensitivity,
    )  # fmt: skip
    usable = ~np.asarray(networks.diverged)[:, None]
    known = np.asarray(jax.vmap(setup.space.has_slope)(networks.hparams))
    if not usable.all():
        run.progress.say(
            f"the responses of {(~usable).sum()} of {len(usable)} networks on S_train diverged: the search does "
            "without their slopes"
        )
    slopes_on = functools.partial(
        _log_slopes, without_diverged(networks), problem=problem, direct=setup.config.hcdc.direct
    )
    return {name: np.where(usable & known, slopes_on(batch), np.nan) for name, batch in copy.batches.items()}


@functools.partial(jax.jit, static_argnames=("problem", "direct"))
def _log_slopes(networks: Pool, batch: Batch, *, problem: Problem, direct: bool) -> Array:
    """[k, h] slopes of the log losses of networks on a batch; compiled once for all trainings of a search."""

    def one(network: Pool) -> Array:
        value, gradient = frozen_hypergradient(
            problem.val_loss, network.params, network.hparams, network.response, batch, direct=direct
        )
        return gradient / value

    return jax.lax.map(one, networks)


def _tell(
    run: Run, search: CalibratedSearch, told: _Told, place: int, record: dict[str, np.ndarray], advice: Advice
) -> _Told:
    """Tells the search of a full training; of a hypergradient that diverged or exploded its loss alone."""
    known, gradient = told.known, np.full(len(record["hparams"]), np.nan)
    if not np.isfinite(record["value"]):
        run.progress.say(f"full training {len(told.places) + 1} of the search diverged, and says nothing")
    elif record["diverged"]:
        run.progress.say(f"the hypergradient of full training {len(told.places) + 1} diverged; its loss counts")
    if not record["diverged"] and np.isfinite(record["value"]):
        target = Target(jnp.asarray(record["value"])[None], jnp.asarray(record["gradient"])[None])
        known = known.plus(Matched(jnp.asarray(record["hparams"])[None], target, Cost()))
        gradient = np.asarray(believed(run.setup, known).gradient[-1])
    state = search.tell(told.state, [place], [record["value"]], _whole(run.setup, gradient[None]), advice)
    return _Told((*told.places, place), (*told.records, record), known, told.pool, state)


def _curves(run: Run, condensed: Condensed, told: _Told) -> Curves | None:
    """Of all full trainings so far; None where none is given up."""
    sure = run.setup.config.hcdc.stop_sure
    if sure is None:
        return None
    return curves_of([*map(read_arrays, targets_of(run, condensed)), *told.records], sure)


def _give_up(
    run: Run,
    search: CalibratedSearch,
    told: _Told,
    place: int,
    record: dict[str, np.ndarray],
    curves: Curves,
    advice: Advice,
) -> _Told:
    """Tells the search how a training would have ended that was given up: left out, its like is asked for next."""
    run.progress.say(f"a training is given up after {float(record['share']):.0%} of its steps: it cannot be the best")
    state = search.tell(told.state, [place], [curves.foretold(record["midway"])], None, advice)
    return told._replace(state=state, given_up={**told.given_up, place: record})


def _takes_whole(setup: Setup) -> bool:
    """Whether the hypergradients of the run are whole: how the weights follow, and the direct term."""
    return setup.config.hcdc.direct and setup.config.hcdc.sensitivity != "direct"


def _whole(setup: Setup, gradient: Any) -> Any:
    """Hypergradients that are slopes; None where they are parts of them, which are enough for a match."""
    return gradient if _takes_whole(setup) else None


def _fully_trained(run: Run, hparams: np.ndarray, curves: Curves | None = None) -> dict[str, np.ndarray]:
    """One full training with its hypergradient and scores, or what was kept of it; given up where curves say so.

    From the first seed of the truth, so that its scores can be held against the truth's.
    """
    setup, hopeless = run.setup, never if curves is None else curves.hopeless
    path = run.folder / "checkpoints" / "searched" / f"{hashlib.sha256(hparams.tobytes()).hexdigest()[:16]}.npz"

    def trained() -> dict[str, Any]:
        target, params, diverged, training, targeting, climbed = full_training(
            setup, key_for(TRUTH, 0), jnp.asarray(hparams), hopeless
        )
        curve = {} if climbed is None else {"midway": climbed.midway, "share": np.asarray(climbed.share)}
        scores = {
            f"{part}_{name}": np.asarray(value)
            for part, batch in (("val", setup.val), ("test", setup.test))
            for name, value in score(setup.problem, params, jnp.asarray(hparams), batch)._asdict().items()
        }
        return {
            "hparams": hparams, "value": target.value, "gradient": target.gradient, "diverged": diverged,
            "seconds": training.run + targeting.run, "compile_seconds": training.compile + targeting.compile,
            **scores, **curve,
        }  # fmt: skip

    if path.exists() and not _serves(read_arrays(path), hopeless):
        path.unlink()
    return kept(path, trained)[0]


def _serves(record: dict[str, np.ndarray], hopeless: Callable[[int, float], bool]) -> bool:
    """Whether what was kept of a training is what is asked for: one that another search gave up may not be."""
    if float(record.get("share", 1.0)) == 1:
        return True
    rung = int(np.isfinite(record["midway"]).sum()) - 1
    return hopeless(max(rung, 0), float(record["midway"][max(rung, 0)]))


def _result(
    told: _Told,
    advice: Advice,
    method: str,
    screening: Elapsed,
    best_of: Callable[[History], np.ndarray],
) -> tuple[Found, Retrained | None]:
    status = np.asarray(told.pool.scores[method].status)
    history = History(
        told.pool.candidates,
        np.where(status, np.exp(advice.mean), np.inf),
        np.asarray(told.pool.scores[method].accuracy),
        status,
    )
    order = np.argsort([float(record["val_loss"]) for record in told.records], kind="stable")
    mine = np.array(told.places, int)[order]
    listed = best_of(history)
    places = np.concatenate([mine, listed[~np.isin(listed, mine)]])[: max(len(listed), len(mine))]
    found = Found(history, places, screening)
    if not len(order):
        return found, None
    stacked = {name: np.stack([told.records[i][name] for i in order]) for name in told.records[0]}
    spent, trained = Elapsed(), (*told.records, *told.given_up.values())
    spent.run, spent.compile = (float(sum(one[name] for one in trained)) for name in ("seconds", "compile_seconds"))
    val, test = (
        Scores(*(jnp.asarray(stacked[f"{part}_{field}"]) for field in Scores._fields)) for part in ("val", "test")
    )
    given_up = told.spent - len(told.places)
    return found, Retrained(told.pool.candidates[mine], val, test, spent, with_hypergradients=True, given_up=given_up)
