"""Runs the commands of docs/lecture.md and puts what they show into it: `make gallery`.

Usage: python examples/gallery FOLDER [--page docs/lecture.md] [--only NAME ...] [--quick]

A section of the page has commands, in a block of `sh`, and behind them a place for what they show:

    <!-- show NAME -->
    ...
    <!-- end -->

The commands run in the folder above FOLDER, which is called `gallery`, and write to gallery/NAME.
Then the function NAME of shows.py looks at that and gives the lines of Markdown that stand between
the marks; its pictures are written beside the page, to lecture/NAME.png.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import shows

ROOT = Path(__file__).resolve().parents[2]
SECTION = re.compile(
    r"^```sh\n(?P<commands>(?:(?!^```).*\n)+)^```\n\n"
    r"<!-- show (?P<name>\w+) -->\n(?P<shown>(?:(?!<!-- end).*\n)*)<!-- end -->$",
    re.MULTILINE,
)
BUDGET = re.compile(r"--max-steps (\d+)")
QUICK_STEPS = 30  # of every training with --quick


@dataclass(frozen=True)
class Section:
    """Commands of the page, and the name of what they show."""

    name: str
    commands: str


def sections(page: str) -> list[Section]:
    return [Section(found["name"], found["commands"]) for found in SECTION.finditer(page)]


def run(section: Section, folder: Path, quick: bool) -> None:
    """Runs the commands beside ``folder``, with this Python's programs; exits if one fails."""
    shutil.rmtree(folder / section.name, ignore_errors=True)
    (folder / section.name).mkdir(parents=True)
    commands = section.commands
    if quick:
        commands = BUDGET.sub(f"--max-steps {QUICK_STEPS}", commands)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder.parent,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{section.name}: the commands failed\n{commands}\n{done.stdout}{done.stderr}")


def with_shown(page: str, name: str, lines: Sequence[str]) -> str:
    """The page with other lines between the marks of ``name``."""
    start = page.index(f"<!-- show {name} -->\n") + len(f"<!-- show {name} -->\n")
    end = page.index("<!-- end -->", start)
    return page[:start] + "".join(f"{line}\n" for line in lines) + page[end:]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="what the commands write; called gallery")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "lecture.md")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of these sections alone")
    parser.add_argument("--quick", action="store_true", help="a few steps of each training")
    options = parser.parse_args(arguments)
    folder = options.folder.resolve()
    if folder.name != "gallery":
        parser.error(f"{options.folder}: the folder has to be called gallery, as on the page")
    chosen = sections(options.page.read_text("utf-8"))
    if options.only:
        chosen = [section for section in chosen if section.name in options.only]
    for section in chosen:
        started, used = time.monotonic(), cpu_seconds()
        run(section, folder, options.quick)
        pictures = options.page.parent / "lecture"
        pictures.mkdir(exist_ok=True)
        lines = getattr(shows, section.name)(folder / section.name, pictures / section.name)
        # Read anew: somebody may be writing the text meanwhile.
        page = options.page.read_text("utf-8")
        options.page.write_text(with_shown(page, section.name, lines), "utf-8")
        seconds = time.monotonic() - started
        print(f"{section.name}: {seconds:.0f} s, {cpu_seconds() - used:.0f} s of CPU", flush=True)


def cpu_seconds() -> float:
    """Of this process and of those that it has waited for."""
    spent = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


if __name__ == "__main__":
    main()
