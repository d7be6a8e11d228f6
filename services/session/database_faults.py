"""What an error of Postgres means for the work that met it: may it run again, and what is its
caller told.

The one table of SQLSTATEs. A code that is not in it is a defect of ours and passes as it is.
"""

from dataclasses import dataclass

import asyncpg
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnectionError

from services.chassis.errors import ResourceExhaustedError, ServiceError, UnavailableError


@dataclass(frozen=True)
class Fault:
    """`again`: running the work once more may help."""

    kind: type[ServiceError]
    reason: str
    text: str
    retry_seconds: float
    again: bool

    def error(self) -> ServiceError:
        """What the caller is told."""
        return self.kind(self.text, reason=self.reason, retry_seconds=self.retry_seconds)


COLLIDED = Fault(
    UnavailableError,
    "SESSION_DATABASE_BUSY",
    "too many changes of one conversation at once",
    0.2,
    True,
)
HELD = Fault(
    UnavailableError, "SESSION_DATABASE_BUSY", "the sessions database took too long", 1.0, False
)
CROWDED = Fault(
    ResourceExhaustedError,
    "SESSION_DATABASE_CROWDED",
    "no connection to the database is free",
    1.0,
    False,
)
AWAY = Fault(UnavailableError, "SESSION_DATABASE_AWAY", "the sessions database is away", 1.0, True)
FULL = Fault(
    UnavailableError,
    "SESSION_DATABASE_AWAY",
    "the sessions database is out of space or memory",
    5.0,
    False,
)
READ_ONLY = Fault(
    UnavailableError, "SESSION_DATABASE_READ_ONLY", "the sessions database is read-only", 5.0, False
)

# Whole codes before their classes (the first two characters). PostgreSQL's manual, appendix A.
FAULTS = {
    "40001": COLLIDED,  # serialization_failure
    "40P01": COLLIDED,  # deadlock_detected
    # unique_violation: another replica was first; the next run sees what it stored
    "23505": COLLIDED,
    # feature_not_supported: a prepared plan from before a migration; the driver drops it
    "0A000": COLLIDED,
    "55P03": HELD,  # lock_not_available: lock_timeout
    "57014": HELD,  # query_canceled: statement_timeout
    "25006": READ_ONLY,  # read_only_sql_transaction
    "25P03": AWAY,  # idle_in_transaction_session_timeout: this process stood still
    "57P01": AWAY,  # admin_shutdown
    "57P02": AWAY,  # crash_shutdown
    "57P03": AWAY,  # cannot_connect_now: starting up or shutting down
    "53300": CROWDED,  # too_many_connections
    "53": FULL,
    "08": AWAY,  # connection_exception
}
# What comes out of the driver and SQLAlchemy; those of the driver alone while a connection is made.
FOREIGN = (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
# The connection, or the server behind it, will not do what was asked: the next one may reach
# another server.
LEAVE = {"25006", "57P01", "57P02", "57P03"}


def fault_of(error: Exception) -> Fault | None:
    """None: not the database's doing."""
    if isinstance(error, NoConnectionError):
        return CROWDED
    if isinstance(error, OSError | TimeoutError):
        return AWAY
    code = sqlstate_of(error)
    if fault := FAULTS.get(code) or FAULTS.get(code[:2]):
        return fault
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    return AWAY if lost or isinstance(error, asyncpg.InterfaceError) else None


def sqlstate_of(error: BaseException | None) -> str:
    """The code that the server gave, or ""; the driver's own exception is the cause of
    SQLAlchemy's.
    """
    while error is not None:
        if code := getattr(error, "sqlstate", None):
            return str(code)
        error = getattr(error, "orig", None) or error.__cause__
    return ""
