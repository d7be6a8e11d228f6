"""OpenAI's endpoints /v1/chat/completions, /v1/completions and /v1/models.

Also vLLM's /tokenize, /detokenize and /tokenizer_info, which evaluations with lm-eval need.
"""

import asyncio
import secrets
from typing import Any

from aiohttp import web

from services.predictor.engine.generation import Finish, Sampling
from services.predictor.engine.scorer import TokenScore
from services.predictor.errors import InvalidRequestError
from services.predictor.http.middleware import VERSION
from services.predictor.http.replies import (
    ChatBodies,
    CompletionBodies,
    TokenDetails,
    echoed_scores,
    generated_scores,
    send_stream,
)
from services.predictor.http.schemas import (
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    GenerationRequest,
    TokenizeRequest,
    parse_body,
)
from services.predictor.repository import Repository
from services.predictor.text.chat_template import render_chat
from services.predictor.text.codec import ENCODE_IN_THREAD_CHARACTERS
from services.predictor.version import Reply, Version

SEED_BITS = 63


class OpenAIRoutes:
    """Handlers of OpenAI's endpoints.

    `default_max_tokens` is the limit of chat requests without max_tokens.
    """

    def __init__(self, repository: Repository[Version], default_max_tokens: int) -> None:
        self._repository = repository
        self._default_max_tokens = default_max_tokens

    def routes(self) -> list[web.RouteDef]:
        """Return the routes with their handlers."""
        return [
            web.post("/v1/chat/completions", self.chat),
            web.post("/v1/completions", self.completions),
            web.get("/v1/models", self.models),
            web.post("/tokenize", self.tokenize),
            web.post("/detokenize", self.detokenize),
            web.get("/tokenizer_info", self.tokenizer_info),
        ]

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Return one assistant message, complete or streamed."""
        body = await parse_body(request, ChatRequest)
        version = self._version(request, body.model)
        prompt = await _render(version, body.messages, add_generation_prompt=True)
        limit = version.limit_new_tokens(prompt, body.limit, self._default_max_tokens, "messages")
        sampling = _sampling(body, version, limit, body.logprobs)
        bodies = ChatBodies(body.model, TokenDetails(body.logprobs, body.return_token_ids))
        if body.stream:
            deltas = version.stream(prompt, sampling, body.stops)
            return await send_stream(request, deltas, bodies, len(prompt), _include_usage(body))
        reply = await version.complete(prompt, sampling, body.stops)
        return web.json_response(bodies.complete(reply, len(prompt)))

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """Return one choice for each prompt."""
        body = await parse_body(request, CompletionRequest)
        version = self._version(request, body.model)
        bodies = CompletionBodies(
            body.model, TokenDetails(body.logprobs is not None, body.return_token_ids)
        )
        prompts = [
            await version.codec.encode(prompt, add_special_tokens=True)
            if isinstance(prompt, str)
            else prompt
            for prompt in body.prompts
        ]
        for prompt in prompts:
            version.limit_new_tokens(prompt, body.max_tokens, self._default_max_tokens, "prompt")
        if body.stream:
            sampling = _sampling(body, version, body.max_tokens, body.logprobs is not None)
            deltas = version.stream(prompts[0], sampling, body.stops)
            return await send_stream(request, deltas, bodies, len(prompts[0]), _include_usage(body))
        # One prompt after another, so that a list of prompts does not displace other callers.
        replies: list[Reply] = []
        for prompt in prompts:
            if body.max_tokens == 0:
                replies.append(Reply("", (), 0, Finish.LENGTH))
                continue
            sampling = _sampling(body, version, body.max_tokens, body.logprobs is not None)
            replies.append(await version.complete(prompt, sampling, body.stops))
        scored: list[list[TokenScore]] | list[None] = [None] * len(prompts)
        if body.echo and body.logprobs is not None:
            scored = await asyncio.to_thread(version.scorer.score, prompts)
        choices = [
            bodies.choice(
                index,
                *_echoed(
                    version, body, index, prompts[index], reply, bodies.details, scored[index]
                ),
                reply.tokens,
            )
            for index, reply in enumerate(replies)
        ]
        counts = (
            sum(len(prompt) for prompt in prompts),
            sum(reply.completion_tokens for reply in replies),
        )
        return web.json_response(bodies.complete(choices, *counts))

    async def models(self, request: web.Request) -> web.Response:
        """Return the versions that can answer, oldest first."""
        return web.json_response(
            {
                "object": "list",
                "data": [
                    {
                        "id": version.name,
                        "object": "model",
                        "created": version.created,
                        "owned_by": "thumbwheel",
                        "max_model_len": version.context_tokens,
                    }
                    for version in self._repository.ready()
                ],
            }
        )

    async def tokenize(self, request: web.Request) -> web.Response:
        """Return the ids of a prompt, or of messages after the chat template.

        Clients use the count for their context budget.
        """
        body = await parse_body(request, TokenizeRequest)
        version = self._version(request, body.model)
        if body.messages is not None:
            ids = await _render(version, body.messages, body.add_generation_prompt)
        else:
            ids = await version.codec.encode(body.prompt or "", body.add_special_tokens)
        return web.json_response(
            {"count": len(ids), "max_model_len": version.context_tokens, "tokens": ids}
        )

    async def detokenize(self, request: web.Request) -> web.Response:
        """Return the text of ids, with special tokens written out."""
        body = await parse_body(request, DetokenizeRequest)
        version = self._version(request, body.model)
        if any(token >= version.vocab_size for token in body.tokens):
            raise InvalidRequestError(
                f"tokens: ids must be from 0 to {version.vocab_size - 1}",
                "tokens",
                reason="OUT_OF_RANGE",
                limit=f"0 to {version.vocab_size - 1}",
            )
        return web.json_response(
            {"prompt": version.codec.decode(body.tokens, skip_special_tokens=False)}
        )

    async def tokenizer_info(self, request: web.Request) -> web.Response:
        """Return special tokens and chat template of the version of the query `model`.

        `eos_token` is always present, since clients take its absence for a missing tokenizer.
        """
        template = self._version(request, request.query.get("model")).template
        names, source = (template.names, template.source) if template else ({}, None)
        return web.json_response({"eos_token": None, **names, "chat_template": source})

    def _version(self, request: web.Request, name: str | None) -> Version:
        version = self._repository.get(name)
        request[VERSION] = version.name
        return version


def _sampling(
    body: GenerationRequest, version: Version, max_new_tokens: int, log_probs: bool
) -> Sampling:
    if body.min_tokens > max_new_tokens:
        raise InvalidRequestError(
            f"min_tokens must be at most max_tokens, {max_new_tokens}",
            "min_tokens",
            reason="TOO_LARGE",
            limit=f"at most {max_new_tokens}",
        )
    return Sampling(
        max_new_tokens=max_new_tokens,
        end_ids=tuple(dict.fromkeys((*version.end_ids, *body.stop_token_ids))),
        # With the pipeline's default seed, every request would use the same random stream.
        seed=secrets.randbits(SEED_BITS) if body.seed is None else body.seed,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        repetition_penalty=body.repetition_penalty,
        min_new_tokens=body.min_tokens,
        ignore_eos=body.ignore_eos,
        # Single tokens are tracked only together with their log-probs.
        log_probs=log_probs or body.return_token_ids,
    )


async def _render(
    version: Version, messages: list[ChatMessage], add_generation_prompt: bool
) -> list[int]:
    """Return the ids of the rendered messages.

    The template writes special tokens, so none are added.
    """
    rows = [message.as_dict() for message in messages]
    if sum(len(row["content"]) for row in rows) > ENCODE_IN_THREAD_CHARACTERS:
        # The search for control tokens takes as long as the encoding of the text.
        text = await asyncio.to_thread(render_chat, version.template, rows, add_generation_prompt)
    else:
        text = render_chat(version.template, rows, add_generation_prompt)
    return await version.codec.encode(text, add_special_tokens=False)


def _echoed(
    version: Version,
    body: CompletionRequest,
    index: int,
    prompt: list[int],
    reply: Reply,
    details: TokenDetails,
    scored: list[TokenScore] | None,
) -> tuple[str, str, dict[str, Any] | None]:
    """Return text, finish reason and log-probs of a choice, with the prompt first for echo."""
    # With echo the end token is reported as in vLLM: lm-eval drops the last log-prob as that of the
    # generated token, and would otherwise lose a token of the prompt.
    tokens = reply.tokens if body.echo else details.tokens(reply.tokens)
    scores = generated_scores(tokens) if details.log_probs else None
    if not body.echo:
        return reply.text, reply.finish, scores
    given = body.prompts[index]
    text = given if isinstance(given, str) else version.codec.decode(prompt)
    if scored is not None:
        scores = echoed_scores(version.codec, prompt, scored, scores)
    return text + reply.text, reply.finish, scores


def _include_usage(body: GenerationRequest) -> bool:
    return body.stream_options is not None and body.stream_options.include_usage
