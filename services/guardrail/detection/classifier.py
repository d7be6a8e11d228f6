"""Classifier with two linear heads over hashed words, word pairs and character n-grams.

The weights are the artifact of `python -m training.recipes.guardrail`, whose manifest contains the
measured figures. The recipe has the same function for features; a test compares both.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt

from services.chassis.errors import DetailedError

WEIGHTS_NAME = "classifier.npz"
HEADS = ("harmful_intent", "injection")
LIMIT_ARRAYS = (
    *("scale", "bias", "threshold"),
    *("window_limit", "window_slope", "passage_limit", "passage_slope"),
)
# Characters of a block. A window is two neighbouring blocks, about the length of the texts of the
# training, so that one sentence counts in a long text and no score grows with the length.
BLOCK_CHARACTERS = 100
WINDOW_CHARACTERS = 2 * BLOCK_CHARACTERS
# Windows of a passage, whose average is judged as well: a jailbreak of a page is an injection
# throughout, an ordinary page at most in one sentence. Windows of repeated words have few features
# and tell nothing; usual ones have 350 to 450.
PASSAGE_WINDOWS, PASSAGE_FEATURES = 10, 100
# Logits from which a window and a passage of a system message are an injection: 1 above the
# highest of 243 prompts of applications; docs/decisions/guardrail-classifier.md has the effect.
INSTRUCTION_LIMIT, INSTRUCTION_PASSAGE_LIMIT = 3.0, -1.3


class WeightsError(DetailedError):
    """The weights are missing, incomplete, or differ from their manifest; `field` is the file."""

    reason = "INVALID_WEIGHTS"


@dataclass(frozen=True)
class Prediction:
    """Distances of a text to the limits of both heads; a text over a limit has 0 and more.

    Attributes:
        injection_margin: of the worst window or passage.
        harm_margin: of the worst window.
        windows: margin of harm and first character of the windows over `lowest_harm`.
    """

    injection_margin: float
    harm_margin: float
    windows: tuple[tuple[float, int], ...]


class Classifier:
    """Classifier of texts in the form of `normalization.plain`; 0.1 ms for a line of text."""

    def __init__(
        self, heads: tuple[str, ...], arrays: Mapping[str, npt.NDArray[Any]], digest: str
    ) -> None:
        """Create a classifier with H heads and B buckets.

        Args:
            heads: categories of the heads.
            arrays: weights [H, B] in units of scale [H], and bias [H]; threshold [H], a
                probability, is the lowest limit of a window; window_limit [H] and window_slope [H]
                give the limit of the highest of n windows, a logit: limit + slope * log(n);
                passage_limit [H] and passage_slope [H] the same of passages.
            digest: hash of the weights file.
        """
        self._harm, self._injection = map(heads.index, HEADS)
        # Transposed: the weights of one bucket share a cache line.
        self._weights_BH = np.ascontiguousarray(arrays["weights"].T)
        self._scale, self._bias, threshold, *lines = (
            arrays[name].astype(np.float64) for name in LIMIT_ARRAYS
        )
        self._lines = (lines[:2], lines[2:])
        # Lowest limits of windows and passages, for texts of users and for instructions.
        users = np.array([np.log(threshold / (1 - threshold)), np.full(len(heads), -np.inf)])
        instructions = users.copy()
        instructions[:, self._injection] = (
            INSTRUCTION_LIMIT,
            INSTRUCTION_PASSAGE_LIMIT,
        )
        self._lowest = (users, instructions)
        self.digest = digest

    def judge(self, text: str, *, lowest_harm: float, is_instruction: bool = False) -> Prediction:
        """Judge a text in plain form by its windows, and for injections also by its passages.

        The highest logit of n ordinary windows grows with log(n), and so does the limit.

        Args:
            text: text in the form of `normalization.plain`.
            lowest_harm: lowest margin of harm of the windows in the result.
            is_instruction: the text is a system message, with higher limits for injection.
        """
        sums_WH, counts_W = window_sums(text, self._weights_BH)
        windows_WH = sums_WH * self._scale / np.sqrt(counts_W)[:, None] + self._bias
        passages_PH = passages(windows_WH[counts_W >= PASSAGE_FEATURES])
        windows_WH, passages_PH = (
            logits - np.maximum(lowest_H, limit_H + slope_H * np.log(max(1, len(logits))))
            for logits, lowest_H, (limit_H, slope_H) in zip(
                (windows_WH, passages_PH), self._lowest[is_instruction], self._lines, strict=True
            )
        )
        injections = np.concatenate(
            [margins[:, self._injection] for margins in (windows_WH, passages_PH)]
        )
        harm_W = windows_WH[:, self._harm]
        return Prediction(
            float(injections.max()),
            float(harm_W.max()),
            tuple(
                (float(harm_W[window]), int(window) * BLOCK_CHARACTERS)
                for window in np.flatnonzero(harm_W >= lowest_harm)
            ),
        )


def passages(windows_WH: Any) -> Any:
    """Return the averages [P, H] of successive windows; none of a short text."""
    sums = np.cumsum(np.vstack([np.zeros_like(windows_WH[:1]), windows_WH]), axis=0)
    return (sums[PASSAGE_WINDOWS:] - sums[:-PASSAGE_WINDOWS]) / PASSAGE_WINDOWS


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
        heads = tuple(str(head) for head in arrays["heads"])
        return Classifier(heads, arrays, digest)


BUCKET_BITS = 17
SHORTEST_NGRAM, LONGEST_NGRAM = 3, 5
WORD = re.compile(r"\w+|[?!]")
MULTIPLIER = np.uint32(0x9E3779B1)
PAIR_MULTIPLIER = np.uint32(0x85EBCA6B)


def window_sums(text: str, weights_BH: Any) -> tuple[Any, Any]:
    """Return the sums of the weights [W, H] and the numbers of features [W] of all windows.

    A feature belongs to the block in which it begins and counts once in a window.
    """
    buckets, positions = features(text)
    blocks = positions // BLOCK_CHARACTERS
    last = int(blocks.max(initial=0))
    # Distinct pairs in the order of buckets, so that the neighbour has the block before.
    pairs = np.unique((buckets.astype(np.int64) << 32) | blocks)
    bucket, block = pairs >> 32, pairs & 0xFFFFFFFF
    # The second block of a window adds the features that the first does not have.
    is_new = np.ones(len(pairs), dtype=bool)
    is_new[1:] = pairs[1:] - pairs[:-1] != 1
    values_NH = np.column_stack([weights_BH[bucket], np.ones(len(pairs))])
    first, second = (
        np.column_stack([np.bincount(block, column, last + 1) for column in values.T])
        for values in (values_NH, values_NH * is_new[:, None])
    )
    sums = first[:-1] + second[1:] if last else first
    return sums[:, :-1], np.maximum(1, sums[:, -1])


def features(text: str) -> tuple[Any, Any]:
    """Return the buckets [N] and positions [N] of a text in the form of `normalization.plain`."""
    codes = np.frombuffer(f" {text} ".encode("utf-32-le"), dtype=np.uint32)
    matches = list(WORD.finditer(text))
    words = np.array([crc32(each[0].encode()) for each in matches], dtype=np.uint32)
    starts = np.array([each.start() for each in matches], dtype=np.int64)
    hashes = [words, words[:-1] * PAIR_MULTIPLIER + words[1:]]
    positions = [starts, starts[:-1]]
    # Hashes of all n-grams of one length follow from those of the next shorter length.
    ngrams = codes * MULTIPLIER
    for length in range(2, LONGEST_NGRAM + 1):
        ngrams = (ngrams[:-1] ^ (ngrams[:-1] >> np.uint32(15))) * MULTIPLIER + codes[length - 1 :]
        if length >= SHORTEST_NGRAM:
            hashes.append(ngrams + np.uint32(length))
            positions.append(np.arange(len(ngrams)))
    mixed = np.concatenate(hashes) * MULTIPLIER
    mixed ^= mixed >> np.uint32(16)
    buckets = (mixed * PAIR_MULTIPLIER) >> np.uint32(32 - BUCKET_BITS)
    return buckets, np.concatenate(positions)
