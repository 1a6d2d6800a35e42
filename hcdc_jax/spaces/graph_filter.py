"""Polynomial graph filters C(lambda) = sum_k lambda_k P_k, the search space of HCDC's Table 2 (arXiv 2405.17535)."""

from __future__ import annotations

import functools

import numpy as np

from hcdc_jax.spaces.continuous import Space, box, unit_l1


@functools.cache
def graph_filter(order: int = 2, basis: str = "laplacian", prior: str = "box") -> Space:
    """Filters of the given order with coefficients uniform in [-1, 1] ("box") or of unit L1 norm ("l1")."""
    symbol = {"laplacian": "L", "adjacency": "S", "chebyshev": "T"}[basis]
    names = tuple(f"{symbol}^{k}" if basis != "chebyshev" else f"T_{k}" for k in range(order + 1))
    if prior == "l1":
        return unit_l1("graph_filter", names)
    return box("graph_filter", names, -np.ones(order + 1), np.ones(order + 1))
