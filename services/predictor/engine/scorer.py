"""Exact log-probs of a given text, with the most likely token at each position.

Used for evaluation (echo with logprobs). The paged pipeline is unsuitable, because its prefix cache
silently omits the log-probs of cached prompt tokens, and because the most likely token is not
reported. The same IR is therefore compiled a second time, on first use, for plain inference.
"""

import threading
from collections.abc import Sequence
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
    """Scores one text at a time under a lock. Blocking; call `score` in a thread."""

    def __init__(self, ir: Path, vocab_size: int, options: PipelineOptions) -> None:
        self._ir = ir
        self._chunk_tokens = max(1, CHUNK_LOGITS // vocab_size)
        self._properties = options.properties() | {"KV_CACHE_PRECISION": "f32"}
        self._lock = threading.Lock()
        self._request: ov.InferRequest | None = None

    def score(self, ids: Sequence[int]) -> list[TokenScore]:
        """Return the scores of ids[1:]; the first token has no context."""
        with self._lock:
            if self._request is None:
                compiled = ov.Core().compile_model(self._ir / IR_NAME, "CPU", self._properties)
                self._request = compiled.create_infer_request()
            self._request.reset_state()
            scores: list[TokenScore] = []
            for start in range(0, len(ids) - 1, self._chunk_tokens):
                chunk = ids[start : min(start + self._chunk_tokens, len(ids) - 1)]
                # The logits at position i score the token at position i + 1.
                targets = ids[start + 1 : start + 1 + len(chunk)]
                total = start + len(chunk)
                inputs = {
                    "input_ids": np.array([chunk], np.int64),
                    "attention_mask": np.ones((1, total), np.int64),
                    "position_ids": np.arange(start, total, dtype=np.int64)[None],
                    "beam_idx": np.zeros(1, np.int32),
                }
                logits_LV = np.asarray(self._request.infer(inputs)["logits"][0])
                # Log-softmax with the maximum subtracted first, so that exp() cannot overflow.
                top = logits_LV.max(-1)
                norm = top + np.log(np.exp(logits_LV - top[:, None]).sum(-1))
                chosen = logits_LV[np.arange(len(targets)), list(targets)]
                scores += [
                    TokenScore(float(own - z), int(best), float(high - z))
                    for own, best, high, z in zip(
                        chosen, logits_LV.argmax(-1), top, norm, strict=True
                    )
                ]
            return scores
