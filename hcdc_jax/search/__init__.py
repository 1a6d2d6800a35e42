"""Searches on condensed data, all on one way to score candidates; see `search.base` for the contract."""

from __future__ import annotations

from collections.abc import Callable

from hcdc_jax.registry import Registry, function
from hcdc_jax.search.base import EvaluateFn, History, in_batches, score_all
from hcdc_jax.search.calibrated import Advice, Opinion, Proxy, calibrated
from hcdc_jax.search.calibrated import Search as CalibratedSearch
from hcdc_jax.search.calibrated import State as CalibratedState
from hcdc_jax.search.halving import Halving, Rung, break_even, full_trainings, rungs, successive_halving
from hcdc_jax.search.hypergradient_descent import Objective, hypergradient_search
from hcdc_jax.search.optuna_search import open_study, optuna_search
from hcdc_jax.search.unguided import grid, grid_search, random_search
from hcdc_jax.search.zero_cost import ZeroCost, grad_norm, jacob_cov, nas_bench_201_proxies, naswot, snip, synflow

_BUILT_IN: dict[str, Callable[..., History]] = {
    "random": random_search,
    "grid": grid_search,
    "hypergradient": hypergradient_search,
    "optuna": optuna_search,
}
SEARCHES: Registry[Callable[..., History]] = Registry(
    "search",
    _BUILT_IN,
    group="hcdc_jax.searchers",
    wanted="a function search(key, space, evaluate_fn, num, report)",
    accept=function,
    reserved=("calibrated",),  # it reads more than condensed data
)
"""Searches by name; all take `(key, space, evaluate_fn, num)`, "hypergradient" also an `Objective`."""

__all__ = [
    "SEARCHES",
    "Advice",
    "CalibratedSearch",
    "CalibratedState",
    "EvaluateFn",
    "Halving",
    "History",
    "Objective",
    "Opinion",
    "Proxy",
    "Rung",
    "ZeroCost",
    "break_even",
    "calibrated",
    "full_trainings",
    "grad_norm",
    "grid",
    "grid_search",
    "hypergradient_search",
    "in_batches",
    "jacob_cov",
    "nas_bench_201_proxies",
    "naswot",
    "open_study",
    "optuna_search",
    "random_search",
    "rungs",
    "score_all",
    "snip",
    "successive_halving",
    "synflow",
]
