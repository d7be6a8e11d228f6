"""Client of an OpenAI-compatible model server.

The paths are those of vLLM and of the CPU model server: `/v1/completions` with echo and log-probs,
`/v1/chat/completions`, `/v1/models`, `/tokenize`, `/detokenize`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError
from urllib3.exceptions import TimeoutError as RequestTimeoutError
from urllib3.util import Retry

from training.errors import ConfigError, UnavailableError

# Requests at once. The CPU model server generates 16 answers in one step and queues 64 more.
CONCURRENCY = 8
# A restart of a model server behind a load balancer takes seconds; all requests are idempotent.
ATTEMPTS, BACKOFF_SECONDS = 4, 0.5
MAX_PROMPTS = 64  # of a request; the CPU model server refuses longer lists
CONNECT_SECONDS, READ_SECONDS = 10.0, 600.0
MAX_ERROR_CHARACTERS = 300

Prompt = str | Sequence[int]
Argument = TypeVar("Argument")
Result = TypeVar("Result")
Json = dict[str, Any]


class EndpointError(UnavailableError):
    """The model server is unreachable, stopped answering, or lacks a needed path."""

    reason = "ENDPOINT_UNAVAILABLE"


class RefusedError(ConfigError):
    """The model server refused a request; `field` is the parameter that it names."""

    reason = "REFUSED_BY_ENDPOINT"


@dataclass(frozen=True)
class Completion:
    """Generated text.

    Attributes:
        finish: "stop" at an end token or a stop text, "length" at the limit of tokens.
        tokens: number of generated tokens.
    """

    text: str
    finish: str
    tokens: int


@dataclass(frozen=True)
class PromptScores:
    """Log-probs of the tokens of a prompt, without generation.

    Attributes:
        token_ids: [T] tokens of the prompt.
        log_probs: [T - 1] natural log-probs of token_ids[1:]; the first token has no context.
        greedy: [T - 1] True where no other token is likelier.
    """

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    greedy: tuple[bool, ...]


class Endpoint:
    """A model of a model server. Its methods may be called from several threads."""

    def __init__(self, base_url: str, model: str, key: str = "") -> None:
        """Create the client; no request is sent.

        Args:
            base_url: address, with or without `/v1`.
            model: name of the model at the server.
            key: sent as `Authorization: Bearer KEY`; "" sends none.
        """
        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        self.model = model
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        retries = Retry(
            total=ATTEMPTS,
            status_forcelist=(429, 502, 503, 504),
            allowed_methods=None,
            backoff_factor=BACKOFF_SECONDS,
            raise_on_status=False,
        )
        self._pool = urllib3.PoolManager(
            maxsize=CONCURRENCY,
            headers=headers,
            retries=retries,
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close all open connections."""
        self._pool.clear()

    def complete(
        self,
        prompts: Sequence[Prompt],
        max_tokens: int,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> list[Completion]:
        """Continue each prompt, given as text or as token ids.

        Args:
            max_tokens: limit of new tokens, at least 1.
            stop: texts that end a completion and are not part of its text.
            temperature: 0 is greedy decoding.
            seed: seed of the first prompt; each later prompt has the next one.

        Raises:
            EndpointError: the server does not answer.
            RefusedError: the server refused a parameter, for example a prompt that is too long.
        """
        sampling = _sampling(max_tokens, stop, temperature)

        def one(place: int) -> Completion:
            prompt = prompts[place]
            given = prompt if isinstance(prompt, str) else list(prompt)
            body = self._post(
                "/v1/completions", {"prompt": given, **sampling, **_seeded(seed, place)}
            )
            choice = body["choices"][0]
            return _completion(choice, choice["text"], body)

        return self._each(one, range(len(prompts)))

    def chat(
        self,
        conversations: Sequence[Sequence[Mapping[str, str]]],
        max_tokens: int,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> list[Completion]:
        """Return the assistant's next message for each conversation.

        Args:
            conversations: messages with the keys `role` and `content`.
            max_tokens, stop, temperature, seed: as in `complete`.

        Raises:
            EndpointError: the server does not answer.
            RefusedError: the server refused a parameter.
        """
        sampling = _sampling(max_tokens, stop, temperature)

        def one(place: int) -> Completion:
            messages = [dict(message) for message in conversations[place]]
            body = self._post(
                "/v1/chat/completions", {"messages": messages, **sampling, **_seeded(seed, place)}
            )
            choice = body["choices"][0]
            return _completion(choice, choice["message"]["content"] or "", body)

        return self._each(one, range(len(conversations)))

    def log_probs(self, prompts: Sequence[Prompt]) -> list[PromptScores]:
        """Return the log-probs of the tokens of each prompt; texts are tokenized first.

        Raises:
            EndpointError: the server does not answer, or returns no log-probs of prompts.
            RefusedError: a prompt is empty or longer than the window.
        """

        def ids(prompt: Prompt) -> list[int]:
            return self.tokenize(prompt) if isinstance(prompt, str) else list(prompt)

        # In a request, consecutive prompts share half of their tokens: model servers compute the
        # shared beginning once, for example a question before its answers.
        groups: list[list[list[int]]] = []
        for tokens in self._each(ids, prompts):
            before = groups[-1][-1] if groups else []
            half = max(len(before), len(tokens)) // 2
            if before and before[:half] == tokens[:half] and len(groups[-1]) < MAX_PROMPTS:
                groups[-1].append(tokens)
            else:
                groups.append([tokens])
        return [scores for group in self._each(self._scored, groups) for scores in group]

    def _scored(self, prompts: Sequence[list[int]]) -> list[PromptScores]:
        # With max_tokens 0 the prompt is only scored; vLLM and OpenAI accept it too.
        body = self._post(
            "/v1/completions",
            {"prompt": prompts, "max_tokens": 0, "echo": True, "logprobs": 1, "temperature": 0},
        )
        choices = sorted(body["choices"], key=lambda choice: int(choice["index"]))
        return [self._scores(ids, choice) for ids, choice in zip(prompts, choices, strict=True)]

    def _scores(self, ids: Sequence[int], choice: Json) -> PromptScores:
        scores = choice.get("logprobs") or {}
        log_probs = scores.get("token_logprobs") or []
        tops = scores.get("top_logprobs") or []
        if len(log_probs) < len(ids) or len(tops) < len(ids):
            raise EndpointError(
                f"{self.base_url}: /v1/completions returns no log-probs of the prompt "
                "(echo with logprobs 1)",
                field="logprobs",
                limit=f"{len(ids)} log-probs",
            )
        chosen = [float(value) for value in log_probs[1 : len(ids)]]
        greedy = [
            value >= max(top.values())
            for value, top in zip(chosen, tops[1 : len(ids)], strict=True)
        ]
        return PromptScores(tuple(ids), tuple(chosen), tuple(greedy))

    def tokenize(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return the token ids of a text."""
        body = self._post("/tokenize", {"prompt": text, "add_special_tokens": add_special_tokens})
        return [int(token) for token in body["tokens"]]

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids, with special tokens written out."""
        return str(self._post("/detokenize", {"tokens": list(token_ids)})["prompt"])

    def tokenizer_info(self) -> Mapping[str, Any]:
        """Return the tokenizer's configuration, for example `eos_token` and `bos_token`."""
        return self._request("GET", "/tokenizer_info")

    def models(self) -> dict[str, int]:
        """Return the windows in tokens by name of model; 0 where the server names none."""
        entries = self.descriptions().items()
        return {name: int(entry.get("max_model_len") or 0) for name, entry in entries}

    def descriptions(self) -> dict[str, Json]:
        """Return the entries of `/v1/models` by name of model."""
        return {str(entry["id"]): entry for entry in self._request("GET", "/v1/models")["data"]}

    def _each(
        self, call: Callable[[Argument], Result], arguments: Sequence[Argument]
    ) -> list[Result]:
        if len(arguments) == 1:
            return [call(arguments[0])]
        with ThreadPoolExecutor(CONCURRENCY) as threads:
            futures = [threads.submit(call, argument) for argument in arguments]
            try:
                return [future.result() for future in futures]
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise

    def _post(self, path: str, body: Json) -> Json:
        return self._request("POST", path, json.dumps({"model": self.model, **body}).encode())

    def _request(self, method: str, path: str, body: bytes | None = None) -> Json:
        try:
            response = self._pool.request(method, self.base_url + path, body=body)
            content = json.loads(response.data) if response.data else {}
        except HTTPError as error:
            cause = error.reason if isinstance(error, MaxRetryError) else error
            text = "no answer in time" if isinstance(cause, RequestTimeoutError) else "interrupted"
            if isinstance(cause, NewConnectionError):  # a subclass of the timeout in urllib3
                text = "no connection"
            raise EndpointError(
                f"{self.base_url}: the model server does not answer ({text})",
                field="endpoint",
                limit=f"{ATTEMPTS + 1} attempts",
            ) from error
        except ValueError:
            content = {}
        if response.status == 200 and isinstance(content, dict) and content:
            return content
        raise self._error(path, response.status, content if isinstance(content, dict) else {})

    def _error(self, path: str, status: int, content: Json) -> EndpointError | RefusedError:
        found = content.get("error")
        told = found if isinstance(found, dict) else {}
        text = str(told.get("message", ""))[:MAX_ERROR_CHARACTERS]
        message = f"{self.base_url}{path}: HTTP {status} {text}".rstrip()
        if status in (400, 413, 422):
            return RefusedError(message, field=str(told.get("param") or "prompt"))
        if status in (401, 403):
            return EndpointError(message, field="key", reason="UNAUTHENTICATED")
        return EndpointError(message, field="endpoint")


def _sampling(max_tokens: int, stop: Sequence[str], temperature: float) -> Json:
    given = {"stop": list(stop)} if stop else {}
    return {"max_tokens": max_tokens, "temperature": temperature, **given}


def _seeded(seed: int | None, place: int) -> Json:
    return {} if seed is None else {"seed": seed + place}


def _completion(choice: Json, text: str, body: Json) -> Completion:
    tokens = int((body.get("usage") or {}).get("completion_tokens", 0))
    return Completion(text, str(choice.get("finish_reason") or ""), tokens)
