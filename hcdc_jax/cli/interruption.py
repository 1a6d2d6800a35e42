"""How a command is stopped: by Ctrl-C and, alike, by the SIGTERM with which batch systems end a job."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, NoReturn

SENT_AGAIN_S = 0.05
"""How long after it was lost an interruption is sent again: by then the few lines that lost it are over."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, SIGINT and SIGTERM raise `KeyboardInterrupt`, with the number of the signal if it was SIGTERM.

    Python runs handlers wherever it happens to be, also where it has no way to raise: in `__del__`, in the callback of
    a weak reference, and in those of the garbage collector, of which JAX has one. There it prints the exception and
    goes on; so a signal that was lost like this is sent again. For the main thread alone, as all handlers are.
    """
    handler, hook = signal.signal(signal.SIGTERM, _raise), sys.unraisablehook
    lost: SimpleQueue[int | None] = SimpleQueue()  # whose `put` may interrupt itself
    sender = threading.Thread(target=_send_again, args=(lost, threading.get_ident()), daemon=True)

    def note(unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            lost.put(number_of(unraisable.exc_value))
        else:
            hook(unraisable)

    sender.start()
    sys.unraisablehook = note
    try:
        yield
    finally:
        try:
            lost.put(None)
            sender.join()  # what was lost at the very end interrupts this
        finally:
            sys.unraisablehook = hook
            signal.signal(signal.SIGTERM, handler)


def number_of(interrupt: KeyboardInterrupt | None) -> int:
    """The signal that raised it."""
    return interrupt.args[0] if interrupt is not None and interrupt.args else signal.SIGINT


def _raise(number: int, frame: Any) -> NoReturn:
    del frame
    raise KeyboardInterrupt(number)


def _send_again(lost: SimpleQueue[int | None], thread: int) -> None:
    """Sends what comes to the thread itself, so that it wakes from whatever it waits for."""
    while (number := lost.get()) is not None:
        time.sleep(SENT_AGAIN_S)
        signal.pthread_kill(thread, number)
