"""The model on disk: a folder, or the same as one zip. Reading one needs neither torch nor onnx.

manifest.json        what it is: format version, plugin, specs, graphs, SHA-256 of every file
manifest.sha256      the manifest's own hash, as sha256sum writes it
encoder.onnx         image -> code
decoder.onnx         code -> image; not where features are rebuilt in place of pixels
scorer.onnx          image -> one output per score, and error_map
further.onnx         image -> scores that cost more, and hidden_differences, for distances
scores.npz           where normal codes lie, for distances to them (anomaly/normals.py)
density.npz          what new codes are drawn from (latent/density.py)
prior.bin            integer tables of the entropy coder (archive/FORMAT.md)
hyper_encoder.onnx   code -> side information, where the prior is a hyperprior
hyper_decoder.onnx   side information -> which tables, in exact integers
calibration.parquet  the scores of images used neither for training nor for early stopping
weights.safetensors  to fine-tune
golden.npz           a few images and what the graphs answer to them
MODEL_CARD.md        for people
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import zipfile
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from . import __version__
from .errors import ModelError, UnreadableImage
from .files import (
    atomic_file,
    atomic_folder,
    finish_together,
    is_leftover,
    read_current,
    refuse_existing,
    refuse_irreplaceable,
    write_together,
)
from .manifests import (
    HASH,
    MANIFEST,
    FileEntry,
    ManifestFormat,
    PlainName,
    file_entries,
    hash_line,
    with_hash,
)
from .onnx_bytes import refuse_foreign
from .spec import CodeSpec, DataSpec
from .untrusted import (
    ZIP_ERRORS,
    checked_zip,
    most_unpacked,
    plain_name,
    read_npz,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from .entropy.tables import Tables

FORMAT: Final = "compressor-model"
FORMAT_VERSION: Final = 1
WEIGHTS = "weights.safetensors"
CALIBRATION = "calibration.parquet"
DECODING = ("decoder.onnx", "prior.bin", "hyper_decoder.onnx")  # what an archive embeds, if there
PACKED = ".packed"  # behind the name of a file in an archive's model; ".xz" up to version 2
AUTO, ENSEMBLE = "auto", "ensemble"
# Scores beside those of scorer.onnx, whose names no plugin may use.
RESERVED_SCORES = frozenset(
    ["gradient", "top", "hidden", "nap", "mahalanobis", "knn", "codelength", "codelength_over_webp"]
) | {AUTO, ENSEMBLE}
MAX_CALIBRATION = 1 << 24  # numbers in calibration.parquet, all scores together
MAX_MANIFEST = 64 << 20  # a column of vectors takes about 80 bytes


class PluginEntry(BaseModel):
    """The plugin that made the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    distribution: str
    version: str


class TrainingFacts(BaseModel):
    """What of a manifest's ``training`` others read; further keys are for people."""

    settings: dict[str, Any] = {}
    seed: int = 0
    images: int = 0
    steps: int = 0
    seconds: float = 0
    parameters: int = 0
    measures: dict[str, float | None] = {}  # None: it was not finite
    versions: dict[str, str] = {}
    first_layer: str | None = None


class QuantiserFacts(BaseModel):
    """What of a manifest's ``quantiser`` others read."""

    steps: list[Annotated[float, Field(allow_inf_nan=False)]] = []


class ModelManifest(BaseModel):
    """manifest.json. Readers ignore keys they do not know: those may come in any version."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal["compressor-model"] = FORMAT
    format_version: Literal[1] = FORMAT_VERSION
    created_by: str = f"compressor {__version__}"
    plugin: PluginEntry
    config: dict[str, Any] = {}  # the plugin's
    data: DataSpec
    code: CodeSpec
    scores: tuple[str, ...] = ()  # outputs of scorer.onnx beside error_map
    further_scores: tuple[str, ...] = ()  # outputs of further.onnx
    default_score: str | None = None  # None: the first of scores
    separability: dict[str, float] = {}  # of scores, by which auto chooses: anomaly/separability.py
    quartiles: dict[str, tuple[float, float, float]] = {}  # of scores: anomaly/ensemble.py
    generative: bool = False  # whether codes z ~ N(0, I) decode to samples
    training: dict[str, Any] = {}  # settings, seed, steps, seconds, losses
    quantiser: dict[str, Any] = {}  # steps, and how often validation codes left the tables' range
    parity: dict[str, Any] = {}  # the largest differences between torch and the graphs
    files: dict[PlainName, FileEntry]

    @field_validator("training", "quantiser")
    @classmethod
    def _readable(cls, facts: dict[str, Any], field: ValidationInfo) -> dict[str, Any]:
        kind = TrainingFacts if field.field_name == "training" else QuantiserFacts
        kind.model_validate(facts)
        return facts

    @model_validator(mode="after")
    def _strides_agree(self) -> ModelManifest:
        if self.data.stride != self.code.stride:
            raise ValueError("data and code have different strides")
        return self


MANIFEST_FORMAT = ManifestFormat(FORMAT, "model", (FORMAT_VERSION,), ModelManifest, ModelError)


def decoding_files(manifest: ModelManifest) -> list[str]:
    """The files that decoding an archive takes."""
    return [name for name in DECODING if name in manifest.files]


def digest_of(manifest: ModelManifest) -> str:
    """SHA-256 (hex) of what decoding depends on: equal digests decode archives to equal pixels."""
    identity = {
        "data": manifest.data.model_dump(),
        "code": manifest.code.model_dump(),
        "files": {name: manifest.files[name].sha256 for name in decoding_files(manifest)},
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


class Model:
    """A trained model, read from a folder, from a zip, from inside an archive, or from memory."""

    def __init__(
        self, location: Path, manifest: ModelManifest, files: Mapping[str, bytes] | None = None
    ) -> None:
        self.location = location
        self._files = files
        self.manifest = manifest
        self.spec = manifest.data
        self.code = manifest.code
        self.digest = digest_of(manifest)

    @classmethod
    def open(cls, location: str | Path) -> Model:
        """Reads the manifest; raises ModelError if it is missing, altered, damaged or too new."""
        location = Path(location)
        with suppress(OSError):  # where nothing can be written, it is read as it is
            finish_together(location)
        for _ in range(3):  # write_calibration may replace both between the two readings
            text = _stored(location, MANIFEST, MAX_MANIFEST)
            stored_hash = _stored(location, HASH, 1000)
            if text is not None and stored_hash == hash_line(text):
                break
        return cls(location, _checked_manifest(text, stored_hash, location))

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Model:
        """A model in memory, from what ``contents`` gives; it can be pickled. Raises ModelError."""
        location = Path("the model in memory")
        for name in files:
            _refuse_unsafe_name(location, name)
        manifest = _checked_manifest(files.get(MANIFEST), files.get(HASH), location)
        return cls(location, manifest, files)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._files is None:
            return Model.open, (self.location,)
        return Model.from_files, (self._files,)

    def contents(self) -> dict[str, bytes]:
        """The content of every file, checked, as ``from_files`` and ``write_model`` take them."""
        manifest = {name: self._stored(name, MAX_MANIFEST) for name in (MANIFEST, HASH)}
        files = {name: self.read(name) for name in self.manifest.files}
        return files | {name: content for name, content in manifest.items() if content is not None}

    def read(self, name: str) -> bytes:
        """A file's content, decompressed and checked against its SHA-256; or ModelError.

        A graph that could read files or run for ever is refused, too: see onnx_bytes.py.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            if name == "decoder.onnx":
                self.refuse_without_decoder()
            raise ModelError(f"{self.location} has no {name}")
        content = self._stored(name, entry.size)
        if content is None:
            content = self._read_embedded(name, entry.size)
        if len(content) != entry.size or hashlib.sha256(content).hexdigest() != entry.sha256:
            if name == CALIBRATION and self._was_calibrated():
                return self.read(name)
            raise ModelError(
                f"{self.location}/{name} does not have the hash in the manifest: "
                "it was altered, swapped or damaged; take a good copy of the model"
            )
        if name.endswith(".onnx"):
            refuse_foreign(content, f"{self.location}/{name}")
        return content

    def _was_calibrated(self) -> bool:
        """Whether another process has put other calibration scores there; then these are taken."""
        if self._files is not None:
            return False
        now, before = Model.open(self.location).manifest, self.manifest
        self.manifest = now
        others = {name: entry for name, entry in before.files.items() if name != CALIBRATION}
        return now != before and others.items() <= now.files.items()

    def _read_embedded(self, name: str, size: int) -> bytes:
        """A file as archives have it; what is damaged may give anything."""
        from .packing import unpack

        packed = self._stored(f"{name}{PACKED}", 2 * size + 1024)
        if packed is not None:
            return unpack(packed, size)
        packed = self._stored(f"{name}.xz", size + 1024)
        if packed is None:
            raise ModelError(f"{self.location}/{name} is missing; take a good copy of the model")
        from .packing import MAX_XZ_MEMORY

        limit = min(size, most_unpacked(len(packed))) + 1
        try:
            return lzma.LZMADecompressor(lzma.FORMAT_XZ, MAX_XZ_MEMORY).decompress(packed, limit)
        except (lzma.LZMAError, EOFError):
            return b""

    @property
    def decodes(self) -> bool:
        """Whether codes can be turned back: not where the model rebuilds features."""
        return "decoder.onnx" in self.manifest.files

    def refuse_without_decoder(self) -> None:
        """Raises ModelError if the model does not decode."""
        if not self.decodes:
            raise ModelError(
                f"{self.location} rebuilds features of images and no pixels: it scores and "
                "encodes, but does not compress or decode; train another plugin for that"
            )

    @cached_property
    def prior(self) -> Tables:
        """What the codes are coded with."""
        from .entropy.prior_file import read_prior

        return read_prior(self.read("prior.bin"), self.read)

    def weights(self) -> dict[str, npt.NDArray[Any]]:
        """The plugin's tensors by name; ModelError if weights.safetensors is damaged."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            return load(self.read(WEIGHTS))
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(
                f"{self.location}/{WEIGHTS} is damaged: {reason}; take a good copy of the model"
            ) from error

    @property
    def files(self) -> Collection[str]:
        """The names of its files."""
        return self.manifest.files.keys()

    @property
    def graph_scores(self) -> tuple[str, ...]:
        """The names of the scores that scorer.onnx gives."""
        return self.manifest.scores

    @property
    def default_score(self) -> str | None:
        """The plugin's, where it has one."""
        return self.manifest.default_score

    @property
    def further_scores(self) -> tuple[str, ...]:
        """The names of the scores that further.onnx gives."""
        return self.manifest.further_scores

    def calibration_columns(self) -> dict[str, npt.NDArray[np.float64]]:
        """The calibration images' scores by name, float64, in one order; {} if there were none."""
        if CALIBRATION not in self.manifest.files:
            return {}
        try:
            return _calibration_columns(self.read(CALIBRATION))
        except ValueError as error:
            raise ModelError(
                f"{self.location}/{CALIBRATION} {error}; calibrate the model again"
            ) from error

    def calibration(self, score: str) -> npt.NDArray[np.float64]:
        """The calibration images' scores of that name, ascending; empty if there were none."""
        import numpy as np

        return np.sort(self.calibration_columns().get(score, np.empty(0)))

    def golden(self) -> dict[str, npt.NDArray[Any]]:
        """Arrays ``image`` (or ``vector``), ``code``, scores, ``error_map``, and, of a model that
        decodes, ``reconstruction``."""
        try:
            arrays = read_npz(self.read("golden.npz"))
            self._check_golden(arrays)
            return arrays
        except ValueError as error:
            raise ModelError(
                f"{self.location}/golden.npz is damaged: {error}; take a good copy of the model"
            ) from error

    def _check_golden(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """ValueError unless all arrays are there, with as many entries as each other."""
        kind = self.spec.kind
        needed = [kind, "code", "error_map", *self.manifest.scores, *self.manifest.further_scores]
        needed += ["reconstruction"] if self.decodes else []
        for name in needed:
            if name not in arrays:
                raise ValueError(f"it has no array {name!r}")
            if (
                arrays[name].dtype.kind not in "fiu"
                or arrays[name].shape[:1] != arrays[kind].shape[:1]
            ):
                raise ValueError(f"its array {name!r} does not fit the others")
        if not arrays[kind].size or arrays[kind].dtype != (
            "uint8" if kind == "image" else "float32"
        ):
            raise ValueError(f"its array {kind!r} holds no {kind}s")
        try:
            self.spec.check(arrays[kind].shape[1:])
        except UnreadableImage as error:
            raise ValueError(f"each {kind} {error}") from error
        size = arrays[kind].shape[1:3] if kind == "image" else (1, arrays[kind].shape[1])
        if arrays["code"].dtype != "int32" or arrays["code"].shape[1:] != self.code.shape_for(
            *size
        ):
            raise ValueError("its array 'code' does not fit the model")

    def check(self) -> list[str]:
        """What is wrong with the files of the model, one sentence each; empty when all is well."""
        problems = []
        for name in self.manifest.files:
            try:
                self.read(name)
            except ModelError as error:
                problems.append(str(error))
        known = {*self.manifest.files, MANIFEST, HASH}
        known |= {f"{name}{end}" for name in self.manifest.files for end in (PACKED, ".xz")}
        for name in self._files or _names(self.location):
            if name not in known:
                problems.append(f"{self.location}/{name} does not belong to the model")
        return problems

    def embed(self, folder: Path, *, used: bool = True) -> None:
        """Writes what decoding needs into ``folder``, as small as it gets; of a model that is not
        ``used``, since a fallback stored every image, what its data are."""
        from .packing import pack

        folder.mkdir()
        entries = {name: self.manifest.files[name] for name in decoding_files(self.manifest)}
        for name in entries if used else ():
            (folder / f"{name}{PACKED}").write_bytes(pack(self.read(name)))
        manifest = ModelManifest(
            created_by=self.manifest.created_by,
            plugin=self.manifest.plugin,
            config=self.manifest.config,
            data=self.spec,
            code=self.code,
            files=entries,
        )
        for name, content in manifest_files(manifest, indent=None).items():
            (folder / name).write_bytes(content)

    def write_calibration(self, scores: Mapping[str, npt.NDArray[np.float64]]) -> None:
        """Puts other calibration scores into this model, and touches nothing else beside it."""
        if self._files is not None:
            raise ModelError(f"{self.location} cannot be changed; save it and change that")
        content = calibration_bytes(scores)
        entry = file_entries({CALIBRATION: content})
        manifest = self.manifest.model_copy(update={"files": self.manifest.files | entry})
        changed = {CALIBRATION: content, **manifest_files(manifest)}
        if self.location.is_dir():
            write_together(self.location, changed)
        else:
            files = {name: self.read(name) for name in self.manifest.files}
            write_model(self.location, files | changed, force=True)
        self.manifest = manifest

    def _stored(self, name: str, limit: int) -> bytes | None:
        if self._files is not None:
            return self._files.get(name)
        return _stored(self.location, name, limit)


def _checked_manifest(
    text: bytes | None, stored_hash: bytes | None, location: Path
) -> ModelManifest:
    if text is None:
        raise ModelError(f"{location} is not a model: it has no manifest.json")
    if stored_hash is None:
        raise ModelError(f"{location} has no manifest.sha256: take a good copy of the model")
    if stored_hash != hash_line(text):
        raise ModelError(
            f"{location}/manifest.json does not have the hash in manifest.sha256: "
            "the model was altered or damaged; take a good copy"
        )
    return MANIFEST_FORMAT.parse(text, location)


def manifest_files(manifest: ModelManifest, indent: int | None = 2) -> dict[str, bytes]:
    """manifest.json and manifest.sha256."""
    data = manifest.model_dump(mode="json", exclude_defaults=False)
    if indent is None:  # embedded: what a decoder does not read is left out
        data = {key: value for key, value in data.items() if value not in ({}, [])}
    text = (json.dumps(data, indent=indent) + "\n").encode()
    return with_hash(text)


def _calibration_columns(content: bytes) -> dict[str, npt.NDArray[np.float64]]:
    """Of calibration.parquet; ValueError, without its name, for anything else than numbers."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        schema, rows = file.schema_arrow, file.metadata.num_rows
        if any(field.type != pa.float64() for field in schema):
            raise ValueError("has columns that are not float64")
        if len(set(schema.names)) != len(schema) or not 0 <= rows * len(schema) <= MAX_CALIBRATION:
            raise ValueError(f"has {rows} rows in {len(schema)} columns, which no writer makes")
        # In this thread: one of Arrow's that holds Python's bytes at the exit aborts the process.
        table = file.read(use_threads=False)
        table.validate(full=True)
    except (pa.ArrowException, OSError, MemoryError, OverflowError) as error:
        raise ValueError("is damaged: it cannot be read as Parquet") from error
    return {name: table[name].to_numpy() for name in table.column_names}


def calibration_bytes(scores: Mapping[str, npt.NDArray[np.float64]]) -> bytes:
    """calibration.parquet: one float64 column a score, in the order of the images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table(dict(scores)), buffer, compression="zstd", store_schema=False)
    return buffer.getvalue()


def refuse_model_output(path: Path, force: bool) -> None:
    """Raises OutputError if a model must not be written to ``path``."""
    if path.suffix == ".zip":
        refuse_existing(path, force)
    else:
        refuse_irreplaceable(path, force, FORMAT)


def write_model(path: Path, files: Mapping[str, bytes], force: bool) -> None:
    """Writes the files of a model as a folder, or as one zip if ``path`` ends in .zip."""
    refuse_model_output(path, force)
    for name in files:
        _refuse_unsafe_name(path, name)
    if path.suffix == ".zip":
        with (
            atomic_file(path, force) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
        ):
            for name, content in files.items():
                archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    else:
        with atomic_folder(path, force) as temporary:
            for name, content in files.items():
                (temporary / name).write_bytes(content)


def _stored(location: Path, name: str, limit: int) -> bytes | None:
    """The bytes of a file of the model as stored, at most ``limit`` + 1 of them; None if absent."""
    _refuse_unsafe_name(location, name)
    try:
        if location.is_dir():
            return read_current(location, name, limit)
        with zipfile.ZipFile(location) as archive:
            checked_zip(archive, location.stat().st_size)
            if name not in archive.NameToInfo:
                return None
            with archive.open(name) as member:
                return member.read(limit + 1)
    except FileNotFoundError as error:
        raise ModelError(f"there is no model at {location}") from error
    except ZIP_ERRORS as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ModelError(f"{location} cannot be read as a model: {name}: {reason}") from error


def _names(location: Path) -> list[str]:
    if location.is_dir():
        own = [path for path in location.iterdir() if not is_leftover(path.name)]
        below = chain.from_iterable([path, *path.rglob("*")] for path in own)
        return sorted(path.relative_to(location).as_posix() for path in below)
    with zipfile.ZipFile(location) as archive:
        return archive.namelist()


def _refuse_unsafe_name(location: Path, name: str) -> None:
    try:
        plain_name(name)
    except ValueError as error:
        raise ModelError(f"{location} is not a model: {error}") from error
