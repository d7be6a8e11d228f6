"""Client of an OpenAI-compatible model server.

The paths are those of vLLM and of the CPU model server: `/v1/completions` with echo, log-probs and
token ids, `/v1/chat/completions`, `/v1/models`, `/tokenize`, `/detokenize`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from chat_format.errors import ChatFormatError
from chat_format.tokenizer_check import compare_ids, token_ids
from training.errors import ConfigError
from training.serving.connection import READ_SECONDS, Connection, EndpointError, Json, ResponseError

# Requests at once. The CPU model server generates 16 answers in one step and queues 64 more.
CONCURRENCY = 8
MAX_PROMPTS = 64  # of a request; the CPU model server refuses longer lists
# Sampling from the distribution of the model itself. A server's defaults may be those of the
# model's generation_config.json, for example top_k 64.
UNCHANGED_DISTRIBUTION = {
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}

Prompt = str | Sequence[int]
Argument = TypeVar("Argument")
Result = TypeVar("Result")


class TokenizerMismatchError(ConfigError):
    """The model server has another tokenizer than the model directory."""

    reason = "MISMATCH"


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
class SampledTokens:
    """Sampled tokens, including the end token.

    Attributes:
        token_ids: [N].
        log_probs: [N] natural log-probs of the model at temperature 1.
        finish: as in Completion.
    """

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    finish: str


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

    def __init__(
        self,
        base_url: str,
        model: str,
        key: str = "",
        concurrency: int = CONCURRENCY,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        """Create the client; no request is sent.

        Args:
            base_url: address, with or without `/v1`.
            model: name of the model at the server.
            key: sent as `Authorization: Bearer KEY`; "" sends none.
            concurrency: requests at once.
            read_seconds: longest wait for a response.
        """
        self._concurrency = concurrency
        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        self.model = model
        self._connection = Connection(self.base_url, key, concurrency, read_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close all open connections."""
        self._connection.close()

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
        given = [prompt if isinstance(prompt, str) else list(prompt) for prompt in prompts]
        sampling = _sampling(max_tokens, stop, temperature)
        return self._completions("/v1/completions", "prompt", given, sampling, seed)

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
        given = [[dict(message) for message in messages] for messages in conversations]
        sampling = _sampling(max_tokens, stop, temperature)
        return self._completions("/v1/chat/completions", "messages", given, sampling, seed)

    def _completions(
        self, path: str, field: str, given: Sequence[Any], sampling: Json, seed: int | None
    ) -> list[Completion]:
        """Post each prompt or conversation as the field `field` and read the first choice."""

        def one(place: int) -> Completion:
            seeded = {} if seed is None else {"seed": seed + place}
            return _completion(self._post(path, {field: given[place], **sampling, **seeded}))

        return self._each(one, range(len(given)))

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        stop_ids: Sequence[int],
        temperature: float,
        seeds: Sequence[int],
        only: Sequence[int] = (),
    ) -> list[SampledTokens]:
        """Sample a continuation of each prompt from the distribution of the model.

        Args:
            max_tokens: limit of new tokens, including the end token.
            stop_ids: tokens that end a continuation and are its last token.
            temperature: 0 is greedy decoding.
            seeds: one for each prompt.
            only: one for each prompt: the only token that may be sampled, with its log-prob in the
                whole distribution (vLLM's `allowed_token_ids`). Empty: all tokens.

        Raises:
            EndpointError: the server does not answer.
            ResponseError: it returns another number of log-probs than of tokens.
            RefusedError: the server refused a parameter, or a prompt that is too long.
        """

        def one(place: int) -> SampledTokens:
            body = self._post(
                "/v1/completions",
                {
                    "prompt": list(prompts[place]),
                    "max_tokens": max_tokens,
                    "stop_token_ids": list(stop_ids),
                    "temperature": temperature,
                    "seed": seeds[place],
                    "logprobs": 0,
                    "return_token_ids": True,
                    **UNCHANGED_DISTRIBUTION,
                    **({"allowed_token_ids": [only[place]]} if only else {}),
                },
            )
            return self._sampled(body["choices"][0])

        return self._each(one, range(len(prompts)))

    def _sampled(self, choice: Json) -> SampledTokens:
        ids = choice.get("token_ids") or []
        log_probs = (choice.get("logprobs") or {}).get("token_logprobs") or []
        numbers = [value for value in log_probs if isinstance(value, float | int)]
        if not ids or len(ids) != len(numbers) or not all(map(math.isfinite, numbers)):
            raise ResponseError(
                f"{self.base_url}: /v1/completions returns {len(numbers)} log-probs for "
                f"{len(ids)} sampled tokens (logprobs with return_token_ids)",
                field="logprobs",
                limit=f"{len(ids)} finite log-probs",
            )
        finish = str(choice.get("finish_reason") or "")
        return SampledTokens(tuple(map(int, ids)), tuple(map(float, numbers)), finish)

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

    def check_tokenizer(self, directory: Path) -> bool:
        """Compare the server's tokenizer with that of a model directory, by ids of fixed texts.

        Returns:
            False if nothing was compared, because the server has no /tokenize or the directory no
            tokenizer.

        Raises:
            TokenizerMismatchError: the ids differ; the text names the first difference.
            EndpointError: the server does not answer.
            ChatFormatError: the tokenizer of the directory is malformed.
        """
        if not (directory / "tokenizer.json").exists():
            return False
        for text, ids in token_ids(directory).items():
            try:
                found = self.tokenize(text, add_special_tokens=False)
            except EndpointError as error:
                if error.reason == "NOT_FOUND":
                    return False
                raise
            try:
                compare_ids(text, ids, found)
            except ChatFormatError as error:
                raise TokenizerMismatchError(
                    f"{self.base_url}: {error.text}", field=error.field, limit=error.limit
                ) from error
        return True

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids, with special tokens written out."""
        return str(self._post("/detokenize", {"tokens": list(token_ids)})["prompt"])

    def tokenizer_info(self) -> Mapping[str, Any]:
        """Return the tokenizer's configuration, for example `eos_token` and `bos_token`."""
        return self._connection.get("/tokenizer_info")

    def models(self) -> dict[str, int]:
        """Return the windows in tokens by name of model; 0 where the server names none."""
        entries = self.descriptions().items()
        return {name: int(entry.get("max_model_len") or 0) for name, entry in entries}

    def descriptions(self) -> dict[str, Json]:
        """Return the entries of `/v1/models` by name of model."""
        return {str(entry["id"]): entry for entry in self._connection.get("/v1/models")["data"]}

    def command(self, path: str, body: Json | None = None) -> None:
        """Post a command of the server's administration; see `Connection.command`."""
        self._connection.command(path, body)

    def _each(
        self, call: Callable[[Argument], Result], arguments: Sequence[Argument]
    ) -> list[Result]:
        if len(arguments) == 1:
            return [call(arguments[0])]
        with ThreadPoolExecutor(self._concurrency) as threads:
            futures = [threads.submit(call, argument) for argument in arguments]
            try:
                return [future.result() for future in futures]
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise

    def _post(self, path: str, body: Json) -> Json:
        return self._connection.post(path, {"model": self.model, **body})


def _sampling(max_tokens: int, stop: Sequence[str], temperature: float) -> Json:
    given = {"stop": list(stop)} if stop else {}
    return {"max_tokens": max_tokens, "temperature": temperature, **given}


def _completion(body: Json) -> Completion:
    """Return the first choice of a response, which has a text or, for a chat, a message."""
    choice = body["choices"][0]
    text = choice["text"] if "text" in choice else choice["message"]["content"] or ""
    tokens = int((body.get("usage") or {}).get("completion_tokens", 0))
    return Completion(text, str(choice.get("finish_reason") or ""), tokens)
