"""compressor report: one self-contained page about a model, with what belongs to its kind."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compressor.data.images import Pixels
from compressor.engine.engine import Engine
from compressor.errors import DataError, OutputError
from compressor.model import Model
from compressor.training.start import restore
from compressor.verbs import report, train


class Page(HTMLParser):
    """Headings, with the pictures and texts below each."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.sections: dict[str, list[Any]] = {"": []}
        self.texts: dict[str, str] = {"": ""}
        self._heading: str | None = None
        self._section = ""
        self.feed(self.source)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "h2":
            self._heading = ""
        elif tag == "img":
            self.sections[self._section].append(dict(attributes)["src"])

    def handle_endtag(self, tag: str) -> None:
        if tag == "h2" and self._heading is not None:
            self._section, self._heading = self._heading, None
            self.sections[self._section], self.texts[self._section] = [], ""

    def handle_data(self, data: str) -> None:
        if self._heading is not None:
            self._heading += data
        else:
            self.texts[self._section] += data

    def picture(self, heading: str) -> Pixels:
        (uri,) = self.sections[heading]
        content = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("RGBA"))


def page_of(model: Path, data: Any, folder: Path) -> Page:
    report(model, data, folder / "page.html")
    return Page(folder / "page.html")


def trained(folder: Path, clothes: Pixels, plugin: str, steps: int = 60, **settings: Any) -> Path:
    train(plugin, clothes[:600], folder / plugin, settings=settings, max_steps=steps)
    return folder / plugin


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory, clothes: Pixels) -> Path:
    settings = {"network": "dense", "hidden": [64], "latent": 2}
    return trained(tmp_path_factory.mktemp("vae"), clothes, "vae", **settings)


def test_a_page_shows_what_every_model_has(model: Path, clothes: Pixels, tmp_path: Path) -> None:
    told = report(model, clothes, tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    wanted = ["Learning curve", "Reconstructions", "The worst", "Filters of the first layer",
              "Map of the codes", "Codes"]  # fmt: skip
    assert list(page.sections)[1:] == wanted
    assert told["images"] == 1000 and f"{told['psnr']:.2f} dB" in page.texts[""]
    assert f"{Model.open(model).manifest.training['parameters']:,}" in page.texts[""]


def test_a_page_needs_no_network(model: Path, clothes: Pixels, tmp_path: Path) -> None:
    page = page_of(model, clothes[:60], tmp_path)
    source = re.sub(r"base64,[\w+/=]+", "", page.source)
    assert not re.search(r"https?:|//\w|@import|url\(|<script|<link", source)
    assert "default-src 'none'" in source


def test_reconstructions_stand_below_their_originals(
    model: Path, clothes: Pixels, tmp_path: Path
) -> None:
    sheet = page_of(model, clothes[:24], tmp_path).picture("Reconstructions")
    assert np.array_equal(sheet[:84:3, :84:3, 0], clothes[0, :, :, 0])
    below = sheet[87 : 87 + 84 : 3, :84:3, 0].astype(float)
    assert np.abs(below - clothes[0, :, :, 0]).mean() < np.abs(below - clothes[1, :, :, 0]).mean()


def test_the_worst_input_comes_first(dense_model: Path, clothes: Pixels, tmp_path: Path) -> None:
    sheet = page_of(dense_model, clothes[:80], tmp_path).picture("The worst")
    engine = Engine(Model.open(dense_model), "cpu")
    rebuilt = engine.decode(engine.encode(clothes[:80]), 28, 28)
    errors = np.square(clothes[:80].astype(float) - rebuilt).sum((1, 2, 3))
    assert np.array_equal(sheet[:112:4, :112:4, 0], clothes[np.argmax(errors), :, :, 0])


def test_filters_are_the_weights_that_see_the_input(
    dense_model: Path, clothes: Pixels, tmp_path: Path
) -> None:
    sheet = page_of(dense_model, clothes[:20], tmp_path).picture("Filters of the first layer")
    weight = restore(dense_model).state_dict()["f.0.weight"].numpy()
    strongest = weight[np.argmax(np.square(weight).sum(1))].reshape(28, 28)
    drawn = sheet[:56:2, :56:2].astype(int)
    redder = (drawn[..., 0] - drawn[..., 2]) > 0
    clear = np.abs(strongest) > 0.1 * np.abs(strongest).max()
    assert np.array_equal(redder[clear], (strongest > 0)[clear])


def test_a_map_of_two_elements_puts_inputs_at_their_codes(
    vae: Path, clothes: Pixels, tmp_path: Path
) -> None:
    page = page_of(vae, clothes[:300], tmp_path)
    assert "its two elements" in page.texts["Map of the codes"]
    codes = restore(vae).encode(_x(clothes[:300])).mean.detach().numpy()
    rightmost = clothes[np.argsort(codes[:, 0])[-30:], :, :, 0]
    column = page.picture("Map of the codes")[:, 29 * 34 :]
    tiles = [column[top : top + 28, :28, 0] for top in range(0, len(column), 34)]
    shown = [tile for tile in tiles if tile.any()]
    assert shown and all(any(np.array_equal(t, right) for right in rightmost) for t in shown)


def test_a_vae_has_samples_and_its_manifold(vae: Path, clothes: Pixels, tmp_path: Path) -> None:
    page = page_of(vae, clothes[:50], tmp_path)
    assert "KL in nats" in page.texts[""]
    samples, manifold = page.picture("Samples"), page.picture("Manifold")
    assert samples[..., :3].std() > 10
    tiles = [manifold[n * 29 : n * 29 + 28, :28, 0].astype(float) for n in range(15)]
    far, near = np.abs(tiles[0] - tiles[14]).mean(), np.abs(tiles[6] - tiles[7]).mean()
    assert far > near > 0  # it changes, and smoothly


def test_a_gan_has_a_grid_of_samples(tmp_path: Path, clothes: Pixels) -> None:
    path = trained(tmp_path, clothes, "gan", network="dense", hidden=[32], latent=4)
    page = page_of(path, clothes[:50], tmp_path)
    assert page.picture("Samples").shape[:2] == (8 * 58 - 2, 8 * 58 - 2)
    assert "D(g(z))" in page.texts[""]


def test_denoising_shows_clean_noisy_and_cleaned(tmp_path: Path, clothes: Pixels) -> None:
    sizes = {"network": "dense", "hidden": [64], "latent": 16}
    path = trained(tmp_path, clothes, "denoising", 300, **sizes)
    sheet = page_of(path, clothes[:50], tmp_path).picture("Denoising")
    clean, noisy, cleaned = (
        np.concatenate(
            [sheet[top : top + 112 : 4, left : left + 112 : 4, 0] for left in range(0, 580, 116)]
        ).astype(float)
        for top in (0, 116, 232)
    )
    golden = Model.open(path).golden()
    assert np.array_equal(clean, golden["image"].reshape(-1, 28))
    assert np.array_equal(noisy, golden["corrupted"].reshape(-1, 28))
    assert np.square(cleaned - clean).mean() < np.square(noisy - clean).mean()


def test_vectors_have_a_table_of_columns(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    causes = random.normal(size=(300, 2)) @ random.normal(size=(2, 6))
    rows = np.column_stack([causes, 40 * random.normal(size=300)]).astype(np.float32)
    train("undercomplete", rows, tmp_path / "m", settings={"latent": 2}, max_steps=200)
    told = report(tmp_path / "m", rows, tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert 0 < told["mse"] < 0.5
    assert re.findall(r"<td>(c\d)</td>", page.source)[0] == "c6"  # the worst: pure noise
    assert "Reconstructions" not in page.sections and page.source.count("<circle") == 300


def test_a_large_dataset_is_looked_at_all_over(
    model: Path, clothes: Pixels, tmp_path: Path
) -> None:
    many = np.concatenate([clothes] * 5)
    assert report(model, many, tmp_path / "page.html")["images"] == 5000 // 150 * 50 + 50


def test_one_input_is_enough(model: Path, clothes: Pixels, tmp_path: Path) -> None:
    page = page_of(model, clothes[:1], tmp_path)
    assert "nan" not in re.sub(r"base64,[\w+/=]+", "", page.source).lower().split("</style>")[1]


def test_other_data_are_refused(model: Path, clothes: Pixels, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the model takes images"):
        report(model, np.zeros((3, 9), np.float32), tmp_path / "page.html")
    with pytest.raises(OutputError, match="force=True"):
        (tmp_path / "page.html").write_text("mine")
        report(model, clothes[:9], tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == "mine"


def test_what_the_manifest_holds_is_json(vae: Path) -> None:
    measures = json.loads((vae / "manifest.json").read_text())["training"]["measures"]
    assert measures["KL in nats"] > 0


def _x(images: Pixels) -> Any:
    import torch

    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def test_inputs_that_cannot_be_read_are_named(model: Path, clothes: Pixels, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name, pixels in (
        ("a.png", clothes[0, ..., 0]),
        ("b.png", clothes[1, ..., 0]),
        ("odd.png", np.concatenate([*clothes[2:5]], axis=2)),
    ):
        Image.fromarray(pixels).save(folder / name)
    (folder / "broken.png").write_bytes(b"no picture")
    told = report(model, folder, tmp_path / "page.html")
    assert told["images"] == 2 and told["unreadable"] == 2
    assert {name.partition(":")[0] for name in told["unreadable_names"]} == {
        "odd.png",
        "broken.png",
    }


def test_large_images_do_not_fill_memory(
    model: Path, clothes: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compressor.report.model_page.MAX_ELEMENTS", 10 * 56 * 56)
    large = np.tile(clothes[:100], (1, 2, 2, 1))
    assert report(model, large, tmp_path / "page.html")["images"] == 10
