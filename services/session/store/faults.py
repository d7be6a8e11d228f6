"""Classification of Postgres errors by SQLSTATE: retry or not, and the error for the caller.

A code without an entry in the table is a defect of this service; its error is passed on unchanged.
"""

from dataclasses import dataclass

import asyncpg
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnectionError

from services.chassis.errors import ResourceExhaustedError, ServiceError, UnavailableError


@dataclass(frozen=True)
class Fault:
    """One class of database errors; `retryable` means that another attempt may succeed."""

    error_class: type[ServiceError]
    reason: str
    text: str
    retry_seconds: float
    retryable: bool

    def error(self) -> ServiceError:
        """Create the error for the caller."""
        return self.error_class(self.text, reason=self.reason, retry_seconds=self.retry_seconds)


CONFLICT = Fault(
    UnavailableError,
    "SESSION_DATABASE_BUSY",
    "too many concurrent changes of one conversation",
    0.2,
    True,
)
TIMED_OUT = Fault(
    UnavailableError, "SESSION_DATABASE_BUSY", "the sessions database took too long", 1.0, False
)
NO_CONNECTION = Fault(
    ResourceExhaustedError,
    "SESSION_DATABASE_CROWDED",
    "no connection to the database is free",
    1.0,
    False,
)
UNAVAILABLE = Fault(
    UnavailableError, "SESSION_DATABASE_AWAY", "the sessions database is unavailable", 1.0, True
)
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

# By code or, for codes without an entry, by class (the first two characters). Source: PostgreSQL
# manual, appendix A.
FAULTS = {
    "40001": CONFLICT,  # serialization_failure
    "40P01": CONFLICT,  # deadlock_detected
    # unique_violation: another replica was first; the next attempt sees the stored row
    "23505": CONFLICT,
    # feature_not_supported: a prepared plan from before a migration; the driver drops the plan
    "0A000": CONFLICT,
    "55P03": TIMED_OUT,  # lock_not_available: lock_timeout
    "57014": TIMED_OUT,  # query_canceled: statement_timeout
    "25006": READ_ONLY,  # read_only_sql_transaction
    "25P03": UNAVAILABLE,  # idle_in_transaction_session_timeout: this process was suspended
    "57P01": UNAVAILABLE,  # admin_shutdown
    "57P02": UNAVAILABLE,  # crash_shutdown
    "57P03": UNAVAILABLE,  # cannot_connect_now: starting up or shutting down
    "53300": NO_CONNECTION,  # too_many_connections
    "53": FULL,
    "08": UNAVAILABLE,  # connection_exception
}
# Errors of SQLAlchemy, and of the driver alone while a connection is opened.
DRIVER_ERRORS = (
    SQLAlchemyError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    OSError,
    TimeoutError,
)
# Codes after which the connection is closed, because a new connection may reach another server.
DISCONNECT_CODES = {"25006", "57P01", "57P02", "57P03"}


def fault_of(error: Exception) -> Fault | None:
    """Classify an error; None if the database did not cause the error."""
    if isinstance(error, NoConnectionError):
        return NO_CONNECTION
    if isinstance(error, OSError | TimeoutError):
        return UNAVAILABLE
    code = sqlstate_of(error)
    if fault := FAULTS.get(code) or FAULTS.get(code[:2]):
        return fault
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    return UNAVAILABLE if lost or isinstance(error, asyncpg.InterfaceError) else None


def sqlstate_of(error: BaseException | None) -> str:
    """Return the SQLSTATE of an error, or ""; SQLAlchemy's error has the driver's as its cause."""
    while error is not None:
        if code := getattr(error, "sqlstate", None):
            return str(code)
        error = getattr(error, "orig", None) or error.__cause__
    return ""
