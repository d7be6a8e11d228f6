"""Classifier with two linear heads over hashed words and character n-grams.

The weights are the artifact of `python -m training.recipes.guardrail`, whose manifest contains the
measured figures.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from services.chassis.errors import DetailedError
from services.guardrail.detection.features import feature_buckets
from services.guardrail.verdict import Category

WEIGHTS_NAME = "classifier.npz"
# Windows make one sentence count in a long text. The recipe measures with the same windows.
WINDOW_CHARACTERS = 600


class WeightsError(DetailedError):
    """The weights are missing, incomplete, or differ from their manifest; `field` is the file."""

    reason = "INVALID_WEIGHTS"


@dataclass(frozen=True)
class Prediction:
    """Category and probability of the head with the largest margin over its threshold."""

    category: Category
    probability: float
    over_threshold: bool


class Classifier:
    """Classifier of texts in the form of `normalization.plain`; 0.1 ms for a line of text."""

    def __init__(
        self,
        heads: tuple[Category, ...],
        weights: npt.NDArray[np.int8],
        scale: npt.NDArray[np.float32],
        bias: npt.NDArray[np.float32],
        threshold: npt.NDArray[np.float32],
        digest: str,
    ) -> None:
        """Create a classifier with H heads and B buckets.

        Args:
            heads: categories of the heads.
            weights: [H, B], in units of `scale`.
            scale: [H].
            bias: [H].
            threshold: [H], probabilities.
            digest: hash of the weights file.
        """
        self._heads = heads
        # Transposed: the weights of one bucket share a cache line.
        self._weights = np.ascontiguousarray(weights.T)
        self._scale = scale.astype(np.float64)
        self._bias = bias.astype(np.float64)
        threshold64 = threshold.astype(np.float64)
        self._limits = np.log(threshold64 / (1 - threshold64))
        self.digest = digest

    def judge(self, text: str) -> Prediction:
        """Judge a text in plain form by the worst of its windows."""
        logits = np.max([self._logits(part) for part in windows(text)], axis=0)
        head = int(np.argmax(logits - self._limits))
        probability = float(1 / (1 + np.exp(-logits[head])))
        return Prediction(self._heads[head], probability, bool(logits[head] >= self._limits[head]))

    def _logits(self, text: str) -> npt.NDArray[np.float64]:
        buckets = feature_buckets(text)
        sums = self._weights[buckets].sum(axis=0, dtype=np.int64)
        logits: npt.NDArray[np.float64] = (
            sums * self._scale / np.sqrt(max(1, len(buckets))) + self._bias
        )
        return logits


def windows(text: str) -> list[str]:
    """Return the text and, for a long text, windows that overlap by half."""
    if len(text) <= WINDOW_CHARACTERS:
        return [text]
    step = WINDOW_CHARACTERS // 2
    return [
        text,
        *(text[start : start + WINDOW_CHARACTERS] for start in range(0, len(text) - step, step)),
    ]


def read_classifier(directory: Path) -> Classifier:
    """Read the classifier from an artifact.

    Raises:
        WeightsError: the manifest (written last) or the weights are missing, or the weights differ
            from the manifest.
    """
    try:
        manifest = json.loads((directory / "manifest.json").read_text())
        digest = hashlib.sha256((directory / WEIGHTS_NAME).read_bytes()).hexdigest()
    except FileNotFoundError as error:
        raise WeightsError(
            f"{error.filename} is missing; `python -m training.recipes.guardrail` creates the file",
            field=str(error.filename),
            reason="MISSING",
        ) from error
    if manifest["files"].get(WEIGHTS_NAME) != digest:
        raise WeightsError(
            f"{directory / WEIGHTS_NAME} is not the file that its manifest names",
            field=str(directory / WEIGHTS_NAME),
            reason="MISMATCH",
        )
    with np.load(directory / WEIGHTS_NAME, allow_pickle=False) as arrays:
        heads = tuple(Category(str(head)) for head in arrays["heads"])
        return Classifier(
            heads, arrays["weights"], arrays["scale"], arrays["bias"], arrays["threshold"], digest
        )
