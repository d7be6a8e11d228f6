"""Detection of answers that name their own model, by words without regard to case.

An answer names its model if it contains
- the whole name of the model, if the name has a digit or several words: `qwen-7b`;
- a family name of the setting that is also a word of the model's name: `Qwen`;
- the developer of the model, if the operator has set one;
- another word of the model's name after an introduction such as "I am" or "my name is". Words such
  as `small` are frequent in answers and reveal nothing elsewhere.

The battles of LMArena are filtered by a list of such family names as well (FastChat,
serve/monitor/clean_battle_data.py).
"""

import re
from collections.abc import Iterable, Iterator, Sequence

FAMILY_NAMES = (
    *("alpaca", "bard", "chatglm", "chatgpt", "claude", "codestral", "cohere", "command-r", "dbrx"),
    *("deepseek", "dolly", "falcon", "gemini", "gemma", "glm", "gpt", "granite", "grok", "hermes"),
    *("kimi", "llama", "ministral", "mistral", "mixtral", "nemotron", "olmo", "openai", "palm"),
    *("phi", "qwen", "qwq", "smollm", "starcoder", "tulu", "vicuna", "yi"),
)
WORD = re.compile(r"[^\W_]+")
# Letters and digits separately, since names are written `qwen3`, `qwen-3` and `Qwen 3`.
PART = re.compile(r"[^\W\d_]+|\d+")
INTRODUCTIONS = (
    *(("i", "am"), ("i", "m"), ("my", "name", "is"), ("this", "is"), ("called",), ("named",)),
)
# Words between an introduction and the name: "I am the model nano".
INTRODUCTION_WORDS = 4
MIN_WORD_CHARACTERS = 3
# Words of model names that are common in introductions: "I am an assistant".
GENERIC_WORDS = frozenset(
    ("assistant", "base", "chat", "instruct", "language", "model", "stable", "version")
)


def names_itself(text: str, model: str, developer: str, families: Iterable[str]) -> bool:
    """Return True if an answer names its model.

    Args:
        text: the answer.
        model: name of the model.
        developer: developer of the model, or "".
        families: names of model families.
    """
    words = WORD.findall(text.casefold())
    own, parts = WORD.findall(model.casefold()), PART.findall(model.casefold())
    is_distinct = len(own) > 1 or any(character.isdigit() for character in model)
    written = [WORD.findall(developer.casefold())]
    written += [own] if is_distinct else []
    if any(name and _contains(words, name) for name in written):
        return True
    # `Qwen3` contains the family as a part of a word.
    text_parts = PART.findall(text.casefold())
    for family in families:
        name = PART.findall(family.casefold())
        if name and _contains(parts, name) and _contains(text_parts, name):
            return True
    introduced = {
        part
        for part in parts
        if len(part) >= MIN_WORD_CHARACTERS and part not in GENERIC_WORDS and part.isalpha()
    }
    return any(not introduced.isdisjoint(found) for found in _introduced(words))


def _introduced(words: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield the words that follow each introduction."""
    for introduction in INTRODUCTIONS:
        for start in _places(words, introduction):
            end = start + len(introduction)
            yield words[end : end + INTRODUCTION_WORDS]


def _contains(words: Sequence[str], name: Sequence[str]) -> bool:
    return next(_places(words, name), None) is not None


def _places(words: Sequence[str], name: Sequence[str]) -> Iterator[int]:
    """Yield the positions at which the words of a name occur in this order."""
    wanted = list(name)
    for place in range(len(words) - len(wanted) + 1):
        if words[place] == wanted[0] and list(words[place : place + len(wanted)]) == wanted:
            yield place
