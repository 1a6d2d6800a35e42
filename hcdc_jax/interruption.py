"""How a command is stopped: by Ctrl-C and, alike, by the SIGTERM with which batch systems end a job."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

SENT_AGAIN_S = 0.05
"""When an interruption that was lost is sent again: by then the few lines that lost it are over."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, SIGINT and SIGTERM raise `KeyboardInterrupt`, with the number of the signal if it was SIGTERM.

    Python runs handlers wherever it happens to be, also where it has no way to raise: in `__del__`, in the callback of
    a weak reference, and in those of the garbage collector, of which JAX has one. There it prints the exception and
    goes on; so a signal that was lost like this is sent again.
    """
    handler, hook = signal.signal(signal.SIGTERM, _raise), sys.unraisablehook
    lost: list[threading.Timer] = []

    def send_again(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            hook(unraisable)
            return
        timer = threading.Timer(SENT_AGAIN_S, signal.raise_signal, [number_of(unraisable.exc_value)])
        timer.daemon = True
        lost.append(timer)
        timer.start()

    sys.unraisablehook = send_again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for timer in lost:
            timer.cancel()
        signal.signal(signal.SIGTERM, handler)


def number_of(interrupt: KeyboardInterrupt | None) -> int:
    """The signal that raised it."""
    return interrupt.args[0] if interrupt is not None and interrupt.args else signal.SIGINT


def _raise(number: int, frame: Any) -> NoReturn:
    del frame
    raise KeyboardInterrupt(number)
