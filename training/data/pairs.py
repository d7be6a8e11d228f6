"""Preference pairs out of thumbs and corrections, and how far thumbs can be trusted.

Answers to the same context are compared: one that most liked against one that most disliked
(siblings from "regenerate" are the same case), and a correction against what it corrects. Where
several users rated the same answer, their number decides the pair's margin, and their disagreement
tells the label noise.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from training.data.chat import Message
from training.data.judgements import Judgement
from training.data.served import Served

CORRECTION_MARGIN = 0.5  # as a thumb up against a thumb down, each given three times
PRIOR_THUMBS = 2.0  # a question's own share of thumbs up counts fully from about as many thumbs
MIN_COMPARISONS = 20  # below, disagreement says nothing: its standard error is above 0.1


@dataclass(frozen=True)
class Answer:
    """One answer to one context, with all thumbs that it got, over users and repetitions. `served`:
    the sample of one that was rated as most rated it, where any of those has one.
    """

    text: str
    up: int = 0
    down: int = 0
    served: Served | None = None

    @property
    def approval(self) -> float:
        """Mean of the posterior of its share of thumbs up, from a uniform prior."""
        return (self.up + 1) / (self.up + self.down + 2)


@dataclass(frozen=True)
class Question:
    """A context with its rated answers and corrections (chosen, rejected)."""

    prompt_id: str
    context: tuple[Message, ...]
    answers: tuple[Answer, ...]
    corrections: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Pair:
    """`chosen` is preferred to `rejected`. `right` is the probability that it truly is; None where
    noise is unknown.
    """

    prompt_id: str
    context: tuple[Message, ...]
    chosen: str
    rejected: str
    margin: float
    right: float | None


@dataclass(frozen=True)
class LabelNoise:
    """Share of thumbs that say the opposite of what their giver thinks; None where too few answers
    were rated twice.
    """

    flipped: float | None
    comparisons: int
    disagreements: int


def prompt_key(context: Iterable[Message]) -> str:
    """Id of a context: equal for contexts that differ in case and spacing only."""
    normal = [(message.role, " ".join(message.content.split()).casefold()) for message in context]
    return hashlib.sha256(json.dumps(normal).encode()).hexdigest()[:16]


def group(judgements: Iterable[Judgement]) -> list[Question]:
    """Judgements by context, and within it by answer; in the order of the prompt ids."""
    by_prompt: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        by_prompt[prompt_key(judgement.context)].append(judgement)
    return [_question(prompt_id, by_prompt[prompt_id]) for prompt_id in sorted(by_prompt)]


def estimate_noise(questions: Iterable[Question]) -> LabelNoise:
    """From pairs of thumbs on the same answer: with a share e flipped, two thumbs disagree with
    probability 2e(1-e).
    """
    comparisons = disagreements = 0
    for answer in (answer for question in questions for answer in question.answers):
        votes = answer.up + answer.down
        comparisons += votes * (votes - 1) // 2
        disagreements += answer.up * answer.down
    if comparisons < MIN_COMPARISONS:
        return LabelNoise(None, comparisons, disagreements)
    rate = min(disagreements / comparisons, 0.5)
    return LabelNoise((1 - math.sqrt(1 - 2 * rate)) / 2, comparisons, disagreements)


def make_pairs(
    questions: Sequence[Question], noise: LabelNoise, max_per_prompt: int, seed: int
) -> tuple[list[Pair], dict[str, int]]:
    """All pairs, shuffled by the seed, and how many contexts or pairs were left out, by reason."""
    share_up = _share_up(questions)
    rng = random.Random(seed)
    pairs: list[Pair] = []
    dropped = {"prompt_without_opposite": 0, "over_cap_of_prompt": 0}
    for question in questions:
        liked_share = _liked_share(question, share_up, noise)
        own = [*_corrected(question), *_compared(question, noise, liked_share)]
        dropped["prompt_without_opposite"] += not own
        dropped["over_cap_of_prompt"] += max(0, len(own) - max_per_prompt)
        pairs += own if len(own) <= max_per_prompt else rng.sample(own, max_per_prompt)
    rng.shuffle(pairs)
    return pairs, dropped


def noise_ceiling(pairs: Sequence[Pair]) -> float | None:
    """Highest accuracy that any model can expect on these pairs; None where the noise is unknown."""
    known = [pair.right for pair in pairs if pair.right is not None]
    return sum(known) / len(known) if known else None


def _question(prompt_id: str, judgements: Sequence[Judgement]) -> Question:
    votes: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    corrections: dict[tuple[str, str], None] = {}
    served: dict[tuple[str, bool], Served] = {}
    for judgement in judgements:
        answer = " ".join(judgement.answer.split())
        if judgement.up is not None:
            votes[answer][0 if judgement.up else 1] += 1
            if judgement.served:
                served.setdefault((answer, judgement.up), judgement.served)
        if (
            judgement.correction is not None
            and (better := " ".join(judgement.correction.split())) != answer
        ):
            corrections[better, answer] = None
    answers = tuple(
        Answer(text, up, down, served.get((text, up > down)))
        for text, (up, down) in sorted(votes.items())
    )
    return Question(prompt_id, judgements[0].context, answers, tuple(sorted(corrections)))


def _corrected(question: Question) -> list[Pair]:
    return [
        Pair(question.prompt_id, question.context, better, worse, CORRECTION_MARGIN, None)
        for better, worse in question.corrections
    ]


def _compared(question: Question, noise: LabelNoise, liked_share: float) -> list[Pair]:
    liked = [answer for answer in question.answers if answer.up > answer.down]
    disliked = [answer for answer in question.answers if answer.up < answer.down]
    return [
        Pair(
            prompt_id=question.prompt_id,
            context=question.context,
            chosen=good.text,
            rejected=bad.text,
            margin=good.approval - bad.approval,
            right=None if noise.flipped is None else _right(good, bad, noise.flipped, liked_share),
        )
        for good in liked
        for bad in disliked
    ]


def _right(good: Answer, bad: Answer, flipped: float, liked_share: float) -> float:
    """P(good is truly liked and bad truly not), plus half of the cases where both are alike: those
    are a coin's toss.
    """
    chosen, rejected = (
        _truly_liked(good, flipped, liked_share),
        _truly_liked(bad, flipped, liked_share),
    )
    alike = chosen * rejected + (1 - chosen) * (1 - rejected)
    return chosen * (1 - rejected) + alike / 2


def _truly_liked(answer: Answer, flipped: float, liked_share: float) -> float:
    like = liked_share * (1 - flipped) ** answer.up * flipped**answer.down
    dislike = (1 - liked_share) * flipped**answer.up * (1 - flipped) ** answer.down
    return like / (like + dislike) if like + dislike > 0 else 0.5


def _share_up(questions: Iterable[Question]) -> float:
    """Share of thumbs up among all."""
    up, thumbs = _count(answer for question in questions for answer in question.answers)
    return up / thumbs if thumbs else 0.5


def _liked_share(question: Question, share_up: float, noise: LabelNoise) -> float:
    """Share of truly liked answers to this question: its thumbs up, drawn towards the share of all,
    with the flips taken out.

    Where all answers are liked, a thumb down is a slip more often than not; the share of all
    questions would not tell.
    """
    up, thumbs = _count(question.answers)
    share = (up + PRIOR_THUMBS * share_up) / (thumbs + PRIOR_THUMBS)
    flipped = noise.flipped or 0.0
    if flipped >= 0.5:
        return 0.5
    return min(max((share - flipped) / (1 - 2 * flipped), 0.01), 0.99)


def _count(answers: Iterable[Answer]) -> tuple[int, int]:
    """Thumbs up, and all thumbs."""
    thumbs = [(answer.up, answer.up + answer.down) for answer in answers]
    return sum(up for up, _ in thumbs), sum(both for _, both in thumbs)


def pair_line(pair: Pair) -> Mapping[str, object]:
    """A line of the reward model's data."""
    return {
        "messages": [{"role": m.role, "content": m.content} for m in pair.context],
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        "margin": pair.margin,
        "prompt_id": pair.prompt_id,
    }
