"""The codecs of a fallback, what it chooses, and its frames."""

import sys

import google_crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.archive.blocks import HEADER_SIZE, MAX_ELEMENTS, Header, scan
from compressor.archive.fallback import FALLBACKS, Fallback
from compressor.archive.fallback_blocks import pack_stored, unpack_stored
from compressor.codecs import image_codecs
from compressor.codecs.image_codecs import IMAGE_CODECS, decode
from compressor.codecs.quality import psnr
from compressor.data.images import Group
from compressor.errors import ArchiveError, ConfigError, DataError, MissingDependency

LOSSLESS = [name for name, codec in IMAGE_CODECS.items() if codec.lossless]


@pytest.fixture(scope="module")
def colours(images):
    """Real pixels in 1, 3 and 4 channels; the fourth has holes that hide colours."""
    grey = images[:3, :, :20, None]
    rgb = np.concatenate([grey, grey[::-1], 255 - grey], axis=3)
    alpha = np.where(grey > 100, 255, np.where(grey > 20, 90, 0)).astype(np.uint8)
    return {1: grey, 3: rgb, 4: np.concatenate([rgb, alpha], axis=3)}


def stored(name, min_psnr, pixels):
    return Fallback(name, min_psnr).store(Group(np.arange(len(pixels)), pixels))


@pytest.mark.parametrize("codec", LOSSLESS)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_lossless_codecs_keep_every_byte_even_of_hidden_pixels(colours, codec, channels):
    for image in colours[channels]:
        data = IMAGE_CODECS[codec].encode(image, 0)
        np.testing.assert_array_equal(decode(codec, data, image.shape), image)


@pytest.mark.parametrize("codec", IMAGE_CODECS)
def test_alpha_that_is_opaque_comes_back(colours, codec):
    image = colours[4][0].copy()
    image[..., 3] = 255
    level = IMAGE_CODECS[codec].levels[-1]
    decoded = decode(codec, IMAGE_CODECS[codec].encode(image, level), image.shape)
    assert np.all(decoded[..., 3] == 255) and psnr(image[None], decoded[None])[0] > 20


@pytest.mark.parametrize("codec", IMAGE_CODECS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 28), (28, 1)])
def test_images_of_a_single_row_or_column_are_taken(images, codec, shape):
    image = images[5, -shape[0] :, -shape[1] :, None]
    codec, level = IMAGE_CODECS[codec], IMAGE_CODECS[codec].levels[-1]
    assert codec.decode(codec.encode(image, level), image.shape).shape[:2] == shape


@pytest.mark.parametrize("name", ["webp", "jpegxl"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_lossy_fallback_takes_the_lowest_quality_that_reaches_the_psnr(colours, name, channels):
    pixels, codec = colours[channels], IMAGE_CODECS[name]
    for group in stored(name, 25, pixels):
        assert group.codec in (name, f"{name}-lossless")
        np.testing.assert_array_equal(group.originals, pixels[group.positions])
        assert np.all(psnr(group.originals, group.pixels) >= 25)
        for image, file, back in zip(group.originals, group.files, group.pixels, strict=True):
            np.testing.assert_array_equal(decode(group.codec, file, image.shape), back)
            if group.codec != name:
                continue
            assert len(file) < len(IMAGE_CODECS[f"{name}-lossless"].encode(image, 0))
            (step,) = {
                step for step in range(len(codec.levels))
                if codec.encode(image, codec.levels[step]) == file
            }  # fmt: skip
            below = decode(name, codec.encode(image, codec.levels[step - 1]), image.shape)
            assert psnr(image[None], below[None])[0] < 25


@pytest.mark.parametrize("name", FALLBACKS)
def test_no_psnr_is_too_high_for_it(colours, name):
    """4:2:0 loses colour at any quality."""
    for group in stored(name, 90, colours[3]):
        np.testing.assert_array_equal(group.pixels, group.originals)
        assert group.codec == f"{name.removesuffix('-lossless')}-lossless"


def test_images_too_large_for_webp_are_stored_as_png(images):
    long = np.resize(images[:2], (2, 16384, 2, 1))
    for name in ("webp", "webp-lossless"):
        (group,) = stored(name, 20, long)
        assert group.codec == "png"
        np.testing.assert_array_equal(group.pixels, long)
    (group,) = stored("webp-lossless", 20, long[:, :16383])
    assert group.codec == "webp-lossless"


def test_an_image_that_no_codec_takes_is_refused(images, monkeypatch):
    def failing(image, level):
        raise ValueError("too large")

    broken = {
        name: image_codecs.ImageCodec(failing, codec.decode) for name, codec in IMAGE_CODECS.items()
    }
    monkeypatch.setattr("compressor.archive.fallback.IMAGE_CODECS", broken)
    with pytest.raises(DataError, match=r"28x28 is below min_psnr and too large"):
        stored("webp-lossless", 20, images[:1, :, :, None])


def test_a_lossless_codec_that_is_none_is_not_believed(images, monkeypatch):
    lossy = IMAGE_CODECS["webp"]
    liar = image_codecs.ImageCodec(lambda image, _: lossy.encode(image, 90), lossy.decode)
    monkeypatch.setitem(IMAGE_CODECS, "webp-lossless", liar)
    (group,) = stored("webp-lossless", 20, images[:1, :, :, None])
    assert group.codec == "png"


@pytest.mark.parametrize("name", ["", "png", "gif", "WEBP", "model"])
def test_other_names_are_refused_with_those_there_are(name):
    with pytest.raises(ConfigError, match="webp-lossless, webp, jpegxl-lossless, jpegxl"):
        Fallback(name, 30)


@pytest.mark.parametrize("min_psnr", [0, -3, np.inf, np.nan])
def test_a_psnr_that_cannot_be_is_refused(min_psnr):
    with pytest.raises(ConfigError, match="give a PSNR above 0 in dB"):
        Fallback("webp", min_psnr)


@pytest.fixture
def without_imagecodecs(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    image_codecs.imagecodecs.cache_clear()
    yield
    image_codecs.imagecodecs.cache_clear()


def test_a_missing_imagecodecs_is_one_clear_line(images, without_imagecodecs):
    for name in ("jpegxl", "jpegxl-lossless"):
        with pytest.raises(MissingDependency, match=r"pip install '\.\[jpegxl\]'"):
            Fallback(name, 30)
    with pytest.raises(MissingDependency, match="JPEG-XL needs imagecodecs"):
        unpack_stored(pack_stored("jpegxl", [b"x"], images[:1, :, :, None]), 1)
    assert stored("webp", 30, images[:1, :, :, None])


# Frames


@pytest.fixture(scope="module", params=list(IMAGE_CODECS))
def frame(request, images):
    """Three images by each codec, and its frame."""
    codec, pixels = IMAGE_CODECS[request.param], images[:3, :, :, None]
    files = [codec.encode(image, codec.levels[-1]) for image in pixels]
    decoded = np.stack([decode(request.param, file, (28, 28, 1)) for file in files])
    return pack_stored(request.param, files, decoded), decoded, request.param


def test_a_frame_comes_back(frame, tmp_path):
    content, pixels, codec = frame
    np.testing.assert_array_equal(unpack_stored(content, 1), pixels)
    (tmp_path / "part.bin").write_bytes(b"junk" + content + b"junk")
    ((offset, header),) = scan(tmp_path / "part.bin")
    assert (offset, header.codec, header.images) == (4, codec, 3)
    assert (header.content_crc == 0) == (codec in ("webp", "jpegxl"))


@pytest.mark.parametrize("name", FALLBACKS)
@pytest.mark.parametrize("channels", [3, 4])
def test_a_frame_of_colours_comes_back(colours, name, channels):
    for group in stored(name, 25, colours[channels]):
        content = pack_stored(group.codec, group.files, group.pixels)
        np.testing.assert_array_equal(unpack_stored(content, channels), group.pixels)


def test_any_flipped_bit_of_a_frame_is_found(frame):
    content = frame[0]
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        with pytest.raises(ArchiveError):
            unpack_stored(bytes(damaged), 1)


def forged(payload, **fields):
    """A frame whose checksums of header and payload are right."""
    honest = {"codec": "png", "number": 0, "length": len(payload), "images": 1}
    sizes = {"height": 28, "width": 28, "content_crc": 0}
    crc = google_crc32c.value(payload)
    return Header(**{**honest, **sizes, "payload_crc": crc, **fields}).to_bytes() + payload


@given(st.sampled_from(list(IMAGE_CODECS)), st.binary(max_size=80), st.integers(1, 5))
def test_any_payload_is_decoded_or_refused(codec, payload, count):
    with pytest.raises(ArchiveError, match="block 0 of part 0"):
        unpack_stored(forged(payload, codec=codec, images=count), 1)


@pytest.mark.parametrize(
    "payload",
    [b"", b"\0\0\0", b"\xff\xff\xff\xff", b"\5\0\0\0abcd", b"\3\0\0\0abcd"],
)
def test_a_list_of_files_that_lies_is_refused(payload):
    with pytest.raises(ArchiveError, match="does not hold the files that it lists"):
        unpack_stored(forged(payload), 1)


@pytest.mark.parametrize(
    ("codec", "height", "width", "channels"),
    [(codec, *size, 1) for codec in IMAGE_CODECS for size in ((28, 29), (14, 56))]
    # WebP has no grey, and so no other number of channels.
    + [(codec, 28, 28, 3) for codec in IMAGE_CODECS if not codec.startswith("webp")],
)
def test_files_of_another_size_than_the_frame_says_are_refused(
    images, codec, height, width, channels
):
    encoder = IMAGE_CODECS[codec]
    file = encoder.encode(images[0, :, :, None], encoder.levels[-1])
    payload = len(file).to_bytes(4, "little") + file
    with pytest.raises(ArchiveError, match="cannot be decoded"):
        unpack_stored(forged(payload, codec=codec, height=height, width=width), channels)


def test_a_frame_of_other_pixels_than_were_packed_is_refused(images):
    files = [IMAGE_CODECS["png"].encode(images[0, :, :, None], 0)]
    with pytest.raises(ArchiveError, match="without their checksum"):
        unpack_stored(pack_stored("png", files, images[1:2, :, :, None]), 1)


def test_claims_beyond_memory_are_refused_before_anything_is_decoded():
    with pytest.raises(ArchiveError, match="which no writer puts into one block"):
        unpack_stored(forged(b"", height=1 << 31, width=1 << 31), 4)
    pixels = np.broadcast_to(np.uint8(0), (1, 1, MAX_ELEMENTS + 1, 1))
    with pytest.raises(DataError, match="too large for an archive"):
        pack_stored("png", [b""], pixels)


def test_a_frame_has_the_header_of_all_blocks(frame):
    assert len(frame[0]) > HEADER_SIZE and Header.parse(frame[0]).height == 28
