"""Wall time with compilation kept apart."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax

_COMPILATION = "/jax/core/compile/"


class Elapsed:
    """Attributes: `run` and `compile`, seconds; complete when the `measured` block has ended."""

    run: float = 0.0
    compile: float = 0.0

    def plus(self, other: Elapsed) -> Elapsed:
        """The sum of both."""
        total = Elapsed()
        total.run, total.compile = self.run + other.run, self.compile + other.compile
        return total


@contextmanager
def measured() -> Iterator[Elapsed]:
    """Measures its block: `compile` is what JAX reports as tracing, lowering and compiling, `run` is all the rest.

    What is computed inside must be waited for inside, with `jax.block_until_ready` or by copying it to the host.
    """
    elapsed, spans = Elapsed(), []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event.startswith(_COMPILATION):
            now = time.perf_counter()
            spans.append((now - duration_secs, now))

    jax.monitoring.register_event_duration_secs_listener(listen)
    start = time.perf_counter()
    try:
        yield elapsed
    finally:
        end = time.perf_counter()
        jax.monitoring.unregister_event_duration_listener(listen)
        elapsed.compile = covered(spans, start)
        elapsed.run = max(end - start - elapsed.compile, 0.0)


def covered(spans: list[tuple[float, float]], start: float) -> float:
    """Seconds after `start` that lie in at least one of the spans (begin, end).

    Compilations nest and run side by side: the plain sum of their durations counts such seconds twice.
    """
    total, reached = 0.0, start
    for begin, end in sorted(spans):
        total += max(end - max(begin, reached), 0.0)
        reached = max(reached, end)
    return total
