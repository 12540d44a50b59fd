"""The commands of docs/lecture.md: all are parsed by the real command line, one section runs.

A training with its export takes ten seconds of CPU and more, so only the smallest section runs
here; `make gallery` runs them all.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from compressor.cli import cli

from compressor import registry
from compressor.training.settings import split_settings

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "lecture.md"
# In place of compressor, writes down what it was called with.
STAND_IN = "#!/bin/bash\nprintf '%s\\x1f' \"$@\" >> $CALLS\necho >> $CALLS\n"


@pytest.fixture(scope="module")
def gallery():
    path = ROOT / "examples" / "gallery"
    sys.path.insert(0, str(path))
    spec = importlib.util.spec_from_file_location("gallery", path / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["gallery"] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(path))
    del sys.modules["gallery"]


@pytest.fixture
def beside_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def calls_of(commands: str, name: str, folder: Path) -> list[list[str]]:
    """What compressor would be called with, one list of arguments each."""
    programs = folder / "programs"
    programs.mkdir()
    for program, text in (
        ("compressor", STAND_IN),
        ("python", f'#!/bin/bash\nexec {sys.executable} "$@"\n'),
    ):
        (programs / program).write_text(text)
        (programs / program).chmod(0o755)
    (folder / "gallery" / name).mkdir(parents=True)
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        check=True,
        cwd=folder,
        env={"PATH": f"{programs}:/usr/bin:/bin", "CALLS": str(folder / "calls")},
    )
    lines = (folder / "calls").read_text().splitlines()
    return [line.split("\x1f")[:-1] for line in lines]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "name" in metafunc.fixturenames:
        lines = PAGE.read_text("utf-8").splitlines()
        names = [line.split()[2] for line in lines if line.startswith("<!-- show ")]
        metafunc.parametrize("name", names)


def test_commands_of_the_lecture_are_commands(gallery, name: str, beside_examples: Path) -> None:
    section = next(s for s in gallery.sections(PAGE.read_text("utf-8")) if s.name == name)
    assert callable(getattr(gallery.shows, name))
    for verb, *arguments in calls_of(section.commands, name, beside_examples):
        context = cli.commands[verb].make_context(verb, arguments)
        if verb == "train" and context.params["plugin"] != "classifier":
            plugin = registry.load(registry.find(context.params["plugin"]))
            pairs = dict(pair.split("=", 1) for pair in context.params["values"])
            settings = {key: yaml.safe_load(value) for key, value in pairs.items()}
            split_settings(settings, plugin.Config, context.params["plugin"])


def test_a_section_runs_and_is_put_into_the_page(gallery, beside_examples: Path) -> None:
    page = beside_examples / "page.md"
    text = PAGE.read_text("utf-8")
    page.write_text(gallery.with_shown(text, "eight", ["nothing yet"]))
    gallery.main(["gallery", "--page", str(page), "--only", "eight", "--quick"])
    shown = page.read_text("utf-8")
    assert "nothing yet" not in shown and "| 00000001 | " in shown
    assert gallery.with_shown(shown, "eight", []) == gallery.with_shown(text, "eight", [])


def test_a_command_that_fails_ends_the_gallery_with_its_message(
    gallery, beside_examples: Path
) -> None:
    section = gallery.Section("broken", "echo what is wrong >&2; false\n")
    with pytest.raises(SystemExit, match=r"broken: the commands failed(?s:.*)what is wrong"):
        gallery.run(section, beside_examples / "gallery", quick=True)
