"""Interface of the sessions database: blocking functions, each run in its own transaction.

SQLite runs the functions in threads, Postgres in greenlets of SQLAlchemy on the event loop. The
functions are the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

ResultT = TypeVar("ResultT")
Work = Callable[[Connection], ResultT]
# Error of a transaction that is a defect of this service, and therefore is not translated.
DatabaseError = SQLAlchemyError


class Database(Protocol):
    """A database that runs transactions.

    Raises:
        UnavailableError: the database did not run the work; with a retry delay.
        ResourceExhaustedError: no connection is free; with a retry delay.
    """

    async def read(self, work: Work[ResultT]) -> ResultT:
        """Run read-only work on one snapshot."""

    async def write(self, work: Work[ResultT]) -> ResultT:
        """Run work and commit all its changes or none, also if the caller is cancelled.

        The work may run several times. An earlier run has usually changed nothing. But if only the
        answer to its commit was lost, the changes are stored, and the work must recognise them and
        change nothing.
        """

    async def erase(self, work: Work[ResultT]) -> ResultT:
        """Run work as `write`; the changes survive a power loss once the call returns."""


@dataclass(frozen=True)
class DatabaseLimits:
    """Number of connections and timeouts in seconds.

    The timeouts apply to a free or new connection, a lock, one statement, and a transaction with
    all its attempts.
    """

    connections: int
    pool_seconds: float
    lock_seconds: float
    statement_seconds: float
    work_seconds: float
