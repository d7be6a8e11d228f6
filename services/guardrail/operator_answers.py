"""Formats of the operator's guard model: the messages of a request, and the parsers of answers.

The formats are those that developers publish: the model cards of Llama Guard 3 and 4 (hazards of
MLCommons by code) and ShieldGemma, the README of Qwen3Guard, and the user guide of
gpt-oss-safeguard. A parser takes nothing for safe that is not exactly the format's safe answer.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from services.guardrail.verdict import Category


class Format(StrEnum):
    """Format of the answers.

    `QWEN3_GUARD` refuses what the model calls controversial, `QWEN3_GUARD_LOOSE` allows it.
    """

    LLAMA_GUARD = "llama_guard"
    QWEN3_GUARD = "qwen3_guard"
    QWEN3_GUARD_LOOSE = "qwen3_guard_loose"
    YES_NO = "yes_no"
    JSON = "json"


# Formats of models that follow a written policy; the others know their policy.
WITH_POLICY = (Format.YES_NO, Format.JSON)

QWEN_SAFETY = re.compile(r"Safety: (Safe|Unsafe|Controversial)")
QWEN_CATEGORIES = "Categories:"
YES_NO = re.compile(r"(yes|no)(?![\w'’-])", re.IGNORECASE)
FENCE = "```"

# Names of the models for the categories; all others are HARMFUL_INTENT, since they are wider than
# any category: S2 (non-violent crimes), S6 (specialised advice), S8 (intellectual property).
CATEGORIES: Mapping[str, Category] = {
    "S1": Category.VIOLENCE,
    "S3": Category.SEXUAL_CONTENT,
    "S4": Category.SEXUAL_CONTENT,
    "S5": Category.HARASSMENT,
    "S7": Category.PRIVACY,
    "S9": Category.WEAPONS,
    "S10": Category.HATE,
    "S11": Category.SELF_HARM,
    "S12": Category.SEXUAL_CONTENT,
    "S13": Category.DISINFORMATION,
    "S14": Category.CYBER,
    "Violent": Category.VIOLENCE,
    "Sexual Content or Sexual Acts": Category.SEXUAL_CONTENT,
    "Suicide & Self-Harm": Category.SELF_HARM,
    "PII": Category.PRIVACY,
    "Jailbreak": Category.INJECTION,
} | {category.value: category for category in Category if category is not Category.NONE}


@dataclass(frozen=True)
class Exchange:
    """Text that is judged: a request, or with `answer` an answer to the request."""

    request: str
    answer: str = ""


class NonsenseError(Exception):
    """The model's answer is not in its format."""


def messages(exchange: Exchange, policy: str) -> Sequence[Mapping[str, str]]:
    """Return the messages of the request to the model.

    Args:
        exchange: the text to judge.
        policy: policy as a system message; "" for a model whose chat template has its policy.
    """
    if policy:
        # As JSON, no text can end early and go on as an instruction or as the other text.
        content = {"request": exchange.request}
        if exchange.answer:
            content["answer"] = exchange.answer
        return [
            {"role": "system", "content": policy},
            {"role": "user", "content": json.dumps(content, ensure_ascii=False)},
        ]
    asked = {"role": "user", "content": exchange.request}
    return (
        [asked, {"role": "assistant", "content": exchange.answer}] if exchange.answer else [asked]
    )


def parse(answer: str, answer_format: Format) -> Category:
    """Return the category of an unsafe text, NONE for a safe one.

    Raises:
        NonsenseError: the answer is not in the format.
    """
    return PARSERS[answer_format](answer.strip())


def _llama_guard(answer: str) -> Category:
    if answer == "safe":
        return Category.NONE
    first, _, codes = answer.partition("\n")
    if first.strip() != "unsafe":
        raise NonsenseError
    return _category(codes.strip().partition("\n")[0].split(","))


def _qwen3_guard(answer: str, safe: Sequence[str] = ("Safe",)) -> Category:
    first, *others = answer.splitlines() or [""]
    safety = QWEN_SAFETY.fullmatch(first.strip())
    if not safety:
        raise NonsenseError
    if safety[1] in safe:
        return Category.NONE
    names = [line.removeprefix(QWEN_CATEGORIES) for line in others if QWEN_CATEGORIES in line]
    return _category(",".join(names).split(","))


def _qwen3_guard_loose(answer: str) -> Category:
    return _qwen3_guard(answer, ("Safe", "Controversial"))


def _yes_no(answer: str) -> Category:
    """Parse the answer to "Does the text violate the policy?", which an explanation may follow."""
    word = YES_NO.match(answer)
    if not word:
        raise NonsenseError
    return Category.HARMFUL_INTENT if word[1].lower() == "yes" else Category.NONE


def _json(answer: str) -> Category:
    """Parse 0 or 1, or an object with `violation` and optionally `policy_category`."""
    if answer.startswith(FENCE) and answer.endswith(FENCE):
        answer = answer[len(FENCE) : -len(FENCE)].removeprefix("json")
    try:
        decision = json.loads(answer)
    except (ValueError, RecursionError):
        raise NonsenseError from None
    name = None
    if isinstance(decision, dict):
        name = decision.get("policy_category")
        decision = decision.get("violation")
    if type(decision) not in (int, bool) or decision not in (0, 1):
        raise NonsenseError
    return _category([name] if isinstance(name, str) else ()) if decision else Category.NONE


def _category(names: Sequence[str]) -> Category:
    """Return the category of the first name that has one."""
    categories = (CATEGORIES.get(name.strip()) for name in names)
    return next((each for each in categories if each), Category.HARMFUL_INTENT)


PARSERS: Mapping[Format, Callable[[str], Category]] = {
    Format.LLAMA_GUARD: _llama_guard,
    Format.QWEN3_GUARD: _qwen3_guard,
    Format.QWEN3_GUARD_LOOSE: _qwen3_guard_loose,
    Format.YES_NO: _yes_no,
    Format.JSON: _json,
}
