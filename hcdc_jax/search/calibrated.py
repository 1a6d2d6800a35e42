"""Calibrated search: which candidates to train in full next, by all that is known of them, weighed by evidence.

Cheap scores (losses after training on condensed data) and a Gaussian process on the few full trainings each see best
somewhere and mislead elsewhere. So several experts predict the log loss of every candidate of a pool, each is weighed
by how well it foretold the full trainings, and the candidate of the largest expected improvement under all of them is
trained next. An expert that was wrong loses its say.

    search = calibrated(space, pool, {"hcdc": Proxy(log_losses)})
    state = search.tell(search.init(), places, losses, hypergradients)
    advice = search.ask(state)  # train advice.places in full, then
    state = search.tell(state, advice.places, losses, hypergradients, advice)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_ndtr, logsumexp
from scipy.stats import norm

from hcdc_jax import metrics
from hcdc_jax.errors import UserError, check_name
from hcdc_jax.search import surrogate
from hcdc_jax.search.foretelling import FEWEST, LEAST_DEVIATION, line
from hcdc_jax.spaces import Space

APART = 0.15
"""Prior standard deviations within which candidates are one, in three dimensions and more: a second full training there
would say nothing new. A third of it in one dimension, where eight such intervals would cover most of the space."""
FLOOR = 1e-8
"""Losses below it count as it, as in `distances.value`: the logarithm of 0 is no result."""


class Proxy(NamedTuple):
    """A cheap score of every candidate of a pool.

    Attributes:
      log_loss: [n]; not finite where the candidate failed.
      slope: [n, h] of it in the hyperparameters, NaN where it is not known; None if it is known nowhere.
    """

    log_loss: np.ndarray
    slope: np.ndarray | None = None


class State(NamedTuple):
    """What the full trainings said, in order.

    Attributes:
      places: [m] of the pool.
      log_loss: [m]; not finite where a training diverged.
      slope: [m, h] of it, NaN where it is not known.
      foretold: [m, e] log density that each expert gave a result before it was known; of the first ones, before which
        nobody could be asked, what each says of one given the others. NaN where a training diverged.
    """

    places: np.ndarray
    log_loss: np.ndarray
    slope: np.ndarray
    foretold: np.ndarray


class Opinion(NamedTuple):
    """What an expert makes of the full trainings.

    Attributes:
      mean: [n] predicted log loss.
      deviation: [n] its standard deviation, without the noise of a training.
      of_others: [m] each result, predicted from the others.
      left_out: [m] log density that this prediction gave it.
      noise: standard deviation of what two trainings of one candidate differ by.
    """

    mean: np.ndarray
    deviation: np.ndarray
    of_others: np.ndarray
    left_out: np.ndarray
    noise: float


class Advice(NamedTuple):
    """What to train next.

    Attributes:
      places: [b] of the pool, most promising first; fewer than asked for where nothing else is far enough from what was
        trained.
      gain: [b] by how much each is expected to lower the log loss of the best so far.
      weights: by expert, the share of its say.
      ranks: by expert, the Spearman correlation of the full trainings with what it says of each given the
        others; NaN where it says the same of all.
      mean: [n] predicted log loss of every candidate.
      deviation: [n] standard deviation of that prediction, disagreement of the experts included.
      opinions: of each expert.
    """

    places: np.ndarray
    gain: np.ndarray
    weights: dict[str, float]
    ranks: dict[str, float]
    mean: np.ndarray
    deviation: np.ndarray
    opinions: tuple[Opinion, ...]


class Search(NamedTuple):
    """Pure functions over a `State`.

    Attributes:
      init: `init() -> State` that knows nothing.
      tell: `tell(state, places, losses, hypergradients=None, advice=None) -> State` that knows these full trainings,
        too: places [b] of the pool, losses [b] (not finite where a training diverged), hypergradients [b, h] or None,
        NaN rows where there are none; and the advice that they followed, which is worked out again if it is not given.
      ask: `ask(state, count=1) -> Advice`.
      experts: names of those who are asked.
    """

    init: Callable[[], State]
    tell: Callable[..., State]
    ask: Callable[..., Advice]
    experts: tuple[str, ...]


Expert = Callable[[State], Opinion]


def calibrated(
    space: Space,
    pool: ArrayLike,
    proxies: Mapping[str, Proxy],
    *,
    temperature: float = 1.0,
    asked: Collection[str] | None = None,
) -> Search:
    """A search over a pool of candidates.

    Experts: for each proxy a line through its log losses, and a Gaussian process on top of a multiple of them, with and
    without slopes; and a Gaussian process that knows no proxy, with and without slopes. All are fitted anew when they
    are asked. An expert's evidence is the sum over full trainings of the log density that it gave the result, see
    `State.foretold`; weights are proportional to exp(evidence / temperature). For trainings that were foretold that is
    Bayes' rule; leaving one out of the first ones is its usual stand-in (pseudo-Bayes, Geisser and Eddy 1979), and it
    flatters whoever was fitted to them, as S_val was: what the search trains is what corrects that.

    Args:
      space: of the candidates; candidates of one orbit are one.
      pool: [n, h] all candidates, those that are trained in full among them.
      proxies: by name.
      temperature: of the weights, above 0; more than 1 lets wrong experts keep their say for longer.
      asked: names of the experts who are asked; all by default. `Search.experts` has them.

    Raises:
      UserError: pool and proxies do not fit to each other or to the space, nothing in the pool varies, the temperature
        is not above 0, or an expert is asked for that there is not.
    """
    pool = np.asarray(pool)
    if not temperature > 0:
        raise UserError(f"the temperature of the weights must be above 0, got {temperature}")
    _check(space, pool, proxies)
    experts = _experts(space, pool, proxies)
    if asked is not None:
        for name in asked:
            check_name("expert", name, experts)
        experts = {name: expert for name, expert in experts.items() if name in asked}
    # In standard deviations of the space, all equals of every candidate: [n, k, h].
    orbits = np.asarray(jax.jit(jax.vmap(space.equivalents))(jnp.asarray(pool))) / np.asarray(space.prior_std)
    h, failed = pool.shape[1], _failed(proxies, len(pool))

    def init() -> State:
        return State(np.zeros(0, int), np.zeros(0), np.zeros((0, h)), np.zeros((0, len(experts))))

    def opinions(state: State) -> tuple[Opinion, ...]:
        return tuple(expert(_finite(state)) for expert in experts.values())

    def tell(
        state: State,
        places: ArrayLike,
        losses: ArrayLike,
        hypergradients: ArrayLike | None = None,
        advice: Advice | None = None,
    ) -> State:
        places, logs, slopes = _results(pool, places, losses, hypergradients)
        foretold = np.full((len(places), len(experts)), np.nan)
        first = len(_finite(state).places) < FEWEST
        if not first:
            for column, opinion in enumerate(opinions(state) if advice is None else advice.opinions):
                width = np.hypot(opinion.deviation[places], opinion.noise)
                foretold[:, column] = norm.logpdf(logs, opinion.mean[places], width)
        new = State(places, logs, slopes, foretold)
        state = State(*(np.concatenate(pair) for pair in zip(state, new, strict=True)))
        finite = np.isfinite(state.log_loss)
        if first and finite.sum() >= FEWEST:  # scored once, before any of them can have been chosen by these scores
            state.foretold[finite] = np.stack([opinion.left_out for opinion in opinions(state)], 1)
        return state

    def ask(state: State, count: int = 1) -> Advice:
        known = _enough(_finite(state))
        found, weights = opinions(state), _weights(known, temperature)
        gains, mean, spread = _mixed(found, weights, known.log_loss.min())
        gains[failed] = -np.inf
        places = _apart(gains, orbits, state.places, count)
        shares = dict(zip(experts, weights.tolist(), strict=True))
        ranks = [metrics.spearman(one.of_others, known.log_loss) for one in found]
        return Advice(places, gains[places], shares, dict(zip(experts, ranks, strict=True)), mean, spread, found)

    return Search(init, tell, ask, tuple(experts))


def _results(
    pool: np.ndarray, places: ArrayLike, losses: ArrayLike, hypergradients: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places [b], log losses [b], NaN where a training diverged, and their slopes [b, h], NaN where they are not known.

    Raises:
      UserError: a place that is not of the pool.
    """
    places, losses = np.atleast_1d(np.asarray(places, int)), np.atleast_1d(np.asarray(losses, np.float64))
    if len(places) and not (places.min() >= 0 and places.max() < len(pool)):
        raise UserError(f"full trainings must be of the pool, 0 to {len(pool) - 1}, got {places.tolist()}")
    losses = np.where(losses >= 0, np.maximum(losses, FLOOR), np.nan)
    slopes = np.full((len(places), pool.shape[1]), np.nan)
    if hypergradients is not None:
        slopes = np.asarray(hypergradients, np.float64).reshape(slopes.shape) / losses[:, None]
    return places, np.log(losses), slopes


def _check(space: Space, pool: np.ndarray, proxies: Mapping[str, Proxy]) -> None:
    h = len(space.hparam_names)
    if pool.ndim != 2 or pool.shape[1] != h:
        raise UserError(f"the pool must be [n, {h}], the hyperparameters of {space.name!r}, not {list(pool.shape)}")
    if not len(pool) or not (pool != pool[:1]).any():
        raise UserError(f"nothing varies in the pool of {len(pool)} candidates, so there is nothing to search")
    for name, proxy in proxies.items():
        if np.shape(proxy.log_loss) != (len(pool),):
            raise UserError(
                f"the proxy {name!r} must have one log loss for each of the {len(pool)} candidates of the pool, not "
                f"{list(np.shape(proxy.log_loss))}"
            )
        if proxy.slope is not None and np.shape(proxy.slope) != pool.shape:
            raise UserError(
                f"the slopes of the proxy {name!r} must be {list(pool.shape)}, not {list(np.shape(proxy.slope))}"
            )
        if not np.isfinite(proxy.log_loss).any():
            raise UserError(f"the proxy {name!r} failed for every candidate: leave it out")


def _failed(proxies: Mapping[str, Proxy], count: int) -> np.ndarray:
    """[n] which candidates every proxy failed at; none where there are no proxies."""
    if not proxies:
        return np.zeros(count, bool)
    scored = np.isfinite(np.stack([proxy.log_loss for proxy in proxies.values()]))
    return np.asarray(~scored.any(0))


def _finite(state: State) -> State:
    """Without the trainings that diverged."""
    return State(*(array[np.isfinite(state.log_loss)] for array in state))


def _enough(state: State) -> State:
    """The state.

    Raises:
      UserError: it holds too few full trainings to ask anybody how well one was foretold.
    """
    if len(state.places) < FEWEST:
        raise UserError(
            f"a calibrated search begins with at least {FEWEST} full trainings that did not diverge, not with "
            f"{len(state.places)}: train more, or lower training.learning_rate"
        )
    return state


def _mixed(
    opinions: tuple[Opinion, ...], weights: np.ndarray, best: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Expected improvement [n] over the best, mean [n] and deviation [n] of the experts' mixture."""
    means, deviations = (np.stack(part) for part in zip(*((one.mean, one.deviation) for one in opinions), strict=True))
    gains = np.exp(logsumexp(_log_improvement(best, means, deviations), axis=0, b=weights[:, None]))
    mean = weights @ means
    return gains, mean, np.sqrt(weights @ (deviations**2 + (means - mean) ** 2))


def _experts(space: Space, pool: np.ndarray, proxies: Mapping[str, Proxy]) -> dict[str, Expert]:
    def process(proxy: Proxy | None, *, with_slopes: bool) -> Expert:
        return lambda state: _process(space, pool, proxy, state, with_slopes=with_slopes)

    experts = {"values": process(None, with_slopes=False), "hypergradients": process(None, with_slopes=True)}
    for name, proxy in proxies.items():
        experts[f"{name} line"] = functools.partial(_line, proxy)
        experts[f"{name} + values"] = process(proxy, with_slopes=False)
        if proxy.slope is not None:
            experts[f"{name} + hypergradients"] = process(proxy, with_slopes=True)
    return experts


def _filled(proxy: Proxy) -> np.ndarray:
    """[n] log losses, the worst in place of those that failed: they are no candidates for the best."""
    finite = np.isfinite(proxy.log_loss)
    return np.where(finite, proxy.log_loss, np.max(proxy.log_loss[finite]))


def _line(proxy: Proxy, state: State) -> Opinion:
    """A line through the log losses of the proxy: what it leaves is of one size everywhere."""
    given, wanted = proxy.log_loss[state.places], state.log_loss
    known = np.isfinite(given)

    def through(rows: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return line(given[rows], wanted[rows], queries)

    # Where too few are known to draw a line, and of trainings that the proxy has no score of: what all of them say.
    of_others, width = np.full(len(wanted), wanted.mean()), np.full(len(wanted), max(wanted.std(), LEAST_DEVIATION))
    if known.sum() < FEWEST:
        mean, deviation = (np.full(len(proxy.log_loss), one[0]) for one in (of_others, width))
    else:
        for j in np.flatnonzero(known):
            of_others[j], width[j] = through(known & (np.arange(len(wanted)) != j), given[j])
        mean, deviation = through(known, _filled(proxy))
    return Opinion(mean, deviation, of_others, norm.logpdf(wanted, of_others, width), 0.0)


def _process(space: Space, pool: np.ndarray, proxy: Proxy | None, state: State, *, with_slopes: bool) -> Opinion:
    """A Gaussian process on top of a multiple of the proxy's log losses, which is free to vanish."""
    places, trend, everywhere = state.places, None, None
    if proxy is not None:
        filled, finite = _filled(proxy), np.isfinite(proxy.log_loss[places])
        unit = max(float(filled.std()), 1e-12)
        everywhere = (filled - (filled[places][finite] if finite.any() else filled).mean()) / unit
        slopes = np.zeros((len(places), pool.shape[1])) if proxy.slope is None else proxy.slope[places] / unit
        trend = surrogate.Trend(np.where(finite, everywhere[places], 0.0), slopes)
    process = surrogate.fit(space, pool[places], state.log_loss, state.slope if with_slopes else None, trend=trend)
    mean, deviation = surrogate.predict(process, pool, everywhere)
    of_others, width = surrogate.left_out(process)
    left_out = norm.logpdf(state.log_loss, of_others, np.maximum(width, LEAST_DEVIATION))
    return Opinion(mean, np.maximum(deviation, LEAST_DEVIATION), of_others, left_out, surrogate.noise_of(process))


def _weights(state: State, temperature: float) -> np.ndarray:
    """[e] shares of the experts' say."""
    evidence = np.nansum(state.foretold, 0) / temperature
    return np.exp(evidence - logsumexp(evidence))


def _log_improvement(best: float, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Logarithm of the expected improvement E max(best - y, 0), y normal (Jones et al. 1998), without underflow."""
    z = (best - mean) / deviation
    density, cumulative = norm.logpdf(z), log_ndtr(z)
    # z Phi(z) + phi(z); far below 0 both cancel, and phi(z) / z^2 is what is left.
    far = z < -10
    near = np.where(far, 0.0, z)
    close = np.log(np.maximum(near * np.exp(np.where(far, 0.0, cumulative)) + np.exp(norm.logpdf(near)), 1e-300))
    return np.log(deviation) + np.where(far, density - 2 * np.log(np.where(far, -z, 1.0)), close)


def _apart(gains: np.ndarray, orbits: np.ndarray, taken: np.ndarray, count: int) -> np.ndarray:
    """Places of the `count` largest gains that are apart from what is taken, and from one another."""
    near, radius = np.isneginf(gains), APART * min(1.0, orbits.shape[-1] / 3)

    def take(place: int) -> None:
        near[(np.abs(orbits - orbits[place, 0]) <= radius).all(-1).any(-1)] = True

    for place in taken:
        take(place)
    chosen: list[int] = []
    for _ in range(count):
        left = np.where(near, -np.inf, gains)
        place = int(left.argmax())
        if near[place]:
            break
        chosen.append(place)
        take(place)
    return np.array(chosen, int)
