"""Export of complete items with their reviews, for evaluations.

Each line has the fields of a sample of inspect-ai (`id`, `input`, `target`, `metadata`), which
lm-eval reads as the columns of a JSON dataset. Only feedback of people who allow training now is
written. Reviewers appear by pseudonym; user, conversation and comments are left out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.review.v1 import review_pb2

from durable_files.files import publish
from training.corpus.pii.judgements import redact_conversation
from training.data.chat import Message
from training.data.feedback.rows import DataKey

SCALES = ("correctness", "helpfulness", "clarity", "safety")
INCOMPLETE, NO_CONSENT, APPEAL = "incomplete", "no_consent", "appeal"
REVIEWER_CONSENT, OTHER_TENANT = "review_without_consent_of_reviewer", "other_tenant"


class Consents(Protocol):
    """Source of the consent of people."""

    def data_keys(self, principals: Sequence[str]) -> Mapping[str, DataKey]: ...


@dataclass
class ExportResult:
    """Counts of an export; no texts and no names."""

    items: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def text(self) -> str:
        """Describe the result in a line for each reason."""
        lines = [f"items: {self.items}"]
        lines += [f"left out: {name} {count}" for name, count in sorted((+self.left_out).items())]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Judgement:
    """Review with the pseudonym of its reviewer."""

    rater: str
    review: review_pb2.Review


def export(
    reviewed: Iterable[review_pb2.ReviewedItem],
    consents: Consents,
    output: Path,
    language: str,
    tenant: str = "",
) -> ExportResult:
    """Write complete items whose people allow training; the file appears as a whole.

    Args:
        reviewed: items of the review service.
        consents: feedback service.
        output: JSON-lines file to write, readable by the owner alone.
        language: ISO 639-1 code of the reviewers' language, for personal data in written answers.
        tenant: only items of this tenant; "" for all.
    """
    result = ExportResult()
    complete = []
    for one in reviewed:
        if tenant and one.item.tenant != tenant:
            result.left_out[OTHER_TENANT] += 1
        elif one.item.rule == review_pb2.DRAW_RULE_APPEAL:
            result.left_out[APPEAL] += 1
        elif not one.complete:
            result.left_out[INCOMPLETE] += 1
        else:
            complete.append(one)
    people = {name for one in complete for name in (one.item.principal, one.resolver, *one.raters)}
    keys = consents.data_keys(sorted(people - {""}))
    consenting = {name for name, key in keys.items() if key.consent}
    partial = output.with_name(output.name + ".partial")
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600)
    with partial.open("w", encoding="utf-8") as opened:
        for one in complete:
            line = _line(one, consenting, language, result.left_out)
            if line is None:
                result.left_out[NO_CONSENT] += 1
                continue
            opened.write(json.dumps(line, ensure_ascii=False) + "\n")
            result.items += 1
    publish(partial, output)
    return result


def _line(
    one: review_pb2.ReviewedItem, consenting: set[str], language: str, left_out: Counter[str]
) -> dict[str, Any] | None:
    """Return the line of an item; None without the consent of the user or of all judges."""
    given = [_Judgement(*pair) for pair in zip(one.raters, one.reviews, strict=True)]
    reviews = [each for each in given if each.rater in consenting]
    left_out[REVIEWER_CONSENT] += len(given) - len(reviews)
    final = reviews
    if one.HasField("resolution"):
        final = [_Judgement(one.resolver, one.resolution)] * (one.resolver in consenting)
    if one.item.principal not in consenting or not final:
        return None
    shown = one.item.item
    context = [Message(_role(message.role), message.text) for message in shown.context]
    target, is_written = _target(shown, final, context, language)
    return {
        "id": shown.item_id,
        "input": [{"role": message.role, "content": message.content} for message in context],
        "target": target,
        "metadata": {
            "tenant": one.item.tenant,
            "rule": review_pb2.DrawRule.Name(one.item.rule).removeprefix("DRAW_RULE_").lower(),
            "task": chat_pb2.Task.Name(shown.task).removeprefix("TASK_").lower(),
            "target_is": "written" if is_written else "answer",
            "is_resolved": one.HasField("resolution"),
            "answers": [
                _answer(answer, version, final)
                for answer, version in zip(shown.answers, one.item.model_versions, strict=True)
            ],
            "reviews": [_review(each) for each in reviews],
        },
    }


def _target(
    item: review_pb2.ReviewItem,
    final: Sequence[_Judgement],
    context: Sequence[Message],
    language: str,
) -> tuple[str, bool]:
    """Return the reference answer, and whether a reviewer wrote it.

    It is the first written answer of the final judgement, or else the answer with the best mean
    rank, then with the best mean score. Answers without ranks or scores come last.
    """
    for each in final:
        if each.review.written_answer.strip():
            _, (text,), _ = redact_conversation(context, [each.review.written_answer], language)
            return text, True

    def order(answer: review_pb2.ReviewAnswer) -> tuple[float, float]:
        rank = _mean_rank(answer.answer_id, final)
        means = [_mean_score(answer.answer_id, scale, final) for scale in SCALES]
        scores = [mean for mean in means if mean is not None]
        return rank or float("inf"), -fmean(scores) if scores else 0.0

    return min(item.answers, key=order).text, False


def _answer(
    answer: review_pb2.ReviewAnswer, version: str, final: Sequence[_Judgement]
) -> dict[str, Any]:
    """Return an answer with its means over the final judgement; None without a score or rank."""
    return {
        "id": answer.answer_id,
        "text": answer.text,
        "model_version": version,
        **{scale: _mean_score(answer.answer_id, scale, final) for scale in SCALES},
        "rank": _mean_rank(answer.answer_id, final),
    }


def _review(given: _Judgement) -> dict[str, Any]:
    """Return a review without its texts."""
    return {
        "rater": given.rater,
        "scores": [
            {
                "id": scores.answer_id,
                **{scale: getattr(scores, scale) or None for scale in SCALES},
            }
            for scores in given.review.scores
        ],
        "ranks": [{"id": rank.answer_id, "rank": rank.rank} for rank in given.review.ranks],
        "time": given.review.submit_time.ToJsonString(),
    }


def _mean_score(answer_id: str, scale: str, final: Sequence[_Judgement]) -> float | None:
    """Return the mean score of an answer; 0 means that the scale does not apply."""
    scores = [
        getattr(scores, scale)
        for each in final
        for scores in each.review.scores
        if scores.answer_id == answer_id and getattr(scores, scale)
    ]
    return fmean(scores) if scores else None


def _mean_rank(answer_id: str, final: Sequence[_Judgement]) -> float | None:
    ranks = [
        rank.rank for each in final for rank in each.review.ranks if rank.answer_id == answer_id
    ]
    return fmean(ranks) if ranks else None


def _role(number: chat_pb2.Role.ValueType) -> str:
    return chat_pb2.Role.Name(number).removeprefix("ROLE_").lower()
