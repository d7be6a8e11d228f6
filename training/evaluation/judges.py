"""Judges: which of two answers to a prompt is better.

A judge decides a row of the gate only if it has not learned from the thumbs of the reward model.
That is a second reward model with thumbs of other users, or an endpoint of the operator.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Protocol
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from training.data.chat import load_chat
from training.errors import ConfigError, UnavailableError
from training.evaluation.answers import WIDE, Prompt, score
from training.model.placement import Place
from training.model.reward import load_reward_model

TIE = 1e-6  # equal answers have equal scores except for rounding


@dataclass(frozen=True)
class Contest:
    """Answers of candidate and incumbent to a prompt."""

    prompt: Prompt
    candidate: str
    incumbent: str


class Judge(Protocol):
    """Compares answers of two versions."""

    def wins(self, contests: Sequence[Contest]) -> list[float | None]:
        """Return 1 where the candidate's answer is better, 0.5 for a tie, 0 where it is worse.

        None is an invalid answer of the judge.
        """


@dataclass(frozen=True)
class RewardModelJudge:
    """Reward model as judge. It reads each answer alone, so the order of answers has no effect.

    Attributes:
        base: base model of the reward model (see `load_reward_model`).
        max_tokens: limit of prompt and answer; longer inputs lose their oldest tokens.
    """

    directory: Path
    base: Path
    max_tokens: int
    place: Place = WIDE

    def wins(self, contests: Sequence[Contest]) -> list[float | None]:
        reward, chat = load_reward_model(self.directory, self.base), load_chat(self.base)
        self.place(reward.scalar.backbone.decoder)
        old, new = (
            score(reward, chat, rows, self.max_tokens)
            for rows in (
                [(contest.prompt, contest.incumbent) for contest in contests],
                [(contest.prompt, contest.candidate) for contest in contests],
            )
        )
        return [beats(high, low) for high, low in zip(new, old, strict=True)]


INSTRUCTION = """Two assistants answered the same request. Decide which answer is better for the \
person who asked: correct, honest, helpful, and no longer than needed. Do not prefer an answer for \
its position, its length, or because it praises the person.

Reply with one word: A, B or tie."""
ANSWER = re.compile(r"\W*(?:answer\s+)?(a|b|tie)\W*", re.IGNORECASE)
URL = "TW_TRAINING_JUDGE_URL"
MODEL = "TW_TRAINING_JUDGE_MODEL"
KEY = "TW_TRAINING_JUDGE_KEY"
TIMEOUT_SECONDS = 60.0
ATTEMPTS = 3
CONCURRENCY = 8
MAX_REPLY_TOKENS = 8
MAX_REPLY_BYTES = 1 << 20


@dataclass(frozen=True)
class EndpointJudge:
    """Model behind an OpenAI-compatible endpoint.

    Each contest is judged in both orders; if the verdicts disagree, it is a tie, because models
    prefer a position (Zheng et al., arXiv 2306.05685). A reply other than A, B or tie is invalid.

    Attributes:
        base_url: address up to and including /v1.
        key: bearer token; empty: no authentication.
    """

    base_url: str
    model: str
    key: str = field(default="", repr=False)

    def wins(self, contests: Sequence[Contest]) -> list[float | None]:
        """Judge all contests.

        Raises:
            UnavailableError: the endpoint gave no reply; nothing is counted.
        """
        with ThreadPoolExecutor(CONCURRENCY) as pool:
            forward = pool.map(
                lambda c: self._first_wins(c.prompt, c.candidate, c.incumbent), contests
            )
            backward = pool.map(
                lambda c: self._first_wins(c.prompt, c.incumbent, c.candidate), contests
            )
            return [
                None if first is None or second is None else both_orders(first, second)
                for first, second in zip(forward, backward, strict=True)
            ]

    def _first_wins(self, prompt: Prompt, first: str, second: str) -> float | None:
        conversation = "\n".join(f"{message.role}: {message.content}" for message in prompt)
        # The answers are the last part: an instruction in them must not follow ours as the last.
        text = (
            f"{INSTRUCTION}\n\n<request>\n{conversation}\n</request>\n\n"
            f"<answer A>\n{first}\n</answer A>\n\n<answer B>\n{second}\n</answer B>\n\n"
            "Reply with one word: A, B or tie."
        )
        return read_verdict(self._reply(text))

    def _reply(self, text: str) -> str:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": MAX_REPLY_TOKENS,
        }
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        url = f"{self.base_url.rstrip('/')}/chat/completions"
        asked = Request(url, json.dumps(body).encode(), headers)  # noqa: S310 - scheme is checked
        problem = ""
        for _ in range(ATTEMPTS):
            try:
                with urlopen(asked, timeout=TIMEOUT_SECONDS) as reply:  # noqa: S310 - as above
                    return _content(reply.read(MAX_REPLY_BYTES))
            except HTTPError as error:
                problem = f"status {error.code}"
                if error.code < 500 and error.code != 429:
                    break
            except (OSError, HTTPException) as error:
                problem = type(error).__name__
        raise UnavailableError(f"{URL}: the judge gives no answer: {problem}")


def judge_from(environment: Mapping[str, str]) -> EndpointJudge | None:
    """Return the operator's judge from TW_TRAINING_JUDGE_URL, _MODEL and _KEY, or None without URL.

    Raises:
        ConfigError: the URL is no http(s) address, or the model is missing.
    """
    url = environment.get(URL, "")
    if not url:
        return None
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise ConfigError(
            f"{URL}: not an address", field=URL, reason="INVALID", limit="http:// or https://"
        )
    if not environment.get(MODEL):
        raise ConfigError(f"{MODEL}: missing beside {URL}", field=MODEL, reason="MISSING")
    return EndpointJudge(url, environment[MODEL], environment.get(KEY, ""))


def beats(high: float, low: float) -> float:
    """Return 1 if the first score is higher, 0.5 for a tie, otherwise 0."""
    return 0.5 if math.isclose(high, low, abs_tol=TIE) else float(high > low)


def both_orders(first: float, second: float) -> float:
    """Return the verdict of two orders: the candidate's answer came first, then second.

    Args:
        first, second: 1 if the answer that came first is better, 0.5 for a tie, otherwise 0.
    """
    return first if first == 1 - second else 0.5


def read_verdict(reply: str) -> float | None:
    """Return 1 for A, 0 for B, 0.5 for a tie, None for any other reply."""
    found = ANSWER.fullmatch(reply)
    return {"a": 1.0, "b": 0.0, "tie": 0.5}[found[1].lower()] if found else None


def _content(body: bytes) -> str:
    """Return the text of a chat completion; "" for a body of another form, an invalid reply."""
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        return ""
    return content if isinstance(content, str) else ""
