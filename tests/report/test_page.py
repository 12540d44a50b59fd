import base64
import dataclasses
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from compressor.codecs.rivals import RivalSize
from compressor.errors import OutputError
from compressor.report.heatmaps import overlay
from compressor.report.page import CompressionSummary, ScoredImage, write_report

HOSTILE = (
    "\"><script>alert('x')</script><img src=http://x.test/a.png>/{{ 7 * 7 }}&amp;\u202egnp.png"
)


class Page(HTMLParser):
    """The page as a browser would take it apart."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags = []
        self.texts = []
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data.strip())

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def picture(uri):
    kind, content = uri.split(";base64,")
    assert kind in ("data:image/png", "data:image/webp")
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        return np.asarray(image)


def written(tmp_path, report):
    path = tmp_path / "report.html"
    write_report(path, report, force=False)
    return Page(path)


def test_the_page_says_what_was_scored_and_found(tmp_path, report):
    page = written(tmp_path, report)
    for text in (
        report.title,
        report.data,
        report.model,
        "l2",
        f"{report.threshold:.4g}",
        "50",
        str(report.anomalies),
        "10%",
        "broken.png",
        ": is truncated",
    ):
        assert text in page.texts, text
    assert "40 calibration scores" in page.texts


def test_the_worst_images_come_first_with_their_pictures(tmp_path, report):
    page = written(tmp_path, report)
    cards = page.all("article")
    assert len(cards) == 20
    worst = sorted(report.worst, key=lambda image: -image.score)
    assert [card["data-path"] for card in cards] == [image.path for image in worst]
    assert [float(card["data-score"]) for card in cards] == [image.score for image in worst]
    assert ["flagged" in card["class"] for card in cards] == [image.is_anomaly for image in worst]

    sources = page.all("img")
    assert [image["alt"] for image in sources[:3]] == [
        f"{what} of {worst[0].path}" for what in ("original", "reconstruction", "error")
    ]
    assert np.array_equal(picture(sources[0]["src"]), worst[0].pixels[:, :, 0])
    assert np.array_equal(picture(sources[1]["src"]), worst[0].reconstruction[:, :, 0])
    assert picture(sources[2]["src"]).shape == (28, 28, 3)


def test_all_heatmaps_have_one_scale(tmp_path, report):
    page = written(tmp_path, report)
    sources = [image for image in page.all("img") if image["alt"].startswith("error")]
    scale = np.median([np.quantile(i.error_map, 0.98, method="lower") for i in report.worst])
    worst = sorted(report.worst, key=lambda image: -image.score)
    for source, image in zip(sources, worst, strict=True):
        expected = overlay(image.pixels, image.error_map, float(scale))
        assert np.array_equal(picture(source["src"]), expected)


def test_the_page_needs_no_network(tmp_path, report):
    page = written(tmp_path, report)
    source = re.sub(r"base64,[\w+/=]+", "", page.source)
    assert not re.search(r"https?:|//\w|@import|url\((?!#)", source)
    assert all(attributes["src"].startswith("data:") for attributes in page.all("img"))
    assert not page.all("link")
    policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_hostile_text_stays_text(tmp_path, report):
    image = dataclasses.replace(report.worst[0], path=HOSTILE)
    hostile = dataclasses.replace(
        report,
        title=HOSTILE, data=HOSTILE, model=HOSTILE, scorer=HOSTILE, worst=[image],
        unreadable=[(HOSTILE, HOSTILE)], facts=[(HOSTILE, HOSTILE)],
        compression=CompressionSummary(rows=[(HOSTILE, HOSTILE)]),
    )  # fmt: skip
    page = written(tmp_path, hostile)
    assert len(page.all("script")) == 1
    assert len(page.all("img")) == 3
    assert page.all("article")[0]["data-path"] == HOSTILE
    assert page.texts.count(HOSTILE) >= 10
    assert len(page.all("bdi")) == 2


def test_a_file_name_that_is_not_unicode_is_written_escaped(tmp_path, report):
    image = dataclasses.replace(report.worst[0], path="caf\udce9.png")
    page = written(tmp_path, dataclasses.replace(report, worst=[image]))
    assert page.all("article")[0]["data-path"] == r"caf\udce9.png"


def bars(path):
    """The heights of a histogram's outline, in percent."""
    return [100 - float(height) for height in re.findall(r"V([\d.]+)H", path)]


def test_the_histogram_shows_scores_calibration_and_threshold(tmp_path, report):
    rising = np.concatenate([np.full(90, 1.0), np.full(9, 1.5), np.full(1, 2.0)])
    page = written(
        tmp_path,
        dataclasses.replace(report, scores=rising, calibration_scores=np.ones(5), threshold=1.25),
    )
    scores, above, calibration = (bars(path["d"]) for path in page.all("path"))
    assert len(scores) == 60
    assert scores == above  # the same bars, clipped at the threshold
    assert scores[30] / scores[0] == pytest.approx(np.sqrt(9 / 90), rel=1e-3)
    assert scores[-1] / scores[0] == pytest.approx(np.sqrt(1 / 90), rel=1e-3)
    assert calibration[0] == 100 and not any(calibration[1:])
    assert float(page.all("rect")[0]["x"]) == pytest.approx(25)


def test_scores_over_a_wide_range_get_a_logarithmic_axis(tmp_path, report):
    wide = dataclasses.replace(
        report, scores=np.array([0.01, 0.1, 1.0]), calibration_scores=np.array([0.01]),
        threshold=0.1,
    )  # fmt: skip
    page = written(tmp_path, wide)
    assert float(page.all("rect")[0]["x"]) == pytest.approx(50)
    ticks = re.findall(r'<span style="left:([\d.]+)%">([^<]+)</span>', page.source)
    assert {("0.00", "0.01"), ("50.00", "0.1"), ("100.00", "1")} < set(ticks)


def test_counts_of_scores_make_the_histogram_of_all_scores(tmp_path, report):
    rounded = np.round(report.scores, 3)
    values, counts = np.unique(rounded, return_counts=True)
    (tmp_path / "all").mkdir()
    every = written(tmp_path / "all", dataclasses.replace(report, scores=rounded))
    counted = dataclasses.replace(report, scores=values, score_counts=counts)
    assert written(tmp_path, counted).all("path") == every.all("path")


def test_the_calibration_curve_comes_from_counts_of_p_values(tmp_path, report):
    assert len(written(tmp_path, report).all("svg")) == 1
    counts = np.zeros(41, np.int64)
    counts[[0, 20]] = 10, 40
    curved = dataclasses.replace(
        report, p_value_counts=counts, calibration_scores=np.sort(report.calibration_scores)
    )
    (tmp_path / "curve").mkdir()
    page = written(tmp_path / "curve", curved)
    assert len(page.all("svg")) == 2
    # A tenth of the calibration scores lie above the threshold: 5 / 41 is its p-value.
    assert "20% at p ≤ 0.12" in page.texts


def test_a_drift_above_its_limit_is_told(tmp_path, report):
    (tmp_path / "calm").mkdir()
    calm = dataclasses.replace(report, drift=0.05, drift_limit=0.2)
    page = written(tmp_path / "calm", calm)
    assert "drift, within the limit 0.20" in page.texts and "Drift." not in page.texts
    page = written(tmp_path, dataclasses.replace(calm, drift=0.3))
    assert "drift, above the limit 0.20" in page.texts and "Drift." in page.texts


@pytest.mark.parametrize(
    "scores",
    [np.zeros(0), np.ones(3), np.array([-2.0, -1.0]), np.array([1.0, np.nan, np.inf])],
    ids=["none", "all equal", "negative", "not finite"],
)
def test_unusual_scores_still_make_a_page(tmp_path, report, scores):
    unusual = dataclasses.replace(
        report, scores=scores, calibration_scores=np.zeros(0), threshold=float("inf"), worst=[]
    )
    page = written(tmp_path, unusual)
    assert bool(page.all("svg")) == bool(len(scores))
    assert "nan" not in page.source.lower().split("</style>")[1]


def test_large_images_are_shrunk_and_small_ones_are_not(tmp_path, report, images):
    large = np.tile(images[0], (24, 12, 3))
    image = dataclasses.replace(
        report.worst[0], pixels=large, error_map=np.zeros(large.shape[:2], np.float32),
        reconstruction=None,
    )  # fmt: skip
    page = written(tmp_path, dataclasses.replace(report, worst=[image]))
    assert [picture(image["src"]).shape for image in page.all("img")] == [(320, 160, 3)] * 2


def test_sixty_images_of_256_pixels_make_a_page_of_few_megabytes(tmp_path, report, images):
    rng = np.random.default_rng(0)
    worst = []
    for number in range(60):
        pixels = np.pad(images[number % 50].repeat(9, 0).repeat(9, 1), ((2, 2), (2, 2), (0, 0)))
        pixels = pixels.repeat(3, 2)
        # Noise as a camera's makes a PNG large.
        noisy = np.clip(pixels + rng.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8)
        errors = np.square((noisy.astype(np.float32) - pixels) / 255).mean(axis=2)
        worst.append(ScoredImage(f"{number}.png", 1.0, None, True, noisy, errors, pixels))
    written(tmp_path, dataclasses.replace(report, worst=iter(worst)))
    assert (tmp_path / "report.html").stat().st_size < 4e6


def test_a_compression_shows_rows_pictures_and_rivals(tmp_path, report, images):
    compression = CompressionSummary(
        rows=[("raw", "39,200 bytes")],
        originals=images[:20],
        reconstructions=images[:20] // 2,
        rivals=[
            RivalSize("AVIF", "mosaic", "quality 30, speed 4", 3000, 0.612, 26.1, 50),
            RivalSize("WebP", "mosaic", "quality 100", None, None, 51.0, 50, "reaches 51.00 dB"),
        ],
        archive_bytes=2000,
    )
    page = written(tmp_path, dataclasses.replace(report, worst=[], compression=compression))
    for text in ("39,200 bytes", "2,000", "3,000", "1.50", "0.612", "26.10 dB", "reaches 51.00 dB"):
        assert text in page.texts, text
    (strip,) = page.all("img")
    sheet = picture(strip["src"])
    assert sheet.shape[2] == 4
    assert np.array_equal(sheet[:112:4, :112:4, 0], images[0, :, :, 0])


def test_an_existing_report_is_replaced_only_with_force(tmp_path, report):
    path = tmp_path / "report.html"
    path.write_text("mine")
    with pytest.raises(OutputError, match="force=True"):
        write_report(path, report, force=False)
    assert path.read_text() == "mine"
    write_report(path, report, force=True)
    assert report.title in path.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [path]
