from __future__ import annotations

import io
import struct
import sys
import warnings
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageCms

from compressor import spec
from compressor.data.decode import decode, decode_all, decode_with, sizes_refused_by
from compressor.errors import ConfigError, UnreadableImage


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


def tiff_of(samples, extra=None):
    """A TIFF of (H, W, C) uint8 or uint16 samples, the last of them an extra one of this kind."""
    height, width, count = samples.shape
    pixels, bits = samples.astype(samples.dtype.newbyteorder("<")).tobytes(), samples.itemsize * 8
    colours = 2 if count > 2 else 1
    end = 8 + len(pixels)
    depths = bits if count == 1 else bits | bits << 16 if count == 2 else end
    # tag, type (3: uint16, 4: uint32), number of values, value or where the values are
    entries = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, count, depths), (259, 3, 1, 1),
        (262, 3, 1, colours), (273, 4, 1, 8), (277, 3, 1, count), (278, 3, 1, height),
        (279, 4, 1, len(pixels)), *([] if extra is None else [(338, 3, 1, extra)]),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHII", *entry) for entry in entries
    )
    start = struct.pack("<2sHI", b"II", 42, end + 2 * count)
    return start + pixels + struct.pack("<H", bits) * count + directory + bytes(4)


@pytest.mark.parametrize(
    "make",
    [
        lambda photo: encoded(Image.fromarray(photo[..., 0].astype(np.uint16) * 257), "PNG"),
        lambda photo: encoded(Image.fromarray(photo[..., 0].astype(np.uint16) * 257), "TIFF"),
        lambda photo: encoded(Image.fromarray(photo[..., 0].astype(np.int32)), "TIFF"),
        lambda photo: encoded(Image.fromarray(photo[..., 0].astype(np.float32)), "TIFF"),
        rgb_png_of_16_bits,
        lambda photo: tiff_of(photo.astype(np.uint16)),
        lambda photo: b"P6 140 84 65535\n" + (photo.astype(">u2") * 257).tobytes(),
        lambda photo: b"P5 140 84 65535\n" + (photo[..., 0].astype(">u2") * 257).tobytes(),
        lambda photo: encoded(Image.fromarray(photo[..., 0].astype(np.uint16) * 16), "JPEG2000"),
        lambda photo: imagecodecs.jpeg2k_encode(photo.astype(np.uint16) * 16),
        lambda photo: imagecodecs.avif_encode(photo.astype(np.uint16) * 4, bitspersample=10),
    ],
    ids=[
        "png16",
        "tiff16",
        "tiff32",
        "float",
        "rgb-png16",
        "rgb-tiff16",
        "ppm16",
        "pgm16",
        "jp2-16",
        "rgb-jp2-16",
        "avif10",
    ],
)
def test_more_than_8_bits_a_channel_are_refused(photo, make):
    with pytest.raises(UnreadableImage, match="8 unsigned bits"):
        decode(make(photo))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP", "GIF", "AVIF"])
def test_several_frames_or_pages_are_refused(photo, file_format):
    image = Image.fromarray(photo)
    data = encoded(image, file_format, save_all=True, append_images=[image.rotate(180)])
    with pytest.raises(UnreadableImage, match="several frames"):
        decode(data)


@pytest.mark.parametrize(
    "file_format", ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "AVIF", "JPEG2000", "PPM"]
)
@pytest.mark.parametrize("kept", [0, 0.02, 0.5, 0.9, 0.99])
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


@pytest.mark.parametrize("file_format", ["PCX", "TGA", "EPS", "SGI"])
def test_other_formats_are_not_even_tried(photo, file_format):
    with pytest.raises(UnreadableImage, match="not a PNG, JPEG"):
        decode(encoded(Image.fromarray(photo), file_format))


# Formats beside the common ones


@pytest.mark.parametrize("file_format", ["GIF", "JPEG2000", "PPM", "DIB", "AVIF"])
def test_grey_comes_back_from_formats_that_pillow_reads(clothes, file_format):
    options = {"quality": 100} if file_format == "AVIF" else {}
    pixels = decode(encoded(as_grey(clothes[0]), file_format, **options))
    assert pixels.shape == (28, 28, 3 if file_format == "GIF" else 1)  # a GIF has a palette
    assert np.abs(pixels.astype(int) - clothes[0][..., None]).max() <= (file_format == "AVIF") * 3


@pytest.mark.parametrize("file_format", ["JPEG2000", "PPM"])
def test_colours_come_back_bit_for_bit_from_jpeg_2000_and_ppm(photo, file_format):
    assert np.array_equal(decode(encoded(Image.fromarray(photo), file_format)), photo)


def test_a_gif_of_one_frame_is_its_palette_s_colours(photo):
    image = Image.fromarray(photo).quantize(64)
    assert np.array_equal(decode(encoded(image, "GIF")), np.asarray(image.convert("RGB")))


def test_text_and_one_bit_ppm_are_read(clothes):
    numbers = " ".join(map(str, clothes[0].ravel())).encode()
    plain = decode(b"P2\n# a comment\n28 28\n255\n" + numbers)
    assert np.array_equal(plain[..., 0], clothes[0])
    black = clothes[0] < 128
    packed = b"P4\n28 28\n" + np.packbits(black, axis=1).tobytes()
    assert np.array_equal(decode(packed)[..., 0], np.where(black, 0, 255))


def test_a_ppm_that_is_followed_by_another_is_refused(photo):
    one = encoded(Image.fromarray(photo), "PPM")
    with pytest.raises(UnreadableImage, match="several frames"):
        decode(one + one)
    assert np.array_equal(decode(one + b"\n"), photo)


def jpeg_xl(pixels, **options):
    return imagecodecs.jpegxl_encode(pixels, lossless=True, **options)


@pytest.mark.parametrize("container", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_jpeg_xl_comes_back_bit_for_bit(photo, channels, container):
    four = np.dstack([photo, photo[..., 0]])
    given = four[..., 0] if channels == 1 else np.ascontiguousarray(four[..., :channels])
    pixels = decode(jpeg_xl(given, usecontainer=container))
    grey_with_alpha = four[..., [0, 0, 0, 1]]
    expected = grey_with_alpha if channels == 2 else given.reshape(*photo.shape[:2], channels)
    assert np.array_equal(pixels, expected)


def test_jpeg_xl_without_its_library_says_what_to_install(photo, monkeypatch):
    data = jpeg_xl(photo)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(UnreadableImage, match=r"JPEG-XL, which needs.*\[jpegxl\]"):
        decode(data)


def test_jpeg_xl_that_is_deep_animated_or_cut_off_is_refused(photo):
    with pytest.raises(UnreadableImage, match="8 unsigned bits"):
        decode(jpeg_xl(photo.astype(np.uint16) * 257))
    for frame in (photo, photo[..., :1]):
        with pytest.raises(UnreadableImage, match="several frames"):
            decode(jpeg_xl(np.stack([frame, frame])))
    whole = jpeg_xl(photo)
    for kept in (12, len(whole) // 2, len(whole) - 1):
        with pytest.raises(UnreadableImage, match="damaged"):
            decode(whole[:kept])


@pytest.mark.parametrize("size", [(40, 64), (84, 140), (50, 75), (700, 300)])
def test_a_jpeg_xl_bomb_is_refused_by_its_header(clothes, monkeypatch, size):
    pixels = np.resize(clothes, size)
    data = jpeg_xl(pixels)
    monkeypatch.setattr(spec, "SURELY_PIXELS", pixels.size)
    assert np.array_equal(decode(data)[..., 0], pixels)
    monkeypatch.setattr(spec, "SURELY_PIXELS", pixels.size - 1)
    with pytest.raises(UnreadableImage, match=f"is {size[0]}x{size[1]}, more than .* pixels"):
        decode(data)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)


def test_a_format_that_is_known_but_not_read_is_named():
    with pytest.raises(UnreadableImage, match="is HEIC, which is not read"):
        decode(HEIC)


@pytest.mark.parametrize("file_format", ["AVIF", "JPEG2000"])
def test_a_format_that_this_pillow_lacks_is_named(photo, monkeypatch, file_format):
    data = encoded(Image.fromarray(photo), file_format)
    monkeypatch.setattr("compressor.data.decode._FORMATS", ["PNG", "JPEG"])
    with pytest.raises(UnreadableImage, match=f"is {file_format}, which this Pillow"):
        decode(data)


# Metadata: broken or large, the pixels are good


def png_with(data, kind, content, crc=None):
    """A PNG with one chunk more after its header."""
    crc = zlib.crc32(kind + content) if crc is None else crc
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)
    return data[:33] + chunk + data[33:]


BROKEN_EXIF = [b"", b"garbagegarbage", b"II", b"II*\0\x08\0\0\0\x05\0\x12\x01\x03\0",
               b"IIU\0\x18\0\0\0", b"II*\0\xff\xff\xff\x7f", b"b'Exif\\x00\\x00MM"]  # fmt: skip


@pytest.mark.parametrize("exif", BROKEN_EXIF)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")
def test_broken_exif_costs_no_pixels(photo, exif):
    image = Image.fromarray(photo)
    assert np.array_equal(decode(png_with(encoded(image, "PNG"), b"eXIf", exif)), photo)
    for content in filter(None, (exif, b"Exif\0\0" + exif)):
        assert np.array_equal(decode(encoded(image, "WEBP", lossless=True, exif=content)), photo)
    jpeg = encoded(image, "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 8) + b"Exif\0\0" + exif
    assert np.array_equal(decode(jpeg[:2] + segment + jpeg[2:]), decode(jpeg))


@pytest.mark.parametrize("size", [100, 2_000_000])
def test_text_and_profiles_of_any_size_cost_no_pixels(photo, size):
    png, packed = encoded(Image.fromarray(photo), "PNG"), zlib.compress(bytes(size))
    for kind, content, name in (
        (b"zTXt", b"Comment\0\0" + packed, "text"),
        (b"iTXt", b"Comment\0\1\0\0\0" + packed, "text"),
        (b"tEXt", b"Comment\0" + b"x" * size, "text"),
        (b"iCCP", b"icc\0\0" + packed, "ICC"),
    ):
        pixels, not_kept = decode_with(png_with(png, kind, content))
        assert np.array_equal(pixels, photo) and not_kept == {name}


def test_damage_in_the_text_of_a_png_costs_no_pixels(photo):
    png = encoded(Image.fromarray(photo), "PNG")
    pixels, not_kept = decode_with(png_with(png, b"tEXt", b"a\0b", crc=1))
    assert np.array_equal(pixels, photo) and not_kept == {"text"}
    with pytest.raises(UnreadableImage, match="damaged"):  # it may turn the image
        decode(png_with(png, b"eXIf", b"II*\0", crc=1))


@pytest.mark.parametrize(
    ("marker", "content", "name"),
    [(0xE0, b"JFIF\0\1", ""), (0xE2, b"ICC_PROFILE\0", "ICC"), (0xE2, b"MPF\0MM\0*\0\0\0\x08", "")],
)
def test_broken_segments_of_a_jpeg_cost_no_pixels(photo, marker, content, name):
    exif = Image.Exif()
    exif[0x0112] = 6
    jpeg = encoded(Image.fromarray(photo), "JPEG", exif=exif)
    segment = bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content
    pixels, not_kept = decode_with(jpeg[:2] + segment + jpeg[2:])
    assert np.array_equal(pixels, decode(jpeg)) and pixels.shape == (140, 84, 3)
    assert not_kept == ({name} if name else set())


def test_of_a_jpeg_with_further_pictures_the_first_is_taken(photo):
    image = Image.fromarray(photo)
    data = encoded(image, "MPO", save_all=True, append_images=[image.rotate(180)])
    pixels, not_kept = decode_with(data)
    assert np.array_equal(pixels, decode(encoded(image, "JPEG")))
    assert not_kept == {"further pictures"}


def test_premultiplied_grey_with_alpha_is_read(clothes):
    samples = np.stack([clothes[0] // 2, np.full_like(clothes[0], 128)], axis=-1)
    pixels = decode(tiff_of(samples, extra=1))  # associated alpha
    assert pixels.shape == (28, 28, 4) and (pixels[..., 3] == 128).all()
    assert np.abs(pixels[..., 0].astype(int) - clothes[0]).max() <= 2


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_what_an_image_has_beside_its_pixels_is_said(photo, file_format):
    image, exif = Image.fromarray(photo), Image.Exif()
    assert decode_with(encoded(image, file_format)).not_kept == set()
    exif[0x0112] = 6
    assert decode_with(encoded(image, file_format, exif=exif)).not_kept == set()
    taken = {0x8769: {0x9003: "2024:01:01 00:00:00"}}
    exif[0x8769] = taken[0x8769]
    options = {"tiffinfo": taken} if file_format == "TIFF" else {"exif": exif}
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encoded(image, file_format, icc_profile=profile, **options)
    assert decode_with(data).not_kept == {"EXIF", "ICC"}
    (images,) = decode_all(["a", "b", "c"], [data, encoded(image, file_format), data])
    assert images.not_kept == {"EXIF": 2, "ICC": 2}


def test_channels_of_a_tiff_that_are_not_read_are_said(photo):
    pixels, not_kept = decode_with(tiff_of(np.dstack([photo, photo[..., :1]]), extra=0))
    assert np.array_equal(pixels, photo) and not_kept == {"further channels"}


def test_a_decompression_bomb_is_refused_by_its_header(monkeypatch, photo):
    data = encoded(Image.fromarray(photo), "PNG")
    pixels = photo[..., 0].size
    monkeypatch.setattr(spec, "SURELY_PIXELS", pixels - 1)
    with pytest.raises(UnreadableImage, match=f"COMPRESSOR_MAX_PIXELS={pixels} in the environment"):
        decode(data)
    monkeypatch.setenv("COMPRESSOR_MAX_PIXELS", str(pixels))
    assert np.array_equal(decode(data), photo)
    monkeypatch.setenv("COMPRESSOR_MAX_PIXELS", "many")
    with pytest.raises(ConfigError, match="is not a number of pixels"):
        decode(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels // 2 - 1)
    with pytest.raises(UnreadableImage, match="too many pixels"):
        decode(data)


def test_an_image_of_an_unwanted_size_is_refused_before_its_pixels_are_decoded(photo):
    height, width = photo.shape[:2]
    broken = bytearray(encoded(Image.fromarray(photo), "PNG"))
    broken[len(broken) // 2] ^= 1
    with pytest.raises(UnreadableImage, match="damaged"):
        decode(bytes(broken))
    turned = Image.Exif()
    turned[0x0112] = 6
    whole = encoded(Image.fromarray(photo), "JPEG", exif=turned)
    with sizes_refused_by(lambda h, w: "" if (h, w) == (width, height) else f"is {h}x{w}"):
        assert decode(whole).shape[:2] == (width, height)
    refused = pytest.raises(UnreadableImage, match=f"is {height}x{width}, not 1x1")
    for data in (encoded(Image.fromarray(photo), "JPEG")[:900], whole, jpeg_xl(photo)[:200]):
        with sizes_refused_by(lambda h, w: f"is {h}x{w}, not 1x1"), refused:
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
