"""Current thumb of each user on each message, in the order of acceptance.

A retraction removes the thumb. Committed events are in a table updated in the ledger's transaction,
and pending events are overlaid, so an acknowledged thumb is visible at once and also after a kill.
Logs of several replicas arrive in any order: each state has its place in the order of acceptance,
and an older state never replaces a newer one.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import ColumnElement, Connection, Engine, and_, case, func, literal, select, true

from services.chassis.threads import run_to_end
from services.contracts.chat import OUTSIDE_EXPERIMENT
from services.contracts.feedback import Retraction, Subject, Thumb
from services.contracts.identifiers import created_us
from services.feedback.events import FeedbackEvent
from services.feedback.lake import parquet
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import ObjectStore
from services.feedback.projections.account_age import FULL, UNWEIGHTED, AccountAge, first_answers
from services.feedback.projections.projection import (
    Projection,
    advance_position,
    key_in,
    newer,
    upsert_latest,
)
from services.feedback.projections.projection import catch_up as rebuild
from services.feedback.sink import Position
from services.feedback.spool.log import Record
from services.feedback.store import tables
from services.feedback.store.database import chunks, transaction

KEY_COLUMNS = ("principal", "message_id")
Key = tuple[str, str]
"""Principal and message id of a thumb."""


@dataclass(frozen=True)
class ThumbState:
    """Last feedback of a user on a message: a thumb, or None after a retraction."""

    up: bool | None
    model_version: str
    arm: str
    accept_us: int
    accept_order: int = 0

    def replaces(self, other: "ThumbState | None") -> bool:
        """Return True if this state replaces an earlier one of the same log.

        Without an order of acceptance (0) the order of the log decides.
        """
        return other is None or self.accept_order >= other.accept_order


Change = tuple[Key, ThumbState]
"""Effect of an event on the thumb of one user on one message."""


@dataclass(frozen=True)
class ThumbCount:
    """Current thumbs of one version under one arm."""

    model_version: str
    arm: str
    up: int
    down: int


UserCount = Counter[tuple[int, int]]
"""Number of users by their numbers of current thumbs up and down."""
WeightedCount = Counter[tuple[int, int, int]]
"""Number of users by their current thumbs up and down and their weight in tenths."""
UserKey = tuple[str, str, int, int, int]
"""Version, arm, thumbs up, thumbs down and weight in tenths."""


def majorities(users: UserCount | WeightedCount) -> tuple[int, int]:
    """Return the users with more thumbs up than down, and with more down than up."""
    sides: Counter[int] = Counter()
    for (up, down, *_), number in users.items():
        sides[(up > down) - (up < down)] += number
    return sides[1], sides[-1]


def change_of(event: FeedbackEvent, accept_order: int) -> Change | None:
    """Return the effect of an event on thumbs, or None without an effect.

    Feedback of reviewers is no opinion of the user.
    """
    if event.rater:
        return None
    match event.value:
        case Thumb(up=up):
            up_value: bool | None = up
        case Retraction(subject=Subject.THUMB):
            up_value = None
        case _:
            return None
    state = ThumbState(up_value, event.model_version, event.arm, event.accept_us, accept_order)
    return (event.principal, event.message_id), state


def change_of_row(row: parquet.Row) -> Change | None:
    """Return the effect of a row on thumbs, or None without an effect."""
    # Older files have no raters.
    if row.get("rater") or (row["kind"] != "thumb" and row["retracts"] != Subject.THUMB):
        return None
    # Files of the first version have no order of acceptance.
    accept_us, accept_order = row["accept_time"], row.get("accept_order") or 0
    assert isinstance(accept_us, int)
    assert isinstance(accept_order, int)
    up = bool(row["up"]) if row["kind"] == "thumb" else None
    state = ThumbState(up, str(row["model_version"]), str(row["arm"]), accept_us, accept_order)
    return (str(row["principal"]), str(row["message_id"])), state


def fold(
    connection: Connection, position: Position, kept: Sequence[tuple[Record, FeedbackEvent]]
) -> None:
    """Update the table from one batch, inside the ledger's transaction."""
    changes = (change_of(event, record.entry.accept_order) for record, event in kept)
    _apply(connection, [change for change in changes if change])
    advance_position(connection, tables.thumb_positions, position)


class PendingThumbs(Protocol):
    """Thumbs that the table may not contain yet."""

    async def latest(self, keys: Collection[Key] | None) -> Mapping[Key, ThumbState]:
        """Return the pending states of some keys, or of all keys with None.

        Call before reading the table: a state may then be in both, never in neither.
        """


class Thumbs:
    """Reader of the table and the pending thumbs."""

    def __init__(
        self, engine: Engine, pending: PendingThumbs, age: AccountAge = UNWEIGHTED
    ) -> None:
        self._engine, self._pending, self._age = engine, pending, age

    async def current(self, principal: str, message_ids: Sequence[str]) -> dict[str, ThumbState]:
        """Return message id → state for messages with a thumb of the user.

        Raises:
            LedgerUnavailableError: The database does not answer.
        """
        keys = {(principal, message_id) for message_id in message_ids}
        pending = await self._pending.latest(keys)

        def read() -> dict[Key, ThumbState]:
            with transaction(self._engine) as connection:
                return _read_states(connection, keys)

        # Read the pending states first: a state that is committed in between is then in both.
        found = await run_to_end(read)
        found |= newer(pending, found)
        return {
            message_id: state for (_, message_id), state in found.items() if state.up is not None
        }

    async def count(self, since_us: int) -> list[ThumbCount]:
        """Count the current thumbs given at or after a time, by version and arm.

        Raises:
            LedgerUnavailableError: The database does not answer.
        """
        pending = await self._pending.latest(None)
        totals = await run_to_end(self._totals, pending, since_us)
        pairs = sorted({(version, arm) for version, arm, _ in totals})
        counts = [ThumbCount(v, a, totals[v, a, True], totals[v, a, False]) for v, a in pairs]
        return [count for count in counts if count.up or count.down]

    async def count_users(self, since_us: int) -> dict[tuple[str, str], UserCount]:
        """Count users by version and arm, each by the numbers of current thumbs up and down.

        Only thumbs count that were given at or after a time, on answers that were begun at or after
        it.

        Raises:
            LedgerUnavailableError: The database does not answer.
        """
        pending = await self._pending.latest(None)
        totals = await run_to_end(self._user_totals, pending, since_us)
        counts: defaultdict[tuple[str, str], UserCount] = defaultdict(Counter)
        for (version, arm, up, down, _), number in totals.items():
            counts[version, arm][up, down] += number
        return dict(counts)

    async def count_users_by_version(
        self, versions: Collection[str], since_us: int
    ) -> dict[str, WeightedCount]:
        """Count users by version, as `count_users` does, over the arms of the experiment.

        The weight of a user is that of its age at `since_us`, the start of the comparison.

        Raises:
            LedgerUnavailableError: The database does not answer.
        """
        pending = await self._pending.latest(None)
        totals = await run_to_end(self._user_totals, pending, since_us, frozenset(versions))
        counts: defaultdict[str, WeightedCount] = defaultdict(Counter)
        for (version, _, up, down, tenths), number in totals.items():
            counts[version][up, down, tenths] += number
        return dict(counts)

    def _user_totals(
        self,
        pending: Mapping[Key, ThumbState],
        since_us: int,
        versions: Collection[str] | None = None,
    ) -> Counter[UserKey]:
        """Count users by version, arm, thumbs up, thumbs down and weight.

        With `versions` only these count, "" is the arm, and weights are those of the users' ages.
        """
        table = tables.thumbs.c
        given = [table.accept_us >= since_us, table.up.is_not(None), begun_since(since_us)]
        arm = table.arm.label("arm") if versions is None else literal("").label("arm")
        if versions is not None:
            given += [
                table.model_version.in_(sorted(versions)),
                table.arm.not_in(OUTSIDE_EXPERIMENT),
            ]
        up, down = (
            func.sum(case((table.up.is_(side), 1), else_=0)).label(name)
            for name, side in (("up", True), ("down", False))
        )
        by_user = (
            select(table.principal, table.model_version, arm, up, down)
            .where(*given)
            .group_by(table.principal, table.model_version, arm)
            .subquery()
        ).c
        with transaction(self._engine) as connection:
            is_weighted = versions is not None and self._age.applies(connection, since_us)
            tenths: ColumnElement[int] = literal(FULL)
            if is_weighted:
                tenths = self._age.column(by_user.principal, since_us)
            keys = select(
                by_user.model_version, by_user.arm, by_user.up, by_user.down, tenths.label("tenths")
            ).subquery()
            number = func.count().label("number")
            totals: Counter[UserKey] = Counter()
            for row in connection.execute(select(*keys.c, number).group_by(*keys.c)):
                key = row.model_version, row.arm, int(row.up), int(row.down), int(row.tenths)
                totals[key] = row.number
            principals = {principal for principal, _ in pending}
            before = _states_of(connection, principals)
            weights = dict.fromkeys(principals, FULL)
            if is_weighted:
                first = first_answers(connection, principals)
                weights = {one: self._age.tenths(first.get(one), since_us) for one in principals}
        after = before | newer(pending, before)
        # The table counted the users with pending thumbs too; their counts are replaced.
        totals.subtract(_thumbs_by_user(before, since_us, versions, weights))
        totals.update(_thumbs_by_user(after, since_us, versions, weights))
        return +totals

    def _totals(
        self, pending: Mapping[Key, ThumbState], since_us: int
    ) -> Counter[tuple[str, str, bool]]:
        table = tables.thumbs.c
        grouped = (
            select(table.model_version, table.arm, table.up, func.count())
            .where(table.accept_us >= since_us, table.up.is_not(None))
            .group_by(table.model_version, table.arm, table.up)
        )
        totals: Counter[tuple[str, str, bool]] = Counter()
        with transaction(self._engine) as connection:
            for version, arm, up, number in connection.execute(grouped):
                totals[version, arm, bool(up)] = number
            before = _read_states(connection, set(pending))
        moved = newer(pending, before)
        replaced = [before[key] for key in moved if key in before]
        for sign, states in ((-1, replaced), (1, list(moved.values()))):
            for state in states:
                if state.up is not None and state.accept_us >= since_us:
                    totals[state.model_version, state.arm, state.up] += sign
        return totals


def catch_up(ledger: Ledger, store: ObjectStore, stream: str) -> bool:
    """Rebuild outdated thumbs and return True after a rebuild."""

    def apply_rows(connection: Connection, rows: Sequence[parquet.Row]) -> None:
        _apply(connection, [change for row in rows if (change := change_of_row(row))])

    projection = Projection(tables.thumbs, tables.thumb_positions, apply_rows)
    return rebuild(projection, ledger, store, stream)


def _apply(connection: Connection, changes: Iterable[Change]) -> None:
    upsert_latest(connection, tables.thumbs, KEY_COLUMNS, changes, _read_states)


def _thumbs_by_user(
    states: Mapping[Key, ThumbState],
    since_us: int,
    versions: Collection[str] | None,
    weights: Mapping[str, int],
) -> list[UserKey]:
    """Return the key of each user in these states, with the user's weight."""
    thumbs: defaultdict[tuple[str, str, str], list[bool]] = defaultdict(list)
    for (principal, message_id), state in states.items():
        begun_us, arm = created_us(message_id), state.arm
        if versions is not None:
            if state.model_version not in versions or arm in OUTSIDE_EXPERIMENT:
                continue
            arm = ""
        if state.up is not None and min(state.accept_us, begun_us) >= since_us:
            thumbs[principal, state.model_version, arm].append(state.up)
    return [
        (version, arm, ups.count(True), ups.count(False), weights[principal])
        for (principal, version, arm), ups in thumbs.items()
    ]


def begun_since(since_us: int) -> ColumnElement[bool]:
    """Return the condition `created_us(message_id) >= since_us` on the table.

    Digits of equal length are in the same order as texts and as numbers.
    """
    if since_us <= 0:
        return true()
    first = f"{-(-since_us // 1_000):012x}"
    message_id = tables.thumbs.c.message_id
    begun = func.substr(message_id, 1, 13) >= f"{first[:8]}-{first[8:]}"
    version, variant = func.substr(message_id, 15, 1), func.substr(message_id, 20, 1)
    return and_(version == "7", variant.in_(("8", "9", "a", "b")), begun)


def _states_of(connection: Connection, principals: Collection[str]) -> dict[Key, ThumbState]:
    """Return all states of these users."""
    found: dict[Key, ThumbState] = {}
    for chunk in chunks(principals):
        condition = tables.thumbs.c.principal.in_(chunk)
        found |= _states(connection, condition)
    return found


def _read_states(connection: Connection, keys: Collection[Key]) -> dict[Key, ThumbState]:
    found: dict[Key, ThumbState] = {}
    for chunk in chunks(keys):
        found |= _states(connection, key_in(tables.thumbs, KEY_COLUMNS, chunk))
    return found


def _states(connection: Connection, condition: ColumnElement[bool]) -> dict[Key, ThumbState]:
    found = {}
    for row in connection.execute(select(tables.thumbs).where(condition)):
        up = None if row.up is None else bool(row.up)
        state = ThumbState(up, row.model_version, row.arm, row.accept_us, row.accept_order)
        found[row.principal, row.message_id] = state
    return found
