"""What compress says of its archive, in sentences."""

import numpy as np

from compressor.archive.verdict import OURS, verdict
from compressor.verbs import compress


def summary(archive, model, source, **rivals):
    rows = [
        {"codec": OURS, "form": "with its model", "bytes": archive},
        *({"codec": codec, "form": "mosaic", "bytes": size} for codec, size in rivals.items()),
    ]
    return {
        "archive_bytes": archive,
        "model_bytes": model,
        "images": 100,
        "source_bytes": source,
        **({"compare": rows} if rivals else {}),
    }


def test_an_archive_that_is_larger_than_its_data_says_so():
    assert list(verdict(summary(1100, 0, 1000))) == [
        "the archive is 10% larger than the data as they were stored, "
        "with a loss that was not measured (--measure)",
        "it does not pay for these data: keep them as they are",
    ]
    assert list(verdict(summary(500, 100, None))) == []
    for told, end in (({"psnr": 31.234}, "with PSNR 31.23 dB"), ({"psnr": None}, "exactly")):
        first = next(verdict(summary(500, 100, 1000) | told))
        assert first == f"the archive is 50% smaller than the data as they were stored, {end}"


def test_a_model_pays_from_as_many_images_as_its_codes_save_its_bytes():
    assert list(verdict(summary(1000, 600, 4000, AVIF=700, JPEG=2000))) == [
        "the archive is 75% smaller than the data as they were stored, "
        "with a loss that was not measured (--measure)",
        "the archive is 43% larger than AVIF (mosaic) at this PSNR",
        "its model pays from about 200 such images on",  # codes save 3 bytes of each
    ]
    assert list(verdict(summary(1000, 100, None, AVIF=None, JPEG=800)))[-1] == (
        "its model does not pay, however many such images there are: use JPEG"
    )


def test_compress_compares_with_the_files_that_it_read(dense_model, clothes, tmp_path):
    np.save(tmp_path / "images.npy", clothes[:50])
    told = compress(tmp_path / "images.npy", dense_model, tmp_path / "archive")
    assert told["source_bytes"] == (tmp_path / "images.npy").stat().st_size
    (sentence,) = told["verdict"][:1]
    smaller = told["archive_bytes"] < told["source_bytes"]
    assert sentence.startswith("the archive is ") and ("smaller" in sentence) == smaller
    assert compress(clothes[:5], dense_model, tmp_path / "second")["source_bytes"] is None
