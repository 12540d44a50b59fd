"""The area under the ROC curve of an autoencoder beside scikit-learn's detectors, on tables.

    python examples/detectors.py TABLES.zip [NAME ...]

TABLES.zip holds NAME.npz with X (N, D) and y (1: an anomaly), as ADBench's tables come (Han et al.
2022). Each detector is fitted on half of the normal rows and judged on the other half and all
anomalies, for five seeds; no labels choose anything. The last column is the share of unseen normal
rows that the autoencoder calls outliers, where 5% were asked for. All numbers are percents.
"""

from __future__ import annotations

import io
import sys
import zipfile
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from compressor.sklearn import AutoencoderDetector

FPR = 0.05
STEPS = 2000
SEEDS = range(5)


def detectors(seed: int) -> dict[str, Any]:
    """What has score_samples: higher is more normal."""
    return {
        "autoencoder": AutoencoderDetector(fpr=FPR, max_steps=STEPS, random_state=seed),
        "PCA": make_pipeline(StandardScaler(), PCA(0.9, random_state=seed)),
        "forest": IsolationForest(random_state=seed),
        "LOF": make_pipeline(StandardScaler(), LocalOutlierFactor(novelty=True)),
    }


def judged(X: Any, y: Any, seed: int) -> dict[str, float]:
    """The AUROC of each detector, and the autoencoder's rate of false alarms."""
    normal, unseen = train_test_split(X[y == 0], train_size=0.5, random_state=seed)
    test = np.concatenate([unseen, X[y == 1]])
    is_normal = np.arange(len(test)) < len(unseen)
    answers = {}
    for name, detector in detectors(seed).items():
        detector.fit(normal)
        answers[name] = roc_auc_score(is_normal, detector.score_samples(test))
        if name == "autoencoder":
            answers["false alarms"] = float((detector.predict(unseen) == -1).mean())
    return answers


def main(path: str, names: list[str]) -> None:
    columns = ["autoencoder", "PCA", "forest", "LOF", "false alarms"]
    print("| table | rows | columns |", " | ".join(columns), "|")
    print("|---" * (3 + len(columns)) + "|")
    with zipfile.ZipFile(path) as archive:
        for name in names or sorted(file.removesuffix(".npz") for file in archive.namelist()):
            with np.load(io.BytesIO(archive.read(f"{name}.npz"))) as table:
                X, y = table["X"], table["y"]
            runs = [judged(X, y, seed) for seed in SEEDS]
            cells = []
            for column in columns:
                values = 100 * np.array([run[column] for run in runs])
                cells.append(f"{values.mean():.1f} ± {values.std(ddof=1):.1f}")
            print(f"| {name} | {len(X):,} | {X.shape[1]} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
