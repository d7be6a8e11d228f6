"""A model version that is loaded, and how one request runs through it."""

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
    """New text, the tokens that it came from (if log-probs were asked for), and on the last one why
    it ended.
    """

    piece: Piece
    completion_tokens: int
    finish: Finish | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole generation."""

    text: str
    tokens: tuple[ScoredToken, ...]
    completion_tokens: int
    finish: Finish


@dataclass(frozen=True, slots=True)
class Version:
    """Everything that serves one model version."""

    name: str
    manifest_digest: str
    created: int  # Unix seconds
    codec: TextCodec
    template: ChatTemplate
    engine: Engine
    scorer: PromptScorer
    vocab_size: int
    # prompt and new tokens of one request: the smaller of the model's positions and the cache
    context_tokens: int
    end_ids: tuple[int, ...]

    def fit(self, prompt: list[int], max_new_tokens: int | None, default: int, param: str) -> int:
        """How many tokens may be generated after this prompt. A request that can never fit must not
        reach the pipeline.

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
        room = self.context_tokens - len(prompt)
        if room < 1:
            raise InvalidRequestError(
                f"{param} has {len(prompt)} tokens; with at least 1 new token the limit is {self.context_tokens}",
                param,
                reason="TOO_LARGE",
                limit=str(self.context_tokens),
            )
        if max_new_tokens is None:
            return min(default, room)
        if max_new_tokens > room:
            raise InvalidRequestError(
                f"max_tokens is {max_new_tokens}; after {len(prompt)} prompt tokens the limit is {room}",
                "max_tokens",
                reason="TOO_LARGE",
                limit=str(room),
            )
        return max_new_tokens

    async def stream(
        self, prompt: list[int], sampling: Sampling, stops: tuple[str, ...]
    ) -> AsyncGenerator[Delta, None]:
        """Generate; closing the iterator, or cancelling who reads it, cancels the generation."""
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
                    "the generation was cut short: this version is being unloaded", reason="STOPPED"
                )
            yield Delta(transcript.end(), transcript.tokens, generation.finish)
        finally:
            generation.cancel()

    async def complete(
        self, prompt: list[int], sampling: Sampling, stops: tuple[str, ...]
    ) -> Reply:
        """The whole generation at once."""
        texts: list[str] = []
        tokens: list[ScoredToken] = []
        count, finish = 0, Finish.CANCELLED
        async with aclosing(self.stream(prompt, sampling, stops)) as deltas:
            async for delta in deltas:
                texts.append(delta.piece.text)
                tokens += delta.piece.tokens
                count, finish = delta.completion_tokens, delta.finish or finish
        return Reply("".join(texts), tuple(tokens), count, finish)


def seeded(sampling: Sampling, seed: int | None) -> Sampling:
    """With the caller's seed, or one of its own: the pipeline's default would give every request
    the same dice.
    """
    return replace(sampling, seed=secrets.randbits(SEED_BITS) if seed is None else seed)
