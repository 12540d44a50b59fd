"""Progress in a log: a plain line now and then, with the time left."""

from __future__ import annotations

import pytest

from compressor import progress
from compressor.progress import Progress


@pytest.mark.parametrize(
    ("start", "total", "lines"),
    [
        (
            0,
            1000,
            ["55 of 1,000, 3 min left", "110 of 1,000, 3 min left", "165 of 1,000, 3 min left"],
        ),
        (600, 800, ["655 of 800, 29 s left", "710 of 800, 18 s left", "765 of 800, 7 s left"]),
        (0, None, ["55", "110", "165"]),
    ],
    ids=["known end", "resumed", "unknown end"],
)
def test_a_line_every_ten_seconds_says_how_far_it_is_and_what_is_left(
    start: int,
    total: int | None,
    lines: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("score", total, start=start, shown=True) as bar:
        for second in range(1, 41):
            now[0] = float(second)
            bar.update(start + 5 * second)
    *told, _ = capsys.readouterr().err.splitlines()
    assert told == [f"score: {line}" for line in lines]
