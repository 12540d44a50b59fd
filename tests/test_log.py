"""Names in lines for people: what a terminal would obey is escaped."""

from __future__ import annotations

from pathlib import Path

import pytest

from compressor.log import log, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain name.png", "plain name.png"),
        ("größe 日本 👩‍🔬.png", "größe 日本 👩‍🔬.png"),
        ("red \x1b[31m", "red \\x1b[31m"),
        ("two\nlines\r\t", "two\\nlines\\r\\t"),
        ("\x00\x7f\x85\u2028", "\\x00\\x7f\\x85\\u2028"),
        ("gpj.\u202egnp.exe", "gpj.\\u202egnp.exe"),
        ("half \udce9", "half \\udce9"),
        ("back\\slash", "back\\slash"),
    ],
)
def test_what_does_not_print_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_names_in_the_log_are_escaped(caplog: pytest.LogCaptureFixture) -> None:
    log.warning("skipped %s: %s (%d)", "a\nb", Path("c\x1bd"), 3)
    log.warning("failed: %s", ValueError("e\x07"))
    log.warning("100%")
    assert caplog.messages == ["skipped a\\nb: c\\x1bd (3)", "failed: e\\x07", "100%"]
