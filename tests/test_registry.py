"""Plugins: found without an import; broken, clashing and outdated ones never stop the others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from compressor import registry
from compressor.errors import PluginError

GOOD = """
from pydantic import Field
from torch import nn
from compressor.plugin import Autoencoder, Code, PluginConfig

class Config(PluginConfig):
    latent: int = Field(3, ge=1, le=9, description="elements of the code")

class Plugin(Autoencoder):
    "A plugin of somebody else's."
    contract = 2
    Config = Config
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Installs a distribution with one plugin into a folder on sys.path."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(distribution: str, name: str, source: str) -> None:
        module = distribution.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{module}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5\n"
        )
        (info / "entry_points.txt").write_text(f"[compressor.plugins]\n{name} = {module}:Plugin\n")

    return install


def status(name: str) -> str:
    return str(next(p["status"] for p in registry.plugins() if p["name"] == name))


def test_built_in_and_third_party_plugins_come_through_the_same_door(install) -> None:  # type: ignore[no-untyped-def]
    install("their-plugin", "theirs", GOOD)
    listed = {plugin["name"]: plugin for plugin in registry.plugins()}
    assert listed["undercomplete"]["status"] == "ok"
    assert listed["theirs"] == {
        "name": "theirs",
        "distribution": "their-plugin",
        "version": "1.5",
        "summary": "A plugin of somebody else's.",
        "config": [
            {
                "name": "latent",
                "type": "integer",
                "default": 3,
                "description": "elements of the code",
                "minimum": 1,
                "maximum": 9,
            }
        ],
        "status": "ok",
    }


def test_discovery_imports_no_plugin(install) -> None:  # type: ignore[no-untyped-def]
    install("explosive", "explosive", "raise SystemExit('imported')")
    assert "explosive" in registry.discover()
    assert "explosive" not in sys.modules


def test_a_broken_plugin_is_named_and_stops_no_other(install) -> None:  # type: ignore[no-untyped-def]
    install("broken-one", "broken", "import a_module_that_is_not_there")
    assert "plugin 'broken' of broken-one 1.5 cannot be imported" in status("broken")
    assert "a_module_that_is_not_there" in status("broken")
    assert status("undercomplete") == "ok"


def test_two_distributions_with_one_name_are_an_error(install) -> None:  # type: ignore[no-untyped-def]
    install("first-plugin", "twice", GOOD)
    install("second-plugin", "twice", GOOD)
    with pytest.raises(PluginError, match=r"claimed by .*first-plugin 1\.5.*second-plugin 1\.5"):
        registry.find("twice")
    assert "uninstall all but one" in status("twice")
    assert status("undercomplete") == "ok"


def test_an_outdated_plugin_is_refused(install) -> None:  # type: ignore[no-untyped-def]
    install("old-plugin", "old", GOOD.replace("contract = 2", "contract = 1"))
    assert "follows version 1 of the plugin contract" in status("old")
    assert "update the older of the two" in status("old")


def test_a_plugin_that_names_no_contract_is_refused(install) -> None:  # type: ignore[no-untyped-def]
    install("silent-plugin", "silent", GOOD.replace("contract = 2", ""))
    assert "silent-plugin 1.5 does not say which version" in status("silent")


def test_something_that_is_no_autoencoder_is_refused(install) -> None:  # type: ignore[no-untyped-def]
    install("not-a-plugin", "odd", "Plugin = 3")
    assert "is not a subclass" in status("odd")


def test_an_unknown_plugin_is_answered_with_the_known_ones() -> None:
    with pytest.raises(PluginError, match=r"no plugin 'sparce'; installed are: .*undercomplete"):
        registry.find("sparce")


def test_without_torch_plugins_are_still_listed() -> None:
    code = (
        "import sys, json; sys.modules['torch'] = None\n"
        "from compressor.verbs import plugins\n"
        "print(json.dumps(plugins()))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert '"name": "undercomplete"' in run.stdout and "needs compressor[train]" in run.stdout
