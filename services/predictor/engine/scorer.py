"""Exact log-probs of a given text, with the most likely token at each position.

Used for evaluation (echo with logprobs). The paged pipeline is unsuitable, because its prefix cache
silently omits the log-probs of cached prompt tokens, and because the most likely token is not
reported. The same IR is therefore compiled a second time, on first use, for plain inference.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openvino as ov

from services.predictor.engine.pipeline import PipelineOptions
from services.predictor.graph.conversion import IR_NAME

CHUNK_LOGITS = 1 << 23  # 32 MB of float32 logits at once, for any vocabulary size


@dataclass(frozen=True, slots=True)
class TokenScore:
    """Natural log-prob of a token given the previous ones, and the most likely token there."""

    log_prob: float
    top_id: int
    top_log_prob: float


class PromptScorer:
    """Scores one list of texts at a time under a lock. Blocking; call `score` in a thread."""

    def __init__(self, ir: Path, vocab_size: int, options: PipelineOptions) -> None:
        self._ir = ir
        self._chunk_tokens = max(1, CHUNK_LOGITS // vocab_size)
        self._properties = options.properties() | {"KV_CACHE_PRECISION": "f32"}
        self._lock = threading.Lock()
        self._request: ov.InferRequest | None = None

    def score(self, texts: Sequence[Sequence[int]]) -> list[list[TokenScore]]:
        """Return for each text the scores of ids[1:]; the first token has no context.

        The beginning shared with the text before is computed once: the answers to one question
        differ in their last tokens only. Texts that differ in the last token alone need a single
        inference. Nothing is shared between calls, so that equal calls give equal scores.
        """
        with self._lock:
            if self._request is None:
                compiled = ov.Core().compile_model(self._ir / IR_NAME, "CPU", self._properties)
                self._request = compiled.create_infer_request()
            self._request.reset_state()
            found: list[list[TokenScore]] = []
            before: Sequence[int] = ()
            last_1V, scored = np.empty((1, 0), np.float32), 0  # logits for the token at `scored`
            for ids in texts:
                shared = _shared(before, ids)
                if len(ids) == len(before) == shared + 1 and scored == shared > 0:
                    scores = [*found[-1][:-1], *_scores(last_1V, ids[-1:])]
                else:
                    # The last shared token is computed again: its logits score the next one.
                    start = max(0, shared - 1)
                    self._shorten_cache(start, max(0, len(before) - 1))
                    scores = found[-1][:start] if found else []
                    for logits_LV, targets in self._logits(self._request, ids, start):
                        scores += _scores(logits_LV, targets)
                        last_1V, scored = logits_LV[-1:].copy(), len(ids) - 1
                found.append(scores)
                before = ids
            return found

    def _shorten_cache(self, tokens: int, cached: int) -> None:
        """Reduce the cache from `cached` to `tokens` tokens."""
        if self._request is None or tokens == cached:
            return
        if tokens == 0:
            self._request.reset_state()
            return
        for variable in self._request.query_state():
            kept_BKTd = variable.state.data[:, :, :tokens]
            variable.state = ov.Tensor(np.ascontiguousarray(kept_BKTd))

    def _logits(
        self, request: ov.InferRequest, ids: Sequence[int], begin: int
    ) -> Iterator[tuple[np.ndarray, Sequence[int]]]:
        """Yield the logits that score ids[begin + 1:], with these ids; ids[:begin] are cached."""
        for start in range(begin, len(ids) - 1, self._chunk_tokens):
            chunk = ids[start : min(start + self._chunk_tokens, len(ids) - 1)]
            total = start + len(chunk)
            inputs = {
                "input_ids": np.array([chunk], np.int64),
                "attention_mask": np.ones((1, total), np.int64),
                "position_ids": np.arange(start, total, dtype=np.int64)[None],
                "beam_idx": np.zeros(1, np.int32),
            }
            # The logits at position i score the token at position i + 1.
            targets = ids[start + 1 : total + 1]
            yield np.asarray(request.infer(inputs)["logits"][0]), targets


def _scores(logits_LV: np.ndarray, targets: Sequence[int]) -> list[TokenScore]:
    """Return the score of each target by the logits of the position before it."""
    # Log-softmax with the maximum subtracted first, so that exp() cannot overflow.
    top = logits_LV.max(-1)
    norm = top + np.log(np.exp(logits_LV - top[:, None]).sum(-1))
    chosen = logits_LV[np.arange(len(targets)), list(targets)]
    return [
        TokenScore(float(own - z), int(best), float(high - z))
        for own, best, high, z in zip(chosen, logits_LV.argmax(-1), top, norm, strict=True)
    ]


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the length of the common beginning."""
    pairs = zip(first, second, strict=False)
    return next(
        (place for place, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second))
    )
