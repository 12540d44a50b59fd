"""A plugin's model: a new one, one again from disk, or a new one that begins where one ended."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from ..bundles import format_of
from ..errors import ConfigError, ModelError
from ..labels.classifier import FORMAT as CLASSIFIER
from ..labels.classifier import Classifier
from ..model import Model
from ..networks.discriminator import WithDiscriminator
from ..plugin import Autoencoder
from ..registry import find, load
from ..spec import DataSpec, ImageSpec
from .rate import add_bottleneck
from .settings import TrainingSettings

TRUNK = "trunk.model."  # in front of the names of an autoencoder's weights in a classifier
_MISFITS = (ValidationError, KeyError, RuntimeError)  # torch's are RuntimeErrors
# Of a bottleneck: what the settings of a training ask, and where in it a training is.
OF_THE_TRAINING = ("log_rate", "decodes_integers")


def make_model(
    plugin_class: type[Autoencoder], config: Any, spec: DataSpec, training: TrainingSettings
) -> Autoencoder:
    """The plugin's model, with the discriminator and the bottleneck that the settings ask for.

    Its spec has the size that images have once they are padded for its stride.
    """
    model = plugin_class(config, spec)
    if isinstance(spec, ImageSpec) and model.stride and spec.padded(model.stride) != spec:
        model = plugin_class(config, spec.padded(model.stride))
    if model.rebuilds_features:
        for name in ("discriminator", "quality"):
            if getattr(training, name):
                raise ConfigError(f"{name} is of pixels, and this plugin rebuilds features")
    if training.discriminator:
        model = WithDiscriminator(model)
    if training.rate_distortion:
        add_bottleneck(model, training)
    return model


def opened(path: str | Path) -> Model | Classifier:
    """What a training begins with. Raises ModelError if it is neither, or damaged."""
    return Classifier.open(path) if format_of(path) == CLASSIFIER else Model.open(path)


def restore(path: str | Path) -> Autoencoder:
    """The plugin with the model's config and weights (those of the graphs), in eval mode.

    Of a classifier: the autoencoder whose layers it copied, f as it is now.

    Raises ModelError if the model is damaged, PluginError if its plugin is not installed.
    """
    stored = opened(path)
    if isinstance(stored, Classifier):
        return _restored_trunk(stored)
    manifest = stored.manifest
    plugin = load(find(manifest.plugin.name))
    weights = {name: torch.from_numpy(value) for name, value in stored.weights().items()}
    try:
        config = plugin.Config.model_validate(manifest.config)
        settings = TrainingSettings.model_validate(manifest.training["settings"])
        model = make_model(plugin, config, manifest.data, settings)
        model.load_state_dict(weights)
    except _MISFITS as error:
        raise _other_weights(path, manifest.plugin.name, error) from error
    return model.eval()


def _restored_trunk(classifier: Classifier) -> Autoencoder:
    begun = classifier.manifest.begins_with
    if begun.plugin is None:
        raise ConfigError(
            f"{classifier.location} is a classifier on {begun.name}, which is no plugin's network"
        )
    plugin = load(find(begun.plugin.name))
    weights = {
        name.removeprefix(TRUNK): torch.from_numpy(value)
        for name, value in classifier.weights().items()
        if name.startswith(TRUNK)
    }
    try:
        config = plugin.Config.model_validate(begun.config)
        model = make_model(plugin, config, classifier.spec, TrainingSettings())
        model.load_state_dict(weights)
    except _MISFITS as error:
        raise _other_weights(classifier.location, begun.plugin.name, error) from error
    return model.eval()


def _other_weights(path: str | Path, plugin: str, error: Exception) -> ModelError:
    reason = " ".join(str(error).split())[:200]
    return ModelError(
        f"{path} does not have the weights that {plugin} has with its settings: {reason}"
    )


def plain_weights(model: Autoencoder) -> dict[str, Tensor]:
    """The plugin's weights alone: no discriminator's, no bottleneck's."""
    return _own(_plain(model))


def begin_where(model: Autoencoder, path: str | Path) -> None:
    """Gives a new model the weights of one on disk, and its steps and prior if both have some.

    Raises ConfigError if they are not of one architecture.
    """
    earlier = restore(path)
    plain, weights, earlier_weights = _plain(model), _own(_plain(model)), _own(_plain(earlier))
    if _shapes(weights) != _shapes(earlier_weights):
        raise ConfigError(
            f"{path} has weights of other shapes: a training begins there only with its settings "
            "of the plugin, and with inputs of its shape; leave the plugin's settings out"
        )
    plain.load_state_dict(plain.state_dict() | earlier_weights)
    if model.bottleneck is None or earlier.bottleneck is None:
        return
    weights, earlier_weights = model.bottleneck.state_dict(), earlier.bottleneck.state_dict()
    if _shapes(weights) == _shapes(earlier_weights):
        kept = {name: weights[name] for name in OF_THE_TRAINING}
        model.bottleneck.load_state_dict(earlier_weights | kept)


def _plain(model: Autoencoder) -> Autoencoder:
    return model.model if isinstance(model, WithDiscriminator) else model


def _own(model: Autoencoder) -> dict[str, Tensor]:
    """The plugin's weights alone."""
    state = model.state_dict()
    return {name: value for name, value in state.items() if not name.startswith("bottleneck.")}


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}
