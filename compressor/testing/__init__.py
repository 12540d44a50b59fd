"""Does a plugin keep the contract? For plugin authors, in their own tests.

    from compressor.testing import parametrize_with_checks

    @parametrize_with_checks([Mine, (Mine, {"network": "dense"})])
    def test_mine_keeps_the_contract(check):
        check()

Each check fails with an AssertionError that says what is wrong and what to do about it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..plugin import Autoencoder
from .cases import Case, cases
from .checks import CHECKS

__all__ = ["Check", "check_plugin", "checks", "parametrize_with_checks"]

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Check:
    """One check of one plugin on one kind of data; call it."""

    case: Case
    run: Callable[[Case], None]

    def __call__(self) -> None:
        self.run(self.case)

    def __str__(self) -> str:
        return f"{self.case}-{self.run.__name__}"


def checks(plugin: type[Autoencoder], settings: Settings | None = None) -> Iterator[Check]:
    """Every check, on images and on vectors, or on the one kind that the plugin takes.

    settings: of the plugin's Config. Raises ConfigError if with these it takes neither.
    """
    for case in cases(plugin, settings or {}):
        for run in CHECKS:
            yield Check(case, run)


def check_plugin(plugin: type[Autoencoder], settings: Settings | None = None) -> None:
    """Runs every check; raises AssertionError at the first that fails."""
    for check in checks(plugin, settings):
        check()


def parametrize_with_checks(
    plugins: Sequence[type[Autoencoder] | tuple[type[Autoencoder], Settings]],
) -> Any:
    """A pytest decorator for a test that takes ``check`` and calls it.

    plugins: classes, or pairs of a class and settings of its Config.
    """
    import pytest

    pairs = [plugin if isinstance(plugin, tuple) else (plugin, {}) for plugin in plugins]
    every = [check for plugin, settings in pairs for check in checks(plugin, settings)]
    return pytest.mark.parametrize("check", every, ids=str)
