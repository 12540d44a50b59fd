"""The command line: verbs and options, exit codes, what goes to stdout, training cut short."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import click
import numpy as np
import onnx
import pytest
import torch
from compressor.cli import Duration, as_typed, cli, main
from PIL import Image

from compressor import verbs
from compressor.data.images import Pixels
from compressor.engine.engine import Engine
from compressor.model import Model
from compressor.progress import Progress

ROOT = Path(__file__).parents[1]
CLOTHES = f"{ROOT / 'examples' / 'data' / 'fashion_mnist.npz'}::test"
VERBS: dict[str, tuple[str, ...]] = {
    "plugins": ("--json", "--check"),
    "train": (
        *("--output", "--set", "--config", "--max-time", "--max-steps", "--seed", "--resume"),
        *("--force", "--json"),
    ),
    "export": ("--output", "--force", "--json"),
    "encode": ("--model", "--output", "--force", "--json"),
    "compress": (
        *("--model", "--output", "--device", "--min-psnr", "--fallback", "--measure"),
        *("--measurements", "--compare", "--resume", "--force", "--json"),
    ),
    "decompress": ("--output", "--only", "--force", "--json"),
    "index": ("--model", "--output", "--add", "--device", "--force", "--json"),
    "search": ("--model", "--output", "--device", "--force", "--json"),
    "duplicates": ("--threshold", "--output", "--force", "--json"),
    "score": (
        *("--model", "--output", "--scorer", "--fpr", "--confidence", "--fdr", "--threshold"),
        *(
            "--heatmaps",
            "--report",
            "--metrics",
            "--csv-safe",
            "--fail-on-anomaly",
            "--resume",
            "--force",
        ),
        "--json",
    ),
    "sample": ("--output", "--sheet", "--seed", "--temperature", "--force", "--json"),
    "interpolate": ("--steps", "--output", "--device", "--force", "--json"),
    "arithmetic": ("--output", "--seed", "--device", "--force", "--json"),
    "traverse": ("--data", "--attributes", "--output", "--device", "--force", "--json"),
    "calibrate": ("--json",),
    "report": ("--output", "--device", "--force", "--json"),
    "inspect": ("--json",),
    "verify": ("--json",),
}
# 300 steps of a network this small take about a second, with a checkpoint after every 20.
TRAIN = (
    *("train", "undercomplete", CLOTHES, "--set", "network=dense", "--set", "hidden=[16]"),
    *("--set", "latent=4", "--set", "patience=1000", "--max-steps", "300", "--seed", "7"),
)


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that says what went wrong: the last one on stderr, and the only one."""
        lines = self.err.splitlines()
        assert [line for line in lines if line.startswith("Error: ")] == lines[-1:], self.err
        assert "Traceback" not in self.out + self.err
        return lines[-1]


def run(*arguments: object) -> Ran:
    """Runs the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    argv, handler = ["compressor", *map(str, arguments)], signal.getsignal(signal.SIGTERM)
    code: Any = 0
    with (
        mock.patch.object(sys, "argv", argv),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        finally:
            signal.signal(signal.SIGTERM, handler)
    return Ran(code, out.getvalue(), err.getvalue())


def start(*arguments: object) -> subprocess.Popen[str]:
    """Starts the command line in a process of its own."""
    command = [sys.executable, "-c", "from compressor.cli import main; main()"]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


def ended(process: subprocess.Popen[str]) -> Ran:
    out, err = process.communicate(timeout=120)
    return Ran(process.returncode, out, err)


def as_object(ran: Ran) -> dict[str, Any]:
    """The one JSON object on stdout; json.loads would take NaN, other readers would not."""
    assert len(ran.out.splitlines()) == 1
    found = json.loads(ran.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert isinstance(found, dict)
    return found


def options(command: click.Command) -> set[str]:
    return {
        option
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
        if option.startswith("--")
    }


@pytest.fixture(scope="module")
def npy(clothes: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 images."""
    path = tmp_path_factory.mktemp("data") / "clothes.npy"
    np.save(path, clothes[:100])
    return path


# Verbs and options


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_the_options_of_the_design(verb: str) -> None:
    assert set(VERBS[verb]) <= options(cli.commands[verb])


def test_verbs_are_those_of_the_design_on_the_command_line_and_from_python() -> None:
    assert set(cli.commands) == set(VERBS) == set(verbs.__all__)


@pytest.mark.parametrize("verb", VERBS)
def test_the_readme_names_a_verb_and_its_options(verb: str) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"\bcompressor {verb}\b", readme)
    missing = [
        option
        for option in options(cli.commands[verb])
        if not re.search(rf"(?<![\w-]){option}(?![\w-])", readme)
        and not (option in ("--output", "--model") and re.search(rf"(?<!\S){option[1:3]} ", readme))
    ]
    assert not missing


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_and_every_option_says_what_it_does(verb: str) -> None:
    command = cli.commands[verb]
    assert command.help
    undescribed = [
        parameter.name
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.help
    ]
    assert undescribed in ([], ["seed"])
    assert run(verb, "--help").code == 0


def test_the_version_is_that_of_the_distribution() -> None:
    assert run("--version").out.split()[-1] == importlib.metadata.version("compressor")


# JSON on stdout, messages on stderr


@pytest.fixture(scope="module")
def archive(npy: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ran]:
    path = tmp_path_factory.mktemp("archive") / "a"
    return path, run("compress", npy, "-m", model, "-o", path, "--measure", "--json")


def test_compress_tells_its_stable_keys(archive: tuple[Path, Ran], npy: Path) -> None:
    path, ran = archive
    assert ran.code == 0
    told = as_object(ran)
    assert told["images"] == 100 and told["unreadable"] == 0 and told["device"]
    assert told["raw_bytes"] == 100 * 28 * 28
    assert told["archive_bytes"] == sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    for part in ("model", "items"):
        files = (path / part).iterdir()
        assert told[f"{part}_bytes"] == sum(file.stat().st_size for file in files)
    parts = told["model_bytes"] + told["items_bytes"] + told["payload_bytes"]
    assert 0 < told["ideal_bytes"] <= told["payload_bytes"] and parts < told["archive_bytes"]
    assert told["seconds"] > 0 and 10 < told["psnr"] < 50
    assert told["psnr_min"] < told["psnr_mean"] and told["ssim_min"] < told["ssim"] < 1
    assert (told["fallback_images"], told["fallback_bytes"], told["exact_images"]) == (0, 0, 0)


def test_what_the_model_rebuilds_badly_is_stored_by_a_fallback(
    npy: Path, model: Path, tmp_path: Path
) -> None:
    table = tmp_path / "m.csv"
    options = ("--min-psnr", "14", "--fallback", "webp", "--measurements", table)
    ran = run("compress", npy, "-m", model, "-o", tmp_path / "a", "--json", *options)
    assert ran.code == 0, ran
    told = as_object(ran)
    assert 0 < told["fallback_images"] < 100 and told["psnr_min"] >= 14
    assert len(table.read_text().splitlines()) == 101
    codecs = as_object(run("inspect", tmp_path / "a", "--json"))["codecs"]
    assert codecs["model"] == 100 - told["fallback_images"]
    assert run("verify", tmp_path / "a").code == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--fallback", "webp"), "give that, too"),
        (("--min-psnr", "30", "--fallback", "gif"), "--fallback gif: there is webp-lossless"),
        (("--min-psnr", "-3"), "give a PSNR above 0 in dB"),
        (("--min-psnr", "high"), "not a valid float"),
        (("--measurements", "m.txt"), "they are written as .parquet or .csv"),
    ],
)
def test_options_of_compress_that_cannot_be_end_with_2(
    npy: Path, model: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    ran = run("compress", npy, "-m", model, "-o", tmp_path / "a", *options)
    assert ran.code == 2 and words in ran.error
    assert not list(tmp_path.iterdir())


def test_decompress_tells_its_stable_keys(archive: tuple[Path, Ran], tmp_path: Path) -> None:
    ran = run("decompress", archive[0], "-o", tmp_path / "out.npy", "--json")
    assert ran.code == 0
    assert as_object(ran).items() >= {"images": 100, "device": "cpu"}.items()
    assert as_object(ran)["seconds"] > 0


def test_score_tells_its_stable_keys(npy: Path, model: Path, tmp_path: Path) -> None:
    ran = run("score", npy, "-m", model, "-o", tmp_path / "r.parquet", "--json", "--fpr", "0.1")
    assert ran.code == 0
    told = as_object(ran)
    assert told["images"] == 100 and told["unreadable"] == 0 and told["scorer"] == "l2"
    assert 0 <= told["anomalies"] <= 100 and 0 < told["threshold"] < 1
    assert told["seconds"] > 0 and told["device"] == "cpu"


def test_a_threshold_that_no_score_passes_is_still_json(
    npy: Path, model: Path, tmp_path: Path
) -> None:
    ran = run("score", npy, "-m", model, "-o", tmp_path / "r.csv", "--fdr", "0.000001", "--json")
    assert ran.code == 0
    assert as_object(ran).items() >= {"anomalies": 0, "threshold": None}.items()


def test_plugins_are_a_list_with_stable_keys() -> None:
    ran = run("plugins", "--json", "--check")
    assert ran.code == 0 and not ran.err
    entries = json.loads(ran.out)
    (entry,) = [entry for entry in entries if entry["name"] == "undercomplete"]
    assert {"distribution", "version", "summary", "config", "status"} < set(entry)
    assert entry["status"] == "ok"
    assert "latent" in [field["name"] for field in entry["config"]]


def test_every_other_verb_prints_one_object_too(
    archive: tuple[Path, Ran], npy: Path, model: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(model, tmp_path / "copy")
    for arguments in (
        ("encode", npy, "-m", model, "-o", tmp_path / "codes.npy"),
        ("export", model, "-o", tmp_path / "graphs", "--precision", "float16"),
        ("calibrate", copy, npy),
        ("inspect", model),
        ("inspect", archive[0]),
        ("verify", model),
        ("verify", archive[0]),
    ):
        ran = run(*arguments, "--json")
        assert ran.code == 0, ran
        assert as_object(ran)


def test_messages_and_progress_go_to_stderr(npy: Path, model: Path, tmp_path: Path) -> None:
    process = start("encode", npy, "-m", model, "-o", tmp_path / "codes.npy", "--json")
    ran = ended(process)
    assert ran.code == 0
    assert as_object(ran)["images"] == 100
    assert "device: cpu" in ran.err and "encode: 100 done" in ran.err


def test_without_json_the_summary_is_for_people(model: Path) -> None:
    ran = run("verify", model)
    assert ran.out.splitlines()[:3] == ["kind: model", f"path: {model}", "ok: true"]


# The main job


def test_images_of_several_sizes_come_back_under_their_names(
    clothes: Pixels, model: Path, tmp_path: Path
) -> None:
    sizes = [(28, 28), (24, 28), (28, 20)]
    cut = {}
    for number in range(30):
        height, width = sizes[number % 3]
        path = tmp_path / "in" / f"box {number % 4}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cut[path.relative_to(tmp_path / "in")] = clothes[number : number + 1, :height, :width]
        Image.fromarray(clothes[number, :height, :width, 0]).save(path)
    ran = run("compress", tmp_path / "in", "-m", model, "-o", tmp_path / "a")
    assert ran.code == 0, ran
    assert run("verify", tmp_path / "a").code == 0
    assert run("decompress", tmp_path / "a", "-o", tmp_path / "out").code == 0
    assert len(list((tmp_path / "out").rglob("*.png"))) == 30
    engine = Engine(Model.open(model))
    for name, pixels in cut.items():
        expected = engine.decode(engine.encode(pixels), *pixels.shape[1:3])
        with Image.open(tmp_path / "out" / name) as image:
            np.testing.assert_array_equal(np.asarray(image), expected[0, :, :, 0])


# Exit codes


def test_what_failed_ends_with_1_and_one_line(model: Path, tmp_path: Path) -> None:
    ran = run("compress", tmp_path / "nothing", "-m", model, "-o", tmp_path / "a")
    assert ran.code == 1 and not ran.out
    assert f"{tmp_path / 'nothing'} does not exist" in ran.error


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "undercomplete"),
        ("paint",),
        ("compress", "x", "-m", "m", "-o", "a", "--quality", "9"),
        ("train", "undercomplete", CLOTHES, "-o", "m", "--set", "latent"),
        ("train", "undercomplete", CLOTHES, "-o", "m", "--max-steps", "0"),
        ("train", "undercomplete", CLOTHES, "-o", "m", "--config", "no/such/file.yaml"),
    ],
)
def test_wrong_usage_ends_with_2(arguments: tuple[str, ...]) -> None:
    ran = run(*arguments)
    assert ran.code == 2 and not ran.out
    assert ran.error


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("latent=0", ["latent=0", "at least 1"]),
        ("latnt=4", ["'latnt'", "latent"]),
        ("network=deep", ["network='deep'", "dense", "conv"]),
        ("learning_rate=fast", ["learning_rate='fast'", "number"]),
        ("hidden=[", ["not YAML"]),
    ],
)
def test_a_setting_that_is_not_allowed_ends_with_2_and_says_what_is(
    tmp_path: Path, setting: str, named: list[str]
) -> None:
    ran = run("train", "undercomplete", CLOTHES, "-o", tmp_path / "m", "--set", setting)
    assert ran.code == 2
    assert all(words in ran.error for words in named)
    assert not list(tmp_path.iterdir())


def test_anomalies_end_with_3_if_asked(npy: Path, model: Path, tmp_path: Path) -> None:
    arguments = ("score", npy, "-m", model, "-o", tmp_path / "r.parquet", "--force")
    assert run(*arguments, "--threshold", "0").code == 0
    assert run(*arguments, "--threshold", "0", "--fail-on-anomaly").code == 3
    assert run(*arguments, "--threshold", "1e9", "--fail-on-anomaly").code == 0


def test_images_that_cannot_be_read_end_with_4_and_are_named(
    clothes: Pixels, model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(clothes[0, :, :, 0]).save(folder / "shirt.png")
    (folder / "broken.png").write_bytes(b"not an image")
    for as_json in ((), ("--json",)):
        ran = run("compress", folder, "-m", model, "-o", tmp_path / "a", "--force", *as_json)
        assert ran.code == 4
        assert "broken.png: is damaged" in ran.out
        assert "skipped broken.png" in ran.err


def test_damage_that_verify_finds_ends_with_1(model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(model, tmp_path / "copy")
    (copy / "encoder.onnx").write_bytes(b"")
    ran = run("verify", copy, "--json")
    assert ran.code == 1
    told = as_object(ran)
    assert told["ok"] is False and "encoder.onnx" in told["problems"][0]


def test_a_plugin_that_cannot_be_used_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {"name": "b", "distribution": "d", "version": "1", "summary": "", "config": []}
    listing = [{**broken, "status": "cannot be imported"}]
    monkeypatch.setitem(vars(verbs), "plugins", lambda: listing)
    assert run("plugins").code == 0
    ran = run("plugins", "--check")
    assert ran.code == 1 and "cannot be imported" in ran.out


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("a\nb"), "unexpected RuntimeError: a b; this is a fault in compressor"),
        (MemoryError(), "out of memory"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_no_error_shows_a_traceback(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, words: str
) -> None:
    monkeypatch.setitem(vars(verbs), "inspect", mock.Mock(side_effect=error))
    monkeypatch.delenv("COMPRESSOR_DEBUG", raising=False)
    ran = run("inspect", "x")
    assert ran.code == 1 and words in ran.error


def test_a_reader_that_went_away_is_no_fault(model: Path) -> None:
    process = start("inspect", model, "--json")
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    ran = ended(process)
    assert ran.code == 1 and not ran.err


def test_what_a_model_was_calibrated_by_is_let_go_before_the_exit(model: Path) -> None:
    processes = [start("inspect", model, "--json") for _ in range(6)]
    assert [(ran.code, ran.err) for ran in map(ended, processes)] == [(0, "")] * 6


# Options of training


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """What ``train`` is asked for by a command line; nothing is trained."""

    def asked_by(*arguments: object) -> dict[str, Any]:
        train = mock.Mock(return_value={})
        monkeypatch.setitem(vars(verbs), "train", train)
        ran = run("train", "undercomplete", "data", "-o", "m", *arguments)
        assert ran.code == 0, ran
        keywords: dict[str, Any] = train.call_args.kwargs
        return keywords

    return asked_by


def test_values_of_set_are_yaml(asked: Callable[..., dict[str, Any]]) -> None:
    values = ("a=[8, 16]", "b=1e-3", "c=0.5", "d=null", "e=relu", "f=true", "g=x=y", "h=[]", "i=3")
    options = [part for value in values for part in ("--set", value)]
    settings = asked(*options)["settings"]
    assert settings["a"] == [8, 16] and settings["h"] == []
    assert settings["c"] == 0.5 and settings["i"] == 3 and settings["d"] is None
    assert settings["e"] == "relu" and settings["f"] is True and settings["g"] == "x=y"
    assert float(settings["b"]) == 1e-3  # YAML 1.1 wants 1.0e-3; pydantic takes both


def test_a_config_file_gives_settings_and_set_goes_before_it(
    asked: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("latent: 4\nhidden: [8, 16]\n")
    settings = asked("--config", file, "--set", "latent=6")["settings"]
    assert settings == {"latent": 6, "hidden": [8, 16]}
    file.write_text("")
    assert asked("--config", file)["settings"] == {}


@pytest.mark.parametrize(
    "content", [b"- latent\n", b"latent: [", b"\xff\xfe\x00", b"latent: 0\n", b"4"]
)
def test_a_config_file_that_is_wrong_ends_with_2(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "settings.yaml"
    file.write_bytes(content)
    ran = run("train", "undercomplete", CLOTHES, "-o", tmp_path / "m", "--config", file)
    assert ran.code == 2 and ran.error
    assert [entry.name for entry in tmp_path.iterdir()] == ["settings.yaml"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("1.5h", 5400), ("0.5", 0.5)]
)
def test_durations(asked: Callable[..., dict[str, Any]], text: str, seconds: float) -> None:
    assert asked("--max-time", text)["max_seconds"] == seconds


@pytest.mark.parametrize("text", ["", "0", "-1m", "soon", "5x", "m", "nan", "inf", "1e400s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Duration().convert(text, None, None)
    assert run("train", "undercomplete", "data", "-o", "m", "--max-time", text).code == 2


def test_channels_are_a_setting_that_has_an_option(asked: Callable[..., dict[str, Any]]) -> None:
    assert asked("--channels", "grey")["settings"] == {"channels": "grey"}
    assert asked("--set", "channels=rgb")["settings"] == {"channels": "rgb"}
    assert run("train", "undercomplete", "data", "-o", "m", "--channels", "blue").code == 2


def test_options_of_train_reach_it(asked: Callable[..., dict[str, Any]]) -> None:
    options = asked("--max-steps", "9", "--seed", "3", "--resume", "--force")
    assert (options["max_steps"], options["seed"]) == (9, 3)
    assert options["resume"] is True and options["force"] is True


# Training that is cut short


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a model was to be written by a training that was killed in the middle."""
    output = tmp_path_factory.mktemp("killed") / "model"
    process = start(*TRAIN, "-o", output)
    checkpoint = output.with_name("model.training") / "checkpoint.pt"
    wait_for(checkpoint, process)
    process.kill()
    assert ended(process).code == -signal.SIGKILL
    state = torch.load(checkpoint, weights_only=True)["state"]
    assert 0 < state["step"] < 300
    return output


def test_a_left_over_training_is_refused_without_resume(killed: Path) -> None:
    ran = run(*TRAIN, "-o", killed)
    assert ran.code == 1
    assert "model.training" in ran.error and "--resume" in ran.error and "--force" in ran.error
    assert [entry.name for entry in killed.parent.iterdir()] == ["model.training"]


@pytest.mark.parametrize(
    ("change", "differing"),
    [
        (("--seed", "8"), "seed"),
        (("--set", "latent=5"), "config"),
        (("--set", "batch_size=64"), "training"),
    ],
)
def test_a_training_is_not_resumed_with_other_settings(
    killed: Path, change: tuple[str, ...], differing: str
) -> None:
    ran = run(*TRAIN, "-o", killed, "--resume", *change)
    assert ran.code == 2
    assert f"with other {differing};" in ran.error
    assert (killed.with_name("model.training") / "checkpoint.pt").exists()


def test_a_training_is_not_resumed_with_other_data(killed: Path, npy: Path) -> None:
    ran = run(*TRAIN[:2], npy, *TRAIN[3:], "-o", killed, "--resume")
    assert ran.code == 2 and "with other data;" in ran.error


def test_a_killed_training_resumes_to_the_weights_of_an_uninterrupted_one(
    killed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "model"
    shutil.copytree(killed.with_name("model.training"), tmp_path / "model.training")
    resumed = ended(start(*TRAIN, "-o", copy, "--resume", "--json"))
    assert resumed.code == 0, resumed.err
    assert "exporting" in resumed.err

    # Exporting takes most of the time. The same weights have the same graphs: training checks that.
    graphs = mock.Mock(graphs=lambda *_: {p.stem: onnx.load(p) for p in copy.glob("*.onnx")})
    monkeypatch.setattr("compressor.training.train.rehearse", lambda *_: graphs)
    whole = run(*TRAIN, "-o", tmp_path / "whole", "--json")
    assert whole.code == 0, whole.err
    told, expected = as_object(resumed), as_object(whole)
    for key in ("plugin", "parameters", "epochs", "validation_loss"):
        assert told[key] == expected[key]
    assert told["plugin"] == "undercomplete" and told["model"] == str(copy)
    assert told["parameters"] == 26036 and told["epochs"] == 50 and told["seconds"] > 0
    for name in ("weights.safetensors", "prior.bin", "calibration.parquet"):
        assert (copy / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model", "whole"]


def test_ctrl_c_in_training_leaves_no_model_and_what_resume_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model.training"

    def press(*_: object) -> None:
        if (folder / "checkpoint.pt").exists():
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Progress, "update", press)
    monkeypatch.setattr("compressor.training.train.rehearse", lambda *_: None)
    ran = run(*TRAIN, "-o", tmp_path / "model", "--json")
    assert ran.code == 1 and not ran.out
    assert "interrupted" in ran.error
    assert list(tmp_path.iterdir()) == [folder]
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["state"]["step"] == 20


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_and_a_polite_kill_in_compress_leave_nothing(
    model: Path, clothes: Pixels, tmp_path: Path, number: signal.Signals
) -> None:
    data = tmp_path / "many.npy"
    np.save(data, np.tile(clothes, (60, 1, 1, 1)))
    process = start("compress", data, "-m", model, "-o", tmp_path / "a", "--json")
    wait_for(tmp_path / ".a.partial" / "archive" / "blocks" / "part-00000.bin", process)
    process.send_signal(number)
    ran = ended(process)
    assert ran.code == 1 and not ran.out
    assert ran.error
    assert os.listdir(tmp_path) == ["many.npy"]  # noqa: PTH208


@pytest.mark.parametrize(
    ("verb", "message", "typed"),
    [
        ("score", "fpr=0.001 needs at least 999 scores", "--fpr 0.001 needs at least 999 scores"),
        ("score", "exists; give force=True to replace it", "exists; give --force to replace it"),
        ("score", "fpr=0.1 with confidence=0.9: no", "--fpr 0.1 with --confidence 0.9: no"),
        ("score", "data/fpr=3/x.png is 3x3", "data/fpr=3/x.png is 3x3"),
        ("train", "is 56x28 (or crop=N)", "is 56x28 (or --set crop=N)"),
        ("train", "max_seconds=3, latent=0: too few", "--max-time 3, --set latent=0: too few"),
    ],
)
def test_errors_name_settings_as_they_are_typed(verb: str, message: str, typed: str) -> None:
    assert as_typed(message, cli.commands[verb]) == typed


# Streams that are closed or full, and encodings without some characters


def through_shell(redirected: str, *arguments: object, **environment: str) -> Ran:
    """Runs the command line as a shell does, with its streams redirected."""
    command = shlex.join([sys.executable, "-m", "compressor", *map(str, arguments)])
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHON"))}
    done = subprocess.run(
        ["bash", "-c", f"{command} {redirected}"],
        env=plain | environment,
        capture_output=True,
        cwd=ROOT,
    )
    out, err = done.stdout.decode("utf-8"), done.stderr.decode("utf-8")
    assert "Traceback" not in out + err and "fault in compressor" not in out + err, err
    return Ran(done.returncode, out, err)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("redirected", ["2>&-", "2>/dev/full", "2>&- >&-", "<&- >&- 2>&-"])
def test_messages_that_cannot_be_written_change_no_exit_code(
    npy: Path, model: Path, tmp_path: Path, redirected: str, unbuffered: str
) -> None:
    def code(*arguments: object) -> int:
        return through_shell(redirected, *arguments, PYTHONUNBUFFERED=unbuffered).code

    assert code("encode", npy, "-m", model, "-o", tmp_path / "codes.npy") == 0
    assert np.load(tmp_path / "codes.npy").shape[0] == 100
    assert code("inspect", tmp_path / "gone") == 1
    assert code("nothing") == 2


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [("plugins",), ("plugins", "--json"), ("--help",)])
def test_an_answer_that_cannot_be_written_is_one_error(
    arguments: tuple[str, ...], unbuffered: str
) -> None:
    ran = through_shell(">/dev/full", *arguments, PYTHONUNBUFFERED=unbuffered)
    assert ran.code == 1 and "cannot write to stdout: No space left on device" in ran.error
    ran = through_shell("| true; exit ${PIPESTATUS[0]}", *arguments, PYTHONUNBUFFERED=unbuffered)
    assert ran.code in (0, 1) and not ran.err  # 0 where the pipe took it all before it closed


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"LC_ALL": "C.UTF-8"},
    ],
)
def test_names_beyond_the_encoding_are_escaped(
    clothes: Pixels, model: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    folder = tmp_path / "größe"
    folder.mkdir()
    Image.fromarray(clothes[0, :, :, 0]).save(folder / "héllo.png")
    (folder / "wörld.png").write_bytes(b"none")
    with open(os.fsencode(folder) + b"/caf\xe9.png", "wb") as file:  # noqa: PTH123
        file.write(b"none")
    for more in ((), ("--json",)):
        job = ("encode", folder, "-m", model, "-o", tmp_path / "códes.npy", "--force", *more)
        ran = through_shell("", *job, **environment)
        assert ran.code == 4 and "rld.png" in ran.out and "skipped w" in ran.err
    assert through_shell("", "inspect", folder / "nö", **environment).code == 1


def test_progress_needs_no_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError("no space left")

    closed = io.StringIO()
    closed.close()
    for stream in (None, closed, Full()):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stream)
            with Progress("work", 10, shown=True) as bar:
                bar.update(5)
