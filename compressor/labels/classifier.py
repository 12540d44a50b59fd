"""A classifier on disk: a folder, or the same as one zip, whose files have hashes.

manifest.json        what it is: labels, data, what it began with, SHA-256 of every file
manifest.sha256      the manifest's own hash
classifier.onnx      image -> probability of each label, float32 (N, labels)
weights.safetensors  to go on from
golden.npz           a few inputs and what the graph answers to them
MODEL_CARD.md        for people
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from .. import __version__
from ..bundles import Bundle
from ..engine.engine import Engine
from ..errors import CompressorError, ModelError
from ..manifests import FileEntry, ManifestFormat, PlainName, with_hash
from ..model import PluginEntry
from ..onnx_bytes import CLASSIFYING
from ..spec import CodeSpec, DataSpec
from ..untrusted import read_npz
from .given import MAX_LABEL, MAX_LABELS

FORMAT: Final = "compressor-classifier"
GRAPH = "classifier.onnx"
GOLDEN = "golden.npz"
NEAR = 1e-3  # of a probability: what runtimes may differ by

LabelName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_LABEL)]


class Beginning(BaseModel):
    """What a classifier began with.

    kind: a plugin's autoencoder, of which ``plugin`` and ``config`` tell the network; or another
    network, in ONNX, whose layers stay as they are. layer: whose activations the head sees.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: Literal["plugin", "onnx"]
    name: str
    plugin: PluginEntry | None = None
    config: dict[str, Any] = {}
    layer: str = ""
    sha256: str | None = None  # of the weights or of the ONNX file


class ClassifierManifest(BaseModel):
    """manifest.json. Readers ignore keys they do not know."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal["compressor-classifier"] = FORMAT
    format_version: Literal[1] = 1
    created_by: str = f"compressor {__version__}"
    labels: tuple[LabelName, ...] = Field(min_length=2, max_length=MAX_LABELS)
    data: DataSpec
    begins_with: Beginning
    training: dict[str, Any] = {}
    files: dict[PlainName, FileEntry]

    @model_validator(mode="after")
    def _distinct(self) -> ClassifierManifest:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("two labels are the same")
        if self.data.stride is not None:
            raise ValueError("a classifier takes one size, and has no stride")
        return self

    def to_files(self) -> dict[str, bytes]:
        """manifest.json and manifest.sha256."""
        return with_hash((self.model_dump_json(indent=1) + "\n").encode())


MANIFEST_FORMAT = ManifestFormat(FORMAT, "classifier", (1,), ClassifierManifest, ModelError)


class Classifier(Bundle[ClassifierManifest]):
    """One as it is on disk, or in memory; an Engine runs its graph."""

    format = MANIFEST_FORMAT
    operators = CLASSIFYING
    graph_scores = further_scores = ()

    def __init__(
        self, location: Path, manifest: ClassifierManifest, files: Mapping[str, bytes] | None = None
    ) -> None:
        super().__init__(location, manifest, files)
        self.labels = manifest.labels
        self.spec: DataSpec = manifest.data
        self.code = CodeSpec(shape=(len(manifest.labels),))

    @property
    def network(self) -> tuple[str, Mapping[str, Any]]:
        """What it began with: a plugin, and its config, or another network."""
        return self.manifest.begins_with.name, self.manifest.begins_with.config

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the graph: equal ones answer alike."""
        return self.manifest.files[GRAPH].sha256 if GRAPH in self.files else ""

    def check(self) -> list[str]:
        """Hashes first; if they hold, the graph must answer to golden.npz as it did."""
        problems = super().check()
        if problems:
            return problems
        try:
            arrays = self.golden()
            answer = Engine(self, "cpu").classify(arrays[self.spec.kind])
        except CompressorError as error:
            return [str(error)]
        stored = arrays["probability"]
        if answer.shape != stored.shape or not (np.abs(answer - stored) <= NEAR).all():
            return [f"{self.location}/{GRAPH} gives other probabilities than {GOLDEN}"]
        return []

    def golden(self) -> dict[str, npt.NDArray[Any]]:
        """Arrays ``image`` (or ``vector``) and ``probability``. Raises ModelError."""
        try:
            arrays = read_npz(self.read(GOLDEN))
            return {name: arrays[name] for name in (self.spec.kind, "probability")}
        except (ValueError, KeyError) as error:
            raise ModelError(
                f"{self.location}/{GOLDEN} is damaged: {error}; take a good copy of the classifier"
            ) from error
