"""Questions of a first contact with the small model, and judgement of the answers.

first_contact_questions.jsonl has twelve first questions and six variants of each kind. Training
never sees them (`dataset.held_out_questions`). Sums, code, facts, translations and refusals are
judged by rules; the other answers by a person who does not see which version gave them.
"""

from __future__ import annotations

import ast
import hashlib
import json
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

import urllib3
from urllib3.exceptions import HTTPError

from training.errors import ConfigError, UnavailableError
from training.evaluation.answers import ChatModel
from training.probes.refusals import is_refusal
from training.probes.scoring import final_number
from training.probes.wording import contains_any
from training.verification.checks import Calls, Outcome
from training.verification.code import Runner, extract_code, judge_code

QUESTIONS = Path(__file__).parent / "first_contact_questions.jsonl"
MAX_TOKENS = 128
# The preset of code samples only the likeliest tokens, so that answers hardly vary.
TASK = "TASK_CODE"
READ_SECONDS = 120.0
_LABEL_DIGITS = 10


class Kind(StrEnum):
    """Kind of a question of a first contact."""

    GREETING = "greeting"
    IDENTITY = "identity"
    FACT = "fact"
    EXPLANATION = "explanation"
    LEARNER = "learner"
    POEM = "poem"
    TIPS = "tips"
    SUM = "sum"
    CODE = "code"
    TRANSLATION = "translation"
    SUMMARY = "summary"
    REFUSAL = "refusal"


@dataclass(frozen=True)
class ContactQuestion:
    """A question of a first contact.

    Attributes:
        part: "first" for the twelve questions, "variant" for the others
        expect: terms of which a sensible answer contains at least one; empty if no term decides
        number: result of a sum; empty for other kinds
        calls: arguments and expected value of calls of the function that the answer defines, each
            as JSON text; empty for other kinds
    """

    id: str
    part: str
    kind: Kind
    text: str
    expect: tuple[str, ...] = ()
    number: str = ""
    calls: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class ContactAnswer:
    """Answer to the question `id`.

    Attributes:
        ended: the answer ended by itself, not by the limit of tokens
        blocked: the guardrail refused the question or the answer
    """

    id: str
    text: str
    ended: bool
    blocked: bool = False


class SheetError(ConfigError):
    """A sheet lacks an answer or a verdict; `field` is the label of the row."""

    reason = "INCOMPLETE_SHEET"


def read_contact_questions() -> list[ContactQuestion]:
    """Return the questions in the order of the file, the twelve first ones before the variants."""
    rows = [json.loads(line) for line in QUESTIONS.read_text().splitlines()]
    return [
        ContactQuestion(
            id=row["id"],
            part=row["set"],
            kind=Kind(row["kind"]),
            text=row["question"],
            expect=tuple(row.get("expect", ())),
            number=row.get("number", ""),
            calls=tuple((arguments, value) for arguments, value in row.get("calls", ())),
        )
        for row in rows
    ]


def ask_model(directory: Path, questions: Sequence[ContactQuestion]) -> list[ContactAnswer]:
    """Return the greedy answers of a model directory, without guardrail and enhancer."""
    conversations = [[{"role": "user", "content": question.text}] for question in questions]
    answers = ChatModel(directory).answer_greedily(conversations, MAX_TOKENS)
    return [
        ContactAnswer(question.id, answer.text, answer.ended)
        for question, answer in zip(questions, answers, strict=True)
    ]


def ask_system(url: str, key: str, questions: Iterable[ContactQuestion]) -> list[ContactAnswer]:
    """Return the answers of a running system, asked like the page asks it (docs/api.md).

    Raises:
        UnavailableError: the system does not answer, or refuses the request.
    """
    pool = urllib3.PoolManager(retries=False, timeout=READ_SECONDS)
    answers = []
    for question in questions:
        body = {
            "input": {"text": question.text},
            "requestId": str(uuid.uuid4()),
            "task": TASK,
            "sampling": {"maxTokens": MAX_TOKENS, "seed": "1"},
        }
        headers = {"Authorization": f"Bearer {key}"}
        try:
            reply = pool.request(
                "POST", f"{url.rstrip('/')}/api/messages", json=body, headers=headers
            )
        except HTTPError as error:
            raise UnavailableError(f"{url}: {type(error).__name__}", field="url") from error
        if reply.status != 200:
            raise UnavailableError(f"{url}: status {reply.status}", field="url")
        answers.append(_answer_of_events(question.id, reply.data.decode()))
    return answers


def _answer_of_events(question_id: str, stream: str) -> ContactAnswer:
    """Return the answer in server-sent events with the messages of chat.v1 as JSON."""
    events = [
        json.loads(line.removeprefix("data:"))
        for line in stream.splitlines()
        if line.startswith("data:")
    ]
    text = "".join(event.get("textDelta", {}).get("text", "") for event in events)
    finish = next(
        (event["completed"].get("finishReason", "") for event in events if "completed" in event), ""
    )
    return ContactAnswer(
        question_id, text.strip(), finish == "FINISH_REASON_STOP", finish.endswith("_BLOCKED")
    )


def judge_by_rule(question: ContactQuestion, answer: ContactAnswer, sandbox: Runner) -> bool | None:
    """Return whether the answer is sensible, or None if only a person can tell.

    Raises:
        SandboxUnavailableError: the code of an answer could not be run.
    """
    text = answer.text
    match question.kind:
        case Kind.REFUSAL:
            return answer.blocked or is_refusal(text)
        case _ if answer.blocked or not text or not answer.ended:
            return False
        case Kind.SUM:
            return final_number(question.text, text) == question.number
        case Kind.CODE:
            return _runs(question.calls, text, sandbox)
        case Kind.FACT | Kind.TRANSLATION:
            return contains_any(text, question.expect)
        case _:
            return None if not question.expect or contains_any(text, question.expect) else False


def _runs(calls: Sequence[tuple[str, str]], text: str, sandbox: Runner) -> bool:
    """Return True if the first function of the answer returns the expected values."""
    try:
        tree = ast.parse(extract_code(text) or "")
    except (SyntaxError, ValueError):
        return False
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    if not names:
        return False
    arguments, expected = zip(*calls, strict=True)
    return judge_code(Calls(names[0], arguments, expected), text, sandbox).outcome is Outcome.RIGHT


def label(question: ContactQuestion, answer: ContactAnswer) -> str:
    """Return the label of an answer on a sheet: equal answers have one, versions leave no trace."""
    content = f"{question.text}\n{answer.text}".encode()
    return hashlib.sha256(content).hexdigest()[:_LABEL_DIGITS]


def blind_sheet(
    answers: Iterable[Sequence[ContactAnswer]], judge: Callable[..., bool | None]
) -> list[dict[str, str | bool | None]]:
    """Return the rows that a person judges, of several versions in an order without meaning.

    Args:
        answers: answers of each version.
        judge: `judge_by_rule` with its sandbox; answers that it judges are left out.
    """
    questions = {question.id: question for question in read_contact_questions()}
    rows: dict[str, dict[str, str | bool | None]] = {}
    for version in answers:
        for answer in version:
            question = questions[answer.id]
            if judge(question, answer) is None:
                found = label(question, answer)
                rows[found] = {
                    "label": found,
                    "question": question.text,
                    "answer": answer.text,
                    "sensible": None,
                }
    return [rows[found] for found in sorted(rows)]


def count_sensible(
    answers: Sequence[ContactAnswer],
    verdicts: Mapping[str, bool | None],
    judge: Callable[..., bool | None],
) -> dict[str, dict[str, list[int]]]:
    """Return [sensible, asked] for each part and kind, and for the kind "all".

    Args:
        verdicts: of a judged sheet, by label.

    Raises:
        SheetError: an answer has no verdict.
    """
    questions = {question.id: question for question in read_contact_questions()}
    counts: dict[str, dict[str, list[int]]] = {}
    for answer in answers:
        question = questions[answer.id]
        verdict = judge(question, answer)
        if verdict is None:
            found = label(question, answer)
            verdict = verdicts.get(found)
            if verdict is None:
                raise SheetError(f"{found}: {answer.id} has no verdict on the sheet", field=found)
        part = counts.setdefault(question.part, {})
        for kind in ("all", question.kind.value):
            count = part.setdefault(kind, [0, 0])
            count[0] += verdict
            count[1] += 1
    return counts


def write_answers(answers: Iterable[ContactAnswer], path: Path) -> None:
    """Write answers as JSON lines."""
    path.write_text(
        "".join(json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in answers)
    )


def read_answers(path: Path) -> list[ContactAnswer]:
    """Read the answers of `write_answers`."""
    return [ContactAnswer(**json.loads(line)) for line in path.read_text().splitlines()]
