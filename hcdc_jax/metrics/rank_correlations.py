"""Rank correlations: of all candidates, inside groups, and their bootstrap intervals; on the host in float64."""

from __future__ import annotations

import math
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
    a, b = pair(a, b)
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
    (a, b), (_, given) = pair(a, b), pair(a, given)
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
    a, b = pair(a, b)
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
    a, b = pair(a, b)
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
    truth, proxy = pair(truth, proxy)
    if not _rankable(truth, proxy):
        return math.nan
    sign = 1.0 if higher_is_better else -1.0  # scipy gives most weight to the largest values
    return _statistic(scipy.stats.weightedtau(sign * truth, sign * proxy))


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


def pair(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    """Both as float64 vectors; ValueError unless they are equally long."""
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
