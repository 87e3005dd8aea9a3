"""Signals that ask a command to end do so as ctrl-C does: what it has is written first.

SIGTERM comes from batch systems and `timeout`, SIGHUP from a terminal that is closed, SIGXCPU at a limit on processor time.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SOON = 0.01
"""Seconds after which a signal that came at a bad moment is sent again."""


def stop_signals() -> list[signal.Signals]:
    """Signals that ask for an end; not those that whoever started us had us ignore, as `nohup` does."""
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGXCPU")
    known = [signal.Signals[name] for name in names if name in signal.Signals.__members__]
    return [number for number in known if signal.getsignal(number) != signal.SIG_IGN]


@contextmanager
def stoppable() -> Iterator[Callable[[], None]]:
    """Turn all of `stop_signals` into KeyboardInterrupt within the block.

    Yields a function to call when the interrupt has arrived: from then on no such signal disturbs, so that whoever asks twice does
    not spoil the writing. Only the main thread hears signals; elsewhere nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    heard = False

    def stop(signum: int, frame: Any) -> None:
        if heard:
            return
        if _in_finalizer(frame):  # what is raised in there is printed and forgotten: knock again when it is over
            threading.Timer(SOON, os.kill, (os.getpid(), signum)).start()
        else:
            raise KeyboardInterrupt

    def hear() -> None:
        nonlocal heard
        heard = True

    before = {number: signal.signal(number, stop) for number in stop_signals()}
    try:
        yield hear
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_finalizer(frame: Any) -> bool:
    """Whether code runs on behalf of an object that is being given up."""
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False
