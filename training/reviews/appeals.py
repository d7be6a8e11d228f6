"""Export of decided appeals: texts for the next guard, and cases for the tests of its gate.

The files are proposals: nothing reads them until a person has checked and committed them. A text
is written only if two different reviewers made the same decision, if its user and these reviewers
allow training, and if no other appeal on the text was decided otherwise. Texts with the same words
are equal. The texts of a tenant and of a user are bounded, and users of a tenant take turns, so
that many accounts together cannot fill an export.

The files have no pseudonyms. Personal data are replaced, as in training sets. Appeals against the
end of an answer are counted and not written, because the withheld text is not stored anywhere.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from thumbwheel.review.v1 import review_pb2

from durable_files.files import write_file
from training.corpus.pii.judgements import redact_conversation
from training.data.chat import Message
from training.errors import ConfigError
from training.reviews.export import INCOMPLETE, NO_CONSENT, Consents, ExportResult

LEAST_REVIEWERS = 2
WORD = re.compile(r"\w+")
RIGHT, WRONG = review_pb2.BLOCK_DECISION_RIGHT, review_pb2.BLOCK_DECISION_WRONG
QUARANTINED, ANSWER_ENDED, UNDECIDED = "account_in_quarantine", "answer_ended", "not_two_reviewers"
DUPLICATE, CONTRADICTED = "equal_text", "decided_differently"
USER_LIMIT, TENANT_LIMIT = "limit_of_user", "limit_of_tenant"


@dataclass(frozen=True)
class ExportLimits:
    """Most texts of a tenant and of a user in an export, at least 1."""

    tenant_texts: int
    user_texts: int

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: `field` names the setting.
        """
        for name, number in (("tenant_texts", self.tenant_texts), ("user_texts", self.user_texts)):
            if number < 1:
                raise ConfigError(
                    f"{name}: {number} is not at least 1",
                    field=name,
                    reason="OUT_OF_RANGE",
                    limit="at least 1",
                )


@dataclass(frozen=True)
class DecidedAppeal:
    """Text of a refused question with the decision of reviewers."""

    tenant: str
    principal: str
    text: str
    is_upheld: bool
    block: review_pb2.AppealedBlock

    @property
    def key(self) -> str:
        """Words of the text, by which equal texts are recognised."""
        return " ".join(WORD.findall(unicodedata.normalize("NFKC", self.text).casefold()))


def export_appeals(
    reviewed: Iterable[review_pb2.ReviewedItem],
    quarantined: Collection[str],
    consents: Consents,
    folder: Path,
    language: str,
    limits: ExportLimits,
) -> ExportResult:
    """Write lookalikes.tsv, requests.tsv and cases.jsonl, readable by the owner alone.

    Args:
        reviewed: items of the review service, oldest first.
        quarantined: accounts whose appeals are left out, as pseudonyms.
        consents: feedback service.
        folder: created if it is missing.
        language: ISO 639-1 code of the users' language, for personal data.
        limits: bounds of the export.
    """
    appeals = [one for one in reviewed if one.item.rule == review_pb2.DRAW_RULE_APPEAL]
    people = {name for one in appeals for name in (one.item.principal, one.resolver, *one.raters)}
    keys = consents.data_keys(sorted(people - {""}))
    consenting = {name for name, key in keys.items() if key.consent}
    result = ExportResult()
    decided = []
    for one in appeals:
        decision = _decision(one, consenting)
        if not one.complete:
            result.left_out[INCOMPLETE] += 1
        elif one.item.principal not in consenting:
            result.left_out[NO_CONSENT] += 1
        elif one.item.principal in quarantined:
            result.left_out[QUARANTINED] += 1
        elif one.item.item.appeal.is_answer:
            result.left_out[ANSWER_ENDED] += 1
        elif decision is None:
            result.left_out[UNDECIDED] += 1
        else:
            decided.append(_appeal(one, decision == WRONG, language))
    chosen = select(decided, limits, result.left_out)
    result.items = len(chosen)
    for name, is_upheld in (("lookalikes", True), ("requests", False)):
        lines = [
            f"{one.block.category}\t{one.text}" for one in chosen if one.is_upheld == is_upheld
        ]
        _write(folder / f"{name}.tsv", lines)
    _write(folder / "cases.jsonl", [_case(one) for one in chosen])
    return result


def select(
    decided: Sequence[DecidedAppeal], limits: ExportLimits, left_out: Counter[str]
) -> list[DecidedAppeal]:
    """Return the appeals to write: one for each text, within the limits, users in turns."""
    decisions: dict[str, set[bool]] = defaultdict(set)
    for one in decided:
        decisions[one.key].add(one.is_upheld)
    of_user: Counter[tuple[str, str]] = Counter()
    keys: set[str] = set()
    in_turns = []
    for one in decided:
        user = one.tenant, one.principal
        if len(decisions[one.key]) > 1:
            left_out[CONTRADICTED] += 1
        elif one.key in keys:
            left_out[DUPLICATE] += 1
        elif of_user[user] >= limits.user_texts:
            left_out[USER_LIMIT] += 1
        else:
            in_turns.append((of_user[user], one))
            of_user[user] += 1
            keys.add(one.key)
    of_tenant: Counter[str] = Counter()
    chosen = []
    for _, one in sorted(in_turns, key=lambda pair: pair[0]):
        if of_tenant[one.tenant] >= limits.tenant_texts:
            left_out[TENANT_LIMIT] += 1
        else:
            of_tenant[one.tenant] += 1
            chosen.append(one)
    return chosen


def _decision(
    one: review_pb2.ReviewedItem, consenting: set[str]
) -> review_pb2.BlockDecision.ValueType | None:
    """Return the decision that two different reviewers share; None without one, or with both."""
    given = [*zip(one.raters, one.reviews, strict=True)]
    if one.HasField("resolution"):
        given.append((one.resolver, one.resolution))
    agreed = [
        decision
        for decision in (RIGHT, WRONG)
        if len({name for name, review in given if review.block_decision == decision} & consenting)
        >= LEAST_REVIEWERS
    ]
    return agreed[0] if len(agreed) == 1 else None


def _appeal(one: review_pb2.ReviewedItem, is_upheld: bool, language: str) -> DecidedAppeal:
    question = Message("user", one.item.item.context[-1].text)
    (redacted,), _, _ = redact_conversation([question], [], language)
    # One line, as the files have a text in a line.
    text = " ".join(redacted.content.split())
    return DecidedAppeal(one.item.tenant, one.item.principal, text, is_upheld, one.item.item.appeal)


def _case(one: DecidedAppeal) -> str:
    case = {
        "text": one.text,
        "expected": "allow" if one.is_upheld else "block",
        "category": one.block.category,
        "score": round(one.block.score, 4),
        "policy_version": one.block.policy_version,
    }
    return json.dumps(case, ensure_ascii=False)


def _write(path: Path, lines: Sequence[str]) -> None:
    write_file(path, "".join(f"{line}\n" for line in lines).encode(), mode=0o600)
