"""Wrapper of OpenVINO GenAI's ContinuousBatchingPipeline with the calls that the engine needs.

The wrapper handles the pipeline's requirements: a tokenizer (an empty folder suffices), an explicit
end-of-sequence id that is also a stop id, request ids that are never reused, and handles that stay
referenced.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import openvino as ov
import openvino_genai

from services.predictor.engine.generation import Finish, Sampling

BLOCK_TOKENS = 32  # block size of the CPU plugin's paged attention
# Values of an activation that share a scale where the plugin multiplies 8-bit weights. Its own 32
# give a larger error of the log-probs (docs/decisions/predictor.md).
ACTIVATION_GROUP = 16


class Precision(StrEnum):
    """Arithmetic of inference; `auto` lets the plugin choose (bf16 where supported)."""

    AUTO = "auto"
    F32 = "f32"


@dataclass(frozen=True, slots=True)
class PipelineOptions:
    """Limits of the pipeline of one version.

    Args:
        kv_blocks: key/value blocks of BLOCK_TOKENS tokens.
        prefill_chunk_tokens: prompt tokens per step.
        threads: inference threads; 0 lets the plugin choose.
        precision: arithmetic of inference.
    """

    kv_blocks: int
    prefill_chunk_tokens: int
    threads: int = 0
    precision: Precision = Precision.AUTO

    @property
    def kv_tokens(self) -> int:
        """Return the number of tokens that the cache holds."""
        return self.kv_blocks * BLOCK_TOKENS

    def properties(self) -> dict[str, str | int]:
        """Return the options as properties of the CPU plugin."""
        chosen: dict[str, str | int] = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": ACTIVATION_GROUP}
        if self.precision is Precision.F32:
            chosen |= {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
        if self.threads:
            chosen["INFERENCE_NUM_THREADS"] = self.threads
        return chosen


@dataclass(frozen=True, slots=True)
class Progress:
    """New tokens of a request since the last read.

    `dropped` is set if the pipeline gave up the request because the cache is full.
    """

    ids: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    finish: Finish | None = None
    dropped: bool = False


class PagedPipeline:
    """One model in memory.

    Not thread-safe; all calls except the constructor belong to the engine's thread.
    """

    def __init__(self, ir: Path, options: PipelineOptions) -> None:
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.num_kv_blocks = options.kv_blocks
        scheduler.max_num_batched_tokens = options.prefill_chunk_tokens
        scheduler.enable_prefix_caching = True
        # The constructor reads a tokenizer, which is never used: token ids go in and out.
        with tempfile.TemporaryDirectory() as empty:
            no_tokenizer = openvino_genai.Tokenizer(empty)
            self._pipeline = openvino_genai.ContinuousBatchingPipeline(
                ir, no_tokenizer, scheduler, "CPU", **options.properties()
            )
        # The pipeline cancels a request whose handle is garbage-collected.
        self._handles: dict[int, openvino_genai.GenerationHandle] = {}

    def add(self, request_id: int, prompt: Sequence[int], sampling: Sampling) -> None:
        """Add a request to the batch of the next step."""
        ids = ov.Tensor(np.array([prompt], np.int64))
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = sampling.max_new_tokens
        config.min_new_tokens = sampling.min_new_tokens
        config.ignore_eos = sampling.ignore_eos
        config.set_eos_token_id(sampling.end_ids[0])
        # The pipeline requires an explicit end-of-sequence id that is also a stop id.
        config.stop_token_ids = set(sampling.end_ids)
        config.logprobs = int(sampling.log_probs)
        config.do_sample = sampling.temperature > 0
        config.rng_seed = sampling.seed
        config.presence_penalty = sampling.presence_penalty
        config.frequency_penalty = sampling.frequency_penalty
        config.repetition_penalty = sampling.repetition_penalty
        # Temperature and truncation apply to sampling only.
        if config.do_sample:
            config.temperature = sampling.temperature
            config.top_p = sampling.top_p
            config.min_p = sampling.min_p
            if sampling.top_k:
                config.top_k = sampling.top_k
        self._handles[request_id] = self._pipeline.add_request(request_id, ids, config)

    def step(self) -> None:
        """Run one forward pass over the batch; releases the interpreter lock."""
        self._pipeline.step()

    def read(self, request_id: int) -> Progress:
        """Return new tokens of a request, and forget a request that has ended."""
        handle = self._handles[request_id]
        ids: list[int] = []
        log_probs: list[float] = []
        reason = openvino_genai.GenerationFinishReason.NONE
        # `read` blocks without new tokens, hence the check.
        if handle.can_read():
            for output in handle.read().values():
                ids += output.generated_ids
                log_probs += output.generated_log_probs
                reason = output.finish_reason
        status = handle.get_status()
        if status == openvino_genai.GenerationStatus.RUNNING:
            return Progress(tuple(ids), tuple(log_probs))
        # An ended request without FINISHED was dropped, since cancelled ones are never read.
        del self._handles[request_id]
        stopped = reason == openvino_genai.GenerationFinishReason.STOP
        finished = status == openvino_genai.GenerationStatus.FINISHED
        finish = (Finish.STOP if stopped else Finish.LENGTH) if finished else None
        return Progress(tuple(ids), tuple(log_probs), finish, dropped=not finished)

    def cancel(self, request_id: int) -> None:
        """End a request with the next step.

        The status of a cancelled request is unreliable, so the caller must remember cancelled
        requests.
        """
        self._handles.pop(request_id).cancel()

    def has_work(self) -> bool:
        """Return True if the next step would process a request."""
        return bool(self._pipeline.has_non_finished_requests())

    def cache_usage(self) -> float:
        """Return the share of KV blocks in use, 0 to 1, including cached prefixes."""
        return float(self._pipeline.get_metrics().cache_usage) / 100
