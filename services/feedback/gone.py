"""What an erasure took: everything of its principal up to that moment, wherever it still lies or is on its way.

What is sealed names the shredded key. What is plain was accepted before anything was sealed: so before any erasure, if it is still
on its way; and in an object, if the erasure came at or after its segment.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from services.feedback import tables
from services.feedback.portions import portions


@dataclass(frozen=True)
class Owner:
    """Whose an event is, and which key seals its texts; without a key id they are plain."""

    principal: str
    key_id: bytes


def erased_among(connection: Connection, owners: Collection[Owner]) -> set[Owner]:
    """Those whose events, still on their way, are gone."""
    table = tables.erasures.c
    erased: set[bytes | str] = set()
    for key_ids in portions({owner.key_id for owner in owners if owner.key_id}):
        found = connection.execute(select(table.key_id).where(table.key_id.in_(key_ids)))
        erased.update(bytes(key_id) for (key_id,) in found)
    for principals in portions({owner.principal for owner in owners if not owner.key_id}):
        erased.update(connection.execute(select(table.principal).where(table.principal.in_(principals))).scalars())
    return {owner for owner in owners if (owner.key_id or owner.principal) in erased}


@dataclass(frozen=True)
class GoneRows:
    """Which rows of one stream's objects are gone: `plain_until` says up to which sequence those of a principal are."""

    key_ids: frozenset[bytes]
    plain_until: Mapping[str, int]

    def has(self, owner: Owner, sequence: int) -> bool:
        """Whether a row of the segment is gone."""
        return owner.key_id in self.key_ids if owner.key_id else sequence <= self.plain_until.get(owner.principal, 0)


def gone_rows(connection: Connection, stream: str) -> GoneRows:
    """As the erasure ledger stands."""
    erasures, reaches = tables.erasures.c, tables.erasure_reaches.c
    shredded = select(erasures.key_id).where(erasures.key_id.is_not(None))
    furthest = (
        select(erasures.principal, func.max(reaches.sequence))
        .where(erasures.number == reaches.number, reaches.stream == stream)
        .group_by(erasures.principal)
    )
    return GoneRows(
        frozenset(map(bytes, connection.execute(shredded).scalars())),
        {row[0]: row[1] for row in connection.execute(furthest)},
    )
