"""Medians of repeated calls, compilation apart, and what they run on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import jax

import hcdc_jax as hc


def seconds(function: Callable[..., Any], *args: Any, repeats: int = 7) -> tuple[float, float]:
    """(median seconds of a call, seconds of the first call beyond it)."""

    def once() -> float:
        begin = time.perf_counter()
        jax.block_until_ready(function(*args))
        return time.perf_counter() - begin

    first = once()
    later = median(once() for _ in range(repeats))
    return later, max(first - later, 0.0)


def graph() -> hc.GraphData:
    """Cora where `HCDC_DATA_DIR` has it, else the digits graph."""
    data = hc.load_dataset("cora" if os.environ.get("HCDC_DATA_DIR") else "digits_graph")
    assert isinstance(data, hc.GraphData)
    return data


def device() -> str:
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores"
