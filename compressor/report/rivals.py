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

from ..data.images import Pixels
from ..errors import ConfigError, DataError, MissingDependency

# With these, 6,000 grey images of 28x28 take about a minute on two cores and 12 photos of 768x512
# about four, most of it AVIF's. Photos are few, so both forms are measured on the same ones.
SAMPLE_IMAGES, SAMPLE_PIXELS = 6000, 5_000_000
SINGLE_IMAGES = 500
SHEET_PIXELS = 4_000_000
COARSE_STEP = 8


@dataclass(frozen=True)
class RivalSize:
    """One codec in one form.

    ``bytes`` is for all images, scaled by pixels from the ``measured`` ones where those are a
    sample; ``bits_per_pixel`` counts height x width. ``psnr`` is what was reached, in dB (infinite
    if nothing was lost). Where the codec gives no size for the PSNR asked, ``bytes`` and
    ``bits_per_pixel`` are None and ``note`` says why; ``psnr`` is then the most that it reached.
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
    those at most 500 images for single files. PSNR = 10 log10(255^2 / MSE), the MSE pooled over
    all pixels, channels and images after rounding to uint8. The alpha channel is left out for all
    codecs, since JPEG has none: for RGBA the sizes are a lower bound.

    Raises ConfigError if ``psnr`` is not a number, DataError without images, MissingDependency
    without imagecodecs.
    """
    if math.isnan(psnr):
        raise ConfigError("the PSNR to compare at is not a number; give it in dB")
    _imagecodecs()
    mosaic, pixels = sample(images)
    if not mosaic:
        raise DataError("there are no images to compare codecs on")
    single = mosaic[:: math.ceil(len(mosaic) / SINGLE_IMAGES)]
    forms: list[tuple[str, list[Pixels], Callable[[list[Pixels]], list[_Sheet]]]] = [
        ("single files", single, _single_files),
        ("mosaic", mosaic, _mosaic),
    ]
    with (
        ThreadPoolExecutor(os.cpu_count()) as encoders,
        ThreadPoolExecutor(len(CODECS) * len(forms)) as searches,
    ):
        try:
            found = [
                searches.submit(_Search(codec, psnr, encoders).run, form, chosen, lay_out, pixels)
                for codec in CODECS
                for form, chosen, lay_out in forms
            ]
            return [search.result() for search in found]
        except BaseException:
            encoders.shutdown(wait=False, cancel_futures=True)
            raise


def sample(images: Iterable[Pixels]) -> tuple[list[Pixels], int]:
    """Evenly spaced images, grey (H, W) or colour (H, W, 3), and the pixels of all images.

    The number of images need not be known: whenever too many are held, every second one goes.
    """
    kept: list[Pixels] = []
    total = held = 0
    stride = 1
    for number, image in enumerate(images):
        height, width, channels = image.shape
        total += height * width
        if number % stride:
            continue
        # A copy: a view would keep the whole batch that it belongs to in memory.
        kept.append(image[:, :, 0].copy() if channels == 1 else image[:, :, :3].copy())
        held += height * width
        while len(kept) > 1 and (len(kept) > SAMPLE_IMAGES or held > SAMPLE_PIXELS):
            kept = kept[::2]
            held = sum(_pixels(image) for image in kept)
            stride *= 2
    return kept, total


def _pixels(image: Pixels) -> int:
    return int(image.shape[0] * image.shape[1])


@dataclass(frozen=True)
class _Sheet:
    """What one encoded file holds: ``count`` images of (height, width), row by row."""

    pixels: Pixels
    count: int
    height: int
    width: int

    def squared_error(self, decoded: Pixels) -> int:
        """Over the images alone, not over the empty cells at the end."""
        error = np.square(self.pixels.astype(np.int32) - decoded)
        rows, rest = divmod(self.count, self.pixels.shape[1] // self.width)
        last = slice(rows * self.height, (rows + 1) * self.height)
        whole = error[: rows * self.height].sum(dtype=np.int64)
        return int(whole + error[last, : rest * self.width].sum(dtype=np.int64))

    @property
    def image_pixels(self) -> int:
        return self.count * self.height * self.width

    @property
    def values(self) -> int:
        return self.image_pixels * (1 if self.pixels.ndim == 2 else 3)


def _single_files(images: list[Pixels]) -> list[_Sheet]:
    return [_Sheet(image, 1, *image.shape[:2]) for image in images]


def _mosaic(images: list[Pixels]) -> list[_Sheet]:
    """Near-square sheets of up to about 4 megapixels, the images of one shape together."""
    by_shape: dict[tuple[int, ...], list[Pixels]] = {}
    for image in images:
        by_shape.setdefault(image.shape, []).append(image)
    return [sheet for alike in by_shape.values() for sheet in _sheets(alike)]


def _sheets(images: list[Pixels]) -> Iterator[_Sheet]:
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
        yield _Sheet(sheet, len(cells), height, width)


@dataclass(frozen=True)
class _Codec:
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
            "comparing with other codecs needs imagecodecs: pip install 'compressor[bench]'"
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
    # WebP has no grey, and imagecodecs is lossless unless told otherwise.
    return bytes(_imagecodecs().webp_encode(_as_rgb(pixels), level=level, lossless=False, method=6))


def _avif(pixels: Pixels, level: float, chroma: str) -> bytes:
    # imagecodecs stores grey input without loss, whatever the level. RGB input with 4:0:0 codes
    # the luma that 4:2:0 would, in fewer bytes, since the empty chroma stays away.
    return bytes(
        _imagecodecs().avif_encode(
            _as_rgb(pixels),
            level=int(level),
            speed=4,
            pixelformat="400" if pixels.ndim == 2 else chroma,
            numthreads=1,
        )
    )


def _jpegxl(pixels: Pixels, level: float, chroma: str) -> bytes:
    return bytes(
        _imagecodecs().jpegxl_encode(
            pixels, distance=level, effort=7, lossless=False, usecontainer=False, numthreads=1
        )
    )


def _as_rgb(pixels: Pixels) -> Pixels:
    return np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else pixels


CODECS = (
    _Codec(
        "JPEG",
        "quality {:g}, optimised Huffman tables",
        range(1, 101),
        _jpeg,
        lambda data: _imagecodecs().jpeg8_decode(data),
        ("420", "444"),
    ),
    _Codec(
        "JPEG 2000",
        "target {:g} dB, irreversible",
        [level / 5 for level in range(25, 301)],
        _jpeg2000,
        lambda data: _imagecodecs().jpeg2k_decode(data),
    ),
    _Codec(
        "WebP",
        "quality {:g}, method 6",
        range(101),
        _webp,
        lambda data: _imagecodecs().webp_decode(data),
    ),
    _Codec(
        "AVIF",
        "quality {:g}, speed 4",
        range(101),
        _avif,
        lambda data: _imagecodecs().avif_decode(data, numthreads=1),
        ("420", "444"),
    ),
    _Codec(
        "JPEG-XL",
        "distance {:.3g}, effort 7",
        [25.0 * 0.002 ** (step / 150) for step in range(151)],  # 25 to 0.05, 4% a step
        _jpegxl,
        lambda data: _imagecodecs().jpegxl_decode(data, numthreads=1),
    ),
)


class _CannotTake(Exception):
    """The codec cannot encode one of the images; the text says which and why."""


@dataclass(frozen=True)
class _Measured:
    size: int
    psnr: float


@dataclass(frozen=True)
class _Search:
    """Looks for the lowest level of one codec that reaches a PSNR."""

    codec: _Codec
    psnr: float
    encoders: ThreadPoolExecutor

    def run(
        self,
        form: str,
        images: list[Pixels],
        lay_out: Callable[[list[Pixels]], list[_Sheet]],
        total_pixels: int,
    ) -> RivalSize:
        """The row of one codec in one form.

        The chroma format and a first guess of the level come from every eighth image, which
        leaves two or three passes over all of them.
        """
        colour = any(image.ndim == 3 for image in images)
        try:
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
        except _CannotTake as error:
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

    def _lowest(self, sheets: list[_Sheet], chroma: str, start: int) -> tuple[int, _Measured]:
        """The lowest step that reaches the PSNR, or the last one: from ``start`` by doubling
        strides until it is bracketed, then by bisection."""
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

    def _measure(self, sheets: list[_Sheet], level: float, chroma: str) -> _Measured:
        """The bytes of all sheets and the PSNR over all their images."""
        tasks = [self.encoders.submit(self._round_trip, sheet, level, chroma) for sheet in sheets]
        results = [task.result() for task in tasks]
        error = sum(error for _, error in results)
        values = sum(sheet.values for sheet in sheets)
        psnr = 10 * math.log10(255**2 * values / error) if error else math.inf
        return _Measured(sum(size for size, _ in results), psnr)

    def _round_trip(self, sheet: _Sheet, level: float, chroma: str) -> tuple[int, int]:
        """Bytes and squared error of one file."""
        height, width = sheet.pixels.shape[:2]
        try:
            data = self.codec.encode(sheet.pixels, level, chroma)
            decoded = self.codec.decode(data)
        except (RuntimeError, ValueError, ImportError) as error:
            raise _CannotTake(f"cannot take an image of {height}x{width}: {error}") from error
        if decoded.ndim == 3 and sheet.pixels.ndim == 2:
            decoded = np.rint(decoded @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
        if decoded.shape != sheet.pixels.shape:
            raise _CannotTake(f"decodes an image of {height}x{width} to {decoded.shape}")
        return len(data), sheet.squared_error(decoded)
