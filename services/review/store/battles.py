"""Battles, votes and accounts in the database.

Rows are read under the principal of their user, so that a battle of another user is not found.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import LABEL_STYLE_TABLENAME_PLUS_COL as LABELS
from sqlalchemy import Row, Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.chassis.errors import NotFoundError
from services.chassis.identity import Caller
from services.contracts.chat import Task
from services.contracts.limits import field_error
from services.review.arena.battle import Battle, Outcome, SetAside, Vote, Voter
from services.review.arena.battles import Usage
from services.review.arena.pairing import Pair, PairCount
from services.review.store.database import insert_new, transaction
from services.review.store.tables import (
    STYLE_COLUMNS,
    accounts,
    battle_answers,
    battle_votes,
    battles,
    outbox,
)

COUNTED = (battle_votes.c.set_aside == "") & (battle_votes.c.weight > 0)


class SqlBattleStore:
    """Implements `battles.BattleStore` and `votes.VoteStore`.

    Every method raises UnavailableError while the database is unavailable.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def of_request(self, voter: Voter, request_id: str) -> Battle | None:
        async with transaction(self._engine) as connection:
            return await _one(connection, _of(voter).where(battles.c.request_id == request_id))

    async def get(self, voter: Voter, battle_id: str) -> Battle | None:
        async with transaction(self._engine) as connection:
            return await _one(connection, _of(voter).where(battles.c.battle_id == battle_id))

    async def usage(self, voter: Voter, hour_us: int, day_us: int) -> Usage:
        own = (
            select(func.count(), func.min(battles.c.create_us))
            .where(battles.c.principal == voter.principal)
            .where(battles.c.create_us > hour_us)
        )
        async with transaction(self._engine) as connection:
            created, oldest_us = (await connection.execute(own)).one()
            voted, oldest_vote_us = (await connection.execute(_votes_since(voter, day_us))).one()
        return Usage(created, oldest_us or 0, voted, oldest_vote_us or 0)

    async def votes_since(self, voter: Voter, since_us: int) -> int:
        async with transaction(self._engine) as connection:
            return int((await connection.execute(_votes_since(voter, since_us))).scalar_one())

    async def pair_counts(self, tenant: str) -> Mapping[Pair, PairCount]:
        statement = (
            select(
                battles.c.first_model,
                battles.c.second_model,
                battle_votes.c.outcome,
                func.count(),
            )
            .join_from(battle_votes, battles, battles.c.battle_id == battle_votes.c.battle_id)
            .join(accounts, accounts.c.principal == battle_votes.c.principal)
            .where(battle_votes.c.tenant == tenant, COUNTED, accounts.c.quarantined.is_(False))
            .group_by(battles.c.first_model, battles.c.second_model, battle_votes.c.outcome)
        )
        async with transaction(self._engine) as connection:
            rows = (await connection.execute(statement)).all()
        totals: dict[Pair, list[int]] = {}
        for first, second, outcome, count in rows:
            total = totals.setdefault((min(first, second), max(first, second)), [0, 0, 0])
            if outcome in (Outcome.FIRST, Outcome.SECOND):
                # The pair is in alphabetical order, the battle in the order of the answers.
                won = first if outcome == Outcome.FIRST else second
                total[0 if won == min(first, second) else 1] += count
            else:
                total[2] += count
        return {pair: PairCount(*total) for pair, total in totals.items()}

    async def add(self, voter: Voter, request_id: str, battle: Battle) -> Battle:
        values = {
            "battle_id": battle.battle_id,
            "tenant": voter.tenant,
            "principal": voter.principal,
            "request_id": request_id,
            "first_model": battle.models[0],
            "second_model": battle.models[1],
            "create_us": battle.create_us,
        }
        async with transaction(self._engine) as connection:
            await insert_new(connection, battles, values)
            stored = await _one(connection, _of(voter).where(battles.c.request_id == request_id))
        return stored or battle

    async def add_vote(
        self, caller: Caller, voter: Voter, battle: Battle, vote: Vote, event: bytes | None
    ) -> Battle:
        async with transaction(self._engine) as connection:
            # The lock makes one of two concurrent votes see the other.
            lock = (
                select(battles.c.battle_id)
                .where(battles.c.battle_id == battle.battle_id)
                .where(battles.c.principal == voter.principal)
                .with_for_update()
            )
            if (await connection.execute(lock)).first() is None:
                raise NotFoundError("no such battle", field="battle_id")
            own = _of(voter).where(battles.c.battle_id == battle.battle_id)
            stored = await _one(connection, own)
            if stored and stored.vote:
                return stored
            for number, message_id in enumerate(vote.message_ids):
                used = {"message_id": message_id, "battle_id": battle.battle_id}
                if not await insert_new(connection, battle_answers, used):
                    raise field_error(f"message_ids[{number}]", "an answer of this battle only")
            account = {
                "principal": voter.principal,
                "tenant": voter.tenant,
                "create_us": vote.vote_us,
                "weight": 1.0,
                "quarantined": False,
            }
            await insert_new(connection, accounts, account)
            await connection.execute(
                battle_votes.insert().values(_vote_row(voter, battle.battle_id, vote))
            )
            if event is not None:
                await connection.execute(
                    outbox.insert().values(
                        tenant=caller.tenant,
                        user=caller.user,
                        principal=voter.principal,
                        payload=event,
                        create_us=vote.vote_us,
                        attempt_us=vote.vote_us,
                    )
                )
            return Battle(battle.battle_id, battle.models, battle.create_us, vote)


def _votes_since(voter: Voter, since_us: int) -> Select[int, Any]:
    """Return the query for the number of a voter's votes and the time of the oldest."""
    return select(func.count(), func.min(battle_votes.c.vote_us)).where(
        battle_votes.c.principal == voter.principal, battle_votes.c.vote_us > since_us
    )


def _of(voter: Voter) -> Select[Any]:
    """Return the query for the battles of a voter with their votes."""
    return (
        select(battles, battle_votes)
        .join_from(
            battles, battle_votes, battles.c.battle_id == battle_votes.c.battle_id, isouter=True
        )
        .where(battles.c.tenant == voter.tenant, battles.c.principal == voter.principal)
        .set_label_style(LABELS)
    )


async def _one(connection: AsyncConnection, statement: Select[Any]) -> Battle | None:
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else _battle(row)


def _battle(row: Row[Any]) -> Battle:
    vote = None
    half = len(STYLE_COLUMNS) // 2
    style = [getattr(row, f"battle_votes_{name}") for name in STYLE_COLUMNS]
    if row.battle_votes_battle_id is not None:
        vote = Vote(
            message_ids=(row.battle_votes_first_message_id, row.battle_votes_second_message_id),
            outcome=Outcome(row.battle_votes_outcome),
            set_aside=SetAside(row.battle_votes_set_aside) if row.battle_votes_set_aside else None,
            task=Task(row.battle_votes_task),
            weight=row.battle_votes_weight,
            answers_us=row.battle_votes_answers_us,
            vote_us=row.battle_votes_vote_us,
            style=(tuple(style[:half]), tuple(style[half:])),
        )
    models = (row.battles_first_model, row.battles_second_model)
    return Battle(row.battles_battle_id, models, row.battles_create_us, vote)


def _vote_row(voter: Voter, battle_id: str, vote: Vote) -> Mapping[str, object]:
    return {
        "battle_id": battle_id,
        "tenant": voter.tenant,
        "principal": voter.principal,
        "first_message_id": vote.message_ids[0],
        "second_message_id": vote.message_ids[1],
        "outcome": vote.outcome,
        "set_aside": vote.set_aside or "",
        "task": vote.task,
        "weight": vote.weight,
        "answers_us": vote.answers_us,
        "vote_us": vote.vote_us,
        **dict(zip(STYLE_COLUMNS, [*vote.style[0], *vote.style[1]], strict=True)),
    }
