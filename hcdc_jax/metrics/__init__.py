"""How well one ranking of candidates agrees with another, and when a cheap ranking pays.

Scores are losses unless `higher_is_better` is set. Everything runs on the host in float64; inputs may be JAX arrays.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

from hcdc_jax.metrics.rank_correlations import (
    Floats,
    kendall,
    pair,
    partial_spearman,
    rank_mean,
    ranks,
    spearman,
    spearman_interval,
    spearman_within,
    weighted_tau,
)

__all__ = [
    "LEAST_INSIDE",
    "bound_of_agreement",
    "break_even",
    "cheaper_from",
    "kendall",
    "overlap_at",
    "partial_spearman",
    "rank_mean",
    "rank_report",
    "ranks",
    "regret",
    "spearman",
    "spearman_at",
    "spearman_interval",
    "spearman_within",
    "summarise",
    "weighted_tau",
]

LEAST_INSIDE = 8
"""Candidates that a rank correlation inside the top takes: of 8, one order in twenty is beyond 0.74 by chance."""


def overlap_at(truth: ArrayLike, proxy: ArrayLike, k: int, *, higher_is_better: bool = False) -> float:
    """Share of the k best candidates by truth that are among the k best by proxy.

    Candidates tied at place k share the places that are left, so the value is the expectation over random tie-breaking
    and a constant proxy scores k/n, as chance does. Without ties this is NASLib's `precision_k`.

    Args:
      truth: [n] finite scores.
      proxy: [n] finite scores, better in the same direction as truth.
      k: how many count as best, from 1 to n.
      higher_is_better: whether large scores are good.

    Returns:
      A number in [0, 1].

    Raises:
      ValueError: if k is not in 1..n.
    """
    truth, proxy = pair(truth, proxy)
    if not 1 <= k <= truth.size:
        raise ValueError(f"overlap_at: k = {k} is not between 1 and the number of candidates, {truth.size}")
    sign = -1.0 if higher_is_better else 1.0
    return float(_share_of_places(sign * truth, k) @ _share_of_places(sign * proxy, k) / k)


def spearman_at(truth: ArrayLike, proxy: ArrayLike, k: int, *, higher_is_better: bool = False) -> float:
    """Spearman's correlation among the k best candidates by truth and those tied with the last of them.

    Arguments as in `overlap_at`.

    Returns:
      A number in [-1, 1]; NaN where `spearman` is, and for k below `LEAST_INSIDE`, where it would be noise.
    """
    truth, proxy = pair(truth, proxy)
    if not LEAST_INSIDE <= k <= truth.size:
        return math.nan
    loss = -truth if higher_is_better else truth
    inside = _share_of_places(loss, k) > 0
    return spearman(truth[inside], proxy[inside])


def regret(
    truth: ArrayLike,
    proxy: ArrayLike,
    *,
    k: int = 1,
    decided_by: ArrayLike | None = None,
    higher_is_better: bool = False,
) -> float:
    """What is lost when the proxy's k best candidates are trained in full and the best of these is taken.

    Of candidates that the proxy ties at place k each is as likely to be among the k, and the value is the expectation.
    A candidate whose proxy failed cannot be chosen but can still be the one that should have been: failing on the best
    candidate is not free.

    Args:
      truth: [n] scores; candidates with a non-finite truth are left out.
      proxy: [n] scores, better in the same direction as truth; non-finite where the proxy failed.
      k: how many candidates are trained in full, or as many as there are.
      decided_by: [n] scores of the full trainings by which one of the k is taken, such as on the validation part where
        truth is on the test part; better in the same direction, non-finite ones are left out. Of equals the worst by
        truth is taken. By default truth itself.
      higher_is_better: whether large scores are good.

    Returns:
      A number >= 0 in units of truth; NaN if no candidate has all scores.

    Raises:
      ValueError: if k < 1.
    """
    truth, proxy = pair(truth, proxy)
    seen = truth if decided_by is None else pair(decided_by, truth)[0]
    if k < 1:
        raise ValueError(f"regret: k = {k} candidates cannot be trained in full")
    sign = -1.0 if higher_is_better else 1.0
    known = np.isfinite(truth) & np.isfinite(seen)
    usable = known & np.isfinite(proxy)
    if not usable.any():
        return math.nan
    loss = sign * truth[usable]
    order = np.lexsort((-loss, sign * seen[usable]))
    expected = _first_taken((sign * proxy[usable])[order], min(k, loss.size)) @ loss[order]
    return max(float(expected - (sign * truth[known]).min()), 0.0)  # a mean of ties may round below its terms


def rank_report(
    truth: ArrayLike,
    proxy: ArrayLike,
    *,
    higher_is_better: bool = False,
    bootstrap: int = 1000,
    seed: int = 0,
    status: ArrayLike | None = None,
) -> dict[str, Any]:
    """Every measure of how well a proxy ranks candidates.

    Args:
      truth: [n] scores after training on the full data; non-finite where that failed.
      proxy: [n] scores of the same candidates, better in the same direction; non-finite where the proxy failed.
      higher_is_better: whether large scores are good (accuracies) or small ones (losses).
      bootstrap: number of resamples of the candidates behind `interval`.
      seed: seed of the resampling.
      status: [n] bool, False where the proxy's score must not be used; all True if absent.

    Returns:
      A dict with `spearman`, `kendall` (tau-b), `weighted_tau`, `overlap_top_10` (`overlap_at` the best tenth of the
      candidates, n/10 rounded to the nearest whole number, halves up, at least 1), `spearman_top_10` (`spearman_at` the
      same), `regret`, `regret_best_3` and `regret_best_5` (in units of truth, after 1, 3 and 5 full trainings),
      `interval` (low, high: 95 % bootstrap interval of spearman over candidates), `n` (candidates with both scores) and
      `failed` (the others, which every measure leaves out; `regret` still counts their finite truths as attainable).
      What is undefined (fewer than two candidates, constant scores) is NaN.

    Raises:
      ValueError: if the arguments are not one-dimensional and equally long.
    """
    truth, proxy = pair(truth, proxy)
    if status is not None:
        ok = np.asarray(status, dtype=bool)
        if ok.shape != proxy.shape:
            raise ValueError(f"rank_report: status has shape {ok.shape}, the scores {proxy.shape}")
        proxy = np.where(ok, proxy, np.nan)
    valid = np.isfinite(truth) & np.isfinite(proxy)
    n = int(valid.sum())
    t, p = truth[valid], proxy[valid]
    best = max(1, (n + 5) // 10)
    direction: Any = {"higher_is_better": higher_is_better}
    return {
        "spearman": spearman(t, p),
        "kendall": kendall(t, p),
        "weighted_tau": weighted_tau(t, p, **direction),
        "overlap_top_10": overlap_at(t, p, best, **direction) if n >= 2 else math.nan,
        "spearman_top_10": spearman_at(t, p, best, **direction),
        "regret": regret(truth, proxy, **direction),
        "regret_best_3": regret(truth, proxy, k=3, **direction),
        "regret_best_5": regret(truth, proxy, k=5, **direction),
        "interval": spearman_interval(t, p[None], bootstrap=bootstrap, seed=seed),
        "n": n,
        "failed": truth.size - n,
    }


def bound_of_agreement(agreement: float, seeds: int) -> float:
    """What the scores without noise would have as their correlation with the mean of a few noisy measurements.

    No ranking can be expected to agree better with that mean, unless it shares its noise. Measurements are taken to be
    the scores plus independent noise of equal variance. Then r is the share of the scores in the variance of one
    measurement, s r / (1 + (s - 1) r) that in the variance of the mean of s (Spearman-Brown), and its root the
    correlation. For ranks this is an approximation.

    Args:
      agreement: r, mean correlation of two measurements.
      seeds: s, measurements behind the mean.

    Returns:
      A number in [0, 1], 0 where measurements do not agree at all; NaN if r is.

    References:
      Spearman, The proof and measurement of association between two things, 1904; Correlation calculated from faulty
      data, 1910.
    """
    r = max(agreement, 0.0) if math.isfinite(agreement) else math.nan
    return math.sqrt(seeds * r / (1 + (seeds - 1) * r))


def paired_interval(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> tuple[float, float, float]:
    """Mean of the differences a - b between paired numbers, and its interval by Student's t.

    The pairs, one for each seed, are taken as independent and their differences as normal: what a and b share, such as
    candidates and truth, drops out of the interval, which speaks of other seeds and not of other candidates.

    Args:
      a: [s] numbers.
      b: [s] numbers; b[i] belongs to a[i].
      level: share of such intervals that hold the true mean, in (0, 1).

    Returns:
      (mean, low, high). All are NaN if s = 0 or an entry is not finite, low and high if s = 1; low and high are the
      mean if all differences are the same.

    Raises:
      ValueError: if a and b are not two equally long vectors, or level is not in (0, 1).
    """
    a, b = pair(a, b)
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    if not a.size or not (np.isfinite(a) & np.isfinite(b)).all():
        return math.nan, math.nan, math.nan
    differences = a - b
    mean, freedom = float(differences.mean()), differences.size - 1
    if not freedom:
        return mean, math.nan, math.nan
    half = float(scipy.stats.t.ppf((1 + level) / 2, freedom) * differences.std(ddof=1) / math.sqrt(differences.size))
    return mean, mean - half, mean + half


def break_even(condense_seconds: float, small_seconds: float, full_seconds: float, retrained: int = 1) -> int | None:
    """Smallest number of candidates at which condensing costs less than training each on the full data.

    With p candidates the condensed search takes C + p c_small + k c_full seconds and the plain one p c_full, so it is
    cheaper beyond (C + k c_full) / (c_full - c_small).

    Args:
      condense_seconds: C, everything spent before the first candidate is ranked, full trainings included.
      small_seconds: c_small, one candidate on the condensed data.
      full_seconds: c_full, one candidate on the full data.
      retrained: k, finalists trained on the full data afterwards.

    Returns:
      The first whole number beyond, or None if it never pays (c_small >= c_full, or a time is not finite).
    """
    times = (condense_seconds, small_seconds, full_seconds)
    if not all(map(math.isfinite, times)) or small_seconds >= full_seconds:
        return None
    return math.floor((condense_seconds + retrained * full_seconds) / (full_seconds - small_seconds)) + 1


def cheaper_from(ours: ArrayLike, theirs: ArrayLike) -> int | None:
    """From how many candidates on one search costs less than another.

    Args:
      ours: [p] costs of searches among 1, 2, ..., p candidates.
      theirs: [p] costs of the other search.

    Returns:
      The smallest number from which on ours is below theirs, up to p; None if it is not at p.
    """
    ours, theirs = pair(ours, theirs)
    dearer = np.flatnonzero(~(ours < theirs))
    first = int(dearer[-1]) + 2 if dearer.size else 1
    return first if first <= ours.size else None


def summarise(values: Iterable[float]) -> dict[str, Any]:
    """Mean and spread of one number over seeds.

    Returns:
      `mean`, `std` (sample standard deviation; 0 for a single value) and `values`. A non-finite value makes mean and
      std NaN, so that a failed seed cannot hide in an average.
    """
    x = np.asarray(list(values), np.float64)
    if not x.size or not np.isfinite(x).all():
        return {"mean": math.nan, "std": math.nan, "values": x.tolist()}
    return {"mean": float(x.mean()), "std": float(x.std(ddof=1)) if x.size > 1 else 0.0, "values": x.tolist()}


def _share_of_places(cost: Floats, k: int) -> Floats:
    """[n] probability of each candidate to be among the k lowest costs when ties are broken at random."""
    cut = np.partition(cost, k - 1)[k - 1]
    below, tied = cost < cut, cost == cut
    return below + tied * (k - below.sum()) / tied.sum()


def _first_taken(cost: Floats, k: int) -> Floats:
    """[n] probability of each candidate to be the first in its row that is among the k lowest costs.

    Those tied at place k are drawn: t of them for the m places that are left.
    """
    cut = np.partition(cost, k - 1)[k - 1]
    sure, tied = cost < cut, cost == cut
    t, m, drawn = tied.sum(), k - sure.sum(), np.arange(tied.sum())
    # Of the first j that are tied none is drawn with probability C(t - j, m) / C(t, m).
    none = np.concatenate([[1.0], np.cumprod(np.maximum(t - m - drawn, 0) / (t - drawn))])
    before = np.cumsum(tied) - tied
    chance = np.where(sure, none[before], none[before] - none[before + tied])
    return chance * (np.cumsum(sure) == sure)  # after the first sure one nobody is reached
