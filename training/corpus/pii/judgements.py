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

    The texts of a judgement or ranking share their placeholders. Values of system messages come
    from the operator, such as the address of a help desk, and stay. A changed judgement has no
    sample, because its token ids contain the data.

    Args:
        language: ISO 639-1 code of the users' language.
    """
    results: list[GivenFeedback] = []
    counts: Counter[Kind] = Counter()
    for given in feedback:
        context = given.context
        public = [message.content for message in context if message.role == "system"]
        if isinstance(given, Judgement):
            answers = [given.answer, given.correction or ""]
        else:
            answers = [answer.text for answer in given.answers]
        texts = [*(message.content for message in context), *answers]
        redacted = redact_all(texts, language, KINDS_OF_USERS, public_texts=public)
        if any(text.counts for text in redacted):
            for text in redacted:
                counts.update(text.counts)
            contents = [text.text for text in redacted]
            given = _with_texts(given, contents[: len(context)], contents[len(context) :])
        results.append(given)
    return results, counts


def _with_texts(
    given: GivenFeedback, contents: Sequence[str], answers: Sequence[str]
) -> GivenFeedback:
    """Return the same feedback with other texts of its context and its answers."""
    context = tuple(
        Message(message.role, content)
        for message, content in zip(given.context, contents, strict=True)
    )
    if isinstance(given, Judgement):
        answer, correction = answers
        if given.correction is None:
            return replace(given, context=context, answer=answer, served=None)
        return replace(given, context=context, answer=answer, correction=correction, served=None)
    ranked = tuple(
        replace(answer, text=text) for answer, text in zip(given.answers, answers, strict=True)
    )
    return replace(given, context=context, answers=ranked)
