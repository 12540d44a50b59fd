"""The command line in this process, and what its verbs read and write."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import Any, NamedTuple
from unittest import mock

from compressor.cli import main

READERS = ("train", "encode", "compress", "score", "calibrate")  # of images
OUTPUTS = {
    "train": ["m", "m.zip"],
    "export": ["graphs"],
    "encode": ["codes.npy", "codes.parquet"],
    "compress": ["a"],
    "decompress": ["out", "out.npy", "out.parquet"],
    "score": ["r.parquet", "r.csv"],
}


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that says what went wrong: the last one on stderr, and the only one."""
        lines = self.err.splitlines()
        assert [line for line in lines if line.startswith("Error: ")] == lines[-1:], self.err
        assert "Traceback" not in self.out + self.err
        assert "fault in compressor" not in lines[-1]
        return lines[-1]


def run(*arguments: object) -> Ran:
    """Runs the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    argv = ["compressor", *map(str, arguments)]
    code: Any = 0
    with (
        mock.patch.object(sys, "argv", argv),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    return Ran(code, out.getvalue(), err.getvalue())
