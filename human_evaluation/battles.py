"""Votes on pairs of answers, in columns.

A battle shows two answers to one question. Its vote prefers the first, the second, or neither.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

UNKNOWN_VOTER = -1
MAX_MODELS = 1_000  # an (M, M) matrix of a fit takes 8 MB
MAX_FEATURES = 32
# Defaults of columns, recognized by identity: a column of length 0 may be a mistake.
_NO_NUMBERS: Array = np.empty(0)
_NO_INDEX: Index = np.empty(0, np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Battles:
    """Votes in columns of length N, checked at construction.

    Attributes:
        models: names of the models, M.
        first: model of the first answer, as an index into `models`, [N].
        second: model of the second answer, [N].
        score: 1 if the first answer won, 0 if the second won, 0.5 for a tie, [N].
        weight: weight of the vote in the likelihood, at least 0; 1 by default, [N].
        voter: number of the voter, or UNKNOWN_VOTER (the default), [N]. Each vote of an unknown
            voter counts as the vote of another person.
        features: style features of the first answer minus those of the second, [N, F]; no feature
            by default.

    Raises:
        ValueError: a column differs in length or has a value outside its range.
    """

    models: tuple[str, ...]
    first: Index
    second: Index
    score: Array
    weight: Array = field(default_factory=lambda: _NO_NUMBERS)
    voter: Index = field(default_factory=lambda: _NO_INDEX)
    features: Array = field(default_factory=lambda: _NO_NUMBERS)

    def __post_init__(self) -> None:
        count = np.shape(self.first)[0] if np.ndim(self.first) else 0
        if self.weight is _NO_NUMBERS:
            object.__setattr__(self, "weight", np.ones(count))
        if self.voter is _NO_INDEX:
            object.__setattr__(self, "voter", np.full(count, UNKNOWN_VOTER, np.int64))
        if self.features is _NO_NUMBERS:
            object.__setattr__(self, "features", np.empty((count, 0)))
        self._check_models()
        self._check_columns(count)
        for name in ("first", "second"):
            index = getattr(self, name)
            if count and (index.min() < 0 or index.max() >= len(self.models)):
                raise ValueError(f"{name}: indices go from 0 to {len(self.models) - 1}")
        if (same := self.first == self.second).any():
            raise ValueError(
                f"second: vote {int(same.argmax())} is a battle of a model with itself"
            )
        for name, low, high in (("score", 0.0, 1.0), ("weight", 0.0, np.inf)):
            column = getattr(self, name)
            # Comparisons with NaN are false, and an infinite weight is none.
            wrong = ~((column >= low) & (column <= high) & (column < np.inf))
            if wrong.any():
                place = int(wrong.argmax())
                limits = "from 0 to 1" if high == 1 else "finite and at least 0"
                raise ValueError(f"{name}: vote {place} has {column[place]}; values are {limits}")
        if count and self.voter.min() < UNKNOWN_VOTER:
            raise ValueError(f"voter: numbers are at least 0, or {UNKNOWN_VOTER} if unknown")
        if not np.isfinite(self.features).all():
            raise ValueError("features: a value is not finite")

    def _check_models(self) -> None:
        if len(self.models) > MAX_MODELS:
            raise ValueError(f"models: {len(self.models)} exceed the limit of {MAX_MODELS}")
        if len(set(self.models)) < len(self.models):
            raise ValueError("models: a name occurs twice")

    def _check_columns(self, count: int) -> None:
        """Convert the columns, whose kinds and lengths must fit."""
        for name, kind, allowed in (
            ("first", np.int64, "iu"),
            ("second", np.int64, "iu"),
            ("score", np.float64, "fiub"),
            ("weight", np.float64, "fiub"),
            ("voter", np.int64, "iu"),
            ("features", np.float64, "fiub"),
        ):
            column = np.asarray(getattr(self, name))
            if column.size and column.dtype.kind not in allowed:
                raise ValueError(f"{name}: numbers of kind {np.dtype(kind)} are expected")
            if column.ndim != (2 if name == "features" else 1) or len(column) != count:
                raise ValueError(f"{name}: shape {column.shape} does not fit {count} votes")
            object.__setattr__(self, name, column.astype(kind, copy=False))
        if self.features.shape[1] > MAX_FEATURES:
            raise ValueError(
                f"features: {self.features.shape[1]} exceed the limit of {MAX_FEATURES}"
            )

    def __len__(self) -> int:
        return len(self.first)

    def select(self, chosen: Mask | Index) -> Battles:
        """Return the votes of a mask [N] or of indices, with the same models."""
        return Battles(
            models=self.models,
            first=self.first[chosen],
            second=self.second[chosen],
            score=self.score[chosen],
            weight=self.weight[chosen],
            voter=self.voter[chosen],
            features=self.features[chosen],
        )

    def among(self, models: Mask) -> Battles:
        """Return the votes whose two models are both in a mask [M], with the same models."""
        return self.select(models[self.first] & models[self.second])
