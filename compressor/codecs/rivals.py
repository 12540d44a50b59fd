"""What the usual lossy codecs need for the same quality, in their strongest form.

Small images cost these codecs mostly headers, so each is measured twice: "single files", one file
an image, headers included, and "mosaic", all images of one size laid out on near-square sheets.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data.images import Pixels
from ..errors import ConfigError, DataError, MissingDependency, install

# With these limits 6,000 grey images of 28x28 take about a minute on two cores and 12 photos of
# 768x512 about four, mostly for AVIF. Photos are few, so both forms are measured on the same ones.
SAMPLE_IMAGES, SAMPLE_PIXELS = 6000, 5_000_000
SINGLE_IMAGES = 500
SHEET_PIXELS = 4_000_000
COARSE_STEP = 8  # the first search takes every eighth image


@dataclass(frozen=True)
class RivalSize:
    """One codec in one form.

    ``bytes`` is for all images, scaled by pixels from the ``measured`` ones where those are a
    sample; ``bits_per_pixel`` counts height x width. ``psnr`` is what was reached, in dB (infinite
    if nothing was lost). Where the codec does not reach the PSNR asked for, ``bytes`` and
    ``bits_per_pixel`` are None, ``note`` says why and ``psnr`` is the most that it reached.
    """

    codec: str
    form: str
    setting: str
    bytes: int | None
    bits_per_pixel: float | None
    psnr: float | None
    measured: int
    note: str = ""


def compare(images: Iterable[Pixels], psnr: float) -> list[RivalSize]:
    """The fewest bytes with which each codec reaches ``psnr`` (dB), as single files and mosaic.

    ``images`` are uint8 (H, W, C), C in 1, 3, 4, or one array (N, H, W, C); they are read once,
    and only an evenly spaced sample is kept: at most 6,000 images and 5 million pixels, and of
    those at most 500 images for single files; of a larger image its middle. PSNR = 10 log10(255^2 /
    MSE), the MSE pooled over all pixels, channels and images after rounding to uint8. The alpha
    channel is left out for all codecs, since JPEG has none: for RGBA the sizes are a lower bound.

    Raises ConfigError if ``psnr`` is not a number, DataError without images, MissingDependency
    without imagecodecs.
    """
    if math.isnan(psnr):
        raise ConfigError("the PSNR to compare at is not a number; give it in dB")
    _imagecodecs()
    kept, pixels = sample(images)
    if not kept:
        raise DataError("there are no images to compare codecs on")
    single = kept[:: math.ceil(len(kept) / SINGLE_IMAGES)]
    forms = {"single files": single, "mosaic": kept}
    with (
        ThreadPoolExecutor(os.cpu_count()) as encoders,
        ThreadPoolExecutor(len(CODECS) * len(forms)) as searches,
    ):
        try:
            running = [
                searches.submit(_Search(codec, psnr, encoders).run, form, chosen, pixels)
                for codec in CODECS
                for form, chosen in forms.items()
            ]
            return [search.result() for search in running]
        except BaseException:
            encoders.shutdown(wait=False, cancel_futures=True)
            raise


def sample(images: Iterable[Pixels]) -> tuple[list[Pixels], int]:
    """Evenly spaced images, grey (H, W) or colour (H, W, 3), and the pixels of all images.

    The number of images need not be known: whenever too many are held, every second is dropped.
    """
    kept: list[Pixels] = []
    total = held = 0
    stride = 1
    for number, image in enumerate(images):
        height, width, channels = image.shape
        total += height * width
        if number % stride:
            continue
        image = _middle(image)
        # A copy: a view would keep the whole batch that it belongs to in memory.
        kept.append(image[:, :, 0].copy() if channels == 1 else image[:, :, :3].copy())
        held += _pixels(image)
        while len(kept) > 1 and (len(kept) > SAMPLE_IMAGES or held > SAMPLE_PIXELS):
            kept = kept[::2]
            held = sum(_pixels(image) for image in kept)
            stride *= 2
    return kept, total


def _middle(image: Pixels) -> Pixels:
    """An image, or the middle of one that has more pixels than all that are kept."""
    height, width = image.shape[:2]
    rows = min(height, max(math.isqrt(SAMPLE_PIXELS), SAMPLE_PIXELS // width))
    columns = min(width, SAMPLE_PIXELS // rows)
    top, left = (height - rows) // 2, (width - columns) // 2
    return image[top : top + rows, left : left + columns]


def _pixels(image: Pixels) -> int:
    return int(image.shape[0] * image.shape[1])


@dataclass(frozen=True)
class Sheet:
    """What one encoded file holds: ``count`` images of (height, width), row by row."""

    pixels: Pixels
    count: int
    height: int
    width: int

    def squared_errors(self, decoded: Pixels) -> npt.NDArray[np.int64]:
        """The squared error of each image, (count,), without the empty cells at the end."""
        error = np.square(self.pixels.astype(np.int32) - decoded)
        rows, columns = error.shape[0] // self.height, error.shape[1] // self.width
        cells = error.reshape(rows, self.height, columns, self.width, -1)
        errors: npt.NDArray[np.int64] = cells.sum(axis=(1, 3, 4), dtype=np.int64).ravel()
        return errors[: self.count]

    @property
    def image_pixels(self) -> int:
        return self.count * self.height * self.width

    @property
    def values(self) -> int:
        return self.image_pixels * (1 if self.pixels.ndim == 2 else 3)


def single_files(images: list[Pixels]) -> list[Sheet]:
    """A file for each image, grey (H, W) or colour (H, W, 3)."""
    return [Sheet(image, 1, *image.shape[:2]) for image in images]


def mosaic(images: list[Pixels]) -> list[Sheet]:
    """Near-square sheets of up to about 4 megapixels, the images of one shape together."""
    by_shape: dict[tuple[int, ...], list[Pixels]] = {}
    for image in images:
        by_shape.setdefault(image.shape, []).append(image)
    return [sheet for alike in by_shape.values() for sheet in _sheets(alike)]


FORMS = {"single files": single_files, "mosaic": mosaic}


def _sheets(images: list[Pixels]) -> Iterator[Sheet]:
    height, width, *colour = images[0].shape
    sheets = math.ceil(len(images) / max(1, SHEET_PIXELS // (height * width)))
    count = math.ceil(len(images) / sheets)
    columns = max(1, min(count, round(math.sqrt(count * height / width))))
    for start in range(0, len(images), count):
        cells = images[start : start + count]
        rows = math.ceil(len(cells) / columns)
        sheet = np.zeros((rows * height, columns * width, *colour), np.uint8)
        for number, cell in enumerate(cells):
            row, column = divmod(number, columns)
            sheet[row * height :, column * width :][:height, :width] = cell
        yield Sheet(sheet, len(cells), height, width)


@dataclass(frozen=True)
class Codec:
    """``encode`` takes grey (H, W) or colour (H, W, 3), one of ``levels`` and of ``chromas``."""

    name: str
    setting: str
    levels: Sequence[float]  # from the worst quality to the best
    encode: Callable[[Pixels, float, str], bytes]
    decode: Callable[[bytes], Pixels]
    chromas: Sequence[str] = ("",)


@cache
def _imagecodecs() -> Any:
    try:
        import imagecodecs
    except ImportError as error:
        raise MissingDependency(
            f"comparing with other codecs needs imagecodecs: {install('bench')}"
        ) from error
    return imagecodecs


def _jpeg(pixels: Pixels, level: float, chroma: str) -> bytes:
    return bytes(
        _imagecodecs().jpeg8_encode(pixels, level=int(level), optimize=True, subsampling=chroma)
    )


def _jpeg2000(pixels: Pixels, level: float, chroma: str) -> bytes:
    # The bare codestream: 85 bytes less than the JP2 file around it.
    return bytes(
        _imagecodecs().jpeg2k_encode(pixels, level=level, reversible=False, codecformat="j2k")
    )


def _webp(pixels: Pixels, level: float, chroma: str) -> bytes:
    # WebP has no grey, and imagecodecs is lossless by default.
    return bytes(_imagecodecs().webp_encode(_as_rgb(pixels), level=level, lossless=False, method=6))


def avif(pixels: Pixels, level: float, chroma: str, speed: int = 4) -> bytes:
    """``speed`` 0 takes eight times as long as 4 and gives the smallest files."""
    # imagecodecs stores grey input without loss, whatever the level. RGB input with 4:0:0 codes the
    # same luma as 4:2:0, in fewer bytes, since there is no empty chroma.
    return bytes(
        _imagecodecs().avif_encode(
            _as_rgb(pixels),
            level=int(level),
            speed=speed,
            pixelformat="400" if pixels.ndim == 2 else chroma,
            numthreads=1,
        )
    )


def jpegxl(pixels: Pixels, level: float, chroma: str, effort: int = 7) -> bytes:
    """``effort`` 9 takes four times as long as 7 and gives smaller files."""
    return bytes(
        _imagecodecs().jpegxl_encode(
            pixels,
            distance=level,
            effort=effort,
            lossless=False,
            usecontainer=False,
            numthreads=1,
        )
    )


def _as_rgb(pixels: Pixels) -> Pixels:
    return np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else pixels


CODECS = (
    Codec(
        "JPEG",
        "quality {:g}, optimised Huffman tables",
        range(1, 101),
        _jpeg,
        lambda data: _imagecodecs().jpeg8_decode(data),
        ("420", "444"),
    ),
    Codec(
        "JPEG 2000",
        "target {:g} dB, irreversible",
        [level / 5 for level in range(25, 301)],
        _jpeg2000,
        lambda data: _imagecodecs().jpeg2k_decode(data),
    ),
    Codec(
        "WebP",
        "quality {:g}, method 6",
        range(101),
        _webp,
        lambda data: _imagecodecs().webp_decode(data),
    ),
    Codec(
        "AVIF",
        "quality {:g}, speed 4",
        range(101),
        avif,
        lambda data: _imagecodecs().avif_decode(data, numthreads=1),
        ("420", "444"),
    ),
    Codec(
        "JPEG-XL",
        "distance {:.3g}, effort 7",
        [25.0 * 0.002 ** (step / 150) for step in range(151)],  # 25 to 0.05, 4% a step
        jpegxl,
        lambda data: _imagecodecs().jpegxl_decode(data, numthreads=1),
    ),
)


def round_trip(
    codec: Codec, sheet: Sheet, level: float, chroma: str
) -> tuple[int, npt.NDArray[np.int64]]:
    """The bytes of one file and the squared error of each image in it, (count,).

    Raises CannotTake.
    """
    height, width = sheet.pixels.shape[:2]
    try:
        data = codec.encode(sheet.pixels, level, chroma)
        decoded = codec.decode(data)
    except (RuntimeError, ValueError, ImportError) as error:
        raise CannotTake(f"cannot take an image of {height}x{width}: {error}") from error
    if decoded.ndim == 3 and sheet.pixels.ndim == 2:
        decoded = np.rint(decoded @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    if decoded.shape != sheet.pixels.shape:
        raise CannotTake(f"decodes an image of {height}x{width} to {decoded.shape}")
    return len(data), sheet.squared_errors(decoded)


def psnr_of(squared_error: float, values: int) -> float:
    """In dB, of uint8; infinite where nothing was lost."""
    return 10 * math.log10(255**2 * values / squared_error) if squared_error else math.inf


class CannotTake(Exception):
    """The codec cannot encode one of the images; the text says which and why."""


@dataclass(frozen=True)
class _Measured:
    size: int
    psnr: float


@dataclass(frozen=True)
class _Search:
    """Looks for the lowest level of one codec that reaches a PSNR."""

    codec: Codec
    psnr: float
    encoders: ThreadPoolExecutor

    def run(
        self,
        form: str,
        images: list[Pixels],
        total_pixels: int,
    ) -> RivalSize:
        """The row of one codec in one form.

        The chroma format and a first guess of the level come from every eighth image; two or three
        passes over all images remain.
        """
        colour = any(image.ndim == 3 for image in images)
        try:
            lay_out = FORMS[form]
            coarse = lay_out(images[::COARSE_STEP])
            middle = len(self.codec.levels) // 2
            guesses = []
            for chroma in self.codec.chromas if colour else self.codec.chromas[:1]:
                step, measured = self._lowest(coarse, chroma, middle)
                missed = measured.psnr < self.psnr
                guesses.append((missed, -measured.psnr if missed else measured.size, step, chroma))
            _, _, guess, chroma = min(guesses)
            sheets = lay_out(images)
            step, measured = self._lowest(sheets, chroma, guess)
        except CannotTake as error:
            return RivalSize(self.codec.name, form, "", None, None, None, len(images), str(error))
        setting = self.codec.setting.format(self.codec.levels[step])
        if colour and chroma:
            setting += f", {':'.join(chroma)}"
        if measured.psnr < self.psnr:
            note = f"reaches {measured.psnr:.2f} dB at most"
            return RivalSize(
                self.codec.name, form, setting, None, None, measured.psnr, len(images), note
            )
        bits_per_pixel = 8 * measured.size / sum(sheet.image_pixels for sheet in sheets)
        return RivalSize(
            self.codec.name,
            form,
            setting,
            round(bits_per_pixel * total_pixels / 8),
            bits_per_pixel,
            measured.psnr,
            len(images),
        )

    def _lowest(self, sheets: list[Sheet], chroma: str, start: int) -> tuple[int, _Measured]:
        """The lowest step that reaches the PSNR, or the last one: strides double from ``start`` on
        until they bracket it, then by bisection."""
        levels = self.codec.levels
        tried: dict[int, _Measured] = {}
        low, high = -1, len(levels)  # low does not reach the PSNR, high does or is past the end
        step, stride = start, 1
        while high - low > 1:
            tried[step] = self._measure(sheets, levels[step], chroma)
            if tried[step].psnr >= self.psnr:
                high = step
            else:
                low = step
            if low >= 0 and high < len(levels):
                step = (low + high) // 2
            elif low >= 0:
                step = min(step + stride, len(levels) - 1)
            else:
                step = max(step - stride, 0)
            stride *= 2
        lowest = min(high, len(levels) - 1)
        return lowest, tried[lowest]

    def _measure(self, sheets: list[Sheet], level: float, chroma: str) -> _Measured:
        """The bytes of all sheets and the PSNR over all their images."""
        tasks = [
            self.encoders.submit(round_trip, self.codec, sheet, level, chroma) for sheet in sheets
        ]
        results = [task.result() for task in tasks]
        error = sum(int(errors.sum()) for _, errors in results)
        psnr = psnr_of(error, sum(sheet.values for sheet in sheets))
        return _Measured(sum(size for size, _ in results), psnr)
