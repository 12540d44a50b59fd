"""The usual codecs, with the encoders of ``compress --compare``, at levels over their range."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from math import ceil

import numpy as np
from cells import Cell

from compressor.codecs.rivals import (
    CODECS,
    FORMS,
    SINGLE_IMAGES,
    Codec,
    Sheet,
    avif,
    jpegxl,
    round_trip,
)

from .datasets import Pixels, Prepared
from .figures import Figures, psnrs

# As in levels of the codec: qualities, the target in dB of JPEG 2000, the distance of JPEG-XL.
LEVELS: dict[str, Sequence[float]] = {
    "JPEG": (2, 5, 8, 12, 17, 24, 33, 45, 58, 70, 80, 87, 92, 96),
    "JPEG 2000": tuple(range(16, 48, 2)),
    "WebP": (0, 3, 7, 13, 20, 30, 40, 50, 60, 70, 78, 85, 90, 95),
    "AVIF": (0, 4, 8, 13, 19, 25, 32, 40, 48, 56, 64, 72, 80, 88),
    "JPEG-XL": (25, 18, 13, 9.5, 7, 5, 3.6, 2.6, 1.9, 1.4, 1, 0.7, 0.5, 0.35),
}
SLOW_IMAGES = 2000
SLOW = {
    "AVIF": ("quality {:g}, speed 0", partial(avif, speed=0)),
    "JPEG-XL": ("distance {:.3g}, effort 9", partial(jpegxl, effort=9)),
}


def rival_cells(data: Prepared) -> Iterator[Cell[Figures]]:
    """All codecs with the settings of ``--compare``, singly and as mosaic."""
    for form in reversed(FORMS):
        for codec in CODECS:
            images = SINGLE_IMAGES if form == "single files" else len(data.test_images)
            yield from _cells(data, codec, form, LEVELS[codec.name], images)


def slow_cells(data: Prepared) -> Iterator[Cell[Figures]]:
    """AVIF and JPEG-XL with their slowest settings, as mosaic, at every second level."""
    for codec in CODECS:
        if codec.name in SLOW:
            setting, encode = SLOW[codec.name]
            slow = replace(codec, setting=setting, encode=encode)
            yield from _cells(data, slow, "mosaic", LEVELS[codec.name][::2], SLOW_IMAGES)


def _cells(
    data: Prepared, codec: Codec, form: str, levels: Sequence[float], images: int
) -> Iterator[Cell[Figures]]:
    """``images``: at most so many, evenly spaced."""
    stride = ceil(len(data.test_images) / images)
    grey = data.test_images[0].shape[2] == 1
    for chroma in codec.chromas[:1] if grey else codec.chromas:
        setting = codec.setting if grey or not chroma else f"{codec.setting}, {':'.join(chroma)}"
        for level in levels:
            key = {
                "data": data.name,
                "method": codec.name,
                "test": data.test_digest,
                "form": form,
                "setting": setting,
                "level": level,
                "stride": stride,
                "imagecodecs": version("imagecodecs"),
            }
            chosen = data.test_images[::stride]
            yield Cell(key, partial(_measured, chosen, codec, form, level, chroma))


def _measured(
    images: Sequence[Pixels], codec: Codec, form: str, level: float, chroma: str
) -> Figures:
    sheets: list[Sheet] = FORMS[form](
        [image[:, :, 0] if image.shape[2] == 1 else image for image in images]
    )
    size, errors, values = 0, [], []
    for sheet in sheets:
        length, found = round_trip(codec, sheet, level, chroma)
        size += length
        errors.append(found)
        values.append(np.full(sheet.count, sheet.values // sheet.count))
    pooled, mean = psnrs(np.concatenate(errors), np.concatenate(values))
    return Figures(
        bytes=size,
        model_bytes=0,
        images=sum(sheet.count for sheet in sheets),
        pixels=sum(sheet.image_pixels for sheet in sheets),
        psnr=pooled,
        mean_psnr=mean,
    )
