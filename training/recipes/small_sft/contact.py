"""Questions of a first contact with the small model, and judgement of the answers.

first_contact_questions.jsonl has twelve first questions and six variants of each kind. Training
never sees them (`dataset.held_out_questions`). Sums, code, facts, translations and refusals are
judged by rules; the other answers by a person who does not see which version gave them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

QUESTIONS = Path(__file__).parent / "first_contact_questions.jsonl"


@dataclass(frozen=True)
class ContactQuestion:
    """A question of a first contact.

    Attributes:
        part: "first" for the twelve questions, "variant" for the others
        expect: words of which a sensible answer contains at least one; empty if no word decides
        number: the result of a sum; empty for other kinds
        calls: arguments and expected value of calls of the function that the answer defines, each
            as JSON text; empty for other kinds
    """

    id: str
    part: str
    kind: str
    text: str
    expect: tuple[str, ...] = ()
    number: str = ""
    calls: tuple[tuple[str, str], ...] = ()


def read_contact_questions() -> list[ContactQuestion]:
    """Return the questions in the order of the file, the twelve first ones before the variants."""
    rows = [json.loads(line) for line in QUESTIONS.read_text().splitlines()]
    return [
        ContactQuestion(
            id=row["id"],
            part=row["set"],
            kind=row["kind"],
            text=row["question"],
            expect=tuple(row.get("expect", ())),
            number=row.get("number", ""),
            calls=tuple((arguments, value) for arguments, value in row.get("calls", ())),
        )
        for row in rows
    ]
