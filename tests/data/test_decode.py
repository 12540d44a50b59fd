from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from compressor.data.decode import decode, decode_all
from compressor.errors import UnreadableImage


def encoded(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def as_grey(pixels):
    return Image.fromarray(pixels)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP"])
def test_grey_images_come_back_bit_for_bit_with_one_channel(clothes, file_format):
    pixels = decode(encoded(as_grey(clothes[0]), file_format))
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, clothes[0][..., None])


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("PNG", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("BMP", {}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_rgb_images_come_back_bit_for_bit(photo, file_format, options):
    data = encoded(Image.fromarray(photo), file_format, **options)
    assert np.array_equal(decode(data), photo)


def test_jpeg_comes_back_close_to_what_went_in(photo, clothes):
    pixels = decode(encoded(Image.fromarray(photo), "JPEG", quality=95, subsampling=0))
    assert pixels.shape == photo.shape
    assert np.abs(pixels.astype(int) - photo).mean() < 4
    assert decode(encoded(as_grey(clothes[0]), "JPEG")).shape == (28, 28, 1)


def test_rgba_and_grey_with_alpha_have_four_channels(photo, clothes):
    alpha = Image.fromarray(photo[:, :, 2])
    rgba = Image.fromarray(photo)
    rgba.putalpha(alpha)
    assert np.array_equal(decode(encoded(rgba, "PNG")), np.asarray(rgba))
    grey = as_grey(clothes[0])
    grey.putalpha(as_grey(clothes[1]))
    expected = np.stack([clothes[0]] * 3 + [clothes[1]], axis=-1)
    assert np.array_equal(decode(encoded(grey, "PNG")), expected)


def test_a_palette_becomes_rgb(photo):
    image = Image.fromarray(photo).quantize(64)
    assert np.array_equal(decode(encoded(image, "PNG")), np.asarray(image.convert("RGB")))


def test_a_palette_with_transparency_becomes_rgba(photo):
    image = Image.fromarray(photo).quantize(64)
    pixels = decode(encoded(image, "PNG", transparency=3))
    index = np.asarray(image)
    assert np.array_equal(pixels[..., :3], np.asarray(image.convert("RGB")))
    assert np.array_equal(pixels[..., 3], np.where(index == 3, 0, 255))
    many = decode(encoded(image, "PNG", transparency=bytes(range(64))))
    assert np.array_equal(many[..., 3], index)


@pytest.mark.parametrize("channels", [1, 3])
def test_one_transparent_colour_without_a_palette_becomes_rgba(photo, channels):
    pixels = photo[..., 0] if channels == 1 else photo
    colour = 0 if channels == 1 else tuple(int(value) for value in photo[40, 70])
    decoded = decode(encoded(Image.fromarray(pixels), "PNG", transparency=colour))
    see_through = (pixels.reshape(*pixels.shape[:2], -1) == colour).all(axis=-1)
    assert np.array_equal(decoded[..., 3], np.where(see_through, 0, 255))
    assert see_through.any()


def test_one_bit_becomes_grey_black_and_white(clothes):
    pixels = decode(encoded(as_grey(clothes[0]).convert("1", dither=0), "PNG"))
    assert np.array_equal(pixels, np.where(clothes[0] >= 128, 255, 0)[..., None])


def test_cmyk_becomes_rgb(photo):
    image = Image.fromarray(photo).convert("CMYK")
    assert np.array_equal(decode(encoded(image, "TIFF")), np.asarray(image.convert("RGB")))
    jpeg = decode(encoded(image, "JPEG", quality=95))
    assert jpeg.shape == photo.shape
    assert np.abs(jpeg.astype(int) - np.asarray(image.convert("RGB"))).mean() < 8


TURNED_BACK = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: lambda p: np.rot90(p),
}


@pytest.mark.parametrize("orientation", TURNED_BACK)
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(photo, orientation, file_format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encoded(Image.fromarray(photo), file_format, exif=exif, **options)
    assert np.array_equal(decode(data), TURNED_BACK[orientation](photo))


def test_exif_orientation_of_a_jpeg_is_applied(photo):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = decode(encoded(Image.fromarray(photo[..., 0]), "JPEG", exif=exif, quality=95))
    assert np.abs(pixels[..., 0].astype(int) - np.rot90(photo[..., 0], -1)).mean() < 4


def rgb_png_of_16_bits(photo):
    """Pillow writes no such PNG; it reads one as 8 bits without a word."""
    height, width, _ = photo.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in photo)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def rgb_tiff_of_16_bits(photo):
    height, width, _ = photo.shape
    pixels = photo.astype("<u2").tobytes()
    bits = 8 + len(pixels)
    # tag, type (3: uint16, 4: uint32), number of values, value or where the values are
    entries = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, bits), (259, 3, 1, 1),
        (262, 3, 1, 2), (273, 4, 1, 8), (277, 3, 1, 3), (278, 3, 1, height),
        (279, 4, 1, len(pixels)),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHII", *entry) for entry in entries
    )
    start = struct.pack("<2sHI", b"II", 42, bits + 6)
    return start + pixels + struct.pack("<3H", 16, 16, 16) + directory + bytes(4)


@pytest.mark.parametrize(
    "make",
    [
        lambda photo: encoded(Image.fromarray(photo[..., 0].astype(np.uint16) * 257), "PNG"),
        lambda photo: encoded(Image.fromarray(photo[..., 0].astype(np.uint16) * 257), "TIFF"),
        lambda photo: encoded(Image.fromarray(photo[..., 0].astype(np.int32)), "TIFF"),
        lambda photo: encoded(Image.fromarray(photo[..., 0].astype(np.float32)), "TIFF"),
        rgb_png_of_16_bits,
        rgb_tiff_of_16_bits,
    ],
    ids=["png16", "tiff16", "tiff32", "float", "rgb-png16", "rgb-tiff16"],
)
def test_more_than_8_bits_a_channel_are_refused(photo, make):
    with pytest.raises(UnreadableImage, match="8 unsigned bits"):
        decode(make(photo))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP", "MPO"])
def test_several_frames_or_pages_are_refused(photo, file_format):
    image = Image.fromarray(photo)
    data = encoded(image, file_format, save_all=True, append_images=[image.rotate(180)])
    with pytest.raises(UnreadableImage, match="several frames"):
        decode(data)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "WEBP", "BMP"])
@pytest.mark.parametrize("kept", [0, 0.02, 0.5, 0.9])
def test_truncated_images_are_refused(photo, file_format, kept):
    data = encoded(Image.fromarray(photo), file_format)
    with pytest.raises(UnreadableImage):
        decode(data[: int(len(data) * kept)])


def test_no_flipped_bit_in_a_png_goes_unnoticed(photo):
    data = encoded(Image.fromarray(photo[:28, :28]), "PNG")
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(UnreadableImage):
            decode(bytes(damaged))


@pytest.mark.parametrize("at", [-1, -8, -12, -13])
def test_a_png_that_lacks_its_last_bytes_is_refused(clothes, at):
    with pytest.raises(UnreadableImage, match="cut off"):
        decode(encoded(as_grey(clothes[0]), "PNG")[:at])


@pytest.mark.parametrize("data", [b"", b"no image", b"<svg/>", bytes(1000)])
def test_what_is_no_image_is_refused(data):
    with pytest.raises(UnreadableImage, match="not a PNG, JPEG"):
        decode(data)


@pytest.mark.parametrize("file_format", ["GIF", "PPM", "EPS", "JPEG2000"])
def test_other_formats_are_not_even_tried(photo, file_format):
    with pytest.raises(UnreadableImage, match="not a PNG, JPEG"):
        decode(encoded(Image.fromarray(photo), file_format))


def test_a_decompression_bomb_is_refused_by_its_header(monkeypatch, photo):
    data = encoded(Image.fromarray(photo), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", photo[..., 0].size // 2 - 1)
    with pytest.raises(UnreadableImage, match="too many pixels"):
        decode(data)


def test_warnings_of_pillow_do_not_get_out(monkeypatch, photo):
    data = encoded(Image.fromarray(photo), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", photo[..., 0].size - 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (images,) = decode_all(["a.png"], [data])
    assert not caught
    assert np.array_equal(images.groups[0].pixels[0], photo)


def test_sizes_and_channels_form_groups_and_positions_hold_across_unreadable_ones(clothes, photo):
    files = {
        "grey 1": encoded(as_grey(clothes[0]), "PNG"),
        "broken": b"broken",
        "colour": encoded(Image.fromarray(photo), "PNG"),
        "small colour": encoded(Image.fromarray(photo[:28, :28]), "PNG"),
        "grey 2": encoded(as_grey(clothes[1]), "PNG"),
        "missing": UnreadableImage("is missing"),
        "grey 3": encoded(as_grey(clothes[2]), "PNG"),
    }
    (images,) = decode_all(list(files), files.values())
    assert images.names == list(files)
    groups = {group.pixels.shape[1:]: group for group in images.groups}
    assert groups.keys() == {(28, 28, 1), (84, 140, 3), (28, 28, 3)}
    assert groups[28, 28, 1].positions.tolist() == [0, 4, 6]
    assert np.array_equal(groups[28, 28, 1].pixels[..., 0], clothes[:3])
    assert groups[84, 140, 3].positions.tolist() == [2]
    assert groups[28, 28, 3].positions.tolist() == [3]
    assert images.unreadable.keys() == {1, 5}
    assert images.unreadable[5] == "is missing"


def test_large_images_come_in_pieces_with_positions_of_their_own(clothes, photo, monkeypatch):
    monkeypatch.setattr("compressor.data.decode.CHUNK_BYTES", photo.size + clothes[0].size)
    small, large = encoded(as_grey(clothes[0]), "PNG"), encoded(Image.fromarray(photo), "PNG")
    files = {"a": small, "b": large, "c": b"broken", "d": large, "e": small, "f": small, "g": b""}
    pieces = list(decode_all(list(files), files.values()))
    assert [piece.names for piece in pieces] == [["a", "b", "c"], ["d", "e"], ["f", "g"]]
    assert [list(piece.unreadable) for piece in pieces] == [[2], [], [1]]
    places = [[group.positions.tolist() for group in piece.groups] for piece in pieces]
    assert places == [[[0], [1]], [[0], [1]], [[0]]]
    assert np.array_equal(pieces[1].groups[0].pixels[0], photo)
