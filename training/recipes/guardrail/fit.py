"""Fit one logistic regression per head, rounded to eight bits.

Both heads have 256 KB, with equal bytes on every run.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.recipes.guardrail.corpus import Texts, head_rows
from training.recipes.guardrail.features import plain, rows

HEADS = ("harmful_intent", "injection")
WEIGHTS_NAME = "classifier.npz"
# A long text is scored as a whole and in windows, and the maximum counts. So one sentence among a
# thousand is detected.
WINDOW_CHARACTERS = 600


@dataclass(frozen=True)
class Classifier:
    """Linear heads with weights [H, B] in steps of scale [H], and bias [H].

    threshold [H] is a probability.
    """

    weights: Any
    scale: Any
    bias: Any
    threshold: Any

    def logits(self, texts: Sequence[str]) -> Any:
        """Return logits [T, H]: the maximum over the whole text and its windows."""
        parts = [windows(text) for text in texts]
        logits = rows([part for text in parts for part in text]) @ (
            self.weights.T * self.scale.astype(np.float64)
        )
        starts = np.cumsum([0, *(len(text) for text in parts[:-1])])
        return np.maximum.reduceat(logits + self.bias, starts, axis=0)


def windows(text: str) -> list[str]:
    """Return the text, and for a long text also its windows, which overlap by half."""
    plain_text = plain(text)
    if len(plain_text) <= WINDOW_CHARACTERS:
        return [plain_text]
    step = WINDOW_CHARACTERS // 2
    return [
        plain_text,
        *(
            plain_text[start : start + WINDOW_CHARACTERS]
            for start in range(0, len(plain_text) - step, step)
        ),
    ]


def fit(texts: Texts, strength: float) -> Classifier:
    """Fit both heads; `strength` is the inverse of the L2 penalty."""
    from sklearn.linear_model import LogisticRegression  # seconds to import

    weights, scales, biases = [], [], []
    for positive in (texts.harmful, texts.injection):
        examples, labels = head_rows(texts, positive)
        # Newton's method of liblinear from zero is deterministic and uses one thread.
        model = LogisticRegression(C=strength, solver="liblinear", tol=1e-3).fit(
            rows(examples), labels
        )
        scale = np.abs(model.coef_[0]).max() / 127
        weights.append(np.rint(model.coef_[0] / scale).astype(np.int8))
        scales.append(scale)
        biases.append(model.intercept_[0])
    # Few digits hide differences in the last bits between machines.
    scale, bias = (np.round(np.array(values), 5).astype(np.float32) for values in (scales, biases))
    return Classifier(np.stack(weights), scale, bias, np.full(len(HEADS), 0.5, dtype=np.float32))


def thresholds(
    classifier: Classifier, benign: Sequence[str], false_alarm_rates: Sequence[float]
) -> list[float]:
    """Return the threshold of each head, a probability rounded up to thousandths.

    Above its threshold is at most the given share of the benign texts.
    """
    logits = classifier.logits(benign)
    chosen = []
    for head, rate in enumerate(false_alarm_rates):
        logit = float(np.quantile(logits[:, head], 1 - rate, method="higher"))
        chosen.append(math.ceil(1000 / (1 + math.exp(-logit))) / 1000)
    return chosen


def save(classifier: Classifier, directory: Path) -> None:
    """Write classifier.npz, uncompressed as compression differs between versions of zlib."""
    directory.mkdir(parents=True, exist_ok=True)
    np.savez(
        directory / WEIGHTS_NAME,
        heads=np.array(HEADS),
        weights=classifier.weights,
        scale=classifier.scale,
        bias=classifier.bias,
        threshold=classifier.threshold,
    )
