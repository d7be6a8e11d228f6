"""Weights of users in a canary by the age of their accounts.

Accounts cost an attacker nothing, their age costs time. The weight of a user follows from times
before the canary alone, so it is fixed before the user's first thumb that counts. A fixed weight
from 0 to 1 as an exponent keeps the test of the canary valid; one that changes with later events
would not. Figures: docs/decisions/gate-and-canary.md.
"""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    case,
    cast,
    exists,
    func,
    literal,
    or_,
    select,
)

from services.feedback.store import tables
from services.feedback.store.database import chunks

DAY_US = 86_400 * 1_000_000
FULL = 10  # tenths; few different weights keep the counts of a version small
# In a young installation all accounts are young. From twice the asked age on, the users of its
# first half have their full weight.
YOUNG = 2


@dataclass(frozen=True)
class AccountAge:
    """Rule of the weights, in tenths of a full weight.

    Attributes:
        full_us: age at the start of a canary from which a user has a full weight, in microseconds;
            0: all users have it. Younger accounts have a part, and new ones none.
    """

    full_us: int = 0

    def applies(self, connection: Connection, since_us: int) -> bool:
        """Return whether the installation was old enough at the start of a canary."""
        first_us = tables.exposures.c.first_us
        is_old = exists().where(first_us <= since_us - YOUNG * self.full_us)
        return bool(self.full_us and connection.execute(select(is_old)).scalar())

    def tenths(self, first_us: int | None, since_us: int) -> int:
        """Return the weight of a user.

        Args:
            first_us: time of the user's first answer; None without any.
            since_us: start of the canary.
        """
        age_us = 0 if first_us is None else since_us - first_us
        return min(FULL, max(0, age_us) * FULL // self.full_us)

    def column(self, principal: ColumnElement[str], since_us: int) -> ColumnElement[int]:
        """Return the weight of the user of a row, see `tenths`."""
        exposures = tables.exposures.alias("first_exposures").c
        first_us = (
            select(func.min(exposures.first_us))
            .where(exposures.principal == principal)
            .scalar_subquery()
        )
        part = (literal(since_us) - first_us) * FULL // self.full_us
        return case(
            (or_(first_us.is_(None), first_us >= since_us), 0),
            (first_us <= since_us - self.full_us, FULL),
            else_=cast(part, Integer),
        )


UNWEIGHTED = AccountAge()


def first_answers(connection: Connection, principals: Collection[str]) -> dict[str, int]:
    """Return the time of the first answer of each user who has one."""
    exposures, found = tables.exposures.c, dict[str, int]()
    for chunk in chunks(principals):
        query = (
            select(exposures.principal, func.min(exposures.first_us).label("first_us"))
            .where(exposures.principal.in_(chunk))
            .group_by(exposures.principal)
        )
        found |= {row.principal: row.first_us for row in connection.execute(query)}
    return found
