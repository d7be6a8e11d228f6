"""Rules that select stored answers for reviewers.

Each question is drawn by the first rule that applies to one of its answers: blocked, disagreement,
new version, random. The oldest such answer stands for the question, so that a later draw finds the
same one. A question is a context of one conversation. Answers of other users or conversations are
never added to an item, because they can be deleted apart from it. If several conversations have the
same question, the oldest one of the first rule is drawn (of new versions: the oldest of each).
Versions of other providers are never new, because no model is trained on rankings of their answers.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import combinations

from training.data.feedback.division import unit_interval
from training.data.feedback.drops import Drop
from training.data.feedback.events import Feedback, FinishReason, Turn
from training.data.feedback.external import EXTERNAL_PREFIX
from training.data.feedback.judgements import current_feedback
from training.data.feedback.rankings import is_blocked
from training.data.feedback.sources import Source
from training.data.feedback.texts import prompt_key, text_key
from training.errors import ConfigError

DAY_US = 86_400_000_000
MAX_ANSWERS = 6
TOO_OLD, TOO_LONG = "too_old", "too_long"
OTHER_ANSWER, EQUAL_QUESTION = "other_answer_of_question", "equal_question"


class Rule(StrEnum):
    """Rule of a draw, as in review.proto; the first one that applies counts."""

    BLOCKED = "blocked"
    DISAGREEMENT = "disagreement"
    NEW_VERSION = "new_version"
    RANDOM = "random"


# Together 25 items of a tenant. Two reviews of each take a reviewer about 2.5 hours at 3 minutes.
AMOUNTS: Mapping[Rule, int] = {
    Rule.BLOCKED: 3,
    Rule.DISAGREEMENT: 6,
    Rule.NEW_VERSION: 8,
    Rule.RANDOM: 8,
}


@dataclass(frozen=True)
class DrawConfig:
    """Settings of a draw.

    Args:
        amounts: new items of each tenant by rule, at least 0.
        days: age up to which answers are drawn. It must be below the days for which the review
            service keeps items (TW_REVIEW_ITEM_DAYS), or removed items would be drawn again.
        new_version_days: an answer is of a new version until so many days after its first answer.
        seed: selects the answers.
        language: ISO 639-1 code of the users' language, which selects the national numbers among
            personal data.
    """

    amounts: Mapping[Rule, int] = field(default_factory=lambda: dict(AMOUNTS))
    days: float = 30.0
    new_version_days: float = 14.0
    seed: int = 0
    language: str = "en"

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: `field` names the setting.
        """
        numbers = {rule.value: amount for rule, amount in self.amounts.items()}
        for name, number in numbers.items():
            if number < 0:
                raise _out_of_range(name, number, "at least 0")
        for name in ("days", "new_version_days"):
            if not getattr(self, name) > 0:
                raise _out_of_range(name, getattr(self, name), "above 0")


@dataclass(frozen=True)
class Candidate:
    """Question that a rule selects. `answers` has at most MAX_ANSWERS turns, `turn` first."""

    rule: Rule
    turn: Turn
    answers: tuple[Turn, ...]


@dataclass(frozen=True)
class Selection:
    """Candidates of each tenant and rule in the order of the draw, and what was left out."""

    candidates: Mapping[tuple[str, Rule], Sequence[Candidate]]
    left_out: Counter[str]


def select(
    feedback: Iterable[Feedback], known: Mapping[str, Turn], config: DrawConfig, now_us: int
) -> Selection:
    """Return the candidates of a draw; deterministic for equal events, settings and time.

    Args:
        feedback: events of the log.
        known: last revision of each turn by message id.
        config: settings.
        now_us: time of the draw, microseconds since 1970.
    """
    left_out: Counter[str] = Counter()
    questions: dict[tuple[object, ...], list[Turn]] = defaultdict(list)
    for turn in sorted(known.values(), key=lambda turn: turn.place):
        if reason := _reason_to_leave_out(turn, now_us - int(config.days * DAY_US)):
            left_out[reason] += 1
        else:
            key = turn.tenant, turn.principal, turn.conversation_id, turn.context
            questions[key].append(turn)
    disputed = disputed_answers(feedback, known)
    since = _new_since(known.values())
    found: dict[tuple[str, Rule], list[Candidate]] = defaultdict(list)
    candidates = []
    for answers in questions.values():
        rules = [_rule_of(turn, disputed, since, config) for turn in answers]
        rule = min(rules, key=list(Rule).index)
        turn = answers[rules.index(rule)]
        left_out[OTHER_ANSWER] += len(answers) - 1
        candidates.append(Candidate(rule, turn, _compared(turn, answers)))
    # Question → new versions with an item, or "" for an item of another rule.
    drawn: dict[tuple[str, str], set[str]] = defaultdict(set)
    for candidate in sorted(candidates, key=lambda one: list(Rule).index(one.rule)):
        turn, rule = candidate.turn, candidate.rule
        version = turn.model_version if rule is Rule.NEW_VERSION else ""
        items = drawn[_question(turn)]
        if items and (not version or items & {"", version}):
            left_out[EQUAL_QUESTION] += 1
            continue
        items.add(version)
        found[turn.tenant, rule].append(candidate)
    ordered = {key: _in_order(found[key], config.seed) for key in sorted(found)}
    return Selection(ordered, +left_out)


def disputed_answers(
    feedback: Iterable[Feedback], known: Mapping[str, Turn]
) -> set[tuple[str, ...]]:
    """Return tenant, question and text of the answers on which users disagree.

    Users disagree if thumbs of several users on the same answer to the same question differ, if
    several users preferred different ones of the same two answers, or if a battle is tied. Tenants
    are apart.

    Args:
        feedback: events of the log.
        known: last revision of each turn by message id.
    """
    # Tenant, question and the texts of an answer or of two → opinion → users.
    opinions: dict[tuple[str, ...], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    found: set[tuple[str, ...]] = set()
    readable = {name: turn for name, turn in known.items() if turn.context}
    for (principal, rater, message_id), current in current_feedback(feedback, []).items():
        if rater:
            continue
        rated = readable.get(message_id)
        if current.thumb and rated and rated.principal == principal:
            opinions[_key(rated)]["up" if current.thumb.up else "down"].add(principal)
        if not current.ranking or current.ranking.source is not Source.ARENA:
            continue
        for pair in combinations(current.ranking.ranked, 2):
            better, worse = sorted(pair, key=lambda answer: answer.rank)
            turns = [readable[one.message_id] for one in pair if one.message_id in readable]
            if better.rank == worse.rank:
                found.update(map(_key, turns))
            elif len(turns) == len(pair):
                texts = sorted(text_key(turn.answer) for turn in turns)
                preferred = text_key(readable[better.message_id].answer)
                opinions[*_question(turns[0]), *texts][preferred].add(principal)
    for (tenant, question, *texts), users in opinions.items():
        if _differ(users):
            found.update((tenant, question, text) for text in texts)
    return found


def _differ(users_by_opinion: Mapping[str, set[str]]) -> bool:
    """Return True for several opinions of several users; one user can answer twice differently."""
    users = set().union(*users_by_opinion.values())
    return len(users_by_opinion) > 1 and len(users) > 1


def _question(turn: Turn) -> tuple[str, str]:
    return turn.tenant, prompt_key(turn.context)


def _key(turn: Turn) -> tuple[str, ...]:
    return *_question(turn), text_key(turn.answer)


def _reason_to_leave_out(turn: Turn, oldest_us: int) -> str:
    """Return why a turn is not drawn, empty if it may be."""
    if turn.erased:
        return Drop.ERASED
    if turn.withheld:
        return Drop(turn.withheld)
    if turn.finish_us < oldest_us:
        return TOO_OLD
    if turn.cached:
        return Drop.CACHED
    if not turn.answer.strip() or not turn.context or not turn.tenant:
        return Drop.EMPTY
    if turn.finish is not FinishReason.STOP and not is_blocked(turn):
        return Drop.INCOMPLETE
    return ""


def _new_since(turns: Iterable[Turn]) -> Mapping[str, int]:
    """Return the time of the first answer of each version, without the first version of all."""
    since: dict[str, int] = {}
    for turn in turns:
        if not turn.model_version or turn.model_version.startswith(EXTERNAL_PREFIX):
            continue
        if turn.finish_us and not turn.erased:
            first = since.get(turn.model_version, turn.finish_us)
            since[turn.model_version] = min(first, turn.finish_us)
    if since:
        del since[min(since, key=lambda version: (since[version], version))]
    return since


def _rule_of(
    turn: Turn, disputed: set[tuple[str, ...]], since: Mapping[str, int], config: DrawConfig
) -> Rule:
    """Return the first rule that applies to an answer."""
    if is_blocked(turn):
        return Rule.BLOCKED
    if _key(turn) in disputed:
        return Rule.DISAGREEMENT
    first_us = since.get(turn.model_version)
    if first_us is not None and turn.finish_us - first_us <= config.new_version_days * DAY_US:
        return Rule.NEW_VERSION
    return Rule.RANDOM


def _compared(turn: Turn, answers: Sequence[Turn]) -> tuple[Turn, ...]:
    """Return an answer and others to the question that can be compared with it.

    These are complete, not blocked and of different texts. Answers of further versions come first.
    """
    chosen = [turn]
    others = [one for one in answers if one is not turn and not is_blocked(one)]
    while others and len(chosen) < MAX_ANSWERS:
        versions = {one.model_version for one in chosen}
        other = min(others, key=lambda one: one.model_version in versions)
        others.remove(other)
        if text_key(other.answer) not in {text_key(one.answer) for one in chosen}:
            chosen.append(other)
    return tuple(chosen)


def _in_order(candidates: Iterable[Candidate], seed: int) -> list[Candidate]:
    """Shuffle by the seed, then take users in turns, so that no user fills a draw."""
    shuffled = sorted(
        candidates, key=lambda one: unit_interval(f"review:{seed}", one.turn.message_id)
    )
    places: Counter[str] = Counter()
    numbered = []
    for candidate in shuffled:
        numbered.append((places[candidate.turn.principal], candidate))
        places[candidate.turn.principal] += 1
    return [candidate for _, candidate in sorted(numbered, key=lambda pair: pair[0])]


def _out_of_range(name: str, value: float, limit: str) -> ConfigError:
    return ConfigError(
        f"{name}: {value} is not {limit}", field=name, reason="OUT_OF_RANGE", limit=limit
    )
