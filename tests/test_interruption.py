"""A signal stops a command wherever it finds it, and leaves nothing behind when the command is done."""

from __future__ import annotations

import gc
import signal
import sys
import threading
import time

import pytest

from hcdc_jax.cli.interruption import interruptible, number_of

LONG_S = 30.0
SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


def interrupted(action):
    """The number of the signal that stopped the action, or the one long wait after it."""
    with pytest.raises(KeyboardInterrupt) as caught, interruptible():
        wait_after(action)
    return number_of(caught.value)


def wait_after(action):
    action()
    begun = time.monotonic()
    time.sleep(LONG_S)
    raise AssertionError(f"nothing interrupted {time.monotonic() - begun:.1f} s of sleep")


def lost(number, times=1):
    """Sends a signal where Python cannot raise: in callbacks of its garbage collector."""
    sent = []

    def collected(phase, info):
        if phase == "start" and len(sent) < times:
            sent.append(number)
            signal.raise_signal(number)

    gc.callbacks.append(collected)
    try:
        for _ in range(times):
            gc.collect()
    finally:
        gc.callbacks.remove(collected)
    assert len(sent) == times, "no exception came out of the callback"


@SIGNALS
def test_signals_interrupt(number):
    assert interrupted(lambda: signal.raise_signal(number)) == number


@SIGNALS
def test_signals_that_the_garbage_collector_swallows_are_sent_again(number):
    begun = time.monotonic()
    assert interrupted(lambda: lost(number)) == number
    assert time.monotonic() - begun < LONG_S, "it woke a thread that slept"


def test_signals_that_are_lost_twice_are_sent_again():
    assert interrupted(lambda: lost(signal.SIGTERM, times=2)) == signal.SIGTERM


def test_a_signal_that_is_lost_at_the_very_end_is_not_lost():
    with pytest.raises(KeyboardInterrupt), interruptible():
        lost(signal.SIGTERM)


def test_other_exceptions_that_python_ignores_are_told_as_ever(monkeypatch):
    class Careless:
        def __del__(self):
            raise ValueError("in vain")

    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(str(unraisable.exc_value)))
    with interruptible():
        Careless()
    assert told == ["in vain"]


def test_what_was_there_before_is_put_back():
    def handlers():
        return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), sys.unraisablehook

    before, threads = handlers(), threading.active_count()
    with interruptible():
        assert handlers() != before
    interrupted(lambda: lost(signal.SIGTERM))
    assert handlers() == before
    assert threading.active_count() == threads
