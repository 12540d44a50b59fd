"""Every error that users can meet; a message says what, where and what to do.

    CompressorError
    ├── ConfigError            a setting or an option has a value that is not allowed
    ├── MissingDependency      an extra is not installed
    ├── PluginError            a plugin is unknown, broken, claimed twice or outdated
    ├── DataError              a source as a whole cannot be used
    │   └── UnreadableImage    one image cannot be used; jobs skip and name it
    ├── TrainingError          training cannot go on
    ├── ExportError            a graph is not portable, or does not agree with torch
    ├── ModelError             a model is damaged, altered or too new
    ├── ArchiveError           an archive is damaged, altered or too new
    ├── DeviceError            the device asked for cannot be used
    └── OutputError            an output exists or cannot be written

Only cli.py turns them into exit codes.
"""

from __future__ import annotations


def install(extra: str) -> str:
    """What to type for an extra: the package is on no index yet."""
    return f"pip install '.[{extra}]' in compressor's checkout"


class CompressorError(Exception):
    """The root; its text is one line for the user."""


class ConfigError(CompressorError):
    """A setting or an option has a value that is not allowed."""


class MissingDependency(CompressorError):
    """An extra is not installed."""


class PluginError(CompressorError):
    """A plugin is unknown, broken, claimed by two distributions or outdated."""


class DataError(CompressorError):
    """A source as a whole cannot be used."""


class UnreadableImage(DataError):
    """One image cannot be used; jobs skip it, name it and end with exit code 4."""


class TrainingError(CompressorError):
    """Training cannot go on."""


class ExportError(CompressorError):
    """A graph is not portable, or does not agree with torch."""


class ModelError(CompressorError):
    """A model is damaged, altered or too new."""


class ArchiveError(CompressorError):
    """An archive is damaged, altered or too new."""


class DeviceError(CompressorError):
    """The device asked for cannot be used."""


class OutputError(CompressorError):
    """An output exists or cannot be written."""
