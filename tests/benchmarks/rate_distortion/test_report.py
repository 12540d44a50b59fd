from dataclasses import replace

import numpy as np
import pytest
from cells import Cell
from rate_distortion import report
from rate_distortion.figures import Figures
from rate_distortion.report import Found, write_report

TITLE = "clothes"
PIXELS = 784 * 2000


def measured(key, factor, psnr, fixed_bytes=0, model_bytes=0):
    bits = factor * 0.05 * np.exp(0.1 * psnr)
    facts = {"parameters": 1, "seconds": 1, "steps": 1}
    figures = Figures(
        bytes=round(bits * PIXELS / 8),
        model_bytes=model_bytes,
        images=2000,
        pixels=PIXELS,
        psnr=psnr,
        mean_psnr=psnr + 1,
        fixed_bytes=fixed_bytes,
        facts=facts,
    )
    return Cell({"data": TITLE, **key}, lambda: figures), figures


@pytest.fixture
def found():
    """Ours needs half the bits of AVIF's best setting up to 28 dB, and is not known above."""
    avif = {"method": "AVIF", "form": "mosaic"}
    ours = {"method": "ours", "plugin": "codec", "settings": {"rate": 0.1}}
    cells = [
        *(
            measured({**avif, "setting": setting}, factor, psnr)
            for setting, factor in (("quality {:g}, speed 4", 1.2), ("quality {:g}, speed 0", 1))
            for psnr in range(18, 40, 3)
        ),
        *(measured(ours, 0.5, psnr) for psnr in (19, 21, 23, 26, 28)),
    ]
    return Found("fashion-mnist", TITLE, "first; second", cells)


def test_goals_are_against_the_best_setting_and_say_what_was_compared(found):
    rows = [row.split(" | ") for row in report._goals([found]).splitlines() if TITLE in row]
    assert [row[3:] for row in rows] == [
        ["20 to 24", "20.0 to 24.0", "-50.0%", "-55%", "**no** |"],
        ["24 to 28", "24.0 to 28.0", "-50.0%", "-35%", "yes |"],
        ["28 to 32", "none: theirs end at 39.0", "-", "-10%", "- |"],
        ["all", "none", "-", "-10%", "- |"],
    ]


def test_a_goal_that_is_met_on_a_part_of_the_range_is_not_called_met(found):
    known = [(cell, figures) for cell, figures in found.cells if figures.psnr != 28]
    shorter = [*known, measured(known[-1][0].key, 0.5, 27)]
    rows = report._goals([Found(found.name, found.title, "", shorter)]).splitlines()
    assert "24.0 to 27.0 | -50.0% | -35% | over these dB only |" in rows[-3]


def test_the_ideal_code_length_stands_beside_the_bytes_of_the_strings():
    key = {"method": report.HYPERPRIOR, "width": 32, "rate": 0.1}
    cells = []
    for psnr in (20, 24, 28):
        cell, figures = measured(key, 1, psnr)
        ideal = {**figures.facts, "ideal_bytes": figures.bytes // 2}
        cells.append((cell, replace(figures, facts=ideal)))
    rows = report._rates(Found("mnist", TITLE, "", cells)).splitlines()
    bits = {row.split(" | ")[0].strip("| "): row.split(" | ")[4] for row in rows if "bmshj" in row}
    name = f"{report.HYPERPRIOR}, at 100,000"
    assert float(bits[f"{name}, ideal"]) == pytest.approx(float(bits[name]) / 2, abs=0.001)


def test_the_report_is_a_page_and_a_plot_that_change_only_with_the_figures(
    found, tmp_path, monkeypatch
):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    written = []
    for _ in range(2):
        write_report([found], 60, 600)
        written.append({file.name: file.read_bytes() for file in tmp_path.iterdir()})
    assert written[0] == written[1] and set(written[0]) == {"compression.md", "compression.svg"}
    text = (tmp_path / "compression.md").read_text()
    assert text.startswith("# ") and text.count("## clothes") == 1
    assert "--seconds 60 --longer 600" in text
    assert "The best codec: 18 to 38 dB AVIF, mosaic, quality *, speed 0." in text
