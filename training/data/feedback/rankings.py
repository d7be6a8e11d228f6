"""Rankings of answers to one context, and the comparisons that follow from them.

A ranking of n answers gives a comparison for each two answers with different ranks; ties give none.
Each comparison has the weight 1 / (n - 1). An answer thus counts at most once in a ranking, as in a
vote on two answers, and a ranking at most as n / 2 votes, before the factor of its source.

InstructGPT (arXiv 2203.02155, section 3.5) found that a model overfits if each of n (n - 1) / 2
comparisons is an example of its own, because each answer is then learned n - 1 times. It divides by
the number of comparisons, so that a ranking counts as one vote. The weight 1 / (n - 1) avoids the
repetition too, and leaves a ranking of more answers, which has more information, more weight.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations

from training.data.chat import Message
from training.data.feedback.drops import Drop, unreadable_reason
from training.data.feedback.events import Feedback, FinishReason, Turn
from training.data.feedback.external import is_untrained
from training.data.feedback.sources import Source
from training.data.feedback.texts import text_key


@dataclass(frozen=True)
class RankedText:
    """Answer in a ranking; 1 is the best rank, and equal ranks are ties."""

    text: str
    rank: int
    model_version: str = ""


@dataclass(frozen=True)
class Ranking:
    """Order of at least two answers to one context.

    `principal` is the user of the conversation, `rater` the reviewer who ranked, empty if the user
    did. `left_out` answers cannot be used for training.
    """

    message_id: str
    principal: str
    source: Source
    context: tuple[Message, ...]
    answers: tuple[RankedText, ...]
    rater: str = ""
    left_out: int = 0

    @property
    def giver(self) -> str:
        """Principal who gave the ranking."""
        return self.rater or self.principal


@dataclass(frozen=True)
class Comparison:
    """Preference between two answers by the majority of `users`, who gave it directly."""

    chosen: str
    rejected: str
    margin: float
    weight: float
    source: Source
    users: frozenset[str]


def ranking_of(
    event: Feedback, known: Mapping[str, Turn], trained_external: Collection[str] = ()
) -> Ranking | Drop:
    """Join a ranking with its answers, or return why it is dropped.

    Answers of other users, without consent, erased, cut or blocked are left out, and those of
    external models. A ranking with fewer than two other answers is dropped.

    Args:
        known: last revision of each turn by message id.
        trained_external: external models whose answers may train.
    """
    question = known.get(event.message_id)
    if question is None or (reason := _unreadable(question, event.principal)):
        return Drop.UNJOINED if question is None else reason or Drop.UNJOINED
    answers: list[RankedText] = []
    reasons: list[Drop] = []
    for ranked in event.ranked:
        text, turn = ranked.text, known.get(ranked.message_id)
        # The version of the event counts too: a text without a stored answer has no other.
        versions = (ranked.model_version, turn.model_version if turn else "")
        if any(is_untrained(version, trained_external) for version in versions):
            reasons.append(Drop.EXTERNAL)
            continue
        if ranked.message_id:
            if reason := _unusable(turn, event.principal, question):
                reasons.append(reason)
                continue
            text = turn.answer if turn else ""
        answers.append(RankedText(text, ranked.rank, ranked.model_version))
    if len(answers) < 2:
        return reasons[0] if reasons else Drop.EMPTY
    return Ranking(
        event.message_id,
        event.principal,
        event.source,
        question.context,
        tuple(answers),
        event.rater,
        len(reasons),
    )


def compare(rankings: Iterable[Ranking]) -> tuple[list[Comparison], int]:
    """Return the comparisons of rankings of one context, and the number of undecided ones.

    Comparisons of the same two answers count by majority, as thumbs on an answer do. The margin is
    the difference of the posterior means of both shares, with a uniform prior.
    """
    # Source and both texts → winner → weight and giver of each comparison.
    votes: dict[tuple[Source, str, str], dict[str, list[tuple[float, str]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for ranking in rankings:
        weight = 1 / (len(ranking.answers) - 1)
        for pair in combinations(ranking.answers, 2):
            better, worse = sorted(pair, key=lambda answer: answer.rank)
            texts = text_key(better.text), text_key(worse.text)
            if better.rank < worse.rank and texts[0] != texts[1]:
                key = (ranking.source, min(texts), max(texts))
                votes[key][texts[0]].append((weight, ranking.giver))
    found: list[Comparison] = []
    undecided = 0
    for (source, *both), winners in sorted(votes.items()):
        chosen, rejected = sorted(both, key=lambda text: -len(winners[text]))
        won, lost = winners[chosen], winners[rejected]
        if len(won) == len(lost):
            undecided += 1
            continue
        margin = (len(won) - len(lost)) / (len(won) + len(lost) + 2)
        mean_weight = sum(weight for weight, _ in won) / len(won)
        users = frozenset(giver for _, giver in won)
        found.append(Comparison(chosen, rejected, margin, mean_weight, source, users))
    return found, undecided


def _unreadable(turn: Turn, principal: str) -> Drop | None:
    """Return why a turn cannot be a question or an answer, None if it can."""
    return unreadable_reason(turn, principal) or (None if turn.context else Drop.EMPTY)


def _unusable(turn: Turn | None, principal: str, question: Turn) -> Drop | None:
    """Return why an answer cannot be compared, None if it can."""
    if turn is None:
        return Drop.UNJOINED
    if reason := _unreadable(turn, principal):
        return reason
    if turn.context != question.context:
        return Drop.OTHER_CONTEXT
    if is_blocked(turn):
        return Drop.BLOCKED
    if turn.finish is not FinishReason.STOP:
        # The order would rate the length.
        return Drop.INCOMPLETE
    return None if turn.answer.strip() else Drop.EMPTY


def is_blocked(turn: Turn) -> bool:
    """Return True if the guard blocked or redacted a part of the turn."""
    blocked = (FinishReason.INPUT_BLOCKED, FinishReason.OUTPUT_BLOCKED)
    return turn.finish in blocked or bool(turn.guard_category)
