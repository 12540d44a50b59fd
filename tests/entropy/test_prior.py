import lzma
import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressor.entropy.prior import Prior
from compressor.entropy.tables import (
    ESCAPE_BITS,
    MAX_SYMBOLS,
    TOTAL,
    learn_table,
    to_frequencies,
)
from compressor.errors import ModelError, TrainingError

INT32 = np.iinfo(np.int32)


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**9), min_size=2, max_size=300))
def test_frequencies_are_positive_and_sum_to_the_total(counts):
    frequencies = to_frequencies(np.array(counts))
    assert frequencies.min() >= 1
    assert frequencies.sum() == TOTAL


def test_rounding_frequencies_costs_next_to_nothing(train_codes):
    for element in (0, 100, 200, 391):
        values = train_codes.reshape(len(train_codes), -1)[:, element]
        counts = np.bincount(values - values.min() + 1, minlength=int(np.ptp(values)) + 4)
        share = (counts + 0.5) / (counts + 0.5).sum()
        added = share @ (np.log2(share) - np.log2(to_frequencies(counts) / TOTAL))
        assert 0 <= added < 0.002


def test_widest_table_keeps_every_symbol_possible():
    counts = np.zeros(MAX_SYMBOLS, np.int64)
    counts[7] = 10**12
    frequencies = to_frequencies(counts)
    assert frequencies.sum() == TOTAL
    assert frequencies.min() == 1
    assert frequencies[7] == TOTAL - MAX_SYMBOLS + 1


def test_a_table_reaches_one_integer_beyond_the_values_on_each_side():
    table = learn_table(np.array([-3, 2, 2, 2], np.int32))
    assert table.low == -4
    assert len(table.frequencies) == 8 + 1  # -4..3 and ESCAPE


@pytest.mark.parametrize("value", [INT32.min, INT32.max, 0])
def test_a_table_stays_within_32_bits(value):
    table = learn_table(np.full(10, value, np.int32))
    assert table.low >= INT32.min
    assert table.low + len(table.frequencies) - 2 <= INT32.max


def test_a_few_far_values_escape_instead_of_widening_the_table(train_codes):
    values = train_codes[:, 1, 3, 3].copy()
    near = learn_table(values)
    values[:2] = [3000, -900]
    far = learn_table(values)
    assert far.low == near.low
    assert len(far.frequencies) == len(near.frequencies)


def test_values_all_over_the_integers_still_get_a_table():
    values = np.random.default_rng(0).integers(INT32.min, INT32.max, 300).astype(np.int32)
    assert len(learn_table(values).frequencies) <= MAX_SYMBOLS


def test_tables_per_element_are_kept_where_they_pay(prior, test_codes):
    assert prior.per_element
    alone = Prior(prior.shape, False, prior.tables[-8:])
    assert prior.ideal_bits(test_codes) < 0.95 * alone.ideal_bits(test_codes)


def test_tables_per_element_go_where_images_are_too_few_to_pay_for_them(train_codes):
    prior = Prior.learn(train_codes[:100])
    assert not prior.per_element
    assert len(prior.tables) == 8


def test_stored_tables_are_small(prior):
    assert len(lzma.compress(prior.to_bytes())) < 16 * len(prior.tables)


def test_codes_of_another_size_use_the_tables_of_their_channels(prior):
    assert np.array_equal(prior.tables_for((8, 7, 7)).ravel(), np.arange(392))
    other = prior.tables_for((8, 3, 5))
    assert other.shape == (8, 3, 5)
    assert np.array_equal(other[:, 0, 0], 392 + np.arange(8))
    assert np.all(other == other[:, :1, :1])


@pytest.mark.parametrize("shape", [(7, 7, 7), (8, 7), (392,)])
def test_codes_that_the_prior_never_saw_are_refused(prior, shape):
    with pytest.raises(ModelError, match="it cannot code"):
        prior.tables_for(shape)


def test_ideal_bits_and_escapes_are_those_of_the_tables(train_codes):
    prior = Prior.learn(train_codes[:50].reshape(50, -1)[:, :3])
    codes = np.array([[5, -70000, 2], [0, 3, 2**31 - 1]], np.int32)
    bits, escapes = 0.0, 0
    for row in codes.tolist():
        for value, table in zip(row, prior.tables, strict=True):
            inside = 0 <= value - table.low < len(table.frequencies) - 1
            frequency = table.frequencies[value - table.low if inside else -1]
            bits += -math.log2(frequency / TOTAL) + (0 if inside else ESCAPE_BITS)
            escapes += not inside
    assert escapes >= 2
    assert prior.escapes(codes) == escapes
    assert prior.ideal_bits(codes) == pytest.approx(bits)


def test_arrays_that_are_no_codes_are_refused(train_codes):
    with pytest.raises(TrainingError, match="no training codes"):
        Prior.learn(train_codes[:0])
    with pytest.raises(TypeError, match="int64"):
        Prior.learn(train_codes.astype(np.int64))
    with pytest.raises(ValueError, match=r"\(5000, 8, 49\)"):
        Prior.learn(train_codes.reshape(5000, 8, 49))


@pytest.fixture(scope="module", params=["elements", "channels", "vector"])
def stored(request, train_codes):
    if request.param == "vector":
        return Prior.learn(train_codes[:50].reshape(50, -1)[:, :5]).to_bytes()
    few = train_codes[: 5000 if request.param == "elements" else 50, :2, 1:4, 1:3]
    prior = Prior.learn(few)
    assert prior.per_element == (request.param == "elements")
    return prior.to_bytes()


def test_bytes_round_trip(stored):
    assert Prior.from_bytes(stored).to_bytes() == stored


def test_a_prior_cut_short_anywhere_or_continued_is_refused(stored):
    for size in range(len(stored)):
        with pytest.raises(ModelError):
            Prior.from_bytes(stored[:size])
    with pytest.raises(ModelError, match="too many"):
        Prior.from_bytes(stored + b"\0")


def test_a_flipped_byte_gives_a_sound_prior_or_a_model_error(stored):
    refused = 0
    for position in range(len(stored)):
        for mask in (0x01, 0x80, 0xFF):
            damaged = bytearray(stored)
            damaged[position] ^= mask
            try:
                prior = Prior.from_bytes(bytes(damaged))
            except ModelError:
                refused += 1
            else:
                assert prior.to_bytes() == bytes(damaged)
                assert len(prior.entropy_models) == len(prior.tables)
    assert refused > len(stored)  # frequencies no longer sum to the total


@settings(deadline=None)
@given(
    st.sampled_from([b"", b"CPRI", b"CPRI\1\3\1\0", b"CPRI\1\1\1\0", b"CPRI\1\3\0\0"]),
    st.binary(max_size=200),
)
def test_attack_bytes_are_refused(start, rest):
    with pytest.raises(ModelError):
        Prior.from_bytes(start + rest)


@pytest.mark.parametrize(
    "shape", [(2**32 - 1,) * 3, (1, 2**10, 2**10 + 1), (1, 1, 2**20), (1, 0, 1)]
)
def test_a_claim_of_countless_tables_is_refused_before_memory_is_taken(shape):
    with pytest.raises(ModelError):
        Prior.from_bytes(b"CPRI\1\3\1\0" + struct.pack("<3I", *shape) + bytes(100))


def test_a_newer_prior_is_refused_with_its_version(stored):
    with pytest.raises(ModelError, match="version 2"):
        Prior.from_bytes(stored[:4] + b"\2" + stored[5:])
