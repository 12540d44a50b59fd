"""An .npy file that grows row by row: its final header is written last, over the first one."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt


class GrowingNpy:
    """Appends arrays of equal row shape and dtype; the file is valid after the ``with`` block."""

    def __init__(self, path: Path, row_shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self._row_shape, self._dtype = row_shape, np.dtype(dtype)
        self.rows = 0
        self._file = path.open("wb")
        self._write_header()

    def append(self, rows: npt.NDArray[Any]) -> None:
        """rows: (n, *row_shape)."""
        assert rows.shape[1:] == self._row_shape and rows.dtype == self._dtype
        self._file.write(np.ascontiguousarray(rows).data)
        self.rows += len(rows)

    def _write_header(self) -> None:
        # NumPy pads headers so that the first axis may grow to 21 digits in place.
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self.rows, *self._row_shape),
        }
        np.lib.format.write_array_header_1_0(self._file, header)

    def __enter__(self) -> GrowingNpy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._file.seek(0)
            self._write_header()
        self._file.close()
