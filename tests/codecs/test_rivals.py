import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from compressor.codecs import rivals
from compressor.codecs.rivals import CODECS, compare, sample
from compressor.errors import ConfigError, DataError, MissingDependency

DATA = Path(__file__).parents[2] / "examples" / "data" / "fashion_mnist.npz"
NAMES = ["JPEG", "JPEG 2000", "WebP", "AVIF", "JPEG-XL"]
PSNR = 28.0


@pytest.fixture(scope="module")
def clothes():
    with np.load(DATA) as data:
        return data["test"][:60, :, :, None]


@pytest.fixture(scope="module")
def photos(clothes):
    """RGB: a garment mixed with two others, so that the channels are alike but not equal."""
    first, second, third = np.split(clothes.astype(np.int32), 3)
    channels = [first, (3 * first + second) // 4, (3 * first + third) // 4]
    return np.concatenate(channels, axis=3).astype(np.uint8)


@pytest.fixture(scope="module")
def rows(clothes):
    return compare(clothes, PSNR)


def pooled_psnr(images, decoded):
    error = np.mean([(a.astype(float) - b) ** 2 for a, b in zip(images, decoded, strict=True)])
    return 10 * np.log10(255**2 / error)


def by_name(rows, form):
    return {row.codec: row for row in rows if row.form == form}


def test_every_codec_is_measured_as_single_files_and_as_mosaic(rows):
    assert [(row.codec, row.form) for row in rows] == [
        (name, form) for name in NAMES for form in ("single files", "mosaic")
    ]


def test_the_psnr_asked_is_reached_and_not_far_exceeded(rows):
    for row in rows:
        assert PSNR <= row.psnr < PSNR + 1.2, row
        assert row.bytes > 0
        assert row.bits_per_pixel == pytest.approx(8 * row.bytes / (60 * 28 * 28), rel=1e-4)
        assert row.measured == 60
        assert row.note == ""


def test_a_mosaic_of_small_images_is_cheaper_than_single_files(rows):
    single, mosaic = by_name(rows, "single files"), by_name(rows, "mosaic")
    assert all(mosaic[name].bytes < 0.8 * single[name].bytes for name in NAMES)


def test_single_jpegs_are_the_smallest_that_reach_the_psnr(rows, clothes):
    row = by_name(rows, "single files")["JPEG"]
    quality = int(row.setting.split()[1].rstrip(","))

    def at(level):
        grey = clothes[..., 0]
        files = [imagecodecs.jpeg8_encode(image, level=level, optimize=True) for image in grey]
        decoded = [imagecodecs.jpeg8_decode(file) for file in files]
        return sum(map(len, files)), pooled_psnr(grey, decoded)

    size, psnr = at(quality)
    assert (row.bytes, row.psnr) == (size, pytest.approx(psnr))
    assert at(quality - 1)[1] < PSNR <= psnr


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize("colour", [False, True], ids=["grey", "RGB"])
def test_codecs_are_lossy_and_keep_the_shape(codec, colour, clothes, photos):
    image = photos[0] if colour else clothes[0, :, :, 0]
    for chroma in codec.chromas:
        sizes, errors = [], []
        for level in (codec.levels[len(codec.levels) // 4], codec.levels[-10]):
            data = codec.encode(image, level, chroma)
            decoded = codec.decode(data)
            assert decoded.shape[:2] == image.shape[:2]
            if decoded.ndim == 3 and not colour:
                decoded = decoded.mean(axis=2)
            sizes.append(len(data))
            errors.append(np.square(image.astype(float) - decoded).mean())
        assert sizes[0] < sizes[1]
        assert errors[0] > errors[1] > 0


def test_colour_is_compared_over_all_channels(photos):
    photos = photos[:12]
    rgb = compare(photos, 30)
    assert all(row.psnr >= 30 for row in rgb)
    settings = {row.codec: row.setting for row in rgb}
    assert settings["AVIF"].endswith(("4:2:0", "4:4:4"))

    jpeg = by_name(rgb, "single files")["JPEG"]
    quality, chroma = int(jpeg.setting.split()[1].rstrip(",")), jpeg.setting[-5:].replace(":", "")
    files = [
        imagecodecs.jpeg8_encode(image, level=quality, optimize=True, subsampling=chroma)
        for image in photos
    ]
    decoded = [imagecodecs.jpeg8_decode(file) for file in files]
    assert jpeg.bytes == sum(map(len, files))
    assert jpeg.psnr == pytest.approx(pooled_psnr(photos, decoded))


def test_alpha_is_left_out(photos):
    alpha = np.full((*photos.shape[:3], 1), 9, np.uint8)
    kept, _ = sample(np.concatenate([photos, alpha], axis=3))
    assert np.array_equal(np.stack(kept), photos)


def test_a_psnr_out_of_reach_is_said_in_the_row(clothes):
    rows = by_name(compare(clothes[:16], 75.0), "mosaic")
    for name in ("JPEG", "JPEG 2000", "WebP", "JPEG-XL"):
        assert rows[name].bytes is None and rows[name].bits_per_pixel is None
        assert rows[name].note == f"reaches {rows[name].psnr:.2f} dB at most"
    assert rows["AVIF"].psnr == np.inf  # its highest quality is lossless


def test_a_colour_psnr_out_of_reach_is_said_of_the_better_chroma_format(photos):
    jpeg = by_name(compare(photos[:4], 75.0), "single files")["JPEG"]
    assert jpeg.note.startswith("reaches 5") and jpeg.setting.endswith("4:4:4")


def test_an_image_that_a_codec_cannot_take_is_said_in_the_row(clothes):
    wide = clothes[:21].reshape(1, -1, 1)
    assert wide.shape[1] > 16383
    rows = by_name(compare([clothes[0], wide], 30), "single files")
    assert rows["WebP"].note.startswith(f"cannot take an image of 1x{wide.shape[1]}: ")
    assert rows["WebP"].bytes is None and rows["WebP"].psnr is None
    assert rows["JPEG"].bytes > 0


def test_the_smallest_image_there_is_can_be_compared(clothes):
    assert all(row.bytes > 0 for row in compare(clothes[:1, 14:15, 14:15], 20))


def test_images_of_several_sizes_are_taken_from_any_iterable(clothes):
    images = [*clothes[:8], *clothes[8:16, 4:24, 2:26]]
    rows = compare(iter(images), PSNR)
    pixels = 8 * 28 * 28 + 8 * 20 * 24
    for row in rows:
        assert row.psnr >= PSNR and row.measured == 16
        assert row.bits_per_pixel == pytest.approx(8 * row.bytes / pixels, rel=1e-3)


def test_a_sample_is_scaled_to_all_images(clothes, monkeypatch):
    monkeypatch.setattr(rivals, "SINGLE_IMAGES", 10)
    monkeypatch.setattr(rivals, "SAMPLE_IMAGES", 30)
    rows = compare(clothes, PSNR)
    single, mosaic = by_name(rows, "single files"), by_name(rows, "mosaic")
    for row in rows:
        assert row.bytes == round(row.bits_per_pixel * 60 * 28 * 28 / 8)
    assert {single[name].measured for name in NAMES} == {10}
    assert {mosaic[name].measured for name in NAMES} == {30}


def test_a_sample_is_evenly_spaced_and_bounded(monkeypatch):
    monkeypatch.setattr(rivals, "SAMPLE_IMAGES", 100)
    numbered = (np.full((1, 2, 1), number % 251, np.uint8) for number in range(1000))
    kept, pixels = sample(numbered)
    assert [int(image[0, 0]) for image in kept] == [number % 251 for number in range(0, 1000, 16)]
    assert pixels == 2000


@pytest.mark.parametrize("size", [(50, 60), (3, 900), (900, 3), (31, 31)])
def test_of_an_image_larger_than_a_sample_its_middle_is_kept(monkeypatch, size):
    monkeypatch.setattr(rivals, "SAMPLE_PIXELS", 1000)
    image = np.arange(size[0] * size[1] * 3, dtype=np.uint32).astype(np.uint8).reshape(*size, 3)
    (kept,), pixels = sample([image])
    assert pixels == size[0] * size[1]
    height, width = kept.shape[:2]
    assert 900 < height * width <= 1000 and (min(size) < 31 or height == 31)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    assert np.array_equal(kept, image[top : top + height, left : left + width])


def test_a_mosaic_holds_every_image_once_and_empty_cells_cost_no_quality(clothes, monkeypatch):
    monkeypatch.setattr(rivals, "SHEET_PIXELS", 30 * 28 * 28)
    images = [image[:, :, 0] for image in clothes[:59]]
    sheets = rivals.mosaic(images)
    assert [sheet.count for sheet in sheets] == [30, 29]
    height, width = sheets[1].pixels.shape
    assert 0.7 < height / width < 1.5

    cells = sheets[1].pixels.reshape(height // 28, 28, width // 28, 28).swapaxes(1, 2)
    cells = cells.reshape(-1, 28, 28)
    assert np.array_equal(cells[:29], images[30:])
    assert len(cells) > 29

    decoded = sheets[1].pixels.copy()
    decoded[-28:, -28:] = 200
    assert sheets[1].squared_errors(decoded).tolist() == [0] * 29
    decoded[0, 0] ^= 3
    decoded[-28, 0] ^= 4
    columns = width // 28
    expected = [0] * 29
    expected[0], expected[(len(cells) // columns - 1) * columns] = 3**2, 4**2
    assert sheets[1].squared_errors(decoded).tolist() == expected


def test_no_images_and_no_number_are_refused(clothes):
    with pytest.raises(DataError, match="no images"):
        compare([], PSNR)
    with pytest.raises(ConfigError, match="not a number"):
        compare(clothes, float("nan"))


def test_without_imagecodecs_the_extra_is_named(clothes, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    rivals._imagecodecs.cache_clear()
    with pytest.raises(MissingDependency, match=r"pip install '\.\[bench\]'"):
        compare(clothes, PSNR)
    rivals._imagecodecs.cache_clear()
