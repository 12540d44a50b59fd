"""The rank average of several scores: how high each ranks among the calibration's, on average.

With n calibration inputs and m scores an input x has the ranks r_j(x) = 1 + #{i: s_ij >= s_j(x)},
the numerators of its conformal p-values, and the score

    E(x) = 1 - sum_j r_j(x) / (m (n + 1))

A calibration input would rank itself among them: with c_ij = #{k: s_kj >= s_ij}, which counts i,
its score is E_i = 1 - (1 + sum_j c_ij) / (m (n + 1)), and p = (1 + #{i: E_i >= E(x)}) / (n + 1) is
valid, P(p <= alpha) <= alpha, if x and the calibration inputs are exchangeable.

Why: among all n + 1 of them, x included, i has the ranks c_ij + [s_j(x) >= s_ij], and x has r_j(x).
These treat all n + 1 alike, so counting those whose sum is at most that of x gives a valid p-value
(full conformal prediction: Vovk, Gammerman & Shafer 2005, section 2.2). Whoever is counted there is
counted here: if x is as strange as i or stranger in some score j, then i's sum is at least
1 + sum_j c_ij; and if in none, every r_j(x) >= c_ij + 1, so that sum_j r_j(x) >= m + sum_j c_ij.
So p is at least the exact one; for a single score it is the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .calibration import Scores


class Ensemble:
    """members: each one's calibration scores, (n,), all in the same order of inputs, n above 0."""

    def __init__(self, members: Mapping[str, Scores]) -> None:
        self.names = tuple(members)
        self._sorted = {name: np.sort(scores) for name, scores in members.items()}
        self._n = len(next(iter(members.values())))
        self.calibration = self._score(1 + self._counts(members))  # in the order of the inputs

    def scores(self, scores: Mapping[str, Scores]) -> Scores:
        """Of inputs with these scores, (N,) each, the members' among them: (N,) in [0, 1)."""
        return self._score(len(self.names) + self._counts(scores))

    def _counts(self, scores: Mapping[str, Scores]) -> Scores:
        """sum_j of how many calibration scores are at least as high."""
        below = [np.searchsorted(self._sorted[name], scores[name]) for name in self.names]
        counts: Scores = self._n * len(self.names) - np.stack(below).sum(0).astype(np.float64)
        return counts

    def _score(self, ranks: Scores) -> Scores:
        scores: Scores = 1 - ranks / (len(self.names) * (self._n + 1))
        return scores
