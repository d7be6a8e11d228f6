"""Accounts that have voted: trust, quarantine, release, and the audit log of these acts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.chassis.audit.acts import DONE, Act
from services.chassis.audit.table import records_since
from services.review.arena.screening import Suspicion
from services.review.store.database import transaction
from services.review.store.tables import AUDIT, accounts, battle_votes

# Actor of a quarantine by the search.
SELF = "review"


@dataclass(frozen=True)
class Account:
    """Account with the number of its votes."""

    principal: str
    tenant: str
    create_us: int
    weight: float
    quarantined: bool
    released: bool
    votes: int


class SqlAccountStore:
    """Implements `screening.AccountStore`, with further methods for the commands."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def tenants(self) -> Sequence[str]:
        async with transaction(self._engine) as connection:
            found = await connection.execute(select(accounts.c.tenant).distinct())
            return sorted(found.scalars())

    async def set_weights(self, tenant: str, weights: Mapping[str, float]) -> None:
        statement = (
            update(accounts)
            .where(accounts.c.tenant == tenant, accounts.c.principal == bindparam("key"))
            .values(weight=bindparam("trust"))
        )
        rows = [{"key": principal, "trust": trust} for principal, trust in weights.items()]
        if rows:
            async with transaction(self._engine) as connection:
                await connection.execute(statement, rows)

    async def quarantine_found(self, suspicions: Sequence[Suspicion]) -> Sequence[Suspicion]:
        changed = []
        async with transaction(self._engine) as connection:
            for one in suspicions:
                act = Act("account quarantined", SELF, one.principal, detail=one.evidence)
                fresh = accounts.c.quarantined.is_(False) & accounts.c.released.is_(False)
                values = {"quarantined": True}
                if await _change(connection, one.principal, fresh, values):
                    await connection.execute(AUDIT.insert().values(act.record()))
                    changed.append(one)
        return changed

    async def quarantine(self, principal: str, actor: str, reason: str) -> bool:
        """Quarantine an account; return False if none has this principal or it already is."""
        act = Act("account quarantined", actor, principal, detail=reason)
        values = {"quarantined": True, "released": False}
        return await self._decide(act, accounts.c.quarantined.is_(False), values)

    async def release(self, principal: str, actor: str, reason: str) -> bool:
        """Release an account from quarantine; the search does not quarantine it again."""
        act = Act("account released", actor, principal, detail=reason)
        values = {"quarantined": False, "released": True}
        return await self._decide(act, accounts.c.quarantined.is_(True), values)

    async def list_accounts(self, *, only_quarantined: bool) -> list[Account]:
        """Return accounts with their numbers of votes, by tenant, oldest first."""
        votes = (
            select(func.count())
            .where(battle_votes.c.principal == accounts.c.principal)
            .scalar_subquery()
        )
        statement = select(accounts, votes.label("votes")).order_by(
            accounts.c.tenant, accounts.c.create_us, accounts.c.principal
        )
        if only_quarantined:
            statement = statement.where(accounts.c.quarantined.is_(True))
        async with transaction(self._engine) as connection:
            rows = await connection.execute(statement)
            return [Account(**row) for row in rows.mappings()]

    async def quarantined_after(self, principal: str, most: int) -> list[str]:
        """Return accounts in quarantine that follow a principal in alphabetical order."""
        statement = (
            select(accounts.c.principal)
            .where(accounts.c.quarantined.is_(True), accounts.c.principal > principal)
            .order_by(accounts.c.principal)
            .limit(most)
        )
        async with transaction(self._engine) as connection:
            return list((await connection.execute(statement)).scalars())

    async def audit_records(self, since_us: int) -> list[Mapping[str, Any]]:
        """Return the records of the audit log since a time, oldest first."""
        async with transaction(self._engine) as connection:
            rows = await connection.execute(records_since(AUDIT, since_us))
            return [dict(row) for row in rows.mappings()]

    async def _decide(self, act: Act, condition: Any, values: Mapping[str, bool]) -> bool:
        """Change the account that is the object of the act, and record the act."""
        async with transaction(self._engine) as connection:
            is_changed = await _change(connection, act.object, condition, values)
            act = replace(act, outcome=DONE if is_changed else "no such account")
            await connection.execute(AUDIT.insert().values(act.record()))
        act.log()
        return is_changed


async def _change(
    connection: AsyncConnection, principal: str, condition: Any, values: Mapping[str, bool]
) -> bool:
    statement = update(accounts).where(accounts.c.principal == principal, condition)
    done = await connection.execute(statement.values(**values))
    return bool(done.rowcount == 1)
