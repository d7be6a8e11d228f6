"""Votes: checks of the two answers, votes that do not count, and the event for training."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Protocol

from prometheus_client import Counter
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import events_pb2

from human_evaluation.style import style_counts
from services.chassis.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
)
from services.chassis.identity import Caller
from services.contracts.chat import Arm, FinishReason, Task
from services.contracts.identifiers import EXTERNAL_PREFIX
from services.contracts.limits import check_uuid, field_error, with_field
from services.contracts.wire import FINISH_REASONS, TASKS, now_us, timestamp
from services.review.arena.battle import Battle, Outcome, SetAside, Vote, Voter
from services.review.arena.battles import DAY_US, Battles
from services.review.arena.labels import Label, Labels
from services.review.arena.self_naming import names_itself

COMPLETE = (FinishReason.STOP, FinishReason.LENGTH)
# Difference of the clocks of this service and session.
CLOCK_US = 60_000_000
# uuid5(NAMESPACE_URL, "urn:thumbwheel:votes"). Must never change: a vote that is sent again after a
# change of the namespace would count twice.
VOTE_NAMESPACE = uuid.UUID("9b61b558-ed29-5439-9d6c-91c0149c31ab")
# Rank of the first and of the second answer.
RANKS = {
    Outcome.FIRST: (1, 2),
    Outcome.SECOND: (2, 1),
    Outcome.TIE: (1, 1),
    Outcome.BOTH_BAD: (1, 1),
}


VOTES = Counter(
    "thumbwheel_review_votes_total",
    "Votes by outcome, and by the reason for which a vote does not count.",
    ["outcome", "uncounted"],
)
NO_WEIGHT = "no_weight"
# From the start, so that a rate includes the first vote.
for _outcome, _uncounted in product(Outcome, ("", NO_WEIGHT, *SetAside)):
    VOTES.labels(_outcome, _uncounted)


class Messages(Protocol):
    """Messages of the running call's user."""

    async def message(self, message_id: str) -> chat_pb2.Message:
        """Return a stored message with the version that answered.

        Raises:
            NotFoundError: the message is missing or belongs to another user.
            ServiceError: the session service does not answer.
        """


class VoteStore(Protocol):
    """Votes in the database of this service."""

    async def votes_since(self, voter: Voter, since_us: int) -> int:
        """Return the number of the voter's votes since a time."""

    async def add_vote(
        self, caller: Caller, voter: Voter, battle: Battle, vote: Vote, event: bytes | None
    ) -> Battle:
        """Store a vote, its event in the outbox, and the use of the answers, in one transaction.

        A battle that has a vote is returned as stored.

        Raises:
            InvalidArgumentError: an answer is part of another battle.
            NotFoundError: the battle was erased.
            UnavailableError: nothing was stored.
        """


@dataclass(frozen=True)
class VoteRules:
    """Rules for votes that do not count.

    Args:
        votes_per_day: votes of a user in 24 hours that count.
        least_seconds: votes sooner after the start of the later answer weigh 0.
        families: names of model families.
    """

    votes_per_day: int
    least_seconds: float
    families: Sequence[str]


class Votes:
    """Domain logic of VoteBattle; `wake` notifies the relay of a new event."""

    def __init__(
        self,
        battles: Battles,
        store: VoteStore,
        messages: Messages,
        labels: Labels,
        rules: VoteRules,
        wake: Callable[[], None],
    ) -> None:
        self._battles, self._store, self._messages = battles, store, messages
        self._labels, self._rules, self._wake = labels, rules, wake

    async def vote(
        self, caller: Caller, voter: Voter, battle_id: str, ids: Sequence[str], outcome: Outcome
    ) -> Battle:
        """Store a vote and return the battle with its models; the same vote changes nothing.

        Raises:
            InvalidArgumentError: a value is malformed, or an answer is not of this battle.
            NotFoundError: battle or answer is missing or belongs to another user.
            AlreadyExistsError: the battle has another vote.
            FailedPreconditionError: an answer is still being written.
            UnavailableError: nothing was stored.
        """
        if len(ids) != 2:
            raise field_error("message_ids", "2 ids", f"{len(ids)}")
        for number, message_id in enumerate(ids):
            check_uuid(message_id, f"message_ids[{number}]")
        if ids[0] == ids[1]:
            raise field_error("message_ids[1]", "another answer than message_ids[0]")
        battle = await self._battles.get(voter, battle_id)
        if battle.vote:
            return require_vote(battle, ids, outcome)
        answers = [await self._answer(battle, ids, number) for number in range(2)]
        if answers[0].parent_id != answers[1].parent_id:
            raise field_error("message_ids[1]", "an answer to the same message as message_ids[0]")
        labels = await self._labels.read(battle.models)
        now = now_us()
        earlier = await self._store.votes_since(voter, now - DAY_US)
        set_aside = self._set_aside(battle, answers, labels)
        vote = self._judged(answers, outcome, set_aside, now, earlier)
        counts = vote.weight > 0 and vote.set_aside is None
        event = vote_event(voter, battle, answers[0], vote) if counts else None
        stored = await self._store.add_vote(
            caller,
            voter,
            battle,
            vote,
            event.SerializeToString(deterministic=True) if event else None,
        )
        self._wake()
        if stored.vote is vote:
            uncounted = vote.set_aside or ("" if vote.weight else NO_WEIGHT)
            VOTES.labels(outcome, uncounted).inc()
        # A concurrent call may have stored another vote first.
        return require_vote(stored, ids, outcome)

    async def _answer(self, battle: Battle, ids: Sequence[str], number: int) -> chat_pb2.Message:
        """Return a finished answer of the battle."""
        field = f"message_ids[{number}]"
        try:
            found = await self._messages.message(ids[number])
        except NotFoundError as error:
            raise NotFoundError("no such answer", field=field) from error
        except InvalidArgumentError as error:
            raise with_field(error, field) from error
        if found.role != chat_pb2.ROLE_ASSISTANT:
            raise field_error(field, "an answer")
        reason = FINISH_REASONS.get(found.finish_reason, FinishReason.FAILED)
        if reason is FinishReason.OPEN:
            raise FailedPreconditionError(
                "the answer is still being written",
                reason="ANSWER_NOT_FINISHED",
                field=field,
                limit="a finished answer",
            )
        # A turn that was blocked or failed before the choice of a version has neither version nor
        # arm. Such a vote is set aside, whichever battle the answer was meant for.
        is_unanswered = not found.model_version and reason not in COMPLETE
        is_own = (found.arm, found.model_version) == (Arm.BATTLE, battle.models[number])
        is_later = found.create_time.ToMicroseconds() >= battle.create_us - CLOCK_US
        if not (is_later and (is_own or is_unanswered)):
            raise field_error(field, "the answer of this battle's model in the order of `models`")
        return found

    def _judged(
        self,
        answers: Sequence[chat_pb2.Message],
        outcome: Outcome,
        set_aside: SetAside | None,
        now: int,
        earlier: int,
    ) -> Vote:
        answers_us = max(answer.create_time.ToMicroseconds() for answer in answers)
        is_quick = now - answers_us < self._rules.least_seconds * 1e6
        return Vote(
            message_ids=(answers[0].id, answers[1].id),
            outcome=outcome,
            set_aside=set_aside,
            task=TASKS.get(answers[0].task, Task.UNSPECIFIED),
            weight=0.0 if is_quick or earlier >= self._rules.votes_per_day else 1.0,
            answers_us=answers_us,
            vote_us=now,
            style=(style_of(answers[0]), style_of(answers[1])),
        )

    def _set_aside(
        self,
        battle: Battle,
        answers: Sequence[chat_pb2.Message],
        labels: Mapping[str, Label],
    ) -> SetAside | None:
        reasons = [FINISH_REASONS.get(answer.finish_reason) for answer in answers]
        if any(reason not in COMPLETE for reason in reasons):
            return SetAside.INCOMPLETE
        first, second = (answer.text.split() for answer in answers)
        if first == second:
            return SetAside.EQUAL_TEXTS
        for model, answer in zip(battle.models, answers, strict=True):
            label = labels.get(model, Label())
            names = {model.removeprefix(EXTERNAL_PREFIX), label.endpoint_model} - {""}
            if any(
                names_itself(answer.text, name, label.developer, self._rules.families)
                for name in names
            ):
                return SetAside.NAMES_ITSELF
        return None


def style_of(answer: chat_pb2.Message) -> tuple[int, ...]:
    """Return the counts of the style features of an answer."""
    return tuple(int(count) for count in style_counts(answer.text))


def require_vote(battle: Battle, ids: Sequence[str], outcome: Outcome) -> Battle:
    """Return a battle whose vote is this vote.

    Raises:
        AlreadyExistsError: the battle has another vote.
    """
    vote = battle.vote
    if vote is None or (vote.message_ids, vote.outcome) != (tuple(ids), outcome):
        raise AlreadyExistsError(
            "the battle has another vote",
            reason="BATTLE_HAS_VOTE",
            field="outcome",
            limit="one vote for each battle",
        )
    return battle


def vote_event(
    voter: Voter, battle: Battle, first: chat_pb2.Message, vote: Vote
) -> events_pb2.FeedbackEvent:
    """Return the ranking for training; the same for each call with the same vote."""
    return events_pb2.FeedbackEvent(
        event_id=str(uuid.uuid5(VOTE_NAMESPACE, battle.battle_id)),
        tenant=voter.tenant,
        principal=voter.principal,
        conversation_id=first.conversation_id,
        message_id=first.id,
        model_version=first.model_version,
        arm=first.arm,
        accept_time=timestamp(vote.vote_us),
        ranking=events_pb2.Ranking(
            answers=[
                events_pb2.RankedAnswer(message_id=message_id, model_version=model, rank=rank)
                for message_id, model, rank in zip(
                    vote.message_ids, battle.models, RANKS[vote.outcome], strict=True
                )
            ],
            source=events_pb2.RANKING_SOURCE_ARENA,
        ),
    )
