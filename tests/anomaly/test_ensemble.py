"""Rank averages: p-values that hold, a single member's own order, and no ties beyond the normal."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from compressor.anomaly.calibration import Scores, p_values
from compressor.anomaly.ensemble import Ensemble, Ranked, quartiles_of

few_values = st.integers(0, 4).map(float)  # so that there are ties


def p_of(members: dict[str, Scores], scores: dict[str, Scores]) -> Scores:
    ensemble = Ranked(members)
    return p_values(np.sort(ensemble.calibration), ensemble.scores(scores))


@given(st.lists(few_values, min_size=1, max_size=12), st.lists(few_values, min_size=1))
def test_of_one_score_it_is_that_scores_own(calibration: list[float], new: list[float]) -> None:
    members, scores = {"a": np.array(calibration)}, {"a": np.array(new)}
    own = p_values(np.sort(calibration), np.array(new))
    np.testing.assert_array_equal(p_of(members, scores), own)


@given(
    st.integers(1, 4).flatmap(
        lambda m: st.lists(st.lists(few_values, min_size=m, max_size=m), min_size=2, max_size=10)
    )
)
def test_p_values_are_never_below_those_of_all_inputs_ranked_together(
    rows: list[list[float]],
) -> None:
    """Which are valid whatever is averaged: full conformal prediction, in loops."""
    *calibration, new = rows
    together = [
        sum(1 + sum(other[j] >= row[j] for other in rows) for j in range(len(new))) for row in rows
    ]
    exact = sum(ranks <= together[-1] for ranks in together) / len(rows)
    members = {str(j): np.array([row[j] for row in calibration]) for j in range(len(new))}
    scores = {str(j): np.array([new[j]]) for j in range(len(new))}
    assert p_of(members, scores)[0] >= exact - 1e-12


def test_false_alarms_keep_to_the_level_and_are_not_far_below() -> None:
    random, n, levels = np.random.default_rng(0), 99, np.array([0.02, 0.05, 0.2])
    alarms = np.zeros(3)
    for _ in range(400):
        common = random.normal(size=n + 50)
        scores = {str(j): common + random.normal(size=n + 50) for j in range(4)}
        members = {name: values[:n] for name, values in scores.items()}
        p = p_of(members, {name: values[n:] for name, values in scores.items()})
        alarms += (p[:, None] <= levels).mean(0)
    rates = alarms / 400
    spread = np.sqrt(levels * (1 - levels) / n / 400)  # of the mean over calibrations
    assert (rates <= levels + 4 * spread).all()
    assert (rates >= 0.7 * levels).all()


def test_what_is_strange_in_several_ways_is_stranger_than_in_one() -> None:
    calibration = {name: np.arange(100.0) for name in "ab"}
    found = Ranked(calibration).scores({"a": np.array([99.0, 99, 0]), "b": np.array([99.0, 0, 0])})
    assert found[0] > found[1] > found[2]


def test_a_smooth_rank_keeps_the_order_and_does_not_end() -> None:
    random = np.random.default_rng(0)
    normal = {"a": random.exponential(size=1001), "b": random.normal(size=1001) * 100}
    quartiles = quartiles_of(normal)
    alone = Ensemble({"a": quartiles["a"]}, {"a": normal["a"]})
    low, middle, high = alone.scores({"a": np.array(quartiles["a"])})
    assert 0.2 < low < middle == 0.5 < high < 0.8
    assert (np.diff(alone.calibration[np.argsort(normal["a"])]) > 0).all()
    both = Ensemble(quartiles, normal)
    far = {"a": np.array([50.0, 51.0, np.inf]), "b": np.array([900.0, 900.0, np.inf])}
    found = both.scores(far)
    assert both.calibration.max() < found[0] < found[1] < found[2] == 1


def test_scores_without_quartiles_are_left_out() -> None:
    same, infinite = np.ones(8), np.array([0.0] + [np.inf] * 7)
    assert quartiles_of({"same": same, "infinite": infinite, "good": np.arange(8.0)}).keys() == {
        "good"
    }
    assert not len(Ensemble({"a": (0, 1, 2)}, {"a": np.empty(0)}).calibration)
