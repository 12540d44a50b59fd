"""In which order a code's elements come where earlier ones tell what to expect of later ones.

All functions take codes (N, K) or (N, C, h, w), NumPy's or torch's alike.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

LEVELS = 32  # of a distribution's scale
FRACTIONS = 8  # of the unit, in which its location is given
MAX_GROUPS = 4
SQUARES = ((0, 0), (1, 1), (0, 1), (1, 0))  # in the order in which a group's positions come


class Pass(NamedTuple):
    """Channels start to stop - 1 at the positions (row + step n, column + step m)."""

    start: int
    stop: int
    row: int
    column: int
    step: int

    @property
    def inputs(self) -> int:
        """The channels of which some element comes before this pass."""
        return self.start if (self.row, self.column) == SQUARES[0] else self.stop

    def of(self, codes: Any) -> Any:
        """The pass's elements: a view."""
        if codes.ndim == 2:
            return codes[:, self.start : self.stop]
        return codes[:, self.start : self.stop, self.row :: self.step, self.column :: self.step]

    def known(self, height: int, width: int) -> npt.NDArray[np.float32]:
        """1 where an element of the first ``inputs`` channels comes before this pass, else 0."""
        mask = np.ones((self.inputs, height, width), np.float32)
        if self.inputs > self.start:
            mask[self.start :] = 0
            for row, column in SQUARES[: SQUARES.index((self.row, self.column))]:
                mask[self.start :, row :: self.step, column :: self.step] = 1
        return mask


def plan(shape: tuple[int, ...]) -> list[Pass]:
    """The passes of codes (K,) or (C, h, w).

    Each group of channels is as large as all before it, and comes at once: but the first, of which
    nothing is known, comes in four steps, at the corners of 2 x 2 squares, the opposite ones, then
    the other two.
    """
    groups: list[tuple[int, int]] = []
    stop = shape[0]
    while stop > 1 and len(groups) < MAX_GROUPS - 1:
        groups.append((stop // 2, stop))
        stop //= 2
    later = [Pass(start, stop, 0, 0, 1) for start, stop in reversed(groups)]
    if len(shape) == 1:
        return [Pass(0, stop, 0, 0, 1), *later]
    return [*(Pass(0, stop, *square, 2) for square in SQUARES), *later]


def location_and_level(answer: Any) -> tuple[Any, Any]:
    """The halves of a network's answer (N, 2 C, h, w)."""
    channels = answer.shape[1] // 2
    return answer[:, :channels], answer[:, channels:]
