"""From what an archive holds to pixels: the one place where they come back."""

from __future__ import annotations

from ..data.images import Group, Images
from ..engine.engine import Engine
from .blocks import CodedImages


def decoded_images(coded: CodedImages, engine: Engine) -> Images:
    """The same images, or vectors, decoded; those that are missing are ``unreadable``."""
    groups = [
        Group(group.positions, engine.decode(group.codes, group.height, group.width))
        for group in coded.groups
    ]
    return Images(coded.names, [*groups, *coded.stored], coded.missing)
