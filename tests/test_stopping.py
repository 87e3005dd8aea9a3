"""Signals end a command wherever it is."""

import os
import signal
import time

import pytest

from atomjet.stopping import stoppable


class Closing:
    """Is sent a signal while it is being given up."""

    def __init__(self, number):
        self.number = number

    def __del__(self):
        os.kill(os.getpid(), self.number)
        time.sleep(0.005)  # the handler runs in here


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_within_a_finalizer_is_not_lost(number):
    def interrupted():
        with stoppable():
            Closing(number)
            time.sleep(600)

    with pytest.raises(KeyboardInterrupt):
        interrupted()


def test_an_interrupt_that_was_heard_does_not_come_again():
    with stoppable() as heard:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(600)
        except KeyboardInterrupt:
            heard()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)


def test_what_is_ignored_from_the_start_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup leaves it
    try:
        with stoppable():
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.02)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGXCPU])
def test_other_requests_to_stop_are_heard(number):
    def asked():
        with stoppable():
            os.kill(os.getpid(), number)
            time.sleep(600)

    with pytest.raises(KeyboardInterrupt):
        asked()
