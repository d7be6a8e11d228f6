"""The sessions database as its users see it: pieces of blocking work, each a transaction of its
own.

SQLite runs them in threads, Postgres on the loop (SQLAlchemy's greenlets); the work is the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from sqlalchemy import Connection

ResultT = TypeVar("ResultT")
Work = Callable[[Connection], ResultT]


class Database(Protocol):
    """Raises UnavailableError or ResourceExhaustedError, with a time to come back, if the database
    did not do the work.
    """

    async def read(self, work: Work[ResultT]) -> ResultT:
        """Run work that only reads, on one snapshot."""

    async def write(self, work: Work[ResultT]) -> ResultT:
        """All of the work is stored, or nothing; a caller that goes away changes neither.

        The work may be run again from its beginning. Mostly nothing of the run before was stored;
        but if the answer to its commit was lost, all of it may have been: the work must then find
        that and change nothing.
        """

    async def erase(self, work: Work[ResultT]) -> ResultT:
        """As write, and safe from a power loss when it returns."""


@dataclass(frozen=True)
class DatabaseLimits:
    """How many connections, and the longest waits: for a free one, for a lock, for a statement, for
    a whole piece of work.
    """

    connections: int
    pool_seconds: float
    lock_seconds: float
    statement_seconds: float
    work_seconds: float
