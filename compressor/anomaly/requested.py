"""Which scores a job gives: those that a user asks for, the first of which decides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import ConfigError
from ..model import AUTO, ENSEMBLE, Model
from .calibration import Scores
from .ensemble import Ensemble, Ranked
from .scorers import Scorer, Seen, score_all, scorers

# An ensemble averages those of these that separate best: one of each kind, for those that are alike
# would outvote the others.
BEST = 3
MEMBERS = ("l2", "gradient", "elbo", "feature_distance", "nap", "mahalanobis", "knn")


class Requested:
    """The scores of a job; ``names``: the deciding one, then the others.

    asked: names, or one string with commas; None for the model's first. ``auto`` is the one that
    separates best (separability.py); ``a+b`` is the rank average of a and b, ``ensemble`` that of
    the BEST of MEMBERS, or of all where the training has not compared them. Raises ConfigError
    for what the model does not have.
    """

    def __init__(self, model: Model, asked: str | Sequence[str] | None) -> None:
        self._model, self._available = model, scorers(model)
        if not self._available:
            raise ConfigError(f"{model.location} only decodes an archive: it has no scorer")
        given = [asked] if isinstance(asked, str) else list(asked or [next(iter(self._available))])
        named = [name.strip() for part in given for name in part.split(",")]
        self.names = tuple(dict.fromkeys(self._resolved(name) for name in named))
        self._columns = model.calibration_columns()
        self._ensembles: dict[str, Ensemble | Ranked] = {}
        wanted: dict[str, Scorer] = {}
        for name in self.names:
            members = self._members(name)
            wanted |= {member: self._scorer(member) for member in members}
            if name not in self._available:
                self._ensembles[name] = self._averaged(name, members)
        self._wanted = wanted

    @property
    def deciding(self) -> str:
        """The score that decides."""
        return self.names[0]

    def calibration(self, name: str) -> Scores:
        """The calibration's scores of that name, ascending; empty where there are none."""
        if name in self._ensembles:
            return np.sort(self._ensembles[name].calibration)
        return np.sort(self._columns.get(name, np.empty(0)))

    def of(self, seen: Seen) -> dict[str, Scores]:
        """By name, in the order of ``names``: float64 (N,)."""
        singles = score_all(self._wanted, seen)
        return {
            name: self._ensembles[name].scores(singles)
            if name in self._ensembles
            else singles[name]
            for name in self.names
        }

    def _resolved(self, name: str) -> str:
        if name != AUTO:
            return name
        aurocs = self._model.manifest.separability
        if not aurocs:
            raise ConfigError(
                "scorer=auto: this model's training has not compared its scores; name one of "
                f"{', '.join(self._available)}, or {ENSEMBLE}"
            )
        return max(aurocs, key=lambda name: aurocs[name])

    def _members(self, name: str) -> list[str]:
        if name == ENSEMBLE:
            known = self._model.manifest.separability
            members = [member for member in MEMBERS if member in self._available]
            return sorted(members, key=lambda member: -known[member])[:BEST] if known else members
        return list(dict.fromkeys(name.split("+")))

    def _scorer(self, name: str) -> Scorer:
        if name not in self._available:
            raise ConfigError(
                f"the model has no score {name!r}; it has {', '.join(self._available)}; and "
                f"{ENSEMBLE}, or some joined by +"
            )
        return self._available[name]

    def _averaged(self, name: str, members: list[str]) -> Ensemble | Ranked:
        columns = {member: self._columns.get(member, np.empty(0)) for member in members}
        known = self._model.manifest.quartiles
        if known.keys() >= columns.keys():
            return Ensemble({member: known[member] for member in members}, columns)
        if missing := [member for member in members if not len(columns[member])]:
            raise ConfigError(
                f"scorer={name} averages ranks among calibration scores, and the model has none "
                f"of {', '.join(missing)}: calibrate it (compressor calibrate MODEL DATA)"
            )
        return Ranked(columns)
