"""A trained plugin again, from a model on disk: to measure it in torch, or to train it further."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch

from ..model import Model
from ..plugin import Autoencoder
from ..registry import find, load
from .settings import TrainingSettings
from .train import make_model


def restore(path: str | Path) -> Autoencoder:
    """The plugin with the model's config and weights (those of the graphs), in eval mode.

    Raises ModelError if the model is damaged, PluginError if its plugin is not installed.
    """
    stored = Model.open(path)
    manifest = stored.manifest
    plugin = load(find(manifest.plugin.name))
    config = plugin.Config.model_validate(manifest.config)
    settings = TrainingSettings.model_validate(manifest.training["settings"])
    model = make_model(plugin, config, manifest.data, settings)
    model.load_state_dict(safetensors.torch.load(stored.read("weights.safetensors")))
    return model.eval()
