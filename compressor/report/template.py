"""Self-contained HTML pages: templates beside this file, pictures as data URIs."""

from __future__ import annotations

import base64
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from ..data.images import Pixels
from ..files import atomic_file
from .pictures import png, webp


def write_page(path: Path, template: str, force: bool, **values: Any) -> None:
    """Renders ``template`` to one HTML file.

    Raises OutputError if ``path`` exists and ``force`` is not given, or cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(
            lambda name: (files(__package__) / name).read_text(encoding="utf-8")
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(**values)
    with atomic_file(path, force) as temporary:
        # A file name that is not Unicode has surrogates, which UTF-8 cannot hold.
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def data_uri(pixels: Pixels, lossless: bool = True) -> str:
    """(H, W, C) uint8 inside a URI: a PNG, or a lossy WebP for viewing."""
    kind, content = ("png", png(pixels)) if lossless else ("webp", webp(pixels))
    return f"data:image/{kind};base64," + base64.b64encode(content).decode("ascii")
