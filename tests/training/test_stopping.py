"""Signals that are noted, and what they do before, afterwards, and to a program that has plans of its own."""

import signal
import threading

import pytest

from mofme_jax.training.stopping import SIGNALS, StopSignals


@pytest.fixture(autouse=True)
def handlers():
    """What a program has that has set none, put back afterwards."""
    found = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in found.items():
        signal.signal(number, handler)


def installed():
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("sent", SIGNALS)
def test_the_first_signal_is_noted_and_another_does_what_it_did(sent):
    before = installed()
    with StopSignals() as signals:
        signals.listen()
        signals.listen()
        assert not signals.ask(1)
        signal.raise_signal(sent)
        assert installed() == before
        assert signals.ask(2)
        signals.listen()  # does not begin anew
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert installed() == before


def test_signals_do_what_they_did_before_there_is_something_to_save_and_afterwards():
    before = installed()
    with StopSignals() as signals:
        assert installed() == before
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signals.listen()
        assert installed() != before
    assert installed() == before
    assert not signals.ask(1)


def test_a_signal_behind_the_last_question_is_not_lost():
    reached = []

    def work(error=None):
        with StopSignals() as signals:
            signals.listen()
            assert not signals.ask(1)
            signal.raise_signal(signal.SIGINT)
            reached.append("the end")
            if error is not None:
                raise error

    with pytest.raises(KeyboardInterrupt):
        work()
    with pytest.raises(OSError, match="of its own"):
        work(OSError("of its own"))
    assert len(reached) == 2


def test_a_handler_of_the_program_and_an_ignored_signal_stay():
    received = []
    signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    before = installed()
    with StopSignals() as signals:
        signals.listen()
        assert installed() == before
        for number in SIGNALS:
            signal.raise_signal(number)
        assert not signals.ask(1)
    assert installed() == before
    assert received == [signal.SIGINT]


def test_outside_the_main_thread_no_signal_is_taken():
    before, seen = installed(), []

    def work():
        with StopSignals() as signals:
            signals.listen()
            seen.append(installed())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
    assert installed() == before
