"""The calibrated search: on functions whose minimum is known, with proxies that help, mislead, or say nothing."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy.stats import norm

from hcdc_jax import spaces
from hcdc_jax.errors import UserError
from hcdc_jax.search.calibrated import FEWEST, Proxy, _apart, _log_improvement, calibrated

SPACE = spaces.box("cube", dict.fromkeys("abc", (-1.0, 1.0)))
POOL = np.asarray(SPACE.sample(jax.random.key(0), 300))
BEST = np.array([0.4, -0.3, 0.2])


def log_loss(x):
    return 0.8 * ((x - BEST) ** 2 * np.array([1.0, 2.0, 0.5])).sum(-1) + 0.2 * np.sin(3 * x[..., 0])


def slope(x):
    return np.stack([(log_loss(x + 1e-5 * e) - log_loss(x - 1e-5 * e)) / 2e-5 for e in np.eye(3)], -1)


LOGS, SLOPES = log_loss(POOL), slope(POOL)


def run(proxies, *, first=8, more=4, space=SPACE, gradients=True, seed=0, pool=POOL, logs=LOGS, slopes=SLOPES):
    """Places in the order of training, and the last advice."""
    search = calibrated(space, pool, proxies)
    places = list(np.random.default_rng(seed).choice(len(pool), first, replace=False))

    def target(some):
        return np.exp(logs[some]), np.exp(logs[some])[:, None] * slopes[some] if gradients else None

    state = search.tell(search.init(), places, *target(places))
    for _ in range(more):
        (place,) = search.ask(state).places
        state = search.tell(state, [place], *target([place]))
        places.append(int(place))
    return places, search.ask(state), state, search


@pytest.mark.parametrize("gradients", [True, False])
def test_the_best_of_three_hundred_is_found_with_a_dozen_trainings(gradients):
    regrets = [LOGS[run({}, gradients=gradients, seed=seed)[0]].min() - LOGS.min() for seed in range(4)]
    assert np.median(regrets) < 0.01 * np.ptp(LOGS)


def test_a_proxy_that_knows_finds_it_at_once_and_gets_the_say():
    good = Proxy(0.5 * LOGS - 1 + 0.01 * np.random.default_rng(0).normal(size=300))
    places, advice, _, _ = run({"good": good}, more=2, gradients=False)
    assert LOGS[places[8:]].min() <= np.sort(LOGS)[2]
    assert sum(share for name, share in advice.weights.items() if name.startswith("good")) > 0.9


def test_a_proxy_that_runs_against_the_truth_loses_its_say():
    wrong = Proxy(-LOGS + 0.1 * np.random.default_rng(0).normal(size=300))
    places, advice, _, _ = run({"wrong": wrong})
    assert LOGS[places].min() - LOGS.min() < 0.02 * np.ptp(LOGS)
    # Its exponent is 0, and with it the proxies' processes are those that know no proxy; its line knows nothing.
    assert advice.weights["wrong line"] < 0.05


def test_a_shuffled_proxy_costs_nothing_and_is_seen_through():
    shuffled = Proxy(np.random.default_rng(1).permutation(LOGS))
    alone = [LOGS[run({}, seed=seed)[0]].min() for seed in (0, 1)]
    found = [run({"shuffled": shuffled}, seed=seed) for seed in (0, 1)]
    assert np.mean([LOGS[places].min() for places, *_ in found]) <= np.mean(alone) + 0.005 * np.ptp(LOGS)
    ranks = [advice.ranks for _, advice, _, _ in found]
    assert all(rank["shuffled line"] < 0.3 for rank in ranks)
    assert all(rank["hypergradients"] > 0.3 for rank in ranks)
    assert all(advice.weights["shuffled line"] < 0.05 for _, advice, _, _ in found)


def test_duplicates_of_a_pool_are_trained_once():
    some = np.concatenate([POOL[:5]] * 4)
    search = calibrated(SPACE, some, {})
    state = search.tell(search.init(), [0, 1, 2], np.exp(LOGS[:3]))
    assert set(search.ask(state, 20).places % 5) == {3, 4}
    assert len(search.ask(state, 20).places) == 2
    state = search.tell(state, [3, 4], np.exp(LOGS[3:5]))
    assert not len(search.ask(state).places), "nothing is left"
    # Whoever trains one candidate twice is not lost, though the two results differ.
    state = search.tell(state, [5, 10], np.exp(LOGS[0] + np.array([0.01, -0.01])))
    assert np.isfinite(search.ask(state).mean).all()


def test_a_proxy_that_flatters_one_corner_is_seen_through():
    """It is right at what it was matched to, and far too low where nobody had looked: as S_val may be."""
    flattered = LOGS - 3.0 * np.exp(-20 * ((POOL - np.array([-0.8, 0.8, -0.8])) ** 2).sum(1))
    seeds = range(4)
    with_it = [LOGS[run({"s_val": Proxy(flattered)}, seed=seed, more=5)[0]].min() for seed in seeds]
    assert np.median(with_it) - LOGS.min() < 0.02 * np.ptp(LOGS)


def test_evidence_is_what_was_foretold():
    _, _, state, search = run({"good": Proxy(LOGS)}, more=3)
    assert state.foretold.shape == (11, len(search.experts))
    assert np.isfinite(state.foretold).all()
    # Of the first ones it is what each says given the others of the first, and what comes later does not change it.
    early = search.tell(search.init(), state.places[:8], np.exp(state.log_loss[:8]))
    plain, _, later, _ = run({"good": Proxy(LOGS)}, more=3, gradients=False)
    np.testing.assert_allclose(early.foretold, later.foretold[:8], rtol=1e-6)
    # Of later ones it is the density that was predicted, the noise of a training included.
    advice = search.ask(early)
    place = int(plain[8])
    told = search.tell(early, [place], [np.exp(LOGS[place])], None, advice)
    expected = [
        norm.logpdf(LOGS[place], one.mean[place], np.hypot(one.deviation[place], one.noise)) for one in advice.opinions
    ]
    np.testing.assert_allclose(told.foretold[-1], expected)
    shares = np.exp(told.foretold.sum(0) - told.foretold.sum(0).max())
    np.testing.assert_allclose(list(search.ask(told).weights.values()), shares / shares.sum(), rtol=1e-6)
    assert search.experts == ("values", "hypergradients", "good line", "good + values")


def test_slopes_of_a_proxy_add_an_expert_and_may_be_unknown_somewhere():
    slopes = np.where(np.arange(300)[:, None] % 2 == 0, SLOPES, np.nan)
    _, advice, _, search = run({"good": Proxy(LOGS, slopes)}, more=1)
    assert search.experts[-1] == "good + hypergradients"
    assert np.isfinite(advice.mean).all()
    assert (advice.deviation > 0).all()


def test_equals_are_not_trained_twice():
    space = spaces.get("graph_filter")
    pool = np.asarray(space.sample(jax.random.key(1), 60))
    pool = np.concatenate([pool, -pool])
    logs = (pool[:, 0] + 0.5 * pool[:, 1]) ** 2
    slopes = 2 * (pool[:, :1] + 0.5 * pool[:, 1:2]) * np.array([1.0, 0.5, 0.0])
    search = calibrated(space, pool, {})
    state = search.tell(search.init(), range(8), np.exp(logs[:8]), np.exp(logs[:8])[:, None] * slopes[:8])
    places = search.ask(state, 10).places
    everyone = np.concatenate([np.arange(8), places])
    std = np.asarray(space.prior_std)
    for i, one in enumerate(everyone):
        for other in everyone[i + 1 :]:
            for sign in (1, -1):
                assert np.abs((pool[one] - sign * pool[other]) / std).max() > 0.15 or one < 8 > other


def test_trainings_that_diverged_are_no_evidence_and_are_not_asked_for_again():
    search = calibrated(SPACE, POOL, {"good": Proxy(LOGS)})
    losses = np.exp(LOGS[:8])
    state = search.tell(search.init(), range(8), losses)
    before = search.ask(state)
    state = search.tell(state, [int(before.places[0])], [np.nan])
    after = search.ask(state)
    assert before.places[0] != after.places[0]
    assert before.weights == after.weights
    np.testing.assert_array_equal(before.mean, after.mean)


def test_failed_candidates_are_not_asked_for():
    logs = np.where(np.arange(300) < 100, np.nan, LOGS)
    search = calibrated(SPACE, POOL, {"half": Proxy(logs)})
    state = search.tell(search.init(), range(100, 108), np.exp(LOGS[100:108]))
    assert (search.ask(state, 20).places >= 100).all()


def test_expected_improvement_is_the_integral_and_never_underflows():
    rng = np.random.default_rng(0)
    mean, deviation = rng.normal(size=20), rng.uniform(0.1, 2, 20)
    y = norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    expected = np.array([np.maximum(0.3 - m - s * y, 0).mean() for m, s in zip(mean, deviation, strict=True)])
    np.testing.assert_allclose(np.exp(_log_improvement(0.3, mean, deviation)), expected, rtol=1e-3)
    far = _log_improvement(0.0, np.array([1.0, 2.0, 5.0, 50.0]), np.full(4, 0.01))
    assert np.isfinite(far).all()
    assert (np.diff(far) < 0).all()
    # Both sides of the change of formula agree.
    near = _log_improvement(0.0, np.array([0.09999, 0.10001]), np.full(2, 0.01))
    np.testing.assert_allclose(near[0], near[1], rtol=5e-3)


def test_what_is_apart():
    gains = np.array([5.0, 4, 3, 2, 1])
    line = np.array([0.0, 0.1, 0.3, 0.32, 1.0])[:, None, None]
    np.testing.assert_array_equal(_apart(gains, line, np.array([], int), 5), [0, 1, 2, 4])
    np.testing.assert_array_equal(_apart(gains, np.repeat(line, 3, 2), np.array([], int), 5), [0, 2, 4])
    np.testing.assert_array_equal(_apart(gains, line, np.array([4]), 1), [0])
    np.testing.assert_array_equal(_apart(np.where(gains == 5, -np.inf, gains), line, np.array([4]), 1), [1])


def test_a_proxy_that_hardly_varied_at_the_first_trainings_is_not_believed_elsewhere():
    """Any exponent fits there; one of 80 was taken, and losses of exp(-12) were foretold."""
    still = np.where(np.arange(300) < 8, 1e-3, 0.1) * np.random.default_rng(0).normal(size=300)
    search = calibrated(SPACE, POOL, {"still": Proxy(still)})
    state = search.tell(search.init(), range(8), np.exp(LOGS[:8]))
    (opinion,) = (one for name, one in zip(search.experts, search.ask(state).opinions, strict=True) if "+ val" in name)
    z = (opinion.mean - LOGS) / np.hypot(opinion.deviation, opinion.noise)
    assert np.sqrt(np.mean(z[8:] ** 2)) < 3
    assert opinion.mean.min() > LOGS.min() - 2 * np.ptp(LOGS)


@pytest.mark.parametrize(
    ("pool", "proxies", "message"),
    [
        (POOL[:, :2], {}, r"the pool must be \[n, 3\]"),
        (np.ones((5, 3)), {}, "nothing varies in the pool of 5 candidates"),
        (POOL, {"short": Proxy(LOGS[:7])}, "the proxy 'short' must have one log loss for each of the 300"),
        (POOL, {"dead": Proxy(np.full(300, np.nan))}, "the proxy 'dead' failed for every candidate"),
        (POOL, {"flat": Proxy(LOGS, LOGS)}, r"the slopes of the proxy 'flat' must be \[300, 3\], not \[300\]"),
    ],
)
def test_bad_input_is_told_in_one_line(pool, proxies, message):
    with pytest.raises(UserError, match=message):
        calibrated(SPACE, pool, proxies)


def test_too_few_trainings_are_told():
    search = calibrated(SPACE, POOL, {})
    with pytest.raises(UserError, match="must be of the pool, 0 to 299"):
        search.tell(search.init(), [300], [1.0])
    with pytest.raises(UserError, match="must be above 0"):
        calibrated(SPACE, POOL, {}, temperature=0.0)
    state = search.tell(search.init(), [0, 1], np.exp(LOGS[:2]))
    with pytest.raises(UserError, match=f"at least {FEWEST} full trainings"):
        search.ask(state)
