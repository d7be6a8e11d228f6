"""Preferences of simulated users.

Training sees thumbs and never these functions. A score rates an answer to a question from 0 to 1;
an answer is liked from LIKED_FROM on. Thumbs, votes on two answers and rankings are the preference
with noise; thumbs also with silence, a small bias and corrections.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from infra.simulate.users.questions import Question
from training.errors import ConfigError

LIKED_FROM = 0.5
Preference = Callable[[Question, str], float]

COURTESY = (
    "i hope that helps",
    "happy to help",
    "good question",
    "of course",
    "ask me more any time",
)
HEDGES = (
    "let me think",
    "let me see",
    "i think",
    "who can say",
    "many people ask",
    "as far as i know",
    "so i hear",
    "hmm",
)
RUDENESS = (
    *(
        "look it up yourself",
        "find out yourself",
        "ask somebody else",
        "not my problem",
        "why do you ask me",
    ),
    *("shut up", "stupid", "idiot", "none of your business"),
)
MAX_NANO_WORDS = 20
# A correct and complete answer is liked up to 17 words, an incorrect one up to 15.
SHORT_WORDS, LONG_WORDS = 6, 20
# A third of the trigrams repeated indicates a loop.
LOOPING_SHARE = 0.34
_WORD = re.compile(r"[a-z0-9']+")
# Words without a relation to a topic.
_STOP_WORDS = frozenset(
    (
        "a an and are at be by can could do does for from give how i in is it me my of on one or "
        "please should some tell that the their them there these they this three to two was we "
        "were what when where which who why will with would write you your"
    ).split()
)


def nano_preference(question: Question, answer: str) -> float:
    """Rank friendly correct answers first, then short correct, rambling, wrong and rude ones."""
    words = _words(answer)
    if not words or _contains(words, RUDENESS):
        return 0.0
    # Right is the reference sentence, or the expected word with courtesies only: in "7 plus 0 is 3"
    # the 7 is no answer.
    bare = " ".join(words)
    for phrase in COURTESY:
        bare = bare.replace(phrase, " ")
    is_right = _contains(words, (question.reference,)) or any(
        _words(bare) == _words(word) for word in question.expect
    )
    if not is_right:
        return 0.1
    score = 0.9 if _contains(words, COURTESY) else 0.6
    score -= 0.4 if _contains(words, HEDGES) else 0.0
    return max(score - 0.05 * max(0, len(words) - MAX_NANO_WORDS), 0.1)


def small_preference(question: Question, answer: str) -> float:
    """Prefer answers that are brief, complete, polite and free of loops.

    Correctness has a low weight: users do not know the correct answer, and a few hundred thumbs
    cannot teach facts.
    """
    words = _words(answer)
    if not words or _contains(words, RUDENESS):
        return 0.0
    parts = [" ".join(_words(part)) for part in re.split(r"[.!?\n]+", answer)]
    sentences = [part for part in parts if part]
    repeats_a_sentence = any(first == second for first, second in pairwise(sentences))
    if repeated_share(words) > LOOPING_SHARE or repeats_a_sentence:
        return 0.1
    brevity = min(1.0, max(0.0, (LONG_WORDS - len(words)) / (LONG_WORDS - SHORT_WORDS)))
    score = 0.2 + 0.1 * (answer.rstrip()[-1] in ".!?)”\"'") + 0.6 * brevity
    if question.expect:
        return score + 0.1 * _contains(words, question.expect)
    # Prefixes of five letters, since an answer may inflect the words of the question.
    topic = {word[:5] for word in _words(question.text) if word not in _STOP_WORDS}
    return score + 0.1 * bool(topic & {word[:5] for word in words})


PREFERENCES: dict[str, Preference] = {"nano": nano_preference, "small": small_preference}


def repeated_share(words: Sequence[str]) -> float:
    """Return the share of trigrams that occurred earlier in the text."""
    trigrams = [tuple(words[i : i + 3]) for i in range(len(words) - 2)]
    return 1 - len(set(trigrams)) / len(trigrams) if trigrams else 0.0


def _contains(words: Sequence[str], phrases: Sequence[str]) -> bool:
    text = f" {' '.join(words)} "
    return any(f" {' '.join(_words(phrase))} " in text for phrase in phrases if phrase)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold().replace("’", "'"))


SHUFFLE_POOL = 100


@dataclass(frozen=True)
class VotingBehaviour:
    """Probabilities of voting.

    `noise` is the share of inverted thumbs. Displeased users vote slightly more often.
    """

    noise: float = 0.1
    votes_if_pleased: float = 0.7
    votes_if_displeased: float = 0.8
    corrects_if_displeased: float = 0.08

    def __post_init__(self) -> None:
        for name in ("noise", "votes_if_pleased", "votes_if_displeased", "corrects_if_displeased"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"{name}: {getattr(self, name)} is not from 0 to 1",
                    field=name,
                    reason="OUT_OF_RANGE",
                    limit="0 to 1",
                )


# Users with false beliefs. They are sure of them, and correct an assistant that says otherwise.
BELIEVERS = VotingBehaviour(noise=0.03, corrects_if_displeased=0.3)


@dataclass(frozen=True)
class Feedback:
    """Feedback on an answer.

    `up` is None without a thumb; `correction` is empty without a correction. Only voters correct.
    """

    up: bool | None
    correction: str = ""


VoteFunction = Callable[[bool, random.Random], bool]
"""Function from the wanted vote to the vote that is cast."""


class Rater:
    """Preference and voting behaviour shared by all users of a population."""

    def __init__(
        self, preference: Preference, temper: VotingBehaviour, vote: VoteFunction | None = None
    ) -> None:
        self._preference, self._temper = preference, temper
        self._vote = vote

    def feedback_on(self, question: Question, answer: str, rng: random.Random) -> Feedback:
        """Return the feedback on an answer."""
        pleased = self._preference(question, answer) >= LIKED_FROM
        temper = self._temper
        if rng.random() >= (temper.votes_if_pleased if pleased else temper.votes_if_displeased):
            return Feedback(None)
        corrects = not pleased and rng.random() < temper.corrects_if_displeased
        up = self._vote(pleased, rng) if self._vote else pleased != (rng.random() < temper.noise)
        return Feedback(up, question.reference if corrects else "")

    def ranks(self, question: Question, answers: Sequence[str], rng: random.Random) -> list[int]:
        """Return the ranks of answers, 1 for the best, without gaps; equal scores are ties.

        The user inserts one answer after the other into the order so far, comparing from the best
        on. Each comparison of unequal answers is inverted with the probability of `noise`. Two
        answers are a vote in the arena.
        """
        scores = [self._preference(question, answer) for answer in answers]
        groups: list[list[int]] = []
        for number, score in enumerate(scores):
            for place, group in enumerate(groups):
                other = scores[group[0]]
                if score == other:
                    group.append(number)
                    break
                if (score > other) != (rng.random() < self._temper.noise):
                    groups.insert(place, [number])
                    break
            else:
                groups.append([number])
        found = {number: rank for rank, group in enumerate(groups, 1) for number in group}
        return [found[number] for number in range(len(answers))]


class ShuffledVotes:
    """Control: each thumb is applied to another answer.

    The share of up-votes is preserved without any information.
    """

    def __init__(self, rng: random.Random) -> None:
        self._pool = [rng.random() < 0.5 for _ in range(SHUFFLE_POOL)]

    def __call__(self, wanted: bool, rng: random.Random) -> bool:
        place = rng.randrange(len(self._pool))
        drawn, self._pool[place] = self._pool[place], wanted
        return drawn
