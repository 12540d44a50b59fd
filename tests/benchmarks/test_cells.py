import numpy as np
import pytest
from cells import Cell, Cells, write_results
from rate_distortion.figures import Figures, psnrs
from rate_distortion.pca import ideal_bits, pieces

KEY = {"data": "clothes", "method": "JPEG 2000", "level": 20}


def counted(key, calls):
    def measure():
        calls.append(key)
        return Figures(bytes=len(calls), model_bytes=0, images=1, pixels=1, psnr=1, mean_psnr=1)

    return Cell(key, measure)


def test_a_cell_is_measured_once_and_read_by_the_next_run(tmp_path):
    calls = []
    first = Cells(tmp_path, tmp_path / "none", Figures).measured(counted(KEY, calls))
    assert (
        Cells(tmp_path, tmp_path / "none", Figures).measured(
            counted(dict(reversed(KEY.items())), calls)
        )
        == first
    )
    assert len(calls) == 1


def test_what_was_published_is_not_measured_again(tmp_path):
    calls = []
    cell = counted(KEY, calls)
    figures = Cells(tmp_path / "cells", tmp_path / "none", Figures).measured(cell)
    write_results(tmp_path / "results", [(cell, figures)])
    assert Cells(tmp_path / "others", tmp_path / "results", Figures).measured(cell) == figures
    assert len(calls) == 1


def test_another_setting_is_another_cell(tmp_path):
    calls = []
    cells = Cells(tmp_path, tmp_path / "none", Figures)
    cells.measured(counted(KEY, calls))
    changed = counted(KEY | {"level": 21}, calls)
    assert cells.find(changed) is None
    assert cells.measured(changed).bytes == 2
    assert len(list(tmp_path.iterdir())) == 2


def test_a_measurement_that_was_stopped_leaves_no_cell(tmp_path):
    def stopped():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Cells(tmp_path, tmp_path / "none", Figures).measured(Cell(KEY, stopped))
    assert list(tmp_path.iterdir()) == []


def test_pooled_and_mean_psnr_differ_as_defined(clothes):
    noisy = clothes[:2].astype(int)
    noisy[0] += 1
    noisy[1] += 10
    errors = np.square(noisy - clothes[:2]).sum((1, 2, 3))
    pooled, mean = psnrs(errors, np.array([784, 784]))
    assert pooled == pytest.approx(10 * np.log10(255**2 / 50.5))
    assert mean == pytest.approx(10 * np.log10(255**2 / np.sqrt(1 * 100)))


def test_pieces_are_squares_of_the_image(clothes):
    cut = pieces([clothes[0], clothes[1]], 14).reshape(8, 14, 14)
    assert np.array_equal(cut[1], clothes[0, :14, 14:, 0])
    assert np.array_equal(cut[6], clothes[1, 14:, :14, 0])


def test_ideal_bits_are_those_of_the_training_codes():
    """Three of four trained on are 0: with half a count more, 3.5 of 5, and 1.5 of 5 for 1."""
    train = np.array([[0], [0], [1], [0]], np.int32)
    test = np.array([[0], [1]], np.int32)
    assert ideal_bits(train, test) == pytest.approx(-np.log2(3.5 / 5) - np.log2(1.5 / 5))
    never = np.array([[3]], np.int32)
    assert ideal_bits(train, never) == pytest.approx(-np.log2(0.5 / 6))
