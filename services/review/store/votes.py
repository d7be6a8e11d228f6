"""Counted votes and accounts of a tenant, read in pages into columns."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sqlalchemy import Integer, cast, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.contracts.chat import Task
from services.review.arena.battle import SCORES, Outcome
from services.review.arena.leaderboard import Fingerprint
from services.review.arena.vote_columns import AccountColumns, VoteColumns
from services.review.store.battles import COUNTED
from services.review.store.database import transaction
from services.review.store.tables import STYLE_COLUMNS, accounts, battle_votes, battles

# About 20 ms of the event loop.
PAGE_ROWS = 5_000


class SqlVoteSource:
    """Implements `leaderboard.VoteSource` with the review database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def fingerprint(self, tenant: str) -> Fingerprint:
        votes = select(func.count(), func.max(battle_votes.c.vote_us)).where(
            battle_votes.c.tenant == tenant
        )
        held = select(
            func.count(),
            func.sum(accounts.c.weight),
            func.sum(cast(accounts.c.quarantined, Integer)),
        ).where(accounts.c.tenant == tenant)
        async with transaction(self._engine) as connection:
            return (
                *(await connection.execute(votes)).one(),
                *(await connection.execute(held)).one(),
            )

    async def columns(self, tenant: str, topic: str) -> VoteColumns:
        own = [battle_votes.c.tenant == tenant]
        if topic:
            own.append(battle_votes.c.task == topic)
        async with transaction(self._engine) as connection:
            known = await _accounts(connection, tenant)
            aside = select(func.count()).where(*own, battle_votes.c.set_aside != "")
            set_aside = int((await connection.execute(aside)).scalar_one())
            reader = _Reader(known)
            after = (-1, "")
            while True:
                page = (
                    select(
                        battle_votes.c.vote_us,
                        battle_votes.c.battle_id,
                        battles.c.first_model,
                        battles.c.second_model,
                        battle_votes.c.outcome,
                        battle_votes.c.principal,
                        *(battle_votes.c[name] for name in STYLE_COLUMNS),
                    )
                    .join_from(
                        battle_votes, battles, battles.c.battle_id == battle_votes.c.battle_id
                    )
                    .where(*own, COUNTED)
                    .where(tuple_(battle_votes.c.vote_us, battle_votes.c.battle_id) > after)
                    .order_by(battle_votes.c.vote_us, battle_votes.c.battle_id)
                    .limit(PAGE_ROWS)
                )
                rows = (await connection.execute(page)).all()
                reader.add(rows)
                if len(rows) < PAGE_ROWS:
                    return reader.columns(set_aside)
                after = (rows[-1].vote_us, rows[-1].battle_id)

    async def topics(self, tenant: str) -> Mapping[str, int]:
        statement = (
            select(battle_votes.c.task, func.count().label("votes"))
            .join(accounts, accounts.c.principal == battle_votes.c.principal)
            .where(battle_votes.c.tenant == tenant, COUNTED, accounts.c.quarantined.is_(False))
            .where(battle_votes.c.task != Task.UNSPECIFIED)
            .group_by(battle_votes.c.task)
            .order_by(battle_votes.c.task)
        )
        async with transaction(self._engine) as connection:
            return {row.task: row.votes for row in await connection.execute(statement)}


async def _accounts(connection: AsyncConnection, tenant: str) -> AccountColumns:
    statement = (
        select(
            accounts.c.principal,
            accounts.c.create_us,
            accounts.c.weight,
            accounts.c.quarantined,
            accounts.c.released,
        )
        .where(accounts.c.tenant == tenant)
        .order_by(accounts.c.principal)
    )
    rows = (await connection.execute(statement)).all()
    return AccountColumns(
        principals=tuple(row.principal for row in rows),
        create_us=np.array([row.create_us for row in rows], np.int64),
        weight=np.array([row.weight for row in rows], np.float64),
        quarantined=np.array([row.quarantined for row in rows], bool),
        released=np.array([row.released for row in rows], bool),
    )


class _Reader:
    """Columns under construction; numbers replace names, so that a row takes about 100 bytes."""

    def __init__(self, known: AccountColumns) -> None:
        self._accounts = known
        self._place = {principal: place for place, principal in enumerate(known.principals)}
        self._models: dict[str, int] = {}
        self._pages: list[np.ndarray[Any, np.dtype[np.int64]]] = []
        self._scores: list[np.ndarray[Any, np.dtype[np.float64]]] = []

    def add(self, rows: Sequence[Any]) -> None:
        # A vote whose account appeared after the accounts were read counts in the next leaderboard.
        rows = [row for row in rows if row.principal in self._place]
        numbers = [
            (
                self._model(row.first_model),
                self._model(row.second_model),
                self._place[row.principal],
                row.vote_us,
                *row[6:],
            )
            for row in rows
        ]
        width = 4 + len(STYLE_COLUMNS)
        self._pages.append(np.array(numbers, np.int64).reshape(len(rows), width))
        scores = [SCORES[Outcome(row.outcome)] for row in rows]
        self._scores.append(np.array(scores, np.float64))

    def columns(self, set_aside: int) -> VoteColumns:
        found = np.concatenate(self._pages)
        return VoteColumns(
            models=tuple(self._models),
            first=found[:, 0],
            second=found[:, 1],
            score=np.concatenate(self._scores),
            account=found[:, 2],
            vote_us=found[:, 3],
            style=found[:, 4:].astype(np.float64).reshape(len(found), 2, len(STYLE_COLUMNS) // 2),
            accounts=self._accounts,
            set_aside=set_aside,
        )

    def _model(self, name: str) -> int:
        return self._models.setdefault(name, len(self._models))
