"""What an erasure took: everything of its principal up to that moment, wherever it still lies or is
on its way.

What is sealed names the shredded key. What is plain was accepted before anything was sealed: so
before any erasure, if it is still on its way; and in an object, if the erasure came at or after its
segment.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Connection, func, select

from services.feedback import tables
from services.feedback.chunks import chunks
from services.feedback.principals.sealing import KEY_ID_RANGE


@dataclass(frozen=True)
class Owner:
    """Whose an event is, and which key seals its texts; without a key id they are plain."""

    principal: str
    key_id: bytes


def erased_among(connection: Connection, owners: Collection[Owner]) -> set[Owner]:
    """Those whose events, still on their way, are gone."""
    table = tables.erasures.c
    erased: set[bytes | str] = set()
    for key_ids in chunks({owner.key_id for owner in owners if owner.key_id}):
        found = connection.execute(select(table.key_id).where(table.key_id.in_(key_ids)))
        erased.update(bytes(key_id) for (key_id,) in found)
    for principals in chunks({owner.principal for owner in owners if not owner.key_id}):
        erased.update(
            connection.execute(
                select(table.principal).where(table.principal.in_(principals))
            ).scalars()
        )
    return {owner for owner in owners if (owner.key_id or owner.principal) in erased}


@dataclass(frozen=True)
class ErasedRowMask:
    """Which rows of one stream's objects are gone: `plain_until` says up to which sequence those of
    a principal are.
    """

    key_ids: frozenset[bytes]
    plain_until: Mapping[str, int]

    def mask(self, rows: pa.Table) -> pa.BooleanArray | pa.ChunkedArray:
        """True where a row is gone. `rows` has the columns of its files, and `sequence`: that of
        its segment.
        """
        if not rows.num_rows:
            return pa.array([], pa.bool_())
        # Files of the first version have no such column.
        sealed = (
            rows["sealed"]
            if "sealed" in rows.column_names
            else pa.nulls(rows.num_rows, pa.binary())
        )
        shredded = pc.is_in(
            pc.binary_slice(sealed, *KEY_ID_RANGE), pa.array(sorted(self.key_ids), pa.binary())
        )
        principals, until = list(self.plain_until), list(self.plain_until.values())
        found = pc.index_in(rows["principal"], pa.array(principals, pa.string()))
        erased_until = pc.fill_null(pc.take(pa.array(until, pa.int64()), found), 0)
        return pc.if_else(
            pc.is_null(sealed), pc.less_equal(rows["sequence"], erased_until), shredded
        )


def erased_row_mask(connection: Connection, stream: str) -> ErasedRowMask:
    """As the erasure ledger stands."""
    erasures, reaches = tables.erasures.c, tables.erasure_reaches.c
    shredded = select(erasures.key_id).where(erasures.key_id.is_not(None))
    furthest = (
        select(erasures.principal, func.max(reaches.sequence))
        .where(erasures.number == reaches.number, reaches.stream == stream)
        .group_by(erasures.principal)
    )
    return ErasedRowMask(
        frozenset(map(bytes, connection.execute(shredded).scalars())),
        {row[0]: row[1] for row in connection.execute(furthest)},
    )
