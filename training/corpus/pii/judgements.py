"""Removal of personal data and secrets from rated conversations, before the sets are made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from training.corpus.pii.kinds import KINDS_OF_USERS, Kind
from training.corpus.pii.redaction import redact_all
from training.data.chat import Message
from training.data.feedback.judgements import GivenFeedback, Judgement


def redact_feedback(
    feedback: Iterable[GivenFeedback], language: str
) -> tuple[list[GivenFeedback], Counter[Kind]]:
    """Replace personal data and secrets in contexts, answers and corrections; count them.

    A changed judgement has no sample, because its token ids contain the data.

    Args:
        language: ISO 639-1 code of the users' language.
    """
    results: list[GivenFeedback] = []
    counts: Counter[Kind] = Counter()
    for given in feedback:
        if isinstance(given, Judgement):
            answers = [given.answer, given.correction or ""]
        else:
            answers = [answer.text for answer in given.answers]
        context, answers, found = redact_conversation(given.context, answers, language)
        if found:
            counts.update(found)
            given = _with_texts(given, context, answers)
        results.append(given)
    return results, counts


def redact_conversation(
    context: Sequence[Message], answers: Sequence[str], language: str
) -> tuple[tuple[Message, ...], list[str], Counter[Kind]]:
    """Replace personal data and secrets in a conversation and its answers; count them.

    The texts share their placeholders. Values of system messages come from the operator, such as
    the address of a help desk, and stay.

    Args:
        language: ISO 639-1 code of the user's language.
    """
    public = [message.content for message in context if message.role == "system"]
    texts = [*(message.content for message in context), *answers]
    redacted = redact_all(texts, language, KINDS_OF_USERS, public_texts=public)
    counts: Counter[Kind] = Counter()
    for text in redacted:
        counts.update(text.counts)
    contents = [text.text for text in redacted]
    changed = tuple(
        Message(message.role, content) for message, content in zip(context, contents, strict=False)
    )
    return changed, contents[len(context) :], counts


def _with_texts(
    given: GivenFeedback, context: tuple[Message, ...], answers: Sequence[str]
) -> GivenFeedback:
    """Return the same feedback with other texts of its context and its answers."""
    if isinstance(given, Judgement):
        answer, correction = answers
        if given.correction is None:
            return replace(given, context=context, answer=answer, served=None)
        return replace(given, context=context, answer=answer, correction=correction, served=None)
    ranked = tuple(
        replace(answer, text=text) for answer, text in zip(given.answers, answers, strict=True)
    )
    return replace(given, context=context, answers=ranked)
