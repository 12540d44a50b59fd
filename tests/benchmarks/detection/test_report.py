import pytest
from cells import Cell
from detection import report
from detection.metrics import Figures
from detection.report import Found, mean, spread, write_report
from detection.tasks import DATASETS


def measured(data, method, value, part="screw", seed=0, auroc=None, **more):
    auroc = auroc or {"l2": value}
    key = {"data": data, "method": method, "part": part, "seed": seed}
    figures = Figures(auroc, next(iter(auroc)), 100, 2.0, 0.5, **more)
    return Cell(key, lambda: figures), figures


@pytest.fixture
def screw():
    """Ours is above PCA and kNN, and below GANomaly, which one of two seeds has."""
    cells = [
        measured("screw", "features", 0.8, seed=0, pixel_auroc=0.9, pro=0.7),
        measured("screw", "features", 0.7, seed=1, pixel_auroc=0.8, pro=0.6),
        measured("screw", "PCA", 0.72, seed=0, pixel_auroc=0.95, pro=0.9),
        measured("screw", "PCA", 0.72, seed=1, pixel_auroc=0.95, pro=0.9),
        measured("screw", "kNN", 0.2, seed=0),
        measured("screw", "anomalib GANomaly", 0.85, seed=0),
    ]
    return Found(DATASETS["screw"], cells, 2)


def everything(found):
    return [
        found if name == found.data.name else Found(data, [], 2) for name, data in DATASETS.items()
    ]


def rows_of(text, *words):
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [row for row in rows if all(any(word in cell for cell in row) for word in words)]


def test_goals_are_over_what_both_sides_have_and_say_how_much(screw):
    text = report._goals(everything(screw))
    assert rows_of(text, "above PCA", "screw")[0][2:] == ["0.750", "above PCA", "0.720", "yes"]
    (ganomaly,) = rows_of(text, "GANomaly", "screw")
    assert ganomaly[2:] == ["0.800", "above anomalib GANomaly", "0.850", "**no**, of 1 of 2 cells"]
    (knn,) = rows_of(text, "above kNN", "screw")
    assert knn[2] == "0.800" and knn[-1] == "yes, of 1 of 2 cells"


def test_what_was_not_measured_is_told(screw):
    text = report._goals(everything(screw))
    assert rows_of(text, "Magnetic", "above patch kNN")[0][-1] == "not measured"
    assert rows_of(text, "MNIST, one", "at least 0.983")[0][-1] == "not measured"


def test_a_goal_is_judged_before_rounding():
    cells = [
        measured("mnist", report.ROWS["mnist"][0].method, 0.98299, part=f"class {number}")
        for number in range(10)
    ]
    found = Found(DATASETS["mnist"], cells, 1)
    (row,) = rows_of(report._goals(everything(found)), "at least 0.983")
    assert row[-1] == "**no**"


def test_some_of_the_parts_meet_no_goal_and_stand_in_brackets():
    name = report.ROWS["mnist"][0].method
    found = Found(DATASETS["mnist"], [measured("mnist", name, 0.999, part="class 1")], 1)
    (row,) = rows_of(report._goals(everything(found)), "at least 0.983")
    assert row[2] == "(0.999)" and row[-1] == "not known, of 1 of 10 cells"
    assert rows_of(report._section(found), "ours")[0][1] == "(0.999)"


def test_losing_and_partial_rows_stay_in_the_table(screw):
    text = report._section(screw)
    assert rows_of(text, "features")[0] == [
        *("**ours: `features`**", "0.750", "0.700 to 0.800"),
        *("0.850", "0.650", "2.0", "200", "2 of 2"),
    ]
    (ganomaly,) = rows_of(text, "GANomaly")
    assert ganomaly[1:5] == ["0.850", "-", "-", "-"] and ganomaly[-1] == "1 of 2"


def test_each_score_has_its_row_and_the_judged_one_is_not_the_best():
    scores = {"l2": 0.6, "logit": 0.9}
    cell = measured("screw", "features", 0, auroc=scores)
    found = Found(DATASETS["screw"], [cell], 1)
    text = report._section(found)
    assert rows_of(text, "ours")[0][1] == "0.600"
    assert [row[2] for row in rows_of(text, "`features`", "`l")] == ["0.600", "0.900"]


def test_a_mean_is_over_parts_of_their_means_over_seeds():
    values = {("a", 0): 0.5, ("a", 1): 0.7, ("b", 0): 0.9}
    assert mean(values) == pytest.approx((0.6 + 0.9) / 2)
    assert spread(values, 2) is None
    assert spread({**values, ("b", 1): 0.5}, 2) == pytest.approx((0.6, 0.7))


def test_the_report_is_a_page_of_what_was_measured(screw, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    (tmp_path / "anomaly.md").write_text("OLD TABLE")
    write_report(everything(screw), 30)
    text = (tmp_path / "anomaly.md").read_text()
    assert text.startswith("# ") and "OLD TABLE" not in text
    assert text.count("## MVTec AD screw") == 1 and "## MNIST" not in text
