"""OpenVINO GenAI's ContinuousBatchingPipeline, behind the few calls that the engine needs.

What surprises about it is dealt with here: it wants a tokenizer (an empty folder will do), an
explicit end-of-sequence id that is among the stop ids too, request ids that are never used twice,
and living handles.
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

BLOCK_TOKENS = 32  # of the CPU plugin's paged attention


class Precision(StrEnum):
    """Arithmetic of inference. auto lets the plugin choose (bf16 where the processor has it)."""

    AUTO = "auto"
    F32 = "f32"


@dataclass(frozen=True, slots=True)
class PipelineOptions:
    """Bounds of one version's pipeline. `threads` 0 leaves the number to the plugin."""

    kv_blocks: int
    prefill_chunk_tokens: int
    threads: int = 0
    precision: Precision = Precision.AUTO

    @property
    def kv_tokens(self) -> int:
        """Tokens that the cache holds."""
        return self.kv_blocks * BLOCK_TOKENS

    def properties(self) -> dict[str, str | int]:
        """The plugin's words for them."""
        chosen: dict[str, str | int] = {}
        if self.precision is Precision.F32:
            chosen |= {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
        if self.threads:
            chosen["INFERENCE_NUM_THREADS"] = self.threads
        return chosen


@dataclass(frozen=True, slots=True)
class Progress:
    """What a request got since it was read last. `dropped`: the pipeline gave it up for want of
    cache.
    """

    ids: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    finish: Finish | None = None
    dropped: bool = False


class PagedPipeline:
    """One model in memory. Not thread-safe: it belongs to its engine's thread."""

    def __init__(self, ir: Path, options: PipelineOptions) -> None:
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.num_kv_blocks = options.kv_blocks
        scheduler.max_num_batched_tokens = options.prefill_chunk_tokens
        scheduler.enable_prefix_caching = True
        with tempfile.TemporaryDirectory() as empty:
            no_tokenizer = openvino_genai.Tokenizer(empty)
            self._pipeline = openvino_genai.ContinuousBatchingPipeline(
                ir, no_tokenizer, scheduler, "CPU", **options.properties()
            )
        self._handles: dict[int, openvino_genai.GenerationHandle] = {}

    def add(self, request_id: int, prompt: Sequence[int], sampling: Sampling) -> None:
        """Put a request into the next step's batch. The handle is kept: dropping it would cancel."""
        ids = ov.Tensor(np.array([prompt], np.int64))
        self._handles[request_id] = self._pipeline.add_request(
            request_id, ids, _generation_config(sampling)
        )

    def step(self) -> None:
        """One forward pass over the batch; releases the interpreter lock."""
        self._pipeline.step()

    def read(self, request_id: int) -> Progress:
        """New tokens of a request; a finished one is forgotten."""
        handle = self._handles[request_id]
        ids: list[int] = []
        log_probs: list[float] = []
        reason = openvino_genai.GenerationFinishReason.NONE
        if handle.can_read():
            for output in handle.read().values():
                ids += output.generated_ids
                log_probs += output.generated_log_probs
                reason = output.finish_reason
        status = handle.get_status()
        if status == openvino_genai.GenerationStatus.RUNNING:
            return Progress(tuple(ids), tuple(log_probs))
        del self._handles[request_id]
        stopped = reason == openvino_genai.GenerationFinishReason.STOP
        finished = status == openvino_genai.GenerationStatus.FINISHED
        finish = (Finish.STOP if stopped else Finish.LENGTH) if finished else None
        return Progress(tuple(ids), tuple(log_probs), finish, dropped=not finished)

    def cancel(self, request_id: int) -> None:
        """Let a request end with the next step. Its status is then unreliable: remember who was
        cancelled.
        """
        self._handles.pop(request_id).cancel()

    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._pipeline.has_non_finished_requests())

    def cache_usage(self) -> float:
        """Share of KV blocks in use, cached prefixes included: 0 to 1."""
        return float(self._pipeline.get_metrics().cache_usage) / 100


def _generation_config(sampling: Sampling) -> "openvino_genai.GenerationConfig":
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = sampling.max_new_tokens
    config.min_new_tokens = sampling.min_new_tokens
    config.ignore_eos = sampling.ignore_eos
    config.set_eos_token_id(sampling.end_ids[0])
    config.stop_token_ids = set(sampling.end_ids)
    config.logprobs = int(sampling.log_probs)
    config.do_sample = sampling.temperature > 0
    config.rng_seed = sampling.seed
    config.presence_penalty = sampling.presence_penalty
    config.frequency_penalty = sampling.frequency_penalty
    config.repetition_penalty = sampling.repetition_penalty
    if config.do_sample:
        config.temperature = sampling.temperature
        config.top_p = sampling.top_p
        config.min_p = sampling.min_p
        if sampling.top_k:
            config.top_k = sampling.top_k
    return config
