"""The small classifier: two linear heads over hashed words and character runs, read from the
recipe's artifact.

Trained by `python -m training.recipes.guardrail`; its manifest holds the measured figures.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from services.chassis.errors import DetailedError
from services.guardrail.features import feature_buckets
from services.guardrail.verdict import Category

WEIGHTS_NAME = "classifier.npz"
# As in the recipe, which measures with the same windows: one sentence in a long text must not
# drown.
WINDOW_CHARACTERS = 600


class WeightsError(DetailedError):
    """The weights are missing, unfinished, or not those that their manifest names; `field` is the
    file.
    """

    reason = "INVALID_WEIGHTS"


@dataclass(frozen=True)
class Suspicion:
    """The head that is the furthest over its threshold (or the nearest below), with its
    probability.
    """

    category: Category
    probability: float
    over_threshold: bool


class Classifier:
    """Scores a text in plain form (disguise.plain) in a tenth of a millisecond for a line."""

    def __init__(
        self,
        heads: tuple[Category, ...],
        weights: npt.NDArray[np.int8],
        scale: npt.NDArray[np.float32],
        bias: npt.NDArray[np.float32],
        threshold: npt.NDArray[np.float32],
        digest: str,
    ) -> None:
        """`weights` [H, B] in steps of `scale` [H]; `bias` [H]; `threshold` [H] as a probability;
        `digest` names them all.
        """
        self._heads = heads
        # One bucket's weights lie side by side, so a feature costs one cache line.
        self._weights = np.ascontiguousarray(weights.T)
        self._scale = scale.astype(np.float64)
        self._bias = bias.astype(np.float64)
        threshold64 = threshold.astype(np.float64)
        self._limits = np.log(threshold64 / (1 - threshold64))
        self.digest = digest

    def judge(self, text: str) -> Suspicion:
        """The suspicion about a text in plain form."""
        logits = np.max([self._logits(part) for part in windows(text)], axis=0)
        head = int(np.argmax(logits - self._limits))
        probability = float(1 / (1 + np.exp(-logits[head])))
        return Suspicion(self._heads[head], probability, bool(logits[head] >= self._limits[head]))

    def _logits(self, text: str) -> npt.NDArray[np.float64]:
        buckets = feature_buckets(text)
        sums = self._weights[buckets].sum(axis=0, dtype=np.int64)
        logits: npt.NDArray[np.float64] = (
            sums * self._scale / np.sqrt(max(1, len(buckets))) + self._bias
        )
        return logits


def windows(text: str) -> list[str]:
    """The text, and if it is long its windows, which overlap by half."""
    if len(text) <= WINDOW_CHARACTERS:
        return [text]
    step = WINDOW_CHARACTERS // 2
    return [
        text,
        *(text[start : start + WINDOW_CHARACTERS] for start in range(0, len(text) - step, step)),
    ]


def read_classifier(directory: Path) -> Classifier:
    """The classifier of a finished artifact.

    Raises:
        WeightsError: no manifest (it is written last), no weights, or other weights than the
            manifest's.
    """
    try:
        manifest = json.loads((directory / "manifest.json").read_text())
        digest = hashlib.sha256((directory / WEIGHTS_NAME).read_bytes()).hexdigest()
    except FileNotFoundError as error:
        raise WeightsError(
            f"{error.filename} is missing; `python -m training.recipes.guardrail` makes it",
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
