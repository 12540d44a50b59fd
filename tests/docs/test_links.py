"""Every link in the repository's Markdown leads somewhere; addresses elsewhere are well-formed."""

import re
from collections import Counter
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = [
    *ROOT.glob("*.md"),
    *(page for room in ("benchmarks", "compressor", "docs", "examples") for page in
      (ROOT / room).rglob("*.md")),
]  # fmt: skip


def inlines(page: Path) -> list:
    """The tokens inside of headings and text, as (the block's opening token, inline token)."""
    tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text("utf-8"))
    return [(tokens[n - 1], token) for n, token in enumerate(tokens) if token.type == "inline"]


def places(page: Path) -> set[str]:
    """What GitHub calls the page's headings: lower case, without punctuation, - for spaces."""
    seen: Counter[str] = Counter()
    result = set()
    for opening, inline in inlines(page):
        if opening.type == "heading_open":
            text = "".join(child.content for child in inline.children)
            name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            result.add(f"{name}-{seen[name]}" if seen[name] else name)
            seen[name] += 1
    return result


def links(page: Path) -> list[str]:
    children = [child for _, inline in inlines(page) for child in inline.children]
    found = [child.attrGet("href") or child.attrGet("src") for child in children]
    return [link for link in found if link]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for link in links(page):
        url = urlsplit(link)
        if url.scheme or url.netloc:
            is_right = url.scheme in ("https", "http") and "." in url.netloc
        else:
            target = page.parent / unquote(url.path) if url.path else page
            is_right = target.exists() and (
                not url.fragment or (target.suffix == ".md" and url.fragment in places(target))
            )
        if not is_right:
            wrong.append(link)
    assert not wrong


def test_a_page_that_moves_would_be_noticed() -> None:
    assert "docs/training.md#crops" in links(ROOT / "README.md")
    assert {"crops", "with-a-rate"} <= places(ROOT / "docs/training.md")
