"""Stdout and stderr of the command line: closed, full or of another encoding, they are no fault."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any


class StandardFile(io.FileIO):
    """The file below stdout or stderr: after its first error nothing more is written to it.

    That error is raised for stdout, where the answer goes; messages on stderr may be lost.
    """

    def __init__(self, descriptor: int, is_answer: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._is_answer, self._lost = is_answer, False

    def write(self, data: Any, /) -> int:
        count = len(memoryview(data).cast("B"))
        if count and not self._lost:  # click tries streams with nothing at all
            try:
                return super().write(data)
            except OSError as error:
                self._lost = True
                if isinstance(error, BrokenPipeError) and self._is_answer:
                    raise
                if self._is_answer:
                    raise AnswerLost(error.strerror or str(error)) from error
        return count


class AnswerLost(Exception):
    """What a command says cannot be written to stdout."""


def mend() -> None:
    """Stdout and stderr that are closed, full or of another encoding are no reason to fail.

    Characters that the encoding lacks are escaped. Descriptors 0 to 2 are never left for the files
    of a job, into which libraries would write their messages.
    """
    with contextlib.suppress(OSError):
        while (free := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(free)
    for name, is_answer in (("stdout", True), ("stderr", False)):
        stream = getattr(sys, name)
        if stream is None:
            # It stays open as long as the process runs; os.devnull is no Path.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
        elif isinstance(stream, io.TextIOWrapper):
            raw = getattr(stream.buffer, "raw", stream.buffer)
            if type(raw) is not io.FileIO:  # a console of Windows
                stream.reconfigure(errors="backslashreplace")
                continue
            file = StandardFile(raw.fileno(), is_answer)
            mended = io.TextIOWrapper(
                file if raw is stream.buffer else io.BufferedWriter(file),
                stream.encoding,
                "backslashreplace",
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, mended)
