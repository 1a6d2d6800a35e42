"""What every test shares."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from affected import rooms, rooms_of

# Nearly all of a test's time goes into compiling programs that run once, on arrays of a few numbers: five times as
# fast with the old emitters of loops and hardly any optimisation. `benchmarks/` measures what XLA does with all of it;
# a user's own `XLA_FLAGS` stay.
QUICK_COMPILATION = (
    "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1"
)
os.environ.setdefault("XLA_FLAGS", QUICK_COMPILATION)

# Commands keep what they compile in the user's folder; those of the suite leave it alone.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", "")

# The command makes a device of each core, and what a run leaves may depend on how many there are: here it is one.
os.environ["JAX_NUM_CPU_DEVICES"] = "1"
jax.config.update("jax_num_cpu_devices", 1)

# Silent broadcasting between ranks hides transposed axes; the library broadcasts explicitly.
jax.config.update("jax_numpy_rank_promotion", "raise")

# A background job may start with interrupts ignored; the processes that tests interrupt must not inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    for room in rooms():
        config.addinivalue_line("markers", f"{room}: imports from hcdc_jax.{room}; given by itself")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests are marked by the rooms that their file imports from: `pytest -m search`."""
    marks = {path: sorted(rooms_of(path)) for path in {item.path for item in items}}
    for item in items:
        for room in marks[item.path]:
            item.add_marker(room)


@pytest.fixture(autouse=True, scope="module")
def few_memory_maps() -> Iterator[None]:
    """Forgets what was compiled before the system's limit on memory maps (65,530 on Linux) ends the process.

    Each program that XLA compiles for a CPU holds several maps for as long as JAX remembers it, and the whole suite
    compiles too many for one process.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > 20_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def broadcasting() -> Iterator[None]:
    """For modules of tests whose code broadcasts between ranks."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def x64() -> Iterator[None]:
    """Runs one test in float64."""
    with jax.enable_x64(True):
        yield
