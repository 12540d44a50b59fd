"""Sphinx's settings for the site of `make docs`; the sources are the Markdown of the repository.

The source folder is the whole repository, so that links such as ../README.md stay right.
"""

from __future__ import annotations

import os
import posixpath
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))

from plain_docstrings import as_rst  # noqa: E402

project = html_title = "compressor"
root_doc = "README"
include_patterns = [
    "*.md",
    "docs/**.md",
    "compressor/archive/FORMAT.md",
    "benchmarks/results/*.md",
    "examples/*/README.md",
]
extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_heading_anchors = 6  # links to #headings, as GitHub names them

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80

html_theme = "furo"
html_theme_options = {"navigation_with_keys": True}
html_extra_path = ["index.html"]
html_copy_source = False
html_show_copyright = False

FOLDERS = ["/benchmarks/results/README", "/examples/plugin/README", "/examples/data/README"]
CONTENTS = {
    "Use it": [
        "training",
        "anomaly",
        "detectors",
        "retrieval",
        "latent",
        "labels",
        "reading",
        "graphs",
    ],
    "Understand it": ["lecture", "plugins", "benchmarks", *FOLDERS],
    "Look it up": ["api", "/compressor/archive/FORMAT", "stability", "/CHANGELOG"],
    "Take part": ["/CONTRIBUTING", "/SECURITY", "decisions/README"],
}  # pages, relative to docs/; those of docs/ that are not named follow in the first list
IN_FOLDER = """
```{toctree}
:maxdepth: 1
:glob:

*
```
"""  # the pages of a folder, below its README


def add_contents(app: Sphinx, page: str, source: list[str]) -> None:
    """Adds the lists of pages, which GitHub would show as code."""
    if page == root_doc:
        named = {name for names in CONTENTS.values() for name in names}
        others = sorted({path.stem for path in (ROOT / "docs").glob("*.md")} - named)
        first = next(iter(CONTENTS))
        for caption, names in (CONTENTS | {first: CONTENTS[first] + others}).items():
            pages = "\n".join(posixpath.join("/docs", name) for name in names)
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{pages}\n```\n"
    elif page in ("docs/decisions/README", "benchmarks/results/README"):
        source[0] += IN_FOLDER


def lead_to_folders(app: Sphinx, doctree: nodes.document) -> None:
    """A link to a folder of the repository leads to its README's page; without one, it is text."""
    page = app.env.current_document.docname
    for link in list(doctree.findall(pending_xref)):
        if link["reftype"] != "myst":
            continue
        folder = os.path.normpath(Path(page).parent / link["reftarget"])
        if f"{folder}/README" in app.env.found_docs:
            link.attributes.update(refdomain="doc", reftarget=f"{folder}/README", reftargetid=None)
        elif (ROOT / folder).is_dir():
            link.replace_self(link.children)


def plain_docstring(app: Sphinx, what: str, name: str, it: Any, how: Any, lines: list[str]) -> None:
    lines[:] = as_rst(lines)


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_contents)
    app.connect("doctree-read", lead_to_folders)
    app.connect("autodoc-process-docstring", plain_docstring)
