"""Removal of personal data and secrets from rated conversations, before the sets are made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from training.corpus.pii.kinds import KINDS_OF_USERS, Kind
from training.corpus.pii.redaction import redact_all
from training.data.chat import Message
from training.data.feedback.judgements import Judgement


def redact_judgements(
    judgements: Iterable[Judgement], language: str
) -> tuple[list[Judgement], Counter[Kind]]:
    """Replace personal data and secrets in contexts, answers and corrections; count them.

    The texts of a judgement share their placeholders. Values of system messages come from the
    operator, such as the address of a help desk, and stay. A changed judgement has no sample,
    because its token ids contain the data.

    Args:
        language: ISO 639-1 code of the users' language.
    """
    results: list[Judgement] = []
    counts: Counter[Kind] = Counter()
    for judgement in judgements:
        context = judgement.context
        public = [message.content for message in context if message.role == "system"]
        texts = [*(m.content for m in context), judgement.answer, judgement.correction or ""]
        redacted = redact_all(texts, language, KINDS_OF_USERS, public_texts=public)
        if any(text.counts for text in redacted):
            for text in redacted:
                counts.update(text.counts)
            *contents, answer, correction = (text.text for text in redacted)
            judgement = replace(
                judgement,
                context=tuple(
                    Message(message.role, content)
                    for message, content in zip(context, contents, strict=True)
                ),
                answer=answer,
                correction=None if judgement.correction is None else correction,
                served=None,
            )
        results.append(judgement)
    return results, counts
