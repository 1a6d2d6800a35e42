"""A signal stops a command wherever it finds it, and leaves nothing behind when the command is done."""

from __future__ import annotations

import gc
import signal
import sys
import time

import pytest

from hcdc_jax.interruption import interruptible, number_of

WAIT_S = 10.0


def interrupted(action):
    """The number of the signal that stopped the action, or the wait after it."""
    with pytest.raises(KeyboardInterrupt) as caught, interruptible():
        wait_after(action)
    return number_of(caught.value)


def wait_after(action):
    action()
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        time.sleep(0.001)
    raise AssertionError("nothing interrupted this")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_interrupt(number):
    assert interrupted(lambda: signal.raise_signal(number)) == number


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_that_the_garbage_collector_swallows_are_sent_again(number):
    phases = []

    def collected(phase, info):
        phases.append(phase)
        if phases == ["start"]:
            signal.raise_signal(number)

    def collect():
        gc.collect()
        phases.append("went on")

    gc.callbacks.append(collected)
    try:
        assert interrupted(collect) == number
    finally:
        gc.callbacks.remove(collected)
    assert "went on" in phases, "the first exception was swallowed"


def test_other_exceptions_that_python_ignores_are_told_as_ever(monkeypatch):
    class Careless:
        def __del__(self):
            raise ValueError("in vain")

    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(str(unraisable.exc_value)))
    with interruptible():
        Careless()
    assert told == ["in vain"]


def test_handlers_are_put_back():
    def handlers():
        return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), sys.unraisablehook

    before = handlers()
    with interruptible():
        assert handlers() != before
    assert handlers() == before
