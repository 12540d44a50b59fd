"""What people read of a summary."""

from compressor.summaries import lines


def test_records_are_an_aligned_table_and_empty_columns_are_left_out():
    rows = [
        {"codec": "AVIF", "bytes": 12345, "psnr": 30.123456789, "note": ""},
        {"codec": "this model", "bytes": 99, "psnr": None, "note": ""},
    ]
    assert list(lines({"compare": rows, "nothing": [], "none": None})) == [
        "compare:",
        "  codec        bytes     psnr",
        "  AVIF        12,345  30.1235",
        "  this model      99",
    ]


def test_dictionaries_are_indented_and_their_records_named():
    found = list(
        lines({"data": {"kind": "image", "height": 28}, "files": {"a": {"sha256": "ab" * 32}}})
    )
    assert found == [
        "data:",
        "  kind: image",
        "  height: 28",
        "files:",
        "  name  sha256",
        "  a     abababababab",
    ]


def test_long_lists_of_numbers_are_counted():
    steps = [0.5, 0.25, 1.0, 2.0, 4.0]
    assert list(lines({"steps": steps})) == ["steps: 5 numbers, 0.25 to 4"]
    assert list(lines({"shape": (8, 7, 7), "exact": True})) == ["shape: 8, 7, 7", "exact: true"]
