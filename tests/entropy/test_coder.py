import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from compressor.entropy.coder import decode, encode
from compressor.entropy.prior import Prior
from compressor.errors import ArchiveError, ModelError

INT32 = np.iinfo(np.int32)
SHAPES = [(1,), (5,), (2, 3, 2), (1, 1, 1)]

any_int32 = st.one_of(
    st.integers(-4, 4),
    st.sampled_from([INT32.min, INT32.min + 1, INT32.max - 1, INT32.max]),
    st.integers(int(INT32.min), int(INT32.max)),
)


def codes_like(shape, least):
    return st.integers(least, 12).flatmap(
        lambda count: arrays.arrays(np.int32, (count, *shape), elements=any_int32)
    )


@settings(deadline=None)
@given(
    st.sampled_from(SHAPES).flatmap(
        lambda shape: st.tuples(codes_like(shape, 1), codes_like(shape, 0))
    )
)
@example((np.zeros((3, 1), np.int32), np.array([[INT32.min], [INT32.max]], np.int32)))
def test_any_integers_come_back_whatever_the_prior_was_learned_on(pair):
    learned, codes = pair
    prior = Prior.from_bytes(Prior.learn(learned).to_bytes())
    payload = encode(codes, prior)
    decoded = decode(payload, len(codes), codes.shape[1:], prior)
    assert decoded.dtype == np.int32
    assert decoded.flags.c_contiguous
    assert np.array_equal(decoded, codes)


@pytest.mark.parametrize("shape", [(8, 7, 7), (8, 5, 4)])
def test_real_codes_take_their_ideal_length(prior, test_codes, shape):
    codes = np.ascontiguousarray(test_codes[:256, :, : shape[1], : shape[2]])
    payload = encode(codes, prior)
    assert np.array_equal(decode(payload, 256, shape, prior), codes)
    assert prior.escapes(test_codes) > 0
    assert len(payload) * 8 <= 1.001 * prior.ideal_bits(codes) + 64


def test_a_vector_of_few_images_is_within_two_percent(train_codes, test_codes):
    prior = Prior.learn(train_codes.reshape(5000, -1))
    codes = test_codes[:16].reshape(16, -1)
    assert len(encode(codes, prior)) * 8 <= 1.02 * prior.ideal_bits(codes)


def test_a_constant_element_costs_nothing():
    zeros = np.zeros((5000, 3), np.int32)
    prior = Prior.learn(zeros)
    assert len(encode(zeros[:256], prior)) <= 8
    assert not decode(encode(zeros[:256], prior), 256, (3,), prior).any()


def test_no_images_take_no_bytes(prior, train_codes):
    assert encode(train_codes[:0], prior) == b""
    assert decode(b"", 0, (8, 7, 7), prior).shape == (0, 8, 7, 7)


def test_the_same_codes_give_the_same_bytes_from_an_array_in_any_layout(prior, train_codes):
    codes = train_codes[:20]
    assert encode(np.asfortranarray(codes), prior) == encode(codes, prior)


def test_a_code_of_another_shape_is_refused(prior):
    with pytest.raises(ModelError, match="it cannot code"):
        decode(b"", 1, (9, 7, 7), prior)


@pytest.fixture(scope="module")
def packed(train_codes):
    prior = Prior.learn(train_codes[:200])
    codes = train_codes[:8].copy()
    codes[0, 0, 0, 0] = 123456789
    return prior, codes, encode(codes, prior)


def decode_or_refuse(payload, packed):
    prior, codes, _ = packed
    try:
        assert decode(payload, len(codes), codes.shape[1:], prior).shape == codes.shape
    except ArchiveError:
        return True
    return False


def test_damage_gives_other_codes_or_an_archive_error_and_never_a_panic(packed):
    payload = packed[2]
    for position in range(len(payload)):
        damaged = bytearray(payload)
        damaged[position] ^= 0x55
        decode_or_refuse(bytes(damaged), packed)
    for size in range(0, len(payload), 4):
        decode_or_refuse(payload[:size], packed)


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_attack_bytes_give_codes_or_an_archive_error(packed, payload):
    decode_or_refuse(payload, packed)


def test_half_words_final_zeros_and_words_too_many_are_refused(packed):
    payload = packed[2]
    assert decode_or_refuse(payload + b"\1", packed)
    assert decode_or_refuse(payload + b"\0\0\0\0", packed)
    assert decode_or_refuse(b"\1\2\3\4" + payload, packed)
