"""Creation of battles within the limits of a user, and their models."""

import random
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import Counter

from services.chassis.errors import FailedPreconditionError, NotFoundError, ResourceExhaustedError
from services.contracts.limits import MAX_REQUEST_ID_CHARACTERS, check_uuid, field_error
from services.contracts.wire import now_us
from services.review.arena.battle import Battle, Voter, model_of_name
from services.review.arena.pairing import Pair, PairCount, draw_pair
from services.review.arena.participants import Participants

BATTLES = Counter("thumbwheel_review_battles_total", "Calls that created a battle.")

HOUR_US, DAY_US = 3_600_000_000, 86_400_000_000


class TooManyBattlesError(ResourceExhaustedError):
    """The user has created or voted on as many battles as allowed."""

    is_load = False
    reason = "TOO_MANY_BATTLES"


@dataclass(frozen=True)
class Usage:
    """Battles and votes of a user in a period, with the time of the oldest; 0 without any."""

    battles: int
    oldest_battle_us: int
    votes: int
    oldest_vote_us: int


@dataclass(frozen=True)
class BattleLimits:
    """Limits of a user: new battles in an hour, votes in 24 hours."""

    battles_per_hour: int
    votes_per_day: int

    def check(self, usage: Usage, now: int) -> None:
        """Check the usage before a new battle.

        Raises:
            TooManyBattlesError: a limit is reached; the delay is the time until the oldest battle
                or vote leaves the period.
        """
        for used, most, oldest_us, period_us, name in (
            (usage.battles, self.battles_per_hour, usage.oldest_battle_us, HOUR_US, "an hour"),
            (usage.votes, self.votes_per_day, usage.oldest_vote_us, DAY_US, "24 hours"),
        ):
            if used >= most:
                what = "battles" if period_us == HOUR_US else "votes"
                raise TooManyBattlesError(
                    f"{used:,} {what} in {name}",
                    limit=f"{most:,} {what} in {name}",
                    retry_seconds=max(1.0, (oldest_us + period_us - now) / 1e6),
                )


class BattleStore(Protocol):
    """Stored battles; all methods raise UnavailableError while the database is unavailable."""

    async def of_request(self, voter: Voter, request_id: str) -> Battle | None:
        """Return the battle that was created with this idempotency key."""

    async def usage(self, voter: Voter, hour_us: int, day_us: int) -> Usage:
        """Return the battles since `hour_us` and the votes since `day_us`."""

    async def pair_counts(self, tenant: str) -> Mapping[Pair, PairCount]:
        """Return the counted votes of each pair, in the alphabetical order of the names."""

    async def add(self, voter: Voter, request_id: str, battle: Battle) -> Battle:
        """Store a new battle; return the stored one if another call used the request id first."""

    async def get(self, voter: Voter, battle_id: str) -> Battle | None:
        """Return a battle of the voter."""


class Battles:
    """Domain logic of CreateBattle, GetBattle and ResolveBattleModel."""

    def __init__(
        self,
        store: BattleStore,
        participants: Participants,
        limits: BattleLimits,
        source: random.Random,
    ) -> None:
        self._store, self._participants = store, participants
        self._limits, self._random = limits, source

    async def create(self, voter: Voter, request_id: str) -> Battle:
        """Create a battle, or return the earlier battle with this request id.

        Raises:
            InvalidArgumentError: the request id is missing, too long, or has U+0000.
            TooFewModelsError: fewer than two models take part.
            TooManyBattlesError: a limit of the user is reached.
            UnavailableError: the database or the generator service does not answer.
        """
        if not 1 <= len(request_id) <= MAX_REQUEST_ID_CHARACTERS:
            raise field_error("request_id", f"1 to {MAX_REQUEST_ID_CHARACTERS} characters")
        if "\0" in request_id:
            raise field_error("request_id", "without U+0000")
        if stored := await self._store.of_request(voter, request_id):
            return stored
        now = now_us()
        # Without a lock: concurrent calls may exceed the limit by their number. Votes have a limit
        # of their own.
        self._limits.check(await self._store.usage(voter, now - HOUR_US, now - DAY_US), now)
        models = await self._participants.models()
        counts = await self._store.pair_counts(voter.tenant)
        pair = draw_pair(models, counts, self._random)
        battle = Battle(str(uuid.uuid4()), pair, now)
        stored = await self._store.add(voter, request_id, battle)
        # Otherwise a concurrent call with the same request id was first.
        if stored == battle:
            BATTLES.inc()
        return stored

    async def get(self, voter: Voter, battle_id: str) -> Battle:
        """Return a battle of the voter.

        Raises:
            InvalidArgumentError: the id is no UUID.
            NotFoundError: the battle is missing or belongs to another user.
        """
        check_uuid(battle_id, "battle_id")
        battle = await self._store.get(voter, battle_id)
        if battle is None:
            raise NotFoundError("no such battle", field="battle_id")
        return battle

    async def version_of(self, voter: Voter, model: str) -> str:
        """Return the version behind an anonymous name.

        Raises:
            NotFoundError: the voter has no battle with this name.
            FailedPreconditionError: the battle has a vote.
        """
        found = model_of_name(model)
        # The store compares ids as text, so a malformed id is an id without a battle.
        battle = await self._store.get(voter, found[0]) if found and "\0" not in model else None
        if found is None or battle is None:
            raise NotFoundError("no such model of a battle", field="model")
        if battle.vote:
            raise FailedPreconditionError(
                "the battle has a vote",
                reason="BATTLE_HAS_VOTE",
                field="model",
                limit="a model of a battle without a vote",
            )
        return battle.models[found[1]]
