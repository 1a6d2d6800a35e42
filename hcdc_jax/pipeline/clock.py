"""Wall time with compilation kept apart."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

_COMPILATION = "/jax/core/compile/"


class Elapsed:
    """Attributes: `run` and `compile`, seconds; complete when the `measured` block has ended."""

    run: float = 0.0
    compile: float = 0.0


@contextmanager
def measured() -> Iterator[Elapsed]:
    """Measures its block: `compile` is what JAX reports as tracing, lowering and compiling, `run` is all the rest.

    What is computed inside must be waited for inside, with `jax.block_until_ready` or by copying it to the host.
    """
    elapsed = Elapsed()

    def listen(event: str, duration: float, **_: Any) -> None:
        if event.startswith(_COMPILATION):
            elapsed.compile += duration

    jax.monitoring.register_event_duration_secs_listener(listen)
    start = time.perf_counter()
    try:
        yield elapsed
    finally:
        elapsed.run = max(time.perf_counter() - start - elapsed.compile, 0.0)
        jax.monitoring.unregister_event_duration_listener(listen)
