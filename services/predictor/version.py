"""A loaded model version: its loading from a directory, and the processing of one request."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chat_format.templates import ChatTemplate, token_names
from services.predictor.engine.engine import AdmissionLimits, Engine
from services.predictor.engine.generation import Finish, Sampling
from services.predictor.engine.pipeline import PagedPipeline, PipelineOptions
from services.predictor.engine.scorer import PromptScorer
from services.predictor.errors import InvalidRequestError, ModelRefusedError, UnavailableError
from services.predictor.graph.architecture import load_architecture
from services.predictor.ir_cache import IrCache
from services.predictor.manifest import DigestCache, check_manifest
from services.predictor.metrics import Metrics, VersionMetrics
from services.predictor.text.chat_template import read_chat_template
from services.predictor.text.codec import TextCodec
from services.predictor.text.transcript import Piece, ScoredToken, Transcript

WARM_UP_REQUEST_ID = 0  # engines count from 1
WARM_UP_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Delta:
    """New text of a generation.

    Contains the tokens if log-probs were requested, and the finish reason in the last delta.
    """

    piece: Piece
    completion_tokens: int
    finish: Finish | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """Result of a complete generation."""

    text: str
    tokens: tuple[ScoredToken, ...]
    completion_tokens: int
    finish: Finish


@dataclass(frozen=True, slots=True)
class Version:
    """All parts that serve one model version."""

    name: str
    created: int  # Unix seconds
    codec: TextCodec
    template: ChatTemplate | None
    engine: Engine
    scorer: PromptScorer
    vocab_size: int
    # Prompt and new tokens of one request, limited by the positions of the model and by the cache.
    context_tokens: int
    end_ids: tuple[int, ...]
    metrics: Metrics

    @property
    def active(self) -> int:
        """Return the number of generations that have not ended."""
        return self.engine.active

    @property
    def failure(self) -> str:
        """Return the reason why the engine failed, or an empty string."""
        return self.engine.closed_reason if self.engine.failed else ""

    async def drain(self, seconds: float) -> None:
        """Refuse new generations and wait for the running ones; cancel them after `seconds`."""
        await self.engine.drain(seconds)

    async def close(self) -> None:
        """Stop the engine, and remove the gauges of this version."""
        await asyncio.to_thread(self.engine.close)
        self.metrics.forget(self.name)

    def limit_new_tokens(
        self, prompt: list[int], max_new_tokens: int | None, default: int, param: str
    ) -> int:
        """Check a prompt and return the limit of new tokens.

        A request that can never fit must not reach the pipeline.

        Args:
            prompt: token ids.
            max_new_tokens: limit of the caller; None takes `default` or the remaining context.
            default: limit without one of the caller.
            param: name of the parameter with the prompt, for errors.

        Raises:
            InvalidRequestError: the prompt is empty, has an id outside the vocabulary, or does not
                fit with its new tokens.
        """
        if not prompt:
            raise InvalidRequestError(
                f"{param} must have at least 1 token",
                param,
                reason="EMPTY",
                limit="at least 1 token",
            )
        if any(not 0 <= token < self.vocab_size for token in prompt):
            raise InvalidRequestError(
                f"{param}: token ids must be from 0 to {self.vocab_size - 1}",
                param,
                reason="OUT_OF_RANGE",
                limit=f"0 to {self.vocab_size - 1}",
            )
        available = self.context_tokens - len(prompt)
        if available < 1:
            raise InvalidRequestError(
                f"{param} has {len(prompt)} tokens; "
                f"with at least 1 new token the limit is {self.context_tokens}",
                param,
                reason="TOO_LARGE",
                limit=str(self.context_tokens),
            )
        if max_new_tokens is None:
            return min(default, available)
        if max_new_tokens > available:
            raise InvalidRequestError(
                f"max_tokens is {max_new_tokens}; "
                f"after {len(prompt)} prompt tokens the limit is {available}",
                "max_tokens",
                reason="TOO_LARGE",
                limit=str(available),
            )
        return max_new_tokens

    async def stream(
        self, prompt: list[int], sampling: Sampling, stops: tuple[str, ...]
    ) -> AsyncGenerator[Delta, None]:
        """Generate and yield deltas.

        Closing the iterator, or cancelling its reader, cancels the generation.
        """
        generation = self.engine.submit(prompt, sampling)
        ignored = sampling.end_ids if not sampling.ignore_eos else ()
        transcript = Transcript(self.codec, stops, ignored)
        try:
            async for batch in generation:
                piece = transcript.add(batch)
                if transcript.stopped:
                    yield Delta(piece, transcript.tokens, Finish.STOP)
                    return
                if piece.text or piece.tokens:
                    yield Delta(piece, transcript.tokens)
            if generation.finish is Finish.CANCELLED:
                raise UnavailableError(
                    "the generation was cancelled: this version is being unloaded", reason="STOPPED"
                )
            yield Delta(transcript.end(), transcript.tokens, generation.finish)
        finally:
            generation.cancel()

    async def complete(
        self, prompt: list[int], sampling: Sampling, stops: tuple[str, ...]
    ) -> Reply:
        """Generate and return the complete reply."""
        texts: list[str] = []
        tokens: list[ScoredToken] = []
        count, finish = 0, Finish.CANCELLED
        async with aclosing(self.stream(prompt, sampling, stops)) as deltas:
            async for delta in deltas:
                texts.append(delta.piece.text)
                tokens += delta.piece.tokens
                count, finish = delta.completion_tokens, delta.finish or finish
        return Reply("".join(texts), tuple(tokens), count, finish)


@dataclass(frozen=True, slots=True)
class Loader:
    """Loads versions for one event loop. Blocking.

    The steps are: check the directory, convert or find the graph, open the pipeline, warm it up.
    """

    digests: DigestCache
    graphs: IrCache
    options: PipelineOptions
    limits: AdmissionLimits
    metrics: Metrics
    loop: asyncio.AbstractEventLoop

    def load(self, name: str, directory: Path) -> Version:
        """Load a version and return with its engine running.

        Raises:
            ModelRefusedError: the directory is incomplete or the model unsupported; the text names
                the cause.
        """
        began = time.perf_counter()
        manifest = check_manifest(directory, name, self.digests)
        architecture = load_architecture(directory)
        codec = TextCodec.from_directory(directory)
        end_ids = read_end_ids(directory, codec)
        template = read_chat_template(directory)
        ir = self.graphs.get(manifest)
        pipeline = PagedPipeline(ir, self.options)
        # Run a short generation, because the first passes compile kernels for their shapes.
        # Otherwise the first answer of a user would be slow.
        sampling = Sampling(
            max_new_tokens=2, end_ids=end_ids, seed=0, temperature=0.0, ignore_eos=True
        )
        pipeline.add(WARM_UP_REQUEST_ID, end_ids[:1] * WARM_UP_TOKENS, sampling)
        while pipeline.has_work():
            pipeline.step()
            pipeline.read(WARM_UP_REQUEST_ID)
        engine = Engine(pipeline, self.limits, self.loop, VersionMetrics(self.metrics, name))
        version = Version(
            name=name,
            # The manifest is written last, so its time is that of the model.
            created=int((manifest.directory / "manifest.json").stat().st_mtime),
            codec=codec,
            template=template,
            engine=engine,
            scorer=PromptScorer(ir, architecture.vocab_size, self.options),
            vocab_size=architecture.vocab_size,
            context_tokens=min(architecture.max_positions, self.options.kv_tokens),
            end_ids=end_ids,
            metrics=self.metrics,
        )
        engine.start()
        self.metrics.load_seconds.labels(name).observe(time.perf_counter() - began)
        return version


def read_end_ids(directory: Path, codec: TextCodec) -> tuple[int, ...]:
    """Return the ids that end an answer.

    Sources in this order: generation_config.json, config.json, the eos_token of the tokenizer.

    Raises:
        ModelRefusedError: no source has an id, so generations would never end.
    """
    for file in ("generation_config.json", "config.json"):
        path = directory / file
        content: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {}
        value = content.get("eos_token_id")
        ids = value if isinstance(value, list) else [value]
        if all(isinstance(token, int) for token in ids) and ids:
            return tuple(dict.fromkeys(ids))
    tokenizer = json.loads((directory / "tokenizer_config.json").read_bytes())
    eos = codec.token_id(token_names(tokenizer).get("eos_token", ""))
    if eos is None:
        raise ModelRefusedError(
            "generation_config.json: eos_token_id is missing, also in the other files",
            field="eos_token_id",
            reason="MISSING",
        )
    return (eos,)
