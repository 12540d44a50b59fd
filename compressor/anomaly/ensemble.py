"""The rank average of several scores: how high each ranks among normal inputs, on average.

``Ensemble`` takes validation inputs for these, and of them three numbers: the Cauchy distribution
with their median, whose quartiles are as far apart,

    F_j(s) = 1/2 + arctan(2 (s - median_j) / (upper_j - lower_j)) / pi

is about the share of normal inputs that s is above, has no ties, and goes on where normal inputs
end. The mean of F_j(s_j(x)) is a fixed function of x, so that p-values are those of any score.

``Ranked`` is for models that were made without these quartiles: it ranks among the calibration's
scores, above all of which anomalies tie. With n calibration inputs and m scores an input x has the
ranks r_j(x) = 1 + #{i: s_ij >= s_j(x)}, the numerators of its conformal p-values, and the score

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

Quartiles = tuple[float, float, float]


def quartiles_of(scores: Mapping[str, Scores]) -> dict[str, Quartiles]:
    """Of each score, (n,), that is finite in half of the inputs and not the same."""
    with np.errstate(invalid="ignore"):  # between infinities
        by_score = {name: np.quantile(values, [0.25, 0.5, 0.75]) for name, values in scores.items()}
    return {
        name: (float(lower), float(median), float(upper))
        for name, (lower, median, upper) in by_score.items()
        if np.isfinite([lower, median, upper]).all() and upper > lower
    }


class Ensemble:
    """quartiles: each member's; members: their calibration scores, (n,) each, n perhaps 0."""

    def __init__(self, quartiles: Mapping[str, Quartiles], members: Mapping[str, Scores]) -> None:
        self._quartiles = quartiles
        whole = all(len(scores) for scores in members.values())
        self.calibration = self.scores(members) if whole else np.empty(0)

    def scores(self, scores: Mapping[str, Scores]) -> Scores:
        """Of inputs with these scores, (N,) each, the members' among them: (N,) in [0, 1]."""
        ranks: list[Scores] = [
            0.5 + np.arctan(2 * (scores[name] - median) / (upper - lower)) / np.pi
            for name, (lower, median, upper) in self._quartiles.items()
        ]
        mean: Scores = np.mean(ranks, axis=0)
        return mean


class Ranked:
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
