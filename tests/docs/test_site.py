"""The checks of a built site, and docstrings on their way into it; `make docs` builds the site."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
problems = runpy.run_path(str(DOCS / "check_site.py"))["problems"]
as_rst = runpy.run_path(str(DOCS / "plain_docstrings.py"))["as_rst"]


def test_a_whole_site_has_no_problems(tmp_path: Path) -> None:
    (tmp_path / "other.html").write_text('<h1 id="top">Other</h1>')
    (tmp_path / "index.html").write_text(
        '<link rel="canonical" href="https://example.org/">'
        '<a href="other.html#top">one</a><a href="https://example.org">elsewhere</a>'
    )
    assert list(problems(tmp_path)) == []


def test_dead_links_and_what_the_network_would_bring_are_named(tmp_path: Path) -> None:
    (tmp_path / "style.css").write_text('@import "https://fonts.example.org/a.css";')
    (tmp_path / "index.html").write_text(
        '<link rel="stylesheet" href="style.css"><script src="//cdn.example.org/x.js"></script>'
        '<img src="gone.png"><a href="#nowhere">there</a>'
    )
    assert list(problems(tmp_path)) == [
        "index.html: #nowhere: the page has no such place",
        "index.html: gone.png leads nowhere",
        "index.html loads //cdn.example.org/x.js",
        "style.css loads https://fonts.example.org/a.css",
    ]


def test_a_site_without_pages_is_a_problem(tmp_path: Path) -> None:
    assert list(problems(tmp_path)) == [f"{tmp_path}: no pages"]


def test_plain_docstrings_keep_their_stars_code_and_lists() -> None:
    plain = [
        "int32 (N, *code_shape), ``x * y``, |f|, rest_.",
        "",
        "    code *as* it is",
        "",
        "mean: the first",
        "    goes on",
        "scale: the second",
    ]
    assert as_rst(plain) == [
        r"int32 (N, \*code_shape), ``x * y``, \|f\|, rest\_.",
        "",
        "::",
        "",
        "    code *as* it is",
        "",
        "- mean: the first",
        "  goes on",
        "- scale: the second",
        "",
    ]
