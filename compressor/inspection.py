"""The verbs ``inspect`` and ``verify``, for models, classifiers, archives, indexes and results."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from .errors import CompressorError, DataError, MissingDependency
from .files import refuse_elsewhere


def inspect(path: str | Path) -> dict[str, Any]:
    """What a model, classifier, archive, index or results hold; its ``kind`` comes first."""
    refuse_elsewhere(path)
    path = Path(path)
    kind = _kind(path)
    if kind == "model":
        from .model import Model

        model = Model.open(path)
        return {
            "kind": kind,
            "digest": model.digest,
            "scorers": _describe_scorers(model),
            **model.manifest.model_dump(mode="json"),
        }
    if kind == "classifier":
        from .labels.classifier import Classifier

        classifier = Classifier.open(path)
        described = classifier.manifest.model_dump(mode="json")
        return {"kind": kind, "digest": classifier.digest, **described}
    if kind == "archive":
        return {"kind": kind, **_describe_archive(path)}
    if kind == "index":
        return {"kind": kind, **_describe_index(path)}
    return {"kind": kind, **_describe_results(path)}


def verify(path: str | Path, model: str | Path | None = None) -> dict[str, Any]:
    """Checks every byte of a model, a classifier, an archive or an index: ``ok``, and ``problems``.

    ``model``: the one that made an archive, where that has none inside.
    """
    refuse_elsewhere(path, model)
    path = Path(path)
    kind = _kind(path)
    if kind == "model":
        problems = _verify_model(path)
    elif kind == "classifier":
        problems = _verify_classifier(path)
    elif kind == "archive":
        from .archive.verify import verify_archive
        from .model import Model

        problems = verify_archive(path, None if model is None else Model.open(model))
    elif kind == "index":
        problems = _verify_index(path)
    else:
        raise DataError(f"{path} is no model, classifier, archive or index; verify knows no other")
    return {"kind": kind, "path": str(path), "ok": not problems, "problems": problems}


def _kind(path: Path) -> str:
    if not path.exists():
        raise DataError(f"there is no {path}")
    if path.is_dir():
        if list(path.glob("part-*.parquet")):
            return "results"
        # Where the manifest itself is damaged, the folder's layout still tells.
        if (path / "blocks").is_dir() or (path / "items").is_dir():
            return "archive"
        return "index" if (path / "vectors").is_dir() else _kind_of_bundle(path)
    if zipfile.is_zipfile(path):
        return _kind_of_bundle(path)
    if path.suffix in (".parquet", ".csv"):
        return "results"
    raise DataError(f"{path} is not a model, a classifier, an archive, an index or results")


def _kind_of_bundle(path: Path) -> str:
    from .bundles import format_of

    return "classifier" if format_of(path) == "compressor-classifier" else "model"


def _verify_classifier(path: Path) -> list[str]:
    from .labels.classifier import Classifier

    try:
        return Classifier.open(path).check()
    except MissingDependency:
        raise  # that says nothing about the classifier
    except CompressorError as error:
        return [str(error)]


def _verify_model(path: Path) -> list[str]:
    """Hashes first; if they hold, the graphs must answer to golden.npz as they did."""
    from .model import Model

    try:
        model = Model.open(path)
        problems = model.check()
        if problems or "golden.npz" not in model.manifest.files:
            return problems
        return _verify_golden(model)
    except MissingDependency:
        raise  # that says nothing about the model
    except CompressorError as error:
        return [str(error)]


def _verify_golden(model: Any) -> list[str]:
    import numpy as np

    from .engine.engine import Engine
    from .spec import size_of

    golden, engine = model.golden(), Engine(model, "cpu")
    spec = model.spec
    pixels = golden[spec.kind]
    codes = engine.encode(pixels)
    scores = engine.score(pixels)
    graphs = dict.fromkeys(model.manifest.scores, "scorer")
    if further := model.manifest.further_scores:
        scores |= engine.further(pixels)
        graphs |= dict.fromkeys(further, "further")
    problems = []
    if not _near(codes.astype(float), golden["code"].astype(float), 1):
        problems.append("encoder.onnx gives other codes than golden.npz")
    if model.decodes:
        decoded = engine.decode(golden["code"], *size_of(pixels.shape[1:])).astype(float)
        # one grey level, or a thousandth of a column's scale and what float32 tells apart
        near: Any = 1.0
        if spec.kind == "vector":
            near = 1e-3 * np.array(spec.scale) + 1e-6 * np.abs(golden["reconstruction"])
        if not _near(decoded, golden["reconstruction"], near):
            problems.append(f"decoder.onnx gives other {spec.kind}s than golden.npz")
    problems += [
        f"{graph}.onnx gives other {name} than golden.npz"
        for name, graph in graphs.items()
        if not _near(scores[name], golden[name], 1e-8 + 1e-3 * np.abs(golden[name]))
    ]
    return problems


def _near(answer: Any, stored: Any, distance: Any) -> bool:
    """Whether two arrays have one shape and differ by at most ``distance``."""
    import numpy as np

    if answer.shape != stored.shape:
        return False
    return bool(np.all((answer == stored) | (np.abs(answer - stored) <= distance)))


def _describe_scorers(model: Any) -> list[dict[str, Any]]:
    """Every score: how many calibration images have it, and what auto goes by."""
    from .anomaly.scorers import scorers

    columns, known = model.calibration_columns(), model.manifest.separability
    return [
        {"name": name, "calibration": len(columns.get(name, ())), "auto": known.get(name)}
        for name in scorers(model)
    ]


def _describe_archive(path: Path) -> dict[str, Any]:
    archive = _opened(path)
    manifest = archive.manifest
    sizes = {
        f"{folder}_bytes": sum(f.stat().st_size for f in (path / folder).rglob("*") if f.is_file())
        for folder in ("model", "items", "blocks")
    }
    return {
        "images": archive.count,
        "left_out": manifest.unreadable.count if manifest else None,
        "codecs": archive.codecs(),
        "parts": len(archive.part_numbers()),
        **sizes,
        "model_digest": archive.model.digest,
        "data": archive.model.spec.model_dump(),
        "code": archive.model.code and archive.model.code.model_dump(),
        "created_by": manifest.created_by if manifest else None,
        "damage": archive.damage,
    }


def _describe_index(path: Path) -> dict[str, Any]:
    from .retrieval.folder import Index

    index = Index.open(path)
    space = index.space
    return {
        "images": index.count,
        "parts": len(index.manifest.parts),
        "bytes": sum(entry.size for entry in index.manifest.files.values()),
        "dimensions": space.dimensions,
        "metric": "cosine" if space.cosine else "euclidean",
        "whitening": space.power,
        "reliability": space.reliability,
        "model_digest": index.manifest.model,
        "created_by": index.manifest.created_by,
    }


def _verify_index(path: Path) -> list[str]:
    from .retrieval.folder import Index

    try:
        index = Index.open(path)
        index.model()
    except CompressorError as error:
        return [str(error)]
    parts = range(len(index.manifest.parts))
    checks: list[Callable[[], object]] = [
        *(partial(index.read, name) for name in index.manifest.files),
        *(partial(read, part) for part in parts for read in (index.vectors, index.names)),
    ]
    problems = dict[str, None]()
    for check in checks:
        try:
            check()
        except CompressorError as error:
            problems[str(error)] = None
    return list(problems)


def _opened(path: Path) -> Any:
    """The archive; one without a model inside has what its manifest says of that, and no code."""
    from .archive.manifest import read_manifest
    from .archive.reader import Archive

    if (path / "model").exists():
        return Archive.open(path)
    manifest = read_manifest(path)
    model: Any = SimpleNamespace(spec=manifest.data, code=None, digest=manifest.model)
    return Archive(path, model, manifest)


def _describe_results(path: Path) -> dict[str, Any]:
    import pyarrow
    import pyarrow.compute as pc
    import pyarrow.csv
    import pyarrow.parquet as pq

    from .anomaly.results import SCHEMA

    try:
        parts = sorted(path.glob("part-*.parquet")) if path.is_dir() else []
        if path.suffix == ".csv" and not parts:
            convert = pyarrow.csv.ConvertOptions(column_types=SCHEMA)
            table = pyarrow.csv.read_csv(path, convert_options=convert)
            columns = table.schema.names
        else:
            columns = pq.read_schema(parts[0] if parts else path).names
            if columns[: len(SCHEMA.names)] != SCHEMA.names:
                raise DataError(f"{path} is not a results file: its columns are other ones")
            tables = [
                pq.read_table(part, columns=["score", "is_anomaly"]) for part in parts or [path]
            ]
            table = pyarrow.concat_tables(tables)
        readable = table["score"].drop_null()
        other_scores = columns[len(SCHEMA.names) :]
        return {
            "images": len(readable),
            "unreadable": table.num_rows - len(readable),
            "anomalies": pc.sum(table["is_anomaly"]).as_py() or 0,
            "lowest_score": _finite(pc.min(readable).as_py()),
            "highest_score": _finite(pc.max(readable).as_py()),
            **({"parts": len(parts)} if parts else {}),
            **({"other_scores": other_scores} if other_scores else {}),
        }
    except (OSError, KeyError, pyarrow.ArrowException) as error:
        raise DataError(f"{path} is not a results file: {error}") from error


def _finite(number: float | None) -> float | None:
    """None for infinity too, which JSON does not have."""
    return None if number is None or not math.isfinite(number) else number
