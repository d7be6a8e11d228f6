"""Classifier with two linear heads over hashed words, word pairs and character n-grams.

The weights are the artifact of `python -m training.recipes.guardrail`, whose manifest contains the
measured figures. The recipe has the same function for features; a test compares both.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt

from services.chassis.errors import DetailedError
from services.guardrail.verdict import Category

WEIGHTS_NAME = "classifier.npz"
# Windows make one sentence count in a long text. The recipe measures with the same windows.
WINDOW_CHARACTERS = 600
# Logits from which a system message is an injection: of the whole text, and of one window. A short
# piece of instructions looks more like an injection than the whole text does. Chosen above the
# highest logits of 432 prompts for function calls, 600 lists of functions and 16 prompts of a
# judge (4.54 and 6.13); docs/decisions/guardrail-classifier.md has the effect.
INSTRUCTION_LIMIT, INSTRUCTION_WINDOW_LIMIT = 4.75, 6.5


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
        self._injection = heads.index(Category.INJECTION)
        self.digest = digest

    def judge(self, text: str, *, is_instruction: bool = False) -> Prediction:
        """Judge a text in plain form by the worst of its windows.

        Args:
            text: text in the form of `normalization.plain`.
            is_instruction: the text is a system message, with higher limits for injection.
        """
        window_logits = []
        for part in windows(text):
            buckets = feature_buckets(part)
            sums = self._weights[buckets].sum(axis=0, dtype=np.int64)
            window_logits.append(sums * self._scale / np.sqrt(max(1, len(buckets))) + self._bias)
        logits_WH = np.array(window_logits)
        limits_WH = np.tile(self._limits, (len(logits_WH), 1))
        if is_instruction:
            # The first window is the whole text.
            limits_WH[0, self._injection] = INSTRUCTION_LIMIT
            limits_WH[1:, self._injection] = INSTRUCTION_WINDOW_LIMIT
        margins_WH = logits_WH - limits_WH
        window, head = np.unravel_index(np.argmax(margins_WH), margins_WH.shape)
        probability = float(1 / (1 + np.exp(-logits_WH[window, head])))
        return Prediction(self._heads[head], probability, bool(margins_WH[window, head] >= 0))


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


BUCKET_BITS = 17
SHORTEST_NGRAM, LONGEST_NGRAM = 3, 5
WORD = re.compile(r"\w+|[?!]")
MULTIPLIER = np.uint32(0x9E3779B1)
PAIR_MULTIPLIER = np.uint32(0x85EBCA6B)


def feature_buckets(text: str) -> Any:
    """Return the sorted unique buckets [N] of a text in the form of `normalization.plain`."""
    codes = np.frombuffer(f" {text} ".encode("utf-32-le"), dtype=np.uint32)
    words = np.array([crc32(word.encode()) for word in WORD.findall(text)], dtype=np.uint32)
    hashes = [words, words[:-1] * PAIR_MULTIPLIER + words[1:]]
    # Hashes of all n-grams of one length follow from those of the next shorter length.
    ngrams = codes * MULTIPLIER
    for length in range(2, LONGEST_NGRAM + 1):
        ngrams = (ngrams[:-1] ^ (ngrams[:-1] >> np.uint32(15))) * MULTIPLIER + codes[length - 1 :]
        if length >= SHORTEST_NGRAM:
            hashes.append(ngrams + np.uint32(length))
    mixed = np.concatenate(hashes) * MULTIPLIER
    mixed ^= mixed >> np.uint32(16)
    return np.unique((mixed * PAIR_MULTIPLIER) >> np.uint32(32 - BUCKET_BITS))
