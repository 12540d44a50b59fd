"""Ctrl-C, SIGTERM and SIGHUP: KeyboardInterrupt, at once or at the next safe point.

Python raises it in the main thread wherever that is, and an extension module may swallow it there:
PyArrow does while it imports pandas. So ``caught`` remembers the signal, and jobs ask with
``stop_if_caught`` between two pieces of work and before an output takes its name.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
_caught = threading.Event()


@contextmanager
def interruptible() -> Iterator[None]:
    """In the body the first of SIGNALS raises KeyboardInterrupt, and a second ends the process.

    Those that the parent has this process ignore stay ignored, as nohup has it.
    """
    _caught.clear()
    earlier = {number: signal.getsignal(number) for number in SIGNALS}
    heeded = {
        number: handler
        for number, handler in earlier.items()
        if handler not in (signal.SIG_IGN, None)
    }
    for number in heeded:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        _caught.clear()
        for number, handler in heeded.items():
            signal.signal(number, handler)


def caught() -> bool:
    """Whether there was a signal, though its KeyboardInterrupt may have been swallowed."""
    return _caught.is_set()


def stop_if_caught() -> None:
    """Raises KeyboardInterrupt after a signal; does nothing in threads other than the main one."""
    if _caught.is_set() and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _caught.is_set():
        os._exit(128 + number)  # as shells call a process that a signal ended
    _caught.set()
    raise KeyboardInterrupt
