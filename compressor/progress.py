"""Progress on stderr: a bar with the time left on a terminal, a line now and then in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from .interrupts import stop_if_caught

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """A context manager; ``update`` is called as often as you like."""

    def __init__(
        self, task: str, total: int | None, *, unit: str = "", start: int = 0, shown: bool
    ) -> None:
        """start: how much an earlier run has done."""
        self._task, self._total, self._unit, self._shown = task, total, unit, shown
        self._start, self._done, self._note = start, start, ""
        self._started = self._printed = time.monotonic()
        self._bar: Bar | None = None
        if shown and _is_terminal():
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._id = self._bar.add_task(task, total=total, completed=start, note="")

    def __enter__(self) -> Progress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()
        if self._shown and kind is None:
            seconds = time.monotonic() - self._started
            line = f"{self._task}: {self._done:,}{self._unit} done in {seconds:.1f} s {self._note}"
            _say(line)

    def update(self, done: int, note: str = "", total: int | None = None) -> None:
        """Shows how far the job is; ``note`` comes after the bar, ``total`` replaces the first.

        Raises KeyboardInterrupt if one was lost before.
        """
        stop_if_caught()
        self._done, self._note = done, note or self._note
        self._total = total or self._total
        if self._bar:
            self._bar.update(self._id, completed=done, total=self._total, note=self._note)
        elif self._shown and time.monotonic() - self._printed > SECONDS_BETWEEN_LINES:
            self._printed = time.monotonic()
            line = f"{self._task}: {done:,}{self._unit}{self._left()} {self._note}"
            _say(line)

    def _left(self) -> str:
        if not self._total or self._done <= self._start:
            return ""
        pace = (time.monotonic() - self._started) / (self._done - self._start)
        total = "" if self._unit else f" of {self._total:,}"
        return f"{total}, {_duration(pace * (self._total - self._done))} left"


def _is_terminal() -> bool:
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:  # it is closed
        return False


def _say(line: str) -> None:
    """Prints a line on stderr; one that cannot be written is no reason to fail."""
    if sys.stderr is not None:  # as under pythonw; print would take stdout
        with contextlib.suppress(OSError, ValueError):
            print(line.rstrip(), file=sys.stderr)


def _duration(seconds: float) -> str:
    """45 s, 12 min or 3 h 5 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
