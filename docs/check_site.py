"""Checks a built site: every link of its own leads somewhere, and reading it needs no network.

Usage: python docs/check_site.py SITE
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src"}
FOR_CRAWLERS = {"canonical", "author", "license"}  # rel of a link that no browser loads
IN_STYLES = re.compile(r"url\(\s*[\"']?([^\"')]+)|@import\s+[\"']([^\"']+)")


class Page(HTMLParser):
    """What a page links to, what it loads, and which places it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attributes if value}
        self.places |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if LOADED.get(tag) in values and values.get("rel") not in FOR_CRAWLERS:
            self.loaded.append(values[LOADED[tag]])


def problems(site: Path) -> Iterator[str]:
    """One sentence for each link that leads nowhere and each thing that the network would bring."""
    pages = {path.resolve(): Page(path.read_text("utf-8")) for path in site.rglob("*.html")}
    if not pages:
        yield f"{site}: no pages"
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        for link in [*page.links, *page.loaded]:
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            if not target.is_file():
                yield f"{name}: {link} leads nowhere"
            elif (
                url.fragment
                and target in pages
                and unquote(url.fragment) not in pages[target].places
            ):
                yield f"{name}: {link}: the page has no such place"
        yield from (f"{name} loads {link}" for link in page.loaded if is_remote(link))
    for path in site.rglob("*.css"):
        for match in IN_STYLES.finditer(path.read_text("utf-8")):
            link = match[1] or match[2]
            if is_remote(link):
                yield f"{path.relative_to(site)} loads {link}"


def is_remote(link: str) -> bool:
    return urlsplit(link).scheme not in ("", "data") or bool(urlsplit(link).netloc)


if __name__ == "__main__":
    found = list(problems(Path(sys.argv[1])))
    sys.exit("\n".join(found) if found else 0)
