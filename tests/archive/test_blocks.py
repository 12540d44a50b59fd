import struct
import time

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressor.archive.blocks import (
    HEADER_SIZE,
    MAGICS,
    MODEL,
    Header,
    images_per_block,
    numbered,
    pack,
    scan,
    unpack,
)
from compressor.entropy.prior import Prior
from compressor.errors import ArchiveError


@pytest.fixture(scope="module")
def codes(mixed):
    return np.stack([code for code in mixed.values() if code.shape == (3, 4, 4)])[:40]


@pytest.fixture(scope="module")
def frame(codes, model):
    return numbered(pack(codes, 28, 28, model.prior)[0], 65536 + 3)[1]


def forged(**fields):
    """A header whose checksum is right."""
    honest = {"codec": MODEL, "number": 0, "length": 0, "images": 1, "height": 28, "width": 28}
    return Header(**{**honest, "payload_crc": 0, "content_crc": 0, **fields}).to_bytes()


def test_a_block_comes_back_with_its_size(frame, codes, model):
    decoded, height, width = unpack(frame, model.prior, model.code)
    assert np.array_equal(decoded, codes)
    assert (height, width) == (28, 28)


def test_every_flipped_byte_is_found_and_the_block_named(frame, model):
    for position in range(len(frame)):
        damaged = bytearray(frame)
        damaged[position] ^= 0x10
        with pytest.raises(ArchiveError, match=r"header|block 3 of part 1"):
            unpack(bytes(damaged), model.prior, model.code)


def test_a_frame_cut_short_anywhere_is_found(frame, model):
    for size in range(len(frame)):
        with pytest.raises(ArchiveError):
            unpack(frame[:size], model.prior, model.code)


def test_a_right_payload_under_other_tables_is_found(frame, model):
    tables = model.prior.tables
    other = Prior(model.prior.shape, model.prior.per_element, [*tables[1:], tables[0]])
    with pytest.raises(ArchiveError, match=r"another prior|cannot be decoded"):
        unpack(frame, other, model.code)


@settings(deadline=None)
@given(st.binary(max_size=120), st.integers(0, 5))
def test_attack_payloads_under_right_checksums_never_decode(model, payload, images):
    header = forged(length=len(payload), images=images, payload_crc=google_crc32c.value(payload))
    with pytest.raises(ArchiveError):
        unpack(header + payload, model.prior, model.code)


@pytest.mark.parametrize(
    "claim",
    [
        {"images": 0},
        {"images": 2**32 - 1},
        {"height": 2**32 - 1, "width": 2**32 - 1},
        {"height": 700_000, "width": 700_000, "images": 256},
        {"height": 0},
        {"length": 2**32 - 4},
    ],
)
def test_a_header_that_claims_the_impossible_is_refused_before_memory_is_taken(model, claim):
    with pytest.raises(ArchiveError):
        unpack(forged(**claim), model.prior, model.code)


def test_large_codes_share_blocks_with_fewer_images():
    assert images_per_block((16, 7, 7)) == 256
    assert images_per_block((192, 48, 32)) == 14
    assert images_per_block((192, 512, 512)) == 1


@pytest.fixture
def frames(codes, model):
    return [numbered(pack(codes[n : n + 3], 28, 28, model.prior)[0], n)[1] for n in range(5)]


def numbers(path):
    return [header.number for _, header in scan(path)]


def test_scan_finds_frames_without_an_index(tmp_path, frames, model):
    path = tmp_path / "part.bin"
    path.write_bytes(b"".join(frames))
    found = list(scan(path))
    assert [header.number for _, header in found] == [0, 1, 2, 3, 4]
    for (offset, header), frame in zip(found, frames, strict=True):
        assert path.read_bytes()[offset : offset + HEADER_SIZE + header.length] == frame


@pytest.mark.parametrize(
    "between", [b"CBk", MAGICS[MODEL], b"\0" * 65500, b"\0" * 65520, MAGICS[MODEL] * 40000]
)
def test_scan_goes_on_after_damage_of_any_length(tmp_path, frames, between):
    path = tmp_path / "part.bin"
    broken = b"\xff" + frames[1][1:]
    path.write_bytes(frames[0] + between + frames[2] + broken + frames[4] + frames[3][:-1])
    assert numbers(path) == [0, 2, 4]


def test_scan_steps_over_what_looks_like_a_frame_inside_a_payload(tmp_path):
    path = tmp_path / "part.bin"
    inner = forged(number=9)
    path.write_bytes(forged(number=1, length=len(inner)) + inner + forged(number=2))
    assert numbers(path) == [1, 2]


def test_scan_of_a_file_full_of_magic_numbers_ends_soon(tmp_path):
    path = tmp_path / "part.bin"
    path.write_bytes(MAGICS[MODEL] * (1 << 18))
    start = time.monotonic()
    assert numbers(path) == []
    assert time.monotonic() - start < 20


def test_the_header_is_ten_words():
    assert HEADER_SIZE == 40
    assert struct.unpack_from("<4sI", forged(number=7)) == (b"CBk\x02", 7)


def test_headers_of_version_1_are_read_and_do_not_name_an_archive(tmp_path):
    fields = struct.pack("<4s7I", b"CBk\x01", 7, 4, 1, 28, 28, 0, 0)
    old = fields + struct.pack("<I", google_crc32c.value(fields))
    header = Header.parse(old + b"more")
    assert (header.codec, header.number, header.size, header.archive) == (MODEL, 7, 36, 0)
    path = tmp_path / "part.bin"
    path.write_bytes(old + b"four" + forged(number=8, archive=5) + old + b"end.")
    found = [(header.number, header.archive) for _, header in scan(path)]
    assert found == [(7, 0), (8, 5), (7, 0)]
