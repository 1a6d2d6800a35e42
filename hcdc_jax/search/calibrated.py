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

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_ndtr, logsumexp
from scipy.stats import norm

from hcdc_jax import surrogate
from hcdc_jax.errors import UserError, check_name
from hcdc_jax.spaces import Space

APART = 0.15
"""Prior standard deviations within which candidates are one: a second full training would say nothing new."""
LEAST_DEVIATION = 0.02
"""Of a predicted log loss: two trainings of one candidate differ by about as much, and no expert knows more."""
FEWEST = 3
"""Full trainings without which no expert can be asked how well it foretold one."""


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
      foretold: [m, e] log density that each expert gave a result before it was known; NaN for those that no expert was
        asked about.
    """

    places: np.ndarray
    log_loss: np.ndarray
    slope: np.ndarray
    foretold: np.ndarray


class Opinion(NamedTuple):
    """What an expert makes of the full trainings.

    Attributes:
      mean: [n] predicted log loss.
      deviation: [n] its standard deviation.
      left_out: [m] log density of each result, predicted from the others.
    """

    mean: np.ndarray
    deviation: np.ndarray
    left_out: np.ndarray


class Advice(NamedTuple):
    """What to train next.

    Attributes:
      places: [b] of the pool, most promising first; fewer than asked for where nothing else is far enough from what was
        trained.
      gain: [b] by how much each is expected to lower the log loss of the best so far.
      weights: by expert, the share of its say.
      mean: [n] predicted log loss of every candidate.
      deviation: [n] standard deviation of that prediction, disagreement of the experts included.
      opinions: of each expert.
    """

    places: np.ndarray
    gain: np.ndarray
    weights: dict[str, float]
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

    Experts: for each proxy a line through its log losses, and a Gaussian process on what such a line leaves, with and
    without slopes; and a Gaussian process that knows no proxy, with and without slopes. All are fitted anew when they
    are asked. An expert's evidence is the sum over full trainings of the log density that it gave the result: before it
    was known, where it was asked, else predicted from the others; weights are proportional to exp(evidence /
    temperature), as posterior probabilities of models are.

    Args:
      space: of the candidates; candidates of one orbit are one.
      pool: [n, h] all candidates, those that are trained in full among them.
      proxies: by name.
      temperature: of the weights; 1 is Bayes' rule, more lets wrong experts keep their say for longer.
      asked: names of the experts who are asked; all by default. `Search.experts` has them.

    Raises:
      UserError: pool and proxies do not fit to each other or to the space, or nothing in the pool varies; or an expert
        is asked for that there is not.
    """
    pool = np.asarray(pool)
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
        places, losses = np.atleast_1d(np.asarray(places, int)), np.atleast_1d(np.asarray(losses, np.float64))
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(losses)
        slopes = np.full((len(places), h), np.nan)
        if hypergradients is not None:
            slopes = np.asarray(hypergradients, np.float64).reshape(-1, h) / losses[:, None]
        foretold = np.full((len(places), len(experts)), np.nan)
        if len(_finite(state).places) >= FEWEST:
            for column, opinion in enumerate(opinions(state) if advice is None else advice.opinions):
                foretold[:, column] = norm.logpdf(logs, opinion.mean[places], opinion.deviation[places])
        return State(*(np.concatenate(pair) for pair in zip(state, (places, logs, slopes, foretold), strict=True)))

    def ask(state: State, count: int = 1) -> Advice:
        known = _finite(state)
        if len(known.places) < FEWEST:
            raise UserError(
                f"a calibrated search begins with at least {FEWEST} full trainings that did not diverge, not with "
                f"{len(known.places)}: train more, or lower training.learning_rate"
            )
        found = opinions(state)
        weights = _weights(known, found, temperature)
        means, deviations = np.stack([one.mean for one in found]), np.stack([one.deviation for one in found])
        best = known.log_loss.min()
        gains = np.exp(logsumexp(_log_improvement(best, means, deviations), axis=0, b=weights[:, None]))
        mean = weights @ means
        spread = np.sqrt(weights @ (deviations**2 + (means - mean) ** 2))
        places = _apart(gains, orbits, np.concatenate([state.places, np.flatnonzero(failed)]), count)
        names = dict(zip(experts, weights.tolist(), strict=True))
        return Advice(places, gains[places], names, mean, spread, found)

    return Search(init, tell, ask, tuple(experts))


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


def _experts(space: Space, pool: np.ndarray, proxies: Mapping[str, Proxy]) -> dict[str, Expert]:
    nothing = Proxy(np.zeros(len(pool)), np.zeros(pool.shape))
    experts: dict[str, Expert] = {
        "values": lambda state: _process(space, pool, nothing, state, with_slopes=False),
        "hypergradients": lambda state: _process(space, pool, nothing, state, with_slopes=True),
    }
    for name, proxy in proxies.items():
        filled = _filled(proxy)
        experts[f"{name} line"] = lambda state, proxy=filled: _line(proxy, state)
        experts[f"{name} + values"] = lambda state, proxy=filled: _process(space, pool, proxy, state, with_slopes=False)
        if proxy.slope is not None:
            experts[f"{name} + hypergradients"] = lambda state, proxy=filled: _process(
                space, pool, proxy, state, with_slopes=True
            )
    return experts


def _filled(proxy: Proxy) -> Proxy:
    """The worst score in place of those that failed: they are no candidates for the best."""
    finite = np.isfinite(proxy.log_loss)
    return proxy._replace(log_loss=np.where(finite, proxy.log_loss, np.max(proxy.log_loss[finite])))


def _exponent(proxy: Proxy, state: State) -> tuple[float, float]:
    """Offset and exponent b >= 0 of the least-squares line from a proxy's log losses to those of full trainings."""
    given, wanted = proxy.log_loss[state.places], state.log_loss
    centred = given - given.mean()
    exponent = max(float(centred @ wanted / max(centred @ centred, 1e-12)), 0.0)
    return float(wanted.mean() - exponent * given.mean()), exponent


def _line(proxy: Proxy, state: State) -> Opinion:
    """Ordinary regression: what it leaves is noise of one size everywhere."""
    offset, exponent = _exponent(proxy, state)
    given, count = proxy.log_loss[state.places], len(state.places)
    residual = state.log_loss - offset - exponent * given
    # Leverages of a line (of a constant where the exponent is 0): how far a result draws the line towards itself.
    centred = given - given.mean()
    through = (exponent > 0) / max(centred @ centred, 1e-12)
    leverage = np.minimum(1 / count + through * centred**2, 0.9)
    size = max(np.sqrt(residual @ residual / max(count - 2, 1)), LEAST_DEVIATION)
    left_out = norm.logpdf(residual / (1 - leverage), 0, size / np.sqrt(1 - leverage))
    mean = offset + exponent * proxy.log_loss
    away = through * (proxy.log_loss - given.mean()) ** 2
    return Opinion(mean, size * np.sqrt(1 + 1 / count + away), left_out)


def _process(space: Space, pool: np.ndarray, proxy: Proxy, state: State, *, with_slopes: bool) -> Opinion:
    """A Gaussian process on what a line through the proxy leaves."""
    _, exponent = _exponent(proxy, state)
    slopes = None
    if with_slopes:
        assert proxy.slope is not None
        slopes = state.slope - exponent * proxy.slope[state.places]
    process = surrogate.fit(space, pool[state.places], state.log_loss - exponent * proxy.log_loss[state.places], slopes)
    mean, deviation = surrogate.predict(process, pool)
    of_others, width = surrogate.left_out(process)
    residual = state.log_loss - exponent * proxy.log_loss[state.places]
    left_out = norm.logpdf(residual, of_others, np.maximum(width, LEAST_DEVIATION))
    return Opinion(mean + exponent * proxy.log_loss, np.maximum(deviation, LEAST_DEVIATION), left_out)


def _weights(state: State, opinions: tuple[Opinion, ...], temperature: float) -> np.ndarray:
    """[e] shares of the experts' say."""
    left_out = np.stack([opinion.left_out for opinion in opinions], 1)  # [m, e]
    evidence = np.where(np.isnan(state.foretold), left_out, state.foretold).sum(0) / temperature
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
    near = np.zeros(len(gains), bool)

    def take(place: int) -> None:
        near.__ior__((np.abs(orbits - orbits[place, 0]) <= APART).all(-1).any(-1))

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
