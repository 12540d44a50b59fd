"""Finds plugins by the entry-point group ``compressor.plugins``; imports one only when asked."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import MissingDependency, PluginError, install

if TYPE_CHECKING:
    from .plugin import Autoencoder

GROUP = "compressor.plugins"
NEEDS_TRAIN = "needs compressor[train]"


@dataclass(frozen=True)
class Found:
    """A plugin as its distribution's metadata announce it, not imported yet."""

    name: str
    distribution: str
    version: str
    entry_point: importlib.metadata.EntryPoint

    def __str__(self) -> str:
        return f"plugin {self.name!r} of {self.distribution} {self.version}"


def discover() -> dict[str, list[Found]]:
    """Every announced plugin by name; more than one under a name is a clash."""
    by_name: dict[str, list[Found]] = {}
    for entry_point in importlib.metadata.entry_points(group=GROUP):
        distribution = entry_point.dist
        candidate = Found(
            entry_point.name,
            distribution.name if distribution else "unknown",
            distribution.version if distribution else "unknown",
            entry_point,
        )
        same = by_name.setdefault(entry_point.name, [])
        # A distribution that sys.path shows twice (an editable install, say) is still one.
        if all(candidate.distribution != other.distribution for other in same):
            same.append(candidate)
    return {
        name: sorted(same, key=lambda plugin: plugin.distribution)
        for name, same in sorted(by_name.items())
    }


def find(name: str) -> Found:
    """The one plugin of that name; raises PluginError if there is none, or more than one."""
    by_name = discover()
    if name not in by_name:
        raise PluginError(f"there is no plugin {name!r}; installed are: {', '.join(by_name)}")
    if len(by_name[name]) > 1:
        raise PluginError(
            f"the plugin name {name!r} is claimed by "
            + " and by ".join(f"{f.distribution} {f.version}" for f in by_name[name])
            + "; uninstall all but one"
        )
    return by_name[name][0]


def load(found: Found) -> type[Autoencoder]:
    """Imports a plugin; whatever that raises becomes a PluginError that names the distribution."""
    try:
        from .plugin import CONTRACT, Autoencoder, PluginConfig
    except ImportError as error:
        raise MissingDependency(f"{found} {NEEDS_TRAIN}: run {install('train')}") from error
    try:
        plugin = found.entry_point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: a plugin must not end the tool
        raise PluginError(
            f"{found} cannot be imported ({type(error).__name__}: {error}); update or uninstall it"
        ) from error
    if not (isinstance(plugin, type) and issubclass(plugin, Autoencoder)):
        raise PluginError(f"{found} is not a subclass of compressor.plugin.Autoencoder")
    version = vars(plugin).get("contract")  # its own: that of a base class does not count
    if version is None:
        raise PluginError(
            f"{found} does not say which version of the plugin contract it follows; its author "
            f"must add contract = {CONTRACT} to the class"
        )
    if version != CONTRACT:
        raise PluginError(
            f"{found} follows version {version} of the plugin contract; this compressor "
            f"has version {CONTRACT}: update the older of the two"
        )
    if not (
        isinstance(getattr(plugin, "Config", None), type)
        and issubclass(plugin.Config, PluginConfig)
    ):
        raise PluginError(f"{found} has no Config that is a compressor.plugin.PluginConfig")
    return plugin


def plugins() -> list[dict[str, Any]]:
    """One entry for each plugin: name, distribution, version, summary, config, status.

    ``config`` lists the fields of the plugin's Config (name, type, default, bounds, description);
    ``status`` is "ok" or the reason why the plugin cannot be used; the others still can.
    """
    return [_describe(name, candidates) for name, candidates in discover().items()]


def _describe(name: str, candidates: list[Found]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": name,
        "distribution": ", ".join(found.distribution for found in candidates),
        "version": ", ".join(found.version for found in candidates),
        "summary": "",
        "config": [],
        "status": "ok",
    }
    try:
        plugin = load(find(name))
    except MissingDependency:
        entry["status"] = NEEDS_TRAIN
    except PluginError as error:
        entry["status"] = str(error)
    else:
        entry["summary"] = (plugin.__doc__ or "").strip().partition("\n")[0]
        entry["config"] = describe_config(plugin.Config.model_json_schema())
    return entry


def describe_config(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The fields of a JSON schema: name, type, default, bounds, allowed values, description."""
    bounds = {
        "minimum": "minimum",
        "maximum": "maximum",
        "exclusiveMinimum": "above",
        "exclusiveMaximum": "below",
        "minItems": "min_items",
        "maxItems": "max_items",
        "enum": "allowed",
        "const": "allowed",
    }
    fields = []
    for name, field in schema.get("properties", {}).items():
        kinds = [kind for kind in field.get("anyOf", [field]) if kind.get("type") != "null"]
        optional = len(kinds) < len(field.get("anyOf", [field]))
        described = {
            "name": name,
            "type": " or ".join(str(kind.get("type", "any")) for kind in kinds)
            + (" or null" if optional else ""),
            "default": field.get("default"),
            "description": field.get("description", ""),
        }
        for kind in kinds:
            described |= {ours: kind[theirs] for theirs, ours in bounds.items() if theirs in kind}
            if "items" in kind:
                described["items"] = {
                    ours: kind["items"][theirs]
                    for theirs, ours in {"type": "type", **bounds}.items()
                    if theirs in kind["items"]
                }
        fields.append(described)
    return fields
