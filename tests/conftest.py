"""What every test shares."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import jax
import pytest

# Silent broadcasting between ranks hides transposed axes; the library broadcasts explicitly.
jax.config.update("jax_numpy_rank_promotion", "raise")

# A background job may start with interrupts ignored; the processes that tests interrupt must not inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def x64() -> Iterator[None]:
    """Runs one test in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def quick_compilation() -> Iterator[None]:
    """For modules that compile many small programs and run each once."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
