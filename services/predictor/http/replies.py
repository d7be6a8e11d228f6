"""Responses of OpenAI's API: bodies, and streams of server-sent events."""

import json
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiohttp import web

from services.predictor.engine.scorer import TokenScore
from services.predictor.errors import PredictorError, error_body
from services.predictor.http.middleware import STATUS
from services.predictor.text.codec import TextCodec
from services.predictor.text.transcript import ScoredToken
from services.predictor.version import Delta, Reply

Json = dict[str, Any]
STREAM_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}
DONE = b"data: [DONE]\n\n"


def usage(prompt_tokens: int, completion_tokens: int) -> Json:
    """Return token counts; the end token counts as generated, as in vLLM."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


@dataclass(frozen=True, slots=True)
class TokenDetails:
    """Token details requested in addition to the text."""

    log_probs: bool
    ids: bool

    def tokens(self, tokens: Sequence[ScoredToken]) -> Sequence[ScoredToken]:
        """Return the tokens that are reported.

        With ids, the end token has a log-prob too, so that each id has one, as in vLLM. Without ids
        the end token is omitted, as in OpenAI's API.
        """
        return tokens if self.ids else [token for token in tokens if not token.ends]

    def id_fields(self, tokens: Sequence[ScoredToken]) -> Json:
        """Return the additional fields of a choice if ids were requested."""
        return {"token_ids": [token.id for token in tokens]} if self.ids else {}


@dataclass(frozen=True, slots=True)
class ChatBodies:
    """Response bodies of one chat completion."""

    model: str
    details: TokenDetails
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def complete(self, reply: Reply, prompt_tokens: int) -> Json:
        """Return the body of a complete answer."""
        message = {"role": "assistant", "content": reply.text}
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": reply.finish,
            "logprobs": self._scores(reply.tokens),
        }
        body = self._envelope(
            "chat.completion", [{**choice, **self.details.id_fields(reply.tokens)}]
        )
        return {**body, "usage": usage(prompt_tokens, reply.completion_tokens)}

    def first_chunk(self) -> Json | None:
        """Return the first chunk of a stream, which contains the role and no text."""
        return self._chunk({"role": "assistant", "content": ""}, None, ())

    def chunk(self, delta: Delta) -> Json:
        """Return a chunk with text, or the last chunk with the finish reason."""
        content = {"content": delta.piece.text} if delta.piece.text or delta.finish is None else {}
        return self._chunk(content, delta.finish, delta.piece.tokens)

    def usage_chunk(self, prompt_tokens: int, completion_tokens: int) -> Json:
        """Return the chunk for `include_usage`."""
        body = self._envelope("chat.completion.chunk", [])
        return {**body, "usage": usage(prompt_tokens, completion_tokens)}

    def _chunk(self, content: Json, finish: str | None, tokens: Sequence[ScoredToken]) -> Json:
        choice = {
            "index": 0,
            "delta": content,
            "finish_reason": finish,
            "logprobs": self._scores(tokens),
        }
        return self._envelope(
            "chat.completion.chunk", [{**choice, **self.details.id_fields(tokens)}]
        )

    def _scores(self, tokens: Sequence[ScoredToken]) -> Json | None:
        tokens = self.details.tokens(tokens)
        if not self.details.log_probs or not tokens:
            return None
        return {
            "content": [
                {
                    "token": t.text,
                    "logprob": t.log_prob,
                    "bytes": list(t.text.encode()),
                    "top_logprobs": [],
                }
                for t in tokens
            ]
        }

    def _envelope(self, kind: str, choices: list[Json]) -> Json:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


@dataclass(frozen=True, slots=True)
class CompletionBodies:
    """Response bodies of one text completion."""

    model: str
    details: TokenDetails
    id: str = field(default_factory=lambda: f"cmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def complete(self, choices: list[Json], prompt_tokens: int, completion_tokens: int) -> Json:
        """Return the body with all choices."""
        return {**self._envelope(choices), "usage": usage(prompt_tokens, completion_tokens)}

    def choice(
        self,
        index: int,
        text: str,
        finish: str | None,
        scores: Json | None,
        tokens: Sequence[ScoredToken],
    ) -> Json:
        """Return the answer to one prompt, or a part of the answer.

        `tokens` are the generated tokens, without the prompt.
        """
        choice = {"index": index, "text": text, "finish_reason": finish, "logprobs": scores}
        return {**choice, **self.details.id_fields(tokens)}

    def first_chunk(self) -> Json | None:
        """Return None, since completions start with text."""
        return None

    def chunk(self, delta: Delta) -> Json:
        """Return a chunk with text, or the last chunk with the finish reason."""
        tokens = self.details.tokens(delta.piece.tokens)
        scores = generated_scores(tokens) if self.details.log_probs and tokens else None
        return self._envelope(
            [self.choice(0, delta.piece.text, delta.finish, scores, delta.piece.tokens)]
        )

    def usage_chunk(self, prompt_tokens: int, completion_tokens: int) -> Json:
        """Return the chunk for `include_usage`."""
        return {**self._envelope([]), "usage": usage(prompt_tokens, completion_tokens)}

    def _envelope(self, choices: list[Json]) -> Json:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def generated_scores(tokens: Sequence[ScoredToken]) -> Json:
    """Return log-probs of generated tokens.

    The engine reports no alternatives, so top_logprobs holds only the chosen token.
    """
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.log_prob for token in tokens],
        "top_logprobs": [{token.text: token.log_prob} for token in tokens],
        "text_offset": _offsets([token.text for token in tokens]),
    }


def echoed_scores(
    codec: TextCodec, ids: Sequence[int], scores: Sequence[TokenScore], generated: Json | None
) -> Json:
    """Return log-probs of a prompt with the greedy choices, then of generated tokens."""
    texts = [codec.decode([token], False) for token in ids]
    tops: list[dict[str, float]] = []
    for token, text, score in zip(ids[1:], texts[1:], scores, strict=True):
        tops.append({text: score.log_prob})
        if score.top_id != token:
            top = codec.decode([score.top_id], False)
            # Parts of characters may decode to the same text. The likelier token must not replace
            # the chosen one.
            name = top if top != text else f"token_id:{score.top_id}"
            tops[-1][name] = score.top_log_prob
    body: Json = {
        "tokens": texts,
        "token_logprobs": [None, *(score.log_prob for score in scores)],
        "top_logprobs": [None, *tops],
        "text_offset": _offsets(texts),
    }
    if generated is None:
        return body
    shift = sum(len(text) for text in texts)
    shifted = {**generated, "text_offset": [offset + shift for offset in generated["text_offset"]]}
    return {key: value + shifted[key] for key, value in body.items()}


def _offsets(texts: Sequence[str]) -> list[int]:
    offsets, start = [], 0
    for text in texts:
        offsets.append(start)
        start += len(text)
    return offsets


class StreamBodies(Protocol):
    """Response bodies of one stream."""

    def first_chunk(self) -> Json | None: ...
    def chunk(self, delta: Delta) -> Json: ...
    def usage_chunk(self, prompt_tokens: int, completion_tokens: int) -> Json: ...


async def send_stream(
    request: web.Request,
    deltas: AsyncGenerator[Delta, None],
    bodies: StreamBodies,
    prompt_tokens: int,
    include_usage: bool,
) -> web.StreamResponse:
    """Write deltas as server-sent events as they arrive, each in one event and one write.

    An error after the first byte is the last event.

    A disconnect of the reader cancels this task, and thereby the generation.

    Raises:
        PredictorError: the engine refused the request before the first byte; later errors become an
            event.
    """
    response = web.StreamResponse(headers=STREAM_HEADERS)
    completion_tokens = 0
    async with aclosing(deltas):
        try:
            # The first delta comes before the headers, so that a refusal still has a status.
            first = await anext(deltas)
            await response.prepare(request)
            if (first_chunk := bodies.first_chunk()) is not None:
                await response.write(_event(first_chunk))
            await response.write(_event(bodies.chunk(first)))
            completion_tokens = first.completion_tokens
            async for delta in deltas:
                completion_tokens = delta.completion_tokens
                await response.write(_event(bodies.chunk(delta)))
        except PredictorError as error:
            if not response.prepared:
                raise
            # The response has status 200 already; the metrics count the real one.
            request[STATUS] = error.status
            await response.write(_event(error_body(error, error.status)))
            await response.write_eof()
            return response
    if include_usage:
        await response.write(_event(bodies.usage_chunk(prompt_tokens, completion_tokens)))
    await response.write(DONE)
    await response.write_eof()
    return response


def _event(body: Json) -> bytes:
    return (
        b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
    )
