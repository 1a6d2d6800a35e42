"""Rank metrics against scipy, brute force and hand-made cases."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from hcdc_jax import metrics
from hcdc_jax.metrics import rank_correlations


def scores(seed, n=40, ties=False):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=n)
    proxy = truth + rng.normal(size=n)
    return (np.round(truth, 1), np.round(proxy, 0)) if ties else (truth, proxy)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_spearman_and_kendall_agree_with_scipy(seed, ties):
    truth, proxy = scores(seed, ties=ties)
    assert metrics.spearman(truth, proxy) == pytest.approx(scipy.stats.spearmanr(truth, proxy).statistic, abs=1e-12)
    assert metrics.kendall(truth, proxy) == pytest.approx(scipy.stats.kendalltau(truth, proxy).statistic, abs=1e-12)


def brute_force_weighted_tau(truth, proxy):
    """Vigna's definition, pair by pair; truth and proxy are losses without ties."""
    results = []
    for by in (truth, proxy):
        rank = np.argsort(np.argsort(by))
        total = agreement = 0.0
        for i, j in itertools.combinations(range(len(by)), 2):
            weight = 1 / (rank[i] + 1) + 1 / (rank[j] + 1)
            agreement += weight * np.sign(truth[i] - truth[j]) * np.sign(proxy[i] - proxy[j])
            total += weight
        results.append(agreement / total)
    return np.mean(results)


def test_weighted_tau_is_vignas_and_weighs_low_losses_most():
    truth, proxy = scores(0, n=15)
    assert metrics.weighted_tau(truth, proxy) == pytest.approx(brute_force_weighted_tau(truth, proxy))
    assert metrics.weighted_tau(-truth, -proxy, higher_is_better=True) == metrics.weighted_tau(truth, proxy)
    x = np.arange(10.0)
    best_swapped, worst_swapped = x.copy(), x.copy()
    best_swapped[[0, 1]], worst_swapped[[8, 9]] = x[[1, 0]], x[[9, 8]]
    assert metrics.weighted_tau(x, best_swapped) < metrics.weighted_tau(x, worst_swapped)


@pytest.mark.parametrize("metric", [metrics.spearman, metrics.kendall, metrics.weighted_tau])
def test_correlations_are_nan_where_undefined(metric):
    varied = np.arange(4.0)
    for a, b in [
        (np.ones(4), varied),
        (varied, np.ones(4)),
        (np.array([]), np.array([])),
        (np.array([1.0]), np.array([2.0])),
        (np.array([1.0, np.nan, 3.0]), np.arange(3.0)),
        (np.array([np.inf, np.inf, np.inf]), np.arange(3.0)),
    ]:
        assert math.isnan(metric(a, b))
    assert metric(varied, 10 * varied) == pytest.approx(1.0)
    assert metric(varied, -varied) == pytest.approx(-1.0)


def test_shapes_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match=r"\(3,\) and \(4,\)"):
        metrics.spearman(np.arange(3), np.arange(4))
    with pytest.raises(ValueError, match="status"):
        metrics.rank_report(np.arange(3), np.arange(3), status=np.ones(4))


def brute_force_overlap(truth, proxy, k):
    """Mean overlap over every way to break the ties of both sides, by jitter far below their spacing."""
    rng = np.random.default_rng(0)
    jitter = rng.uniform(0, 1e-6, size=(2, 4000, len(truth)))
    best_truth = np.argsort(truth + jitter[0], axis=1)[:, :k]
    best_proxy = np.argsort(proxy + jitter[1], axis=1)[:, :k]
    return np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(best_truth, best_proxy, strict=True)])


@pytest.mark.parametrize("k", [1, 3, 7])
def test_overlap_is_the_overlap_expected_over_ties(k):
    truth, proxy = scores(1, n=12)
    overlap = len(set(np.argsort(truth)[:k]) & set(np.argsort(proxy)[:k])) / k
    assert metrics.overlap_at(truth, proxy, k) == pytest.approx(overlap)
    assert metrics.overlap_at(-truth, -proxy, k, higher_is_better=True) == pytest.approx(overlap)
    truth, proxy = scores(1, n=12, ties=True)
    # 4,000 draws: the standard error is below 0.5 / sqrt(4000) = 0.008
    assert metrics.overlap_at(truth, proxy, k) == pytest.approx(brute_force_overlap(truth, proxy, k), abs=0.03)
    assert metrics.overlap_at(truth, np.zeros(12), k) == pytest.approx(k / 12)


def test_overlap_refuses_k_outside_the_candidates():
    for k in (0, 5):
        with pytest.raises(ValueError, match=f"k = {k}"):
            metrics.overlap_at(np.arange(4), np.arange(4), k)


@pytest.mark.parametrize(("n", "best"), [(4, 1), (14, 1), (15, 2), (80, 8), (96, 10)])
def test_best_tenth_is_rounded_half_up_and_at_least_one(n, best):
    truth, proxy = scores(2, n=n)
    expected = metrics.overlap_at(truth, proxy, best)
    assert metrics.rank_report(truth, proxy, bootstrap=0)["overlap_top_10"] == expected


def test_regret_is_what_the_choice_costs():
    truth = np.array([0.5, 0.2, 0.9, 0.3])
    assert metrics.regret(truth, truth) == 0
    assert metrics.regret(truth, np.array([1, 4, 3, 2])) == pytest.approx(0.3)
    assert metrics.regret(truth, np.array([1, 4, 3, 2]), higher_is_better=True) == pytest.approx(0.9 - 0.2)
    assert metrics.regret(truth, np.array([1, 4, 3, 1])) == pytest.approx(0.4 - 0.2), "ties count by their mean"
    assert metrics.regret(truth, np.array([1, np.nan, 3, 2])) == pytest.approx(0.3), "failing on the best is not free"
    assert metrics.regret(np.array([0.5, np.nan, 0.9, 0.3]), np.array([1, 0, 3, 2])) == pytest.approx(0.2)
    assert math.isnan(metrics.regret(truth, np.full(4, np.nan)))


def brute_force_regret(truth, proxy, decided_by, k):
    """Mean over every choice of k among those whose proxy ties; losses without ties in `decided_by`."""
    lost = []
    for few in itertools.combinations(range(len(truth)), k):
        left = np.delete(proxy, few)
        if proxy[list(few)].max() <= left.min(initial=np.inf):
            taken = min(few, key=lambda i: decided_by[i])
            lost.append(truth[taken] - truth.min())
    return np.mean(lost)


@pytest.mark.parametrize("k", [1, 3, 5, 9])
@pytest.mark.parametrize("ties", [False, True])
def test_regret_of_the_best_few_is_that_of_training_them_in_full(k, ties):
    rng = np.random.default_rng(k)
    truth, decided_by = rng.normal(size=(2, 9))
    proxy = rng.integers(0, 3, 9).astype(float) if ties else rng.normal(size=9)
    expected = brute_force_regret(truth, proxy, decided_by, k)
    assert metrics.regret(truth, proxy, k=k, decided_by=decided_by) == pytest.approx(expected)
    flipped = metrics.regret(-truth, -proxy, k=k, decided_by=-decided_by, higher_is_better=True)
    assert flipped == pytest.approx(expected)
    assert metrics.regret(truth, proxy, k=k) == pytest.approx(brute_force_regret(truth, proxy, truth, k))


def test_regret_of_the_best_few_where_some_failed_or_tie():
    truth, proxy = np.array([0.5, 0.2, 0.9, 0.3]), np.array([1.0, np.nan, 2.0, 3.0])
    assert metrics.regret(truth, proxy, k=2) == pytest.approx(0.3), "a failed one is not among the two"
    assert metrics.regret(truth, proxy, k=99) == pytest.approx(0.1), "all three that can be trained"
    with pytest.raises(ValueError, match="k = 0"):
        metrics.regret(truth, proxy, k=0)
    # Equal losses on the validation part: the worst on the test part counts, whatever their order.
    assert metrics.regret(truth, np.arange(4), k=3, decided_by=np.ones(4)) == pytest.approx(0.7)
    assert metrics.regret(truth[::-1], np.arange(4)[::-1], k=3, decided_by=np.ones(4)) == pytest.approx(0.7)
    # Ties of thousands do not overflow.
    many = np.linspace(0, 1, 5000)
    assert metrics.regret(many, np.zeros(5000), k=2500) == pytest.approx(0, abs=1e-3)


def test_spearman_inside_the_top_knows_nothing_of_the_rest():
    truth, proxy = scores(9, n=80)
    report = metrics.rank_report(truth, proxy, bootstrap=0)
    top = np.argsort(truth)[:8]
    assert report["spearman_top_10"] == pytest.approx(scipy.stats.spearmanr(truth[top], proxy[top]).statistic)
    shuffled = proxy.copy()
    shuffled[top] = proxy[top][::-1] - 100  # finds the top, in some order
    report = metrics.rank_report(truth, shuffled, bootstrap=0)
    assert report["overlap_top_10"] == 1
    assert report["spearman_top_10"] == pytest.approx(scipy.stats.spearmanr(truth[top], proxy[top][::-1]).statistic)
    assert math.isnan(metrics.rank_report(truth[:74], proxy[:74], bootstrap=0)["spearman_top_10"]), "of 7 it is noise"
    tied = np.repeat(np.arange(40.0), 2)
    tied[7:9] = 3.0  # the eighth and ninth place
    assert metrics.spearman_at(tied, proxy, 8) == pytest.approx(scipy.stats.spearmanr(tied[:9], proxy[:9]).statistic)


def test_rank_report_masks_and_counts_failures():
    truth, proxy = scores(3, n=80)
    clean = metrics.rank_report(truth, proxy)
    dirty_truth = np.concatenate([truth, [np.nan, 0.0, 0.0, 0.0]])
    dirty_proxy = np.concatenate([proxy, [0.0, np.inf, np.nan, -100.0]])
    status = np.arange(84) != 83
    dirty = metrics.rank_report(dirty_truth, dirty_proxy, status=status)
    assert (dirty.pop("n"), dirty.pop("failed")) == (80, 4)
    assert (clean.pop("n"), clean.pop("failed")) == (80, 0)
    assert dirty == clean


def test_rank_report_does_not_depend_on_direction_order_or_scale():
    truth, proxy = scores(4, n=80)
    report = metrics.rank_report(truth, proxy)
    flipped = metrics.rank_report(-truth, -proxy, higher_is_better=True)
    assert flipped.pop("interval") == pytest.approx(report.pop("interval"))
    assert flipped == pytest.approx(report)
    order = np.random.default_rng(0).permutation(truth.size)
    shuffled = metrics.rank_report(truth[order], np.exp(proxy[order]))
    assert not math.isnan(report["spearman_top_10"])
    for name in report.keys() - {"n", "failed"}:
        assert shuffled[name] == pytest.approx(report[name]), name


@pytest.mark.parametrize("n", [0, 1, 5])
def test_rank_report_of_nothing_to_rank(n):
    report = metrics.rank_report(np.arange(n), np.ones(n))
    assert math.isnan(report["spearman"])
    assert all(map(math.isnan, report["interval"]))
    assert (report["n"], report["failed"]) == (n, 0)
    all_failed = metrics.rank_report(np.arange(n), np.full(n, np.nan))
    assert (all_failed["n"], all_failed["failed"]) == (0, n)
    assert math.isnan(all_failed["regret"])


@pytest.mark.parametrize("ties", [False, True])
def test_resampled_spearman_is_scipys_on_each_resample(ties):
    truth, proxy = scores(5, n=25, ties=ties)
    rng = np.random.default_rng(0)
    draws = rng.integers(25, size=(20, 25))
    counts = np.stack([np.bincount(draw, minlength=25) for draw in draws]).astype(float)
    ours = rank_correlations._spearman_of_resamples(counts, truth, proxy)
    theirs = [scipy.stats.spearmanr(truth[draw], proxy[draw]).statistic for draw in draws]
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_interval_agrees_with_a_plain_bootstrap():
    truth, proxy = scores(6, n=60)
    rng = np.random.default_rng(1)
    draws = rng.integers(60, size=(2000, 60))
    plain = np.quantile([scipy.stats.spearmanr(truth[d], proxy[d]).statistic for d in draws], [0.025, 0.975])
    ours = metrics.spearman_interval(truth, proxy[None], bootstrap=2000)
    np.testing.assert_allclose(ours, plain, atol=0.03)  # Monte-Carlo error of a 2.5 % quantile from 2,000 draws
    assert ours == metrics.spearman_interval(truth, proxy[None], bootstrap=2000), "same seed, same interval"


def test_interval_sees_the_spread_between_seeds():
    truth, proxy = scores(7, n=60)
    steady = metrics.spearman_interval(truth, np.stack([proxy, proxy, proxy]))
    one = metrics.spearman_interval(truth, proxy[None])
    np.testing.assert_allclose(steady, one, atol=0.03)
    unsteady = metrics.spearman_interval(truth, np.stack([proxy, -proxy, proxy]))
    assert unsteady[1] - unsteady[0] > 2 * (one[1] - one[0])


def test_interval_of_many_candidates_is_computed_in_blocks():
    truth, proxy = scores(8, n=30_000)
    low, high = metrics.spearman_interval(truth, proxy[None], bootstrap=100)
    assert low < metrics.spearman(truth, proxy) < high


def test_break_even_is_where_the_two_searches_cost_the_same():
    condense, small, full, retrained = 100.0, 0.3, 2.0, 2
    pays = metrics.break_even(condense, small, full, retrained)
    cost = lambda p: condense + p * small + retrained * full  # noqa: E731
    assert cost(pays) <= pays * full
    assert cost(pays - 1) > (pays - 1) * full
    assert metrics.break_even(100.0, 2.0, 2.0) is None
    assert metrics.break_even(100.0, 3.0, 2.0) is None
    assert metrics.break_even(math.nan, 0.3, 2.0) is None
    assert metrics.break_even(0.0, 0.0, 2.0) == 2, "the finalist alone costs one full training"


def test_cheaper_is_from_where_it_stays_so():
    assert metrics.cheaper_from([3, 3, 3, 3], [1, 4, 2, 9]) == 4
    assert metrics.cheaper_from([1, 2, 2], [1, 2, 3]) == 3, "as dear is not cheaper"
    assert metrics.cheaper_from([0, 0], [1, 1]) == 1
    assert metrics.cheaper_from([0, 1], [1, 1]) is None


@pytest.mark.parametrize(("share", "seeds"), [(0.726, 2), (0.5, 2), (0.8, 5), (0.9, 1)])
def test_no_ranking_beats_the_bound_that_noise_sets(share, seeds):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=200_000) * math.sqrt(share)
    trainings = scores + rng.normal(size=(max(seeds, 2), scores.size)) * math.sqrt(1 - share)
    agreement = np.corrcoef(trainings)[0, 1]
    reached = np.corrcoef(scores, trainings[:seeds].mean(0))[0, 1]
    # The standard error of a correlation of 200,000 pairs is 0.002.
    assert metrics.bound_of_agreement(agreement, seeds) == pytest.approx(reached, abs=0.005)
    assert reached > agreement, "agreement is no ceiling"


def test_the_bound_at_its_ends():
    assert metrics.bound_of_agreement(0.726, 2) == pytest.approx(math.sqrt(2 * 0.726 / 1.726))
    assert metrics.bound_of_agreement(1.0, 3) == 1
    assert metrics.bound_of_agreement(-0.2, 2) == 0
    assert math.isnan(metrics.bound_of_agreement(math.nan, 2))


def test_summary_does_not_hide_a_failed_seed():
    assert metrics.summarise([1.0, 2.0, 3.0]) == {"mean": 2.0, "std": 1.0, "values": [1.0, 2.0, 3.0]}
    assert metrics.summarise([4.0]) == {"mean": 4.0, "std": 0.0, "values": [4.0]}
    for values in ([], [1.0, math.nan]):
        summary = metrics.summarise(values)
        assert math.isnan(summary["mean"])
        assert math.isnan(summary["std"])
        assert len(summary["values"]) == len(values)


def test_partial_correlation_is_that_of_what_a_regression_of_ranks_leaves():
    rng = np.random.default_rng(0)
    size = rng.integers(0, 9, 40)
    a, b = size + rng.normal(size=40), size + rng.normal(size=40)
    x = np.stack([np.ones(40), scipy.stats.rankdata(size)], 1)
    left = [r - x @ np.linalg.lstsq(x, r, rcond=None)[0] for r in (scipy.stats.rankdata(a), scipy.stats.rankdata(b))]
    np.testing.assert_allclose(metrics.partial_spearman(a, b, size), np.corrcoef(*left)[0, 1], rtol=1e-10)
    assert metrics.partial_spearman(a, b, np.ones(40)) == metrics.spearman(a, b)
    assert math.isnan(metrics.partial_spearman(size, b, size))
    assert math.isnan(metrics.partial_spearman(a, b, np.full(40, np.nan)))


def test_ranks_inside_groups_know_nothing_of_the_groups():
    groups = np.array([1, 1, 1, 2, 2, 3, 4, 4])
    a = np.array([1.0, 2, 3, 10, 11, 5, 7, 7])
    b = np.array([3.0, 2, 1, 20, 21, 5, 1, 2])
    # -1 among three, 1 among two; one candidate alone and a tie tell nothing.
    assert metrics.spearman_within(a, b, groups) == (pytest.approx((-3 + 2) / 5), 5)
    assert metrics.spearman_within(a, b, np.arange(8))[1] == 0
    assert math.isnan(metrics.spearman_within(a, b, np.arange(8))[0])
    with pytest.raises(ValueError, match="groups must be as many as the scores, 8"):
        metrics.spearman_within(a, b, groups[:3])


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("pairs", [2, 3, 5, 40])
def test_paired_interval_agrees_with_scipy(pairs, level):
    a, b = scores(pairs, n=pairs)
    expected = scipy.stats.ttest_rel(a, b).confidence_interval(level)
    mean, low, high = metrics.paired_interval(a, b, level)
    assert mean == pytest.approx(np.mean(a) - np.mean(b))
    assert (low, high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_paired_interval_is_that_of_the_tables_of_t():
    mean, low, high = metrics.paired_interval([1.0, 2, 3, 4, 5], [0.0] * 5)
    half = 2.776 * math.sqrt(2.5 / 5)
    assert (mean, low, high) == (3.0, pytest.approx(3 - half, abs=1e-3), pytest.approx(3 + half, abs=1e-3))
    _, low, high = metrics.paired_interval([1.0, 2, 3], [0.0] * 3)
    assert (high - low) / 2 == pytest.approx(4.303 / math.sqrt(3), abs=1e-3)


def test_paired_interval_claims_nothing_where_it_cannot():
    assert metrics.paired_interval([0.5, 0.75], [0.25, 0.5]) == (0.25, 0.25, 0.25)
    mean, low, high = metrics.paired_interval([0.5], [0.25])
    assert mean == 0.25
    assert math.isnan(low)
    assert math.isnan(high)
    for a, b in (([], []), ([0.5, math.nan, 0.5], [0.1, 0.2, 0.3]), ([0.5, math.inf], [0.1, math.inf])):
        assert all(math.isnan(number) for number in metrics.paired_interval(a, b))
    with pytest.raises(ValueError, match="two equally long vectors"):
        metrics.paired_interval([0.5, 0.6], [0.5])
    for level in (0.0, 1.0, 95):
        with pytest.raises(ValueError, match="level must be between 0 and 1"):
            metrics.paired_interval([0.5, 0.6], [0.4, 0.4], level)
