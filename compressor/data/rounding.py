"""What float32 leaves of the columns of a table, whose values are read as float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .images import Group

Numbers = npt.NDArray[np.float64]

REFUSED_FROM, WARNED_FROM = 0.3, 0.1  # parts of a column's deviation that are rounded off
CONSTANT = 1e-12  # deviation over mean at which float64's rounding may be all of it
MAX_COLUMNS_NAMED = 8


class Moments:
    """The means and deviations of columns, from pieces of their rows; memory is flat."""

    def __init__(self, length: int) -> None:
        self.count = 0
        self.mean: Numbers = np.zeros(length)
        self._squares: Numbers = np.zeros(length)

    def add(self, piece: Numbers) -> None:
        """piece: (n, length), n at least 1."""
        # Chan, Golub & LeVeque 1983: the sums of squares about the mean add up exactly
        of_piece, total = piece.mean(0), self.count + len(piece)
        apart = of_piece - self.mean
        self._squares += ((piece - of_piece) ** 2).sum(0)
        self._squares += apart**2 * self.count * len(piece) / total
        self.mean += apart * len(piece) / total
        self.count = total

    @property
    def deviation(self) -> Numbers:
        """Of each column, the standard deviation."""
        deviation: Numbers = np.sqrt(self._squares / self.count)
        return deviation


class Rounding:
    """How much of the deviation of each column float32 rounds off."""

    def __init__(self, length: int) -> None:
        self._values, self._lost = Moments(length), Moments(length)

    def add(self, group: Group) -> None:
        """group: of vectors."""
        lost = group.rounded_off
        if lost is None:
            lost = np.zeros(group.pixels.shape)
        # What differs wildly may overflow a square; nothing of such a column is rounded off.
        with np.errstate(over="ignore", invalid="ignore"):
            self._values.add(group.pixels + lost)
            self._lost.add(lost)

    def shares(self) -> Numbers:
        """Of each column, from 0 to about 1; 0 for one that is constant."""
        deviation, constant = self._values.deviation, CONSTANT * np.abs(self._values.mean)
        varies = np.isfinite(deviation) & (deviation > constant)
        shares = np.zeros(len(deviation))
        shares[varies] = self._lost.deviation[varies] / deviation[varies]
        return shares

    def sentence(self, columns: Sequence[str] | None, at: npt.NDArray[np.int64]) -> str:
        """What is lost of the columns ``at``, one of them at least, and what to do."""
        first = int(at[0])
        mean, deviation = float(self._values.mean[first]), float(self._values.deviation[first])
        return (
            f"float32 cannot tell the values of {named(columns, at)} apart: they lie around "
            f"{mean:.10g} and deviate by {deviation:.3g}, where float32 goes in steps of "
            f"{np.spacing(np.float32(abs(mean))):.3g}; subtract {_offset(mean, deviation)} from "
            "them, in this table and in every later one, or leave the column out"
        )


def named(columns: Sequence[str] | None, at: npt.NDArray[np.int64]) -> str:
    """Columns for a message: the column 'a', the columns 'a', 'b' and 3 more, the column 0."""
    names = [repr(columns[place]) if columns else str(place) for place in at.tolist()]
    more = len(names) - MAX_COLUMNS_NAMED
    shown = ", ".join(names[:MAX_COLUMNS_NAMED]) + (f" and {more} more" if more > 0 else "")
    return f"the column{'s' if len(names) > 1 else ''} {shown}"


def _offset(mean: float, deviation: float) -> str:
    """A number with few digits that is near enough to the mean."""
    digits = 1
    while digits < 17 and abs(float(f"{mean:.{digits}g}") - mean) > 100 * deviation:
        digits += 1
    offset = float(f"{mean:.{digits}g}")
    return f"{offset:.0f}" if offset.is_integer() else repr(offset)
