"""What a model takes: images or vectors, JSON both ways."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from compressor.errors import UnreadableImage
from compressor.spec import CodeSpec, DataSpec, ImageSpec, VectorSpec, size_of

VECTORS = VectorSpec(length=2, mean=(0.5, -1e-7), scale=(1.5, 2.0), columns=("size", "größe"))
IMAGES = ImageSpec(height=8, width=6, channels=3)
ANY: TypeAdapter[ImageSpec | VectorSpec] = TypeAdapter(DataSpec)


@pytest.mark.parametrize("spec", [VECTORS, IMAGES, VECTORS.model_copy(update={"columns": None})])
def test_a_spec_is_the_same_after_json(spec: ImageSpec | VectorSpec) -> None:
    assert ANY.validate_json(spec.model_dump_json()) == spec


def test_a_kind_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValidationError, match="kind"):
        ANY.validate_python({"kind": "sound", "length": 2})


@pytest.mark.parametrize(
    "change",
    [
        {"length": 3},
        {"length": 0, "mean": (), "scale": (), "columns": ()},
        {"mean": (0.5,)},
        {"scale": (1.0, 0.0)},
        {"scale": (1.0, -1.0)},
        {"scale": (1.0, float("inf"))},
        {"columns": ("size",)},
        {"height": 1},
    ],
)
def test_a_spec_of_vectors_that_contradicts_itself_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        VectorSpec.model_validate(VECTORS.model_dump() | change)


@pytest.mark.parametrize(
    ("spec", "shape", "reason"),
    [
        (VECTORS, (3,), "has 3 numbers, the model takes 2"),
        (VECTORS, (8, 6, 3), "is an image, the model takes vectors"),
        (IMAGES, (144,), "is a vector, the model takes images"),
        (IMAGES, (8, 6, 1), "has 1 channels, the model takes 3"),
        (IMAGES, (8, 6, 4), "has 4 channels with alpha, the model takes 3"),
        (IMAGES, (6, 8, 3), "is 6x8, the model takes 8x6 only"),
        (IMAGES.model_copy(update={"stride": 4}), (0, 6, 3), "is 0x6: it has no pixels"),
        (IMAGES.model_copy(update={"stride": 4}), (7, 0, 3), "is 7x0: it has no pixels"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(
    spec: ImageSpec | VectorSpec, shape: tuple[int, ...], reason: str
) -> None:
    with pytest.raises(UnreadableImage, match=reason):
        spec.check(shape)


def test_a_vector_counts_as_an_image_one_row_high() -> None:
    assert size_of((5,)) == (1, 5) and size_of((8, 6, 3)) == (8, 6)
    assert VECTORS.shape_of(1, 2) == (2,) == VECTORS.shape
    assert VECTORS.shape_of(2, 1) == (2, 1)  # no vector: check refuses it
    assert (VECTORS.elements, VECTORS.channels, VECTORS.bytes_per_place) == (2, 1, 4)
    assert IMAGES.shape_of(*size_of(IMAGES.shape)) == IMAGES.shape
    assert (IMAGES.elements, IMAGES.bytes_per_place) == (144, 3)
    assert CodeSpec(shape=(7,)).shape_for(1, 2) == (7,)


@pytest.mark.parametrize("size", [(1, 1), (8, 6), (7, 9), (1, 20_000)])
def test_with_a_stride_every_size_fits_and_its_code_is_rounded_up(size: tuple[int, int]) -> None:
    spec = IMAGES.model_copy(update={"stride": 4})
    height, width = size
    spec.check((height, width, 3))
    code = CodeSpec(shape=(5, 2, 2), stride=4)
    assert code.shape_for(height, width) == (5, math.ceil(height / 4), math.ceil(width / 4))
    padded = spec.model_copy(update={"height": height, "width": width}).padded(4)
    assert code.shape_for(padded.height, padded.width) == code.shape_for(height, width)
    assert padded.height - height < 4 > padded.width - width


def test_a_halo_is_told_only_where_it_is_known() -> None:
    old = {"shape": (2, 7, 7), "stride": 4}
    assert CodeSpec.model_validate(old).model_dump() == old
    known = CodeSpec.model_validate({**old, "halo": 0})
    assert known.model_dump() == {**old, "halo": 0}
    assert CodeSpec.model_validate_json(known.model_dump_json()) == known
