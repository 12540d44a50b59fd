"""The tool's logger: what a job chose and met, for people; cli.py shows it on stderr."""

from __future__ import annotations

import logging
import unicodedata
from pathlib import PurePath

log = logging.getLogger("compressor")

# Controls, which terminals obey, ends of lines and paragraphs, and halves of characters.
_CATEGORIES = {"Cc", "Zl", "Zp", "Cs"}
_TURNING = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # the direction of text


def printable(text: str) -> str:
    """``text`` with escapes, as Python writes them, for what would not print as it is."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        ascii(character)[1:-1]
        if character in _TURNING or unicodedata.category(character) in _CATEGORIES
        else character
        for character in text
    )


def _escape(record: logging.LogRecord) -> bool:
    """Makes names in a line of the log printable: they may come from anywhere."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            printable(str(value)) if isinstance(value, str | PurePath | Exception) else value
            for value in record.args
        )
    return True


log.addFilter(_escape)
