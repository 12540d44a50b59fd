import compressai_cell
import numpy as np
import pytest
import torch


@pytest.mark.parametrize("stride", [16, 64])
def test_a_padded_image_has_the_image_inside(clothes, stride):
    x = compressai_cell.to_x(list(clothes[:2, :, :27]))
    padded = compressai_cell.pad(x, stride)
    assert padded.shape[2] % stride == padded.shape[3] % stride == 0
    assert padded.shape[2] - 28 < stride
    assert torch.equal(compressai_cell.inside(padded, x), x)


def test_an_image_that_the_stride_divides_is_left_alone(clothes):
    x = compressai_cell.to_x(list(np.tile(clothes[:1], (1, 4, 4, 1))[:, :64, :64]))
    assert torch.equal(compressai_cell.pad(x, 64), x)


def test_crops_lie_anywhere_inside(clothes):
    random = np.random.default_rng(0)
    crops = {compressai_cell.crop(clothes[0], 26, random).tobytes() for _ in range(100)}
    corners = [
        clothes[0, top : top + 26, left : left + 26] for top in range(3) for left in range(3)
    ]
    assert crops == {corner.tobytes() for corner in corners}
