"""Fit one logistic regression per head, rounded to eight bits.

Both heads have 256 KB, with equal bytes on every run.

A text is judged by its windows, so documents are cut to that length: for training, and for the
limits. The highest of n windows of ordinary text grows with log(n), because the share of windows
above a logit falls exponentially; so does the limit.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import vstack  # type: ignore[import-untyped]

from training.recipes.guardrail.corpus import Texts
from training.recipes.guardrail.features import (
    BLOCK_CHARACTERS,
    plain,
    rows,
    window_sums,
    without_separators,
)

HEADS = ("harmful_intent", "injection")
WEIGHTS_NAME = "classifier.npz"
WINDOW_CHARACTERS = 2 * BLOCK_CHARACTERS
# Shares of windows of ordinary documents between which the slope is measured.
TAIL = (1e-2, 1e-4)
# As in the service.
PASSAGE_WINDOWS, PASSAGE_FEATURES = 10, 100
# Share of the crops that have the length of a window; the others are shorter.
FULL_CROPS = 0.6
SHORTEST_CROP = 30
SHORTEST_PAGE, LONGEST_PAGE = (PASSAGE_WINDOWS + 1) * BLOCK_CHARACTERS, 6_000
# Share of the crops in the second reading of the service.
SECOND_READINGS = 0.3


@dataclass(frozen=True)
class Classifier:
    """Linear heads with weights [H, B] in steps of scale [H], and bias [H].

    The highest of n windows is limited by the larger of the logit of threshold [H], a probability,
    and of window_limit [H] + window_slope [H] * log(n); the highest of n passages by passage_limit
    [H] + passage_slope [H] * log(n).
    """

    weights: Any
    scale: Any
    bias: Any
    threshold: Any
    window_limit: Any
    window_slope: Any
    passage_limit: Any
    passage_slope: Any

    def windows_and_passages(self, text: str) -> tuple[Any, Any]:
        """Return the logits of the windows [W, H] and the averages of the passages [P, H]."""
        sums_WH, counts_W = window_sums(plain(text), self.weights.T)
        logits_WH = sums_WH * self.scale.astype(np.float64) / np.sqrt(counts_W)[:, None] + self.bias
        judged_WH = logits_WH[counts_W >= PASSAGE_FEATURES]
        sums = np.cumsum(np.vstack([np.zeros((1, len(HEADS))), judged_WH]), axis=0)
        return logits_WH, (sums[PASSAGE_WINDOWS:] - sums[:-PASSAGE_WINDOWS]) / PASSAGE_WINDOWS

    def margins(self, texts: Sequence[str]) -> Any:
        """Return the distances [T, H] of texts to their limits, negative for harmless texts."""
        threshold = self.threshold.astype(np.float64)
        lowest_H = np.log(threshold / (1 - threshold))
        margins = []
        for text in texts:
            windows_WH, passages_PH = self.windows_and_passages(text)
            limit_H = self.window_limit + self.window_slope * math.log(len(windows_WH))
            margin_H = windows_WH.max(axis=0) - np.maximum(lowest_H, limit_H)
            if len(passages_PH):
                limit_H = self.passage_limit + self.passage_slope * math.log(len(passages_PH))
                margin_H = np.maximum(margin_H, passages_PH.max(axis=0) - limit_H)
            margins.append(margin_H)
        return np.array(margins)


@dataclass(frozen=True)
class Crops:
    """Parts of documents by use, each as long as a window or shorter, but for the pages."""

    fitted: tuple[str, ...]
    candidates: tuple[str, ...]
    calibration: tuple[str, ...]
    pages: tuple[str, ...]


@dataclass(frozen=True)
class Rates:
    """Largest shares above the limits.

    Attributes:
        short_texts: shares of short texts, by head.
        windows: shares of windows of documents, by head.
        passages: shares of passages of documents, by head.
    """

    short_texts: tuple[float, float]
    windows: tuple[float, float]
    passages: tuple[float, float]


def crops(documents: Mapping[str, Sequence[str]], fitted: int, candidates: int, seed: int) -> Crops:
    """Return parts of documents; every fifth document is kept for the calibration.

    Args:
        documents: texts by kind.
        fitted: number of parts of each kind for the first fit.
        candidates: number of parts of each kind among which the hardest are selected, and of each
            kind for the calibration.
    """
    choose = random.Random(seed)
    parts: dict[str, list[str]] = {
        name: [] for name in ("fitted", "candidates", "calibration", "pages")
    }
    for texts in documents.values():
        plain_texts = [plain(text) for text in texts]
        used = [text for number, text in enumerate(plain_texts) if number % 5]
        parts["fitted"] += (_crop(choose.choice(used), choose) for _ in range(fitted))
        parts["candidates"] += (_crop(choose.choice(used), choose) for _ in range(candidates))
        kept = plain_texts[::5]
        parts["calibration"] += (_crop(choose.choice(kept), choose) for _ in range(candidates))
        for text in kept:
            if len(text) <= SHORTEST_PAGE:
                continue
            start = choose.randrange(len(text) - SHORTEST_PAGE)
            parts["pages"].append(text[start : start + choose.randint(SHORTEST_PAGE, LONGEST_PAGE)])
    return Crops(**{name: tuple(texts) for name, texts in parts.items()})


def _crop(text: str, choose: random.Random) -> str:
    length = WINDOW_CHARACTERS
    if choose.random() > FULL_CROPS:
        length = choose.randint(SHORTEST_CROP, WINDOW_CHARACTERS)
    start = choose.randrange(max(1, len(text) - length + 1))
    part = text[start : start + length]
    return without_separators(part) if choose.random() < SECOND_READINGS else part


def fit(
    texts: Texts,
    documents: Crops,
    *,
    strength: float,
    hardest: int,
) -> Classifier:
    """Fit both heads.

    Each head is fitted twice. The second time, the `hardest` candidates of the documents are
    negatives, and the parts of long positives which the first fit calls positive are positives.

    Args:
        texts: short texts by class; long ones are cut into windows.
        documents: ordinary texts in the length of a window.
        strength: inverse of the L2 penalty.
        hardest: number of candidates that are added for the second fit.
    """
    benign = rows([*_parts(texts.benign), *documents.fitted])
    candidates = rows(documents.candidates)
    weights, scales, biases = [], [], []
    for positive in (texts.harmful, texts.injection):
        short = [text for text in positive if len(plain(text)) <= WINDOW_CHARACTERS]
        positives = rows(short)
        model = _regression(benign, positives, strength)
        scores = candidates @ model.coef_[0]
        # Rounded, so that the last bits of a sum decide nothing; equal scores keep their order.
        order = np.argsort(-np.round(scores, 6), kind="stable")
        long = rows(_parts([text for text in positive if len(plain(text)) > WINDOW_CHARACTERS]))
        is_positive = long @ model.coef_[0] + model.intercept_[0] > 0
        model = _regression(
            vstack([benign, candidates[np.sort(order[:hardest])]]),
            vstack([positives, long[np.flatnonzero(is_positive)]]),
            strength,
        )
        scale = np.abs(model.coef_[0]).max() / 127
        weights.append(np.rint(model.coef_[0] / scale).astype(np.int8))
        scales.append(scale)
        biases.append(model.intercept_[0])
    # Few digits hide differences in the last bits between machines.
    scale, bias = (np.round(np.array(values), 5).astype(np.float32) for values in (scales, biases))
    zeros = np.zeros(len(HEADS), dtype=np.float32)
    return Classifier(np.stack(weights), scale, bias, zeros + 0.5, zeros, zeros, zeros, zeros)


def _parts(texts: Sequence[str]) -> list[str]:
    """Return the windows of texts in plain form, which overlap by half."""
    return [
        plain_text[start : start + WINDOW_CHARACTERS]
        for plain_text in map(plain, texts)
        for start in range(0, max(1, len(plain_text) - BLOCK_CHARACTERS), BLOCK_CHARACTERS)
    ]


def _regression(benign: Any, positives: Any, strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression  # seconds to import

    labels = np.repeat([0, 1], [benign.shape[0], positives.shape[0]])
    # Newton's method of liblinear from zero is deterministic and uses one thread.
    model = LogisticRegression(C=strength, solver="liblinear", tol=1e-3)
    return model.fit(vstack([benign, positives], format="csr"), labels)


def calibrate(
    classifier: Classifier,
    benign: Sequence[str],
    parts: Sequence[str],
    pages: Sequence[str],
    rates: Rates,
) -> Classifier:
    """Return the classifier with limits.

    Args:
        classifier: fitted heads.
        benign: short texts.
        parts: parts of documents outside the fit, each at most a window.
        pages: longer parts of these documents.
        rates: largest shares of these texts above the limits.
    """
    short = np.array([classifier.windows_and_passages(text)[0].max(axis=0) for text in benign])
    windows = rows(parts) @ (classifier.weights.T * classifier.scale.astype(np.float64))
    windows += classifier.bias
    passages = np.vstack([classifier.windows_and_passages(text)[1] for text in pages])
    thresholds = [
        math.ceil(1000 / (1 + math.exp(-logit))) / 1000
        for logit in _quantiles(short, rates.short_texts)
    ]
    return replace(
        classifier,
        threshold=np.array(thresholds, dtype=np.float32),
        window_limit=_rounded_up(_quantiles(windows, rates.windows)),
        window_slope=_rounded_up(_slopes(windows)),
        passage_limit=_rounded_up(_quantiles(passages, rates.passages)),
        passage_slope=_rounded_up(_slopes(passages)),
    )


def _slopes(logits: Any) -> Any:
    """Return the rise [H] of the highest of n logits with log(n), from the tail."""
    low, high = (np.quantile(logits, 1 - share, axis=0) for share in TAIL)
    return (high - low) / math.log(TAIL[0] / TAIL[1])


def _quantiles(logits: Any, rates: Sequence[float]) -> Any:
    """Return the logits [H] above which a share of at most `rates` [H] is."""
    return np.array(
        [np.quantile(logits[:, head], 1 - rate, method="higher") for head, rate in enumerate(rates)]
    )


def _rounded_up(values: Any) -> Any:
    return (np.ceil(values * 100) / 100).astype(np.float32)


def save(classifier: Classifier, directory: Path) -> None:
    """Write classifier.npz, uncompressed as compression differs between versions of zlib."""
    directory.mkdir(parents=True, exist_ok=True)
    np.savez(directory / WEIGHTS_NAME, heads=np.array(HEADS), **vars(classifier))


def read(directory: Path) -> Classifier:
    """Read the classifier that `save` wrote."""
    with np.load(directory / WEIGHTS_NAME, allow_pickle=False) as arrays:
        return Classifier(**{name: arrays[name] for name in Classifier.__dataclass_fields__})
