"""Docstrings are plain text with ``code``; this makes reStructuredText of them, for the site."""

from __future__ import annotations

import re
from itertools import groupby

ITEM = re.compile(r"\w[\w, ]*: ")  # "name: what it is", which may go on indented
CODE = re.compile(r"(``[^`]+``)")
MARKS = re.compile(
    r"([\\*|`]|_\b|(?<=\w)_(?!\w))"
)  # what reStructuredText would not leave as it is


def as_rst(lines: list[str]) -> list[str]:
    """The same text: indented paragraphs are code, those of items a list, others plain text."""
    paragraphs = [
        list(group) for blank, group in groupby(lines, lambda s: not s.strip()) if not blank
    ]
    result: list[str] = []
    for is_code, group in groupby(paragraphs, lambda lines: all(s[0] == " " for s in lines)):
        if is_code:
            result += ["::", ""]
        for paragraph in group:
            result += [*(paragraph if is_code else _text(paragraph)), ""]
    return result


def _text(paragraph: list[str]) -> list[str]:
    starts = [line for line in paragraph if line[0] != " "]
    if not all(map(ITEM.match, starts)):
        return [_escaped(line) for line in paragraph]
    return [("- " if line[0] != " " else "  ") + _escaped(line.strip()) for line in paragraph]


def _escaped(line: str) -> str:
    parts = CODE.split(line)  # every second one is code
    parts[::2] = [MARKS.sub(r"\\\1", part) for part in parts[::2]]
    return "".join(parts)
