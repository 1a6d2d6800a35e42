"""How well one ranking of candidates agrees with another, and when a cheap ranking pays.

Scores are losses unless `higher_is_better` is set. Everything runs on the host in float64; inputs may be JAX arrays.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def ranks(x: ArrayLike) -> Floats:
    """Ranks from 1 (lowest) to n of the finite scores x [n]; tied values share their average rank."""
    return np.asarray(scipy.stats.rankdata(x), np.float64)


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation; tied values share their average rank.

    Args:
      a: [n] scores.
      b: [n] scores.

    Returns:
      A number in [-1, 1]; NaN if an entry is NaN, if n < 2 or if either side is constant.
    """
    a, b = _pair(a, b)
    if not _rankable(a, b):
        return math.nan
    return float(_spearman_of_resamples(np.ones((1, a.size)), a, b)[0])


def partial_spearman(a: ArrayLike, b: ArrayLike, given: ArrayLike) -> float:
    """Spearman's correlation of what `given` leaves unexplained of the ranks of a and b.

    A proxy that sees no more of a candidate than its size scores near 0 given the size.

    Args:
      a: [n] scores.
      b: [n] scores.
      given: [n] what is held fixed, such as the number of parameters; only its order matters.

    Returns:
      A number in [-1, 1]; NaN where `spearman` is, or where `given` orders a or b completely.
    """
    (a, b), (_, given) = _pair(a, b), _pair(a, given)
    ab, ag, bg = spearman(a, b), spearman(a, given), spearman(b, given)
    if math.isnan(ab) or np.isnan(given).any():
        return math.nan
    if (given == given[0]).all():
        return ab  # nothing is explained
    left = (1 - ag**2) * (1 - bg**2)
    # Of a and b that are ordered alike, rounding leaves about 1e-16 where there is nothing.
    return float(np.clip((ab - ag * bg) / math.sqrt(left), -1, 1)) if left > 1e-12 else math.nan


def spearman_within(a: ArrayLike, b: ArrayLike, groups: ArrayLike) -> tuple[float, int]:
    """Spearman's correlation inside groups, on average over the candidates in them.

    Args:
      a: [n] scores.
      b: [n] scores.
      groups: [n], equal for candidates of one group, such as those of equal size.

    Returns:
      The mean over groups, weighted by their sizes, and how many candidates they hold; groups of one candidate, or in
      which either side is constant, are left out. NaN and 0 if no group is left, NaN if an entry of a or b is NaN.
    """
    a, b = _pair(a, b)
    names, place = np.unique(np.asarray(groups), return_inverse=True)
    if place.shape != a.shape:
        raise ValueError(f"groups must be as many as the scores, {a.size}, got shape {place.shape}")
    if np.isnan(a).any() or np.isnan(b).any():
        return math.nan, 0
    members = [place == group for group in range(len(names))]
    found = [(spearman(a[here], b[here]), int(here.sum())) for here in members if _rankable(a[here], b[here])]
    if not found:
        return math.nan, 0
    values, sizes = zip(*found, strict=True)
    return float(np.average(values, weights=sizes)), sum(sizes)


def rank_mean(*scores: ArrayLike) -> Floats:
    """The mean [n] of the ranks by each of several scores [n], all better in the same direction.

    The simplest way of combining rankings that live on different scales.
    """
    return np.mean([ranks(one) for one in scores], axis=0)


def kendall(a: ArrayLike, b: ArrayLike) -> float:
    """Kendall's tau-b, which corrects for ties. Arguments and NaN rule as in `spearman`."""
    a, b = _pair(a, b)
    if not _rankable(a, b):
        return math.nan
    return _statistic(scipy.stats.kendalltau(a, b, method="asymptotic"))


def weighted_tau(truth: ArrayLike, proxy: ArrayLike, *, higher_is_better: bool = False) -> float:
    """Kendall's tau in which an exchange among the best candidates weighs most.

    A pair of ranks (r, s), counted from 0 at the best, has weight 1/(r+1) + 1/(s+1), and the result is the average over
    ranks by truth and ranks by proxy.

    Args:
      truth: [n] scores.
      proxy: [n] scores, better in the same direction as truth.
      higher_is_better: whether large scores are good.

    Returns:
      A number in [-1, 1]; NaN as in `spearman`.

    References:
      Vigna, A weighted correlation index for rankings with ties, WWW 2015.
    """
    truth, proxy = _pair(truth, proxy)
    if not _rankable(truth, proxy):
        return math.nan
    sign = 1.0 if higher_is_better else -1.0  # scipy gives most weight to the largest values
    return _statistic(scipy.stats.weightedtau(sign * truth, sign * proxy))


def precision_at(truth: ArrayLike, proxy: ArrayLike, k: int, *, higher_is_better: bool = False) -> float:
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
    truth, proxy = _pair(truth, proxy)
    if not 1 <= k <= truth.size:
        raise ValueError(f"precision_at: k = {k} is not between 1 and the number of candidates, {truth.size}")
    sign = -1.0 if higher_is_better else 1.0
    return float(_share_of_places(sign * truth, k) @ _share_of_places(sign * proxy, k) / k)


def regret(truth: ArrayLike, proxy: ArrayLike, *, higher_is_better: bool = False) -> float:
    """What is lost by taking the proxy's best candidate instead of the truth's.

    Candidates tied for the proxy's best count by their mean truth. A candidate whose proxy failed cannot be chosen but
    can still be the one that should have been: failing on the best candidate is not free.

    Args:
      truth: [n] scores; candidates with a non-finite truth are left out.
      proxy: [n] scores, better in the same direction as truth; non-finite where the proxy failed.
      higher_is_better: whether large scores are good.

    Returns:
      A number >= 0 in units of truth; NaN if no candidate has both scores.
    """
    truth, proxy = _pair(truth, proxy)
    known = np.isfinite(truth)
    truth, proxy = truth[known], proxy[known]
    usable = np.isfinite(proxy)
    if not usable.any():
        return math.nan
    sign = -1.0 if higher_is_better else 1.0
    loss, cost = sign * truth, np.where(usable, sign * proxy, np.inf)
    return max(float(loss[cost == cost.min()].mean() - loss.min()), 0.0)  # a mean of ties may round below its terms


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
      A dict with `spearman`, `kendall` (tau-b), `weighted_tau`, `precision_at_10` (overlap of the best tenth of the
      candidates, n/10 rounded to the nearest whole number, halves up, at least 1), `regret` (in units of truth),
      `interval` (low, high: 95 % bootstrap interval of spearman over candidates), `n` (candidates with both scores) and
      `failed` (the others, which every measure leaves out; `regret` still counts their finite truths as attainable).
      What is undefined (fewer than two candidates, constant scores) is NaN.

    Raises:
      ValueError: if the arguments are not one-dimensional and equally long.
    """
    truth, proxy = _pair(truth, proxy)
    if status is not None:
        ok = np.asarray(status, dtype=bool)
        if ok.shape != proxy.shape:
            raise ValueError(f"rank_report: status has shape {ok.shape}, the scores {proxy.shape}")
        proxy = np.where(ok, proxy, np.nan)
    valid = np.isfinite(truth) & np.isfinite(proxy)
    n = int(valid.sum())
    t, p = truth[valid], proxy[valid]
    best = max(1, (n + 5) // 10)
    return {
        "spearman": spearman(t, p),
        "kendall": kendall(t, p),
        "weighted_tau": weighted_tau(t, p, higher_is_better=higher_is_better),
        "precision_at_10": precision_at(t, p, best, higher_is_better=higher_is_better) if n >= 2 else math.nan,
        "regret": regret(truth, proxy, higher_is_better=higher_is_better),
        "interval": spearman_interval(t, p[None], bootstrap=bootstrap, seed=seed),
        "n": n,
        "failed": truth.size - n,
    }


def spearman_interval(
    truth: ArrayLike, proxies: ArrayLike, *, bootstrap: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap percentile interval of a proxy's mean Spearman correlation over its seeds.

    Each resample draws candidates with replacement, the same for all seeds, and seeds with replacement: with one seed
    the interval knows nothing of the variation between seeds.

    Args:
      truth: [n] scores.
      proxies: [s, n] scores of the same candidates, one row for each seed.
      bootstrap: number of resamples.
      level: share of the resamples inside the interval.
      seed: seed of the resampling.

    Returns:
      (low, high), over the candidates that are finite everywhere; NaN if the correlation is undefined.
    """
    truth, proxies = np.asarray(truth, np.float64), np.asarray(proxies, np.float64)
    valid = np.isfinite(truth) & np.isfinite(proxies).all(axis=0)
    truth, proxies = truth[valid], proxies[:, valid]
    if bootstrap < 1 or not all(_rankable(truth, row) for row in proxies):
        return math.nan, math.nan
    n, rng = truth.size, np.random.default_rng(seed)
    block = max(1, 2_000_000 // n)  # resamples at a time, so that memory stays near 100 MB for any n
    means = []
    for start in range(0, bootstrap, block):
        size = min(block, bootstrap - start)
        counts = rng.multinomial(n, np.full(n, 1.0 / n), size=size).astype(np.float64)
        rho = np.stack([_spearman_of_resamples(counts, truth, row) for row in proxies], axis=1)
        chosen = rng.integers(len(proxies), size=rho.shape)
        means.append(np.take_along_axis(rho, chosen, axis=1).mean(axis=1))
    rho = np.concatenate(means)
    rho = rho[np.isfinite(rho)]  # a resample of few candidates may be constant
    if not rho.size:
        return math.nan, math.nan
    low, high = np.quantile(rho, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


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
    a, b = _pair(a, b)
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
    """Smallest number of candidates at which condensing costs no more than training each on the full data.

    With p candidates the condensed search takes C + p c_small + k c_full seconds and the plain one p c_full, so
    p* = (C + k c_full) / (c_full - c_small).

    Args:
      condense_seconds: C, everything spent before the first candidate is ranked, full trainings included.
      small_seconds: c_small, one candidate on the condensed data.
      full_seconds: c_full, one candidate on the full data.
      retrained: k, finalists trained on the full data afterwards.

    Returns:
      p* rounded up, or None if it never pays (c_small >= c_full, or a time is not finite).
    """
    times = (condense_seconds, small_seconds, full_seconds)
    if not all(map(math.isfinite, times)) or small_seconds >= full_seconds:
        return None
    return math.ceil((condense_seconds + retrained * full_seconds) / (full_seconds - small_seconds))


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


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"scores must be two equally long vectors, got shapes {x.shape} and {y.shape}")
    return x, y


def _statistic(result: Any) -> float:
    return float(result.statistic)


def _rankable(a: Floats, b: Floats) -> bool:
    """Whether a rank correlation of a and b is defined."""
    return all(x.size > 1 and not np.isnan(x).any() and bool((x != x[0]).any()) for x in (a, b))


def _resampled_ranks(counts: Floats, values: Floats) -> Floats:
    """Average rank of each candidate in samples that hold candidate i `counts[:, i]` times; [samples, n].

    Counting replaces a sort for every sample: g copies of a value fill the places up to the running total c, so their
    average rank is c - (g - 1) / 2.
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    is_new = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    copies = np.add.reduceat(counts[:, order], np.flatnonzero(is_new), axis=1)
    group = np.empty(values.size, np.intp)
    group[order] = np.cumsum(is_new) - 1
    return (np.cumsum(copies, axis=1) - (copies - 1) / 2)[:, group]


def _spearman_of_resamples(counts: Floats, a: Floats, b: Floats) -> Floats:
    """Spearman correlation of each sample that holds candidate i `counts[:, i]` times; [samples], NaN if constant."""
    ra, rb = _resampled_ranks(counts, a), _resampled_ranks(counts, b)
    total = counts.sum(axis=1, keepdims=True)
    centre = (total + 1) / 2  # the mean of average ranks, ties or none
    ra, rb = ra - centre, rb - centre
    covariance = (counts * ra * rb).sum(axis=1)
    scale = np.sqrt((counts * ra**2).sum(axis=1) * (counts * rb**2).sum(axis=1))
    return np.divide(covariance, scale, out=np.full_like(scale, np.nan), where=scale > 0)


def _share_of_places(cost: Floats, k: int) -> Floats:
    """[n] probability of each candidate to be among the k lowest costs when ties are broken at random."""
    cut = np.partition(cost, k - 1)[k - 1]
    below, tied = cost < cut, cost == cut
    return below + tied * (k - below.sum()) / tied.sum()
