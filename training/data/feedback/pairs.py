"""Preference pairs from thumbs, corrections and rankings, with an estimate of label noise.

Answers to the same context are compared: a mostly liked answer against a mostly disliked one
("regenerate" siblings included), a correction against the corrected answer, and answers that a
person ranked (rankings.py). With several
ratings per answer, their number sets the margin of the pair, and their disagreement gives the label
noise.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from training.data.chat import Message
from training.data.feedback.judgements import GivenFeedback, Judgement
from training.data.feedback.rankings import Comparison, Ranking, compare
from training.data.feedback.sources import Source, SourceWeights
from training.data.feedback.texts import prompt_key, text_key
from training.data.feedback.user_shares import share_prompt
from training.data.served import Served

CORRECTION_MARGIN = 0.5  # equals three thumbs up against three thumbs down
PRIOR_THUMBS = 2.0  # weight of the global share of thumbs up, in thumbs of the question's own
NEUTRAL = SourceWeights(thumbs=1, correction=1, written=1, arena=1, ranking=1)
MIN_COMPARISONS = 20  # with fewer, the standard error of the disagreement is above 0.1


@dataclass(frozen=True)
class Answer:
    """One answer to one context with all its thumbs, over users and repetitions.

    `text` is as generated, with its line breaks. `served` is a sample of an answer rated like the
    majority, if there is one. `users` are the principals of the thumbs.
    """

    text: str
    up: int = 0
    down: int = 0
    served: Served | None = None
    users: frozenset[str] = frozenset()

    @property
    def approval(self) -> float:
        """Posterior mean of the share of thumbs up, with a uniform prior."""
        return (self.up + 1) / (self.up + self.down + 2)


@dataclass(frozen=True)
class Correction:
    """A better answer and the answer that it corrects; the latter is None if it was cut.

    `users` are the principals who wrote it. The source of an answer by reviewers alone is WRITTEN.
    """

    text: str
    corrected: str | None
    users: frozenset[str]
    source: Source = Source.CORRECTION


@dataclass(frozen=True)
class Question:
    """A context with its rated answers, its corrections and its ranked answers.

    `undecided` is the number of comparisons without a majority.
    """

    prompt_id: str
    context: tuple[Message, ...]
    answers: tuple[Answer, ...]
    corrections: tuple[Correction, ...]
    comparisons: tuple[Comparison, ...] = ()
    undecided: int = 0


@dataclass(frozen=True)
class Pair:
    """A preference of `chosen` over `rejected`.

    `right` is the probability of a correct label, None for unknown noise. `users` are the
    principals of the judgements on each side. `weight` is the factor on the loss.
    """

    prompt_id: str
    context: tuple[Message, ...]
    chosen: str
    rejected: str
    margin: float
    right: float | None
    users: tuple[frozenset[str], ...] = ()
    source: Source = Source.RECIPE
    weight: float = 1.0


@dataclass(frozen=True)
class LabelNoise:
    """Share of thumbs that contradict the true opinion; None with too few repeated ratings."""

    flipped: float | None
    comparisons: int
    disagreements: int


def is_unchanged(judgement: Judgement) -> bool:
    """Return True if the correction of a judgement is the answer itself."""
    return judgement.correction is not None and text_key(judgement.correction) == text_key(
        judgement.answer
    )


def group_by_prompt(feedback: Iterable[GivenFeedback]) -> list[Question]:
    """Group feedback by context and, within a context, by answer; ordered by prompt id."""
    by_prompt: dict[str, list[GivenFeedback]] = defaultdict(list)
    for given in feedback:
        by_prompt[prompt_key(given.context)].append(given)
    questions = []
    for prompt_id in sorted(by_prompt):
        of_prompt = by_prompt[prompt_id]
        rated = [given for given in of_prompt if isinstance(given, Judgement)]
        votes: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        corrections: dict[tuple[str, str | None], list[Judgement]] = defaultdict(list)
        voters: dict[str, set[str]] = defaultdict(set)
        served: dict[tuple[str, bool], Served] = {}
        for judgement in rated:
            answer = text_key(judgement.answer)
            if judgement.up is not None:
                votes[answer][0 if judgement.up else 1] += 1
                voters[answer].add(judgement.giver)
                if judgement.served:
                    served.setdefault((answer, judgement.up), judgement.served)
            if judgement.correction is not None and not is_unchanged(judgement):
                corrected = None if judgement.cut else answer
                corrections[text_key(judgement.correction), corrected].append(judgement)
        answers = tuple(
            Answer(text, up, down, served.get((text, up > down)), frozenset(voters[text]))
            for text, (up, down) in sorted(votes.items())
        )
        written = tuple(
            Correction(
                *texts,
                frozenset(judgement.giver for judgement in corrections[texts]),
                Source.WRITTEN if all(j.rater for j in corrections[texts]) else Source.CORRECTION,
            )
            for texts in sorted(corrections, key=lambda texts: (texts[0], texts[1] or ""))
        )
        compared, undecided = compare(given for given in of_prompt if isinstance(given, Ranking))
        context = of_prompt[0].context
        questions.append(Question(prompt_id, context, answers, written, tuple(compared), undecided))
    return questions


def estimate_noise(questions: Iterable[Question]) -> LabelNoise:
    """Estimate the label noise from pairs of thumbs on the same answer.

    With a share e of flipped thumbs, two thumbs disagree with probability 2e(1-e).
    """
    comparisons = disagreements = 0
    for answer in (answer for question in questions for answer in question.answers):
        votes = answer.up + answer.down
        # Number of pairs of thumbs on this answer, and of pairs that disagree.
        comparisons += votes * (votes - 1) // 2
        disagreements += answer.up * answer.down
    if comparisons < MIN_COMPARISONS:
        return LabelNoise(None, comparisons, disagreements)
    # Solve rate = 2e(1-e) for the smaller root; random thumbs give 1/2.
    rate = min(disagreements / comparisons, 0.5)
    return LabelNoise((1 - math.sqrt(1 - 2 * rate)) / 2, comparisons, disagreements)


def make_pairs(
    questions: Sequence[Question],
    noise: LabelNoise,
    max_per_prompt: int,
    seed: int,
    weights: SourceWeights = NEUTRAL,
) -> tuple[list[Pair], dict[str, int]]:
    """Return all pairs, shuffled by the seed, and the number of drops by reason.

    Args:
        max_per_prompt: pairs of a context, shared by the users, see `share_prompt`.
        weights: factors on the weights of pairs; a source with factor 0 is left out.
    """
    up, thumbs = _count(answer for question in questions for answer in question.answers)
    share_up = up / thumbs if thumbs else 0.5
    given, rng = amounts_of_feedback(questions), random.Random(seed)
    pairs: list[Pair] = []
    dropped: Counter[str] = Counter()
    for question in questions:
        liked_share = _liked_share(question, share_up, noise)
        own = [
            Pair(
                question.prompt_id,
                question.context,
                correction.text,
                correction.corrected,
                CORRECTION_MARGIN,
                None,
                (correction.users,),
                correction.source,
            )
            for correction in question.corrections
            # Against a cut answer the correction would win by its length alone.
            if correction.corrected is not None
        ]
        own += [
            Pair(
                prompt_id=question.prompt_id,
                context=question.context,
                chosen=good.text,
                rejected=bad.text,
                margin=good.approval - bad.approval,
                right=_right(good, bad, noise.flipped, liked_share),
                users=(good.users, bad.users),
                source=Source.THUMBS,
            )
            for good in question.answers
            if good.up > good.down
            for bad in question.answers
            if bad.up < bad.down
        ]
        own += _compared_pairs(question)
        dropped["comparisons_without_majority"] += question.undecided
        dropped["pairs_of_sources_left_out"] += sum(not weights.of(pair.source) for pair in own)
        own = [
            replace(pair, weight=pair.weight * weight)
            for pair in own
            if (weight := weights.of(pair.source))
        ]
        dropped["prompt_without_opposite"] += not own
        kept = _shared(own, max_per_prompt, given, rng)
        dropped["over_cap_of_prompt"] += len(own) - len(kept)
        pairs += kept
    rng.shuffle(pairs)
    return pairs, dict(dropped)


def _shared(own: list[Pair], most: int, given: Mapping[str, int], rng: random.Random) -> list[Pair]:
    """Return the pairs of a prompt that its users keep, see `share_prompt`."""
    if len(own) <= most:
        return own
    rng.shuffle(own)
    return [own[place] for place in share_prompt([pair.users for pair in own], most, given)]


def amounts_of_feedback(questions: Iterable[Question]) -> Counter[str]:
    """Return the number of rated, corrected and compared answers of each user."""
    amounts: Counter[str] = Counter()
    for question in questions:
        judged = question.answers, question.corrections, question.comparisons
        amounts.update(user for kind in judged for given in kind for user in given.users)
    return amounts


def noise_ceiling(pairs: Sequence[Pair]) -> float | None:
    """Return the highest accuracy expected of any model on these pairs; None for unknown noise."""
    known = [pair.right for pair in pairs if pair.right is not None]
    return sum(known) / len(known) if known else None


def _compared_pairs(question: Question) -> list[Pair]:
    """Return a pair for each comparison that people gave directly."""
    return [
        Pair(
            question.prompt_id,
            question.context,
            compared.chosen,
            compared.rejected,
            compared.margin,
            None,
            (compared.users,),
            compared.source,
            compared.weight,
        )
        for compared in question.comparisons
    ]


def _right(good: Answer, bad: Answer, flipped: float | None, liked_share: float) -> float | None:
    """Return the probability of a correct preference; None for unknown noise.

    P(good truly liked and bad truly disliked), plus half of P(both alike), which is a random
    choice.
    """
    if flipped is None:
        return None
    chosen, rejected = (
        _truly_liked(good, flipped, liked_share),
        _truly_liked(bad, flipped, liked_share),
    )
    alike = chosen * rejected + (1 - chosen) * (1 - rejected)
    return chosen * (1 - rejected) + alike / 2


def _truly_liked(answer: Answer, flipped: float, liked_share: float) -> float:
    # Bayes: prior liked_share, likelihood of the observed thumbs under flips.
    like = liked_share * (1 - flipped) ** answer.up * flipped**answer.down
    dislike = (1 - liked_share) * flipped**answer.up * (1 - flipped) ** answer.down
    return like / (like + dislike) if like + dislike > 0 else 0.5


def _liked_share(question: Question, share_up: float, noise: LabelNoise) -> float:
    """Return the estimated share of truly liked answers to this question.

    The question's share of thumbs up is shrunk towards the global share, then corrected for flips.
    If all answers are liked, a thumb down is usually a slip; the global share alone would hide
    this.
    """
    up, thumbs = _count(question.answers)
    share = (up + PRIOR_THUMBS * share_up) / (thumbs + PRIOR_THUMBS)
    flipped = noise.flipped or 0.0
    if flipped >= 0.5:
        return 0.5
    # Observed share = s(1-e) + (1-s)e, solved for the true share s.
    return min(max((share - flipped) / (1 - 2 * flipped), 0.01), 0.99)


def _count(answers: Iterable[Answer]) -> tuple[int, int]:
    """Return the numbers of thumbs up and of all thumbs."""
    thumbs = [(answer.up, answer.up + answer.down) for answer in answers]
    return sum(up for up, _ in thumbs), sum(both for _, both in thumbs)


def pair_line(pair: Pair) -> Mapping[str, object]:
    """Return the pair as a line of the reward model's data file."""
    return {
        "messages": [{"role": m.role, "content": m.content} for m in pair.context],
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        "margin": pair.margin,
        "prompt_id": pair.prompt_id,
        "weight": pair.weight,
        "source": pair.source.value,
    }
