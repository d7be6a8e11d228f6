"""A loaded model version, and the processing of one request."""

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from services.predictor.engine.engine import Engine
from services.predictor.engine.generation import Finish, Sampling
from services.predictor.engine.scorer import PromptScorer
from services.predictor.errors import InvalidRequestError, UnavailableError
from services.predictor.text.chat_template import ChatTemplate
from services.predictor.text.codec import TextCodec
from services.predictor.text.transcript import Piece, ScoredToken, Transcript

SEED_BITS = 63


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
    manifest_digest: str
    created: int  # Unix seconds
    codec: TextCodec
    template: ChatTemplate
    engine: Engine
    scorer: PromptScorer
    vocab_size: int
    # Prompt and new tokens of one request, limited by the positions of the model and by the cache.
    context_tokens: int
    end_ids: tuple[int, ...]

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


def with_seed(sampling: Sampling, seed: int | None) -> Sampling:
    """Return the sampling with the caller's seed, or with a random one.

    With the pipeline's default seed, every request would use the same random stream.
    """
    return replace(sampling, seed=secrets.randbits(SEED_BITS) if seed is None else seed)
