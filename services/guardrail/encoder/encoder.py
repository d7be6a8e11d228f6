"""Judgement of parts of texts by the encoder."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov
from tokenizers import Tokenizer

from services.guardrail.encoder.graph import build
from services.guardrail.encoder.weights import EncoderWeights

# Tokens of a window with its marks of start and end, and tokens that the next window repeats.
WINDOW_TOKENS, REPEATED_TOKENS = 128, 16
# Windows of one call of the graph; more only need more memory.
BATCH = 8
HARMFUL, CATEGORIES = "harmful", slice(2, None)
OPTIONS = {
    "INFERENCE_NUM_THREADS": 1,
    "NUM_STREAMS": 1,
    # Equal logits on processors with and without bfloat16.
    "INFERENCE_PRECISION_HINT": "f32",
}


@dataclass(frozen=True)
class Reading:
    """Result for one part: the logit of harm of its worst window, and the likeliest category."""

    harmful: float
    category: str


class Encoder:
    """Compiled graph with its tokenizer; threads may share it. 10 ms for 128 tokens on a core."""

    def __init__(self, weights: EncoderWeights) -> None:
        """Compile the graph, which takes half a second."""
        tokenizer = Tokenizer.from_file(str(weights.tokenizer))
        tokenizer.no_padding()
        tokenizer.enable_truncation(WINDOW_TOKENS, stride=REPEATED_TOKENS)
        self._tokenizer = tokenizer
        self._compiled = ov.Core().compile_model(
            build(weights.weights, weights.ranges), "CPU", OPTIONS
        )
        self._requests = threading.local()
        self._heads = weights.heads
        self.limits = weights.limits
        self.digest = weights.digest

    def judge(self, parts: Sequence[str]) -> list[Reading]:
        """Return a reading for each part, a text in the form of `normalization.plain`."""
        readings = []
        for logits_WH in self.logits(parts):
            worst = logits_WH[int(np.argmax(logits_WH[:, self._heads.index(HARMFUL)]))]
            category = self._heads[CATEGORIES][int(np.argmax(worst[CATEGORIES]))]
            readings.append(Reading(float(worst[self._heads.index(HARMFUL)]), category))
        return readings

    def logits(self, parts: Sequence[str]) -> list[Any]:
        """Return the logits [W, H] of the windows of each part."""
        rows, owners = [], []
        for owner, encoding in enumerate(self._tokenizer.encode_batch(list(parts))):
            windows = [encoding.ids, *(each.ids for each in encoding.overflowing)]
            rows += windows
            owners += [owner] * len(windows)
        # Neighbours of equal length need little padding.
        order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
        logits: list[Any] = [None] * len(rows)
        for start in range(0, len(order), BATCH):
            numbers = order[start : start + BATCH]
            for number, values in zip(numbers, self._run([rows[n] for n in numbers]), strict=True):
                logits[number] = values
        return [
            np.stack([row for row, one in zip(logits, owners, strict=True) if one == owner])
            for owner in range(len(parts))
        ]

    def _run(self, rows: Sequence[Sequence[int]]) -> Any:
        tokens = np.zeros((len(rows), max(map(len, rows))), np.int64)
        mask = np.zeros_like(tokens)
        for number, row in enumerate(rows):
            tokens[number, : len(row)] = row
            mask[number, : len(row)] = 1
        request = getattr(self._requests, "request", None)
        if request is None:
            request = self._requests.request = self._compiled.create_infer_request()
        return request.infer([tokens, mask])[0].copy()
