"""Signals that are put off."""

import signal

import pytest
from kit import interrupts


@pytest.fixture(autouse=True)
def as_in_python() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("number", interrupts.SIGNALS)
def test_a_signal_comes_at_the_end_of_the_block(number: signal.Signals) -> None:
    signal.signal(number, signal.default_int_handler)
    reached = False
    with pytest.raises(KeyboardInterrupt), interrupts.deferred():
        signal.raise_signal(number)
        reached = True
    assert reached
    assert signal.getsignal(number) is signal.default_int_handler


def test_blocks_within_blocks() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt), interrupts.deferred():
        with interrupts.deferred():
            signal.raise_signal(signal.SIGINT)
            steps.append("inner")
        steps.append("outer")
    assert steps == ["inner", "outer"]


def test_what_is_done_is_not_interrupted_any_more() -> None:
    with interrupts.deferred():
        signal.raise_signal(signal.SIGINT)
        interrupts.ignore()
    signal.raise_signal(signal.SIGINT)


def test_what_the_shell_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with interrupts.deferred():
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
