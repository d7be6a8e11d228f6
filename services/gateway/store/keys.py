"""Tables of API keys in the gateway's database, and the store on them.

A key is found by hash in one parameterised query. A change of the tables requires a new file in
migrations.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import (
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    LargeBinary,
    MetaData,
    Row,
    Select,
    String,
    Table,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.chassis.audit.acts import DONE, Act
from services.chassis.audit.table import audit_table, records_since
from services.chassis.identity import Caller
from services.gateway.identity.authentication import StoredKey
from services.gateway.identity.credential import scopes_from, scopes_text
from services.gateway.store.database import transaction

METADATA = MetaData()

tenants = Table(
    "tenants",
    METADATA,
    Column("tenant", String(64), primary_key=True),
    Column("create_time", Float, nullable=False),
)

users = Table(
    "users",
    METADATA,
    Column(
        "tenant", String(64), ForeignKey("tenants.tenant", name="users_tenant"), primary_key=True
    ),
    Column("user", String(64), primary_key=True),
    Column("create_time", Float, nullable=False),
)

# Two hashes per key: after a rotation the previous secret works for a limited time.
api_keys = Table(
    "api_keys",
    METADATA,
    Column("key_id", String(36), primary_key=True),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("tenant", String(64), nullable=False),
    Column("user", String(64), nullable=False),
    Column("create_time", Float, nullable=False),
    Column("revoke_time", Float),
    Column("scopes", String(128), nullable=False),
    Column("expire_time", Float),
    Column("previous_digest", LargeBinary(32), unique=True),
    Column("previous_expire_time", Float),
    Column("last_use_time", Float),
    ForeignKeyConstraint(("tenant", "user"), ("users.tenant", "users.user"), name="api_keys_user"),
)


AUDIT = audit_table(METADATA, "gateway")
SELF = "gateway"  # actor of changes that no operator's command makes

# SQLAlchemy has no common class for the upserts of the two dialects.
INSERTS: Mapping[str, Callable[[Table], Any]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}


class SqlKeyStore:
    """Implements `keys.KeyLookup`, with further methods for the commands.

    Every method raises UnavailableError while the database is unavailable.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def find(self, digest: bytes) -> StoredKey | None:
        async with transaction(self._engine) as connection:
            row = (await connection.execute(_with_digest(digest))).one_or_none()
        return _key(row) if row else None

    async def recent_digests(self, most: int) -> Sequence[bytes]:
        use_time = func.coalesce(api_keys.c.last_use_time, api_keys.c.create_time)
        statement = (
            select(api_keys.c.digest, api_keys.c.previous_digest)
            .where(api_keys.c.revoke_time.is_(None))
            .order_by(use_time.desc())
            .limit(most)
        )
        async with transaction(self._engine) as connection:
            rows = (await connection.execute(statement)).all()
        return [digest for row in rows for digest in row if digest is not None]

    async def record_use(self, key_id: str, use_time: float) -> None:
        statement = (
            update(api_keys).where(api_keys.c.key_id == key_id).values(last_use_time=use_time)
        )
        async with transaction(self._engine) as connection:
            await connection.execute(statement)

    async def add(self, key: StoredKey, actor: str = SELF) -> None:
        """Add a key, with its tenant and user if new. Idempotent.

        A known key gets the scopes of `key`: the owner's key then has those of a later version.
        """
        tenant, user, made = key.caller.tenant, key.caller.user, {"create_time": key.create_time}
        scopes = scopes_text(key.scopes)
        detail = f"{key.caller.key} {scopes}"
        async with transaction(self._engine) as connection:
            if row := (await connection.execute(_with_digest(key.digest))).first():
                if row.scopes == scopes:
                    return
                act = Act("key scopes changed", actor, row.key_id, detail=detail)
                known = api_keys.c.key_id == row.key_id
                await connection.execute(update(api_keys).where(known).values(scopes=scopes))
                await connection.execute(AUDIT.insert().values(act.record()))
                act.log()
                return
            await self._insert(connection, tenants, {"tenant": tenant, **made})
            await self._insert(connection, users, {"tenant": tenant, "user": user, **made})
            values = {
                "key_id": key.key_id,
                "digest": key.digest,
                "tenant": key.caller.tenant,
                "user": key.caller.user,
                "scopes": scopes,
                "create_time": key.create_time,
                "expire_time": key.expire_time,
            }
            await self._insert(connection, api_keys, values)
            act = Act("key created", actor, key.key_id, detail=detail)
            await connection.execute(AUDIT.insert().values(act.record()))
        act.log()

    async def list_keys(self) -> list[StoredKey]:
        """Return all keys, oldest first."""
        async with transaction(self._engine) as connection:
            rows = await connection.execute(
                select(api_keys).order_by(api_keys.c.create_time, api_keys.c.key_id)
            )
            return [_key(row) for row in rows]

    async def revoke(self, key_id: str, revoke_time: float, actor: str = SELF) -> bool:
        """Revoke a key and its previous secret. Returns False if no working key has this id."""
        act = Act("key revoked", actor, key_id)
        return await self._change(act, revoke_time, {"revoke_time": revoke_time})

    async def rotate(
        self,
        key_id: str,
        digest: bytes,
        rotate_time: float,
        previous_expire_time: float,
        actor: str = SELF,
    ) -> bool:
        """Replace the secret. The present secret works until `previous_expire_time`.

        Returns False if no working key has this id.
        """
        values = {
            "digest": digest,
            "previous_digest": api_keys.c.digest,
            "previous_expire_time": previous_expire_time,
        }
        return await self._change(Act("key rotated", actor, key_id), rotate_time, values)

    async def note_configuration(self, subject: str, content: str) -> None:
        """Record the present configuration of a subject if changed since the last record."""
        act = Act("configuration read", SELF, subject, detail=content)
        query = select(AUDIT.c.detail).where(AUDIT.c.act == act.act, AUDIT.c.object == subject)
        async with transaction(self._engine) as connection:
            last = await connection.execute(query.order_by(AUDIT.c.id.desc()).limit(1))
            if last.scalar() == content:
                return
            await connection.execute(AUDIT.insert().values(act.record()))
        act.log()

    async def audit_records(self, since_us: int) -> list[Mapping[str, Any]]:
        """Return the records of the audit log since a time, oldest first."""
        async with transaction(self._engine) as connection:
            rows = await connection.execute(records_since(AUDIT, since_us))
            return [dict(row) for row in rows.mappings()]

    async def _change(self, act: Act, now: float, values: dict[str, Any]) -> bool:
        """Change the working key whose id is the object of the act, and record the act."""
        lives = or_(api_keys.c.expire_time.is_(None), api_keys.c.expire_time > now)
        works = (api_keys.c.key_id == act.object, api_keys.c.revoke_time.is_(None), lives)
        async with transaction(self._engine) as connection:
            changed = await connection.execute(update(api_keys).where(*works).values(**values))
            is_changed = changed.rowcount == 1
            act = replace(act, outcome=DONE if is_changed else "no working key")
            await connection.execute(AUDIT.insert().values(act.record()))
        act.log()
        return is_changed

    async def _insert(
        self, connection: AsyncConnection, table: Table, values: dict[str, Any]
    ) -> None:
        insert = INSERTS[self._engine.dialect.name]
        await connection.execute(insert(table).values(**values).on_conflict_do_nothing())


def _with_digest(digest: bytes) -> Select[Any]:
    return select(api_keys).where(
        or_(api_keys.c.digest == digest, api_keys.c.previous_digest == digest)
    )


def _key(row: Row[Any]) -> StoredKey:
    return StoredKey(
        key_id=row.key_id,
        digest=row.digest,
        caller=Caller(row.tenant, row.user),
        scopes=scopes_from(row.scopes.split()),
        create_time=row.create_time,
        expire_time=row.expire_time,
        revoke_time=row.revoke_time,
        previous_digest=row.previous_digest,
        previous_expire_time=row.previous_expire_time,
        last_use_time=row.last_use_time,
    )
