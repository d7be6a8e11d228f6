"""Simulation of two replicas over one broker, ledger and store, with real product code.

Clients send to any replica, resend to another, sometimes send to both, and sometimes send other
content under a used id. Replicas crash at every step. Batches are stored in part, acknowledgements
are lost, partitions move while their old sink continues as a zombie, and the topic is recreated.
"""

from collections.abc import Callable, Sequence

from services.chassis.errors import AlreadyExistsError
from services.contracts.feedback import Thumb
from services.feedback.dead_letters import UndecodableError
from services.feedback.events import FeedbackEvent, Stream
from services.feedback.kafka.partition_sinks import KafkaLog
from services.feedback.kafka.relay import PublishError, Relay
from services.feedback.lake.object_store import ObjectStoreError
from services.feedback.lake.parquet import Row
from services.feedback.projections.thumbs import ThumbState, change_of
from services.feedback.sink import (
    FlushLimits,
    Position,
    Sink,
    SinkStep,
    StreamFormat,
)
from services.feedback.spool.accept import Acceptance, Claims
from services.feedback.spool.log import Entry, OffsetOutOfRangeError, Record, TopicReplacedError
from services.feedback.store.database import FencedError, LedgerUnavailableError
from tests.services.feedback.faults import CrashError, Faults
from tests.services.feedback.history import Catalogue, History, PartitionKey, violations
from tests.services.feedback.memory import (
    MemoryClaims,
    MemoryLedger,
    MemoryPublisher,
    MemorySpool,
    MemoryStore,
    MemoryTopic,
)
from tests.services.feedback.unsealed import Unsealed

REPLICAS, PARTITIONS, CONVERSATIONS = 2, 2, 3
ROOM = 1 << 20
GARBAGE = b"?"
UP, DOWN = b"+" * 32, b"-" * 32
RETRIED = (FencedError, ObjectStoreError, LedgerUnavailableError)


def decode(record: Record) -> FeedbackEvent:
    """Return the event of an entry, whose payload is the fingerprint and encodes the thumb."""
    entry = record.entry
    if entry.payload == GARBAGE:
        raise UndecodableError("garbage")
    return FeedbackEvent(
        entry.event_id, "t", "p", entry.key, entry.key, "v", "a", 1, Thumb(entry.payload == UP)
    )


def encode(rows: Sequence[Row]) -> bytes:
    return "\n".join(
        f"{row['offset']} {row['event_id']} {row['accept_order'] or 0} {row['up']}" for row in rows
    ).encode()


def read(data: bytes) -> list[Row]:
    """Return the rows of an object with the columns needed by the checker."""
    parts = [line.split(" ") for line in data.decode().split("\n")]
    return [
        {
            "offset": int(offset),
            "event_id": event_id,
            "accept_order": int(order),
            "up": up == "True",
        }
        for offset, event_id, order, up in parts
    ]


def row_of(event: FeedbackEvent) -> Row:
    assert isinstance(event.value, Thumb)
    return {"up": event.value.up}


FORM = StreamFormat(Stream.FEEDBACK, decode, row_of, encode)


class Replica:
    """Replica process; only its spool survives a restart."""

    def __init__(self, world: "Replicas") -> None:
        self._world = world
        self.spool = MemorySpool(world.faults)
        self.start()

    def start(self) -> None:
        world = self._world
        self.acceptance = Acceptance(
            "feedback", self.spool, world.ledger, world.claims_of(), Unsealed()
        )
        self.acceptance.remember(self.spool.read(self.spool.start_offset, 1_000, ROOM))
        most = world.faults.random.randint(1, 5)
        self.relay = world.relay_kind(
            "feedback", self.spool, world.publisher, most, ROOM, self.acceptance.forget
        )


class Holding:
    """Sink on one partition with its log; a zombie keeps both."""

    def __init__(self, world: "Replicas", partition: int) -> None:
        self._world, self.partition = world, partition
        topic_id = world.topic.topic_id
        self.log = KafkaLog(topic_id, partition, lambda: world.require(topic_id))
        self._position = 0
        limits = FlushLimits(world.faults.random.randint(1, 9), ROOM)
        self.sink = Sink(FORM, self.log, world.store, world.ledger, limits, world.fold, world.at)
        self.sink.assign()

    def fetch(self) -> None:
        """Run one iteration of the consumer's thread."""
        wish = self.log.take_seek_offset()
        self._position = self._position if wish is None else wish
        try:
            found = self._world.topic.fetch(
                self.partition, self._position, self._world.faults.random.randint(1, 6)
            )
        except OffsetOutOfRangeError as error:
            self.log.fail(error)
            return
        if found:
            self._position = found[-1].offset + 1
            self.log.offer(found)


class Replicas:
    """Two replicas with broker, ledger and store; mutants override the parts."""

    relay_kind: type[Relay] = Relay
    ledger_kind: type[MemoryLedger] = MemoryLedger
    store_kind: type[MemoryStore] = MemoryStore

    def __init__(self, seed: int) -> None:
        self.faults = Faults(seed)
        self.store, self.ledger = self.store_kind(self.faults), self.ledger_kind(self.faults)
        self.topic = MemoryTopic(PARTITIONS)
        self.publisher = MemoryPublisher(self.faults, self.topic)
        self._claims = MemoryClaims(self.faults, self.ledger)
        self.history = History({str(number): [] for number in range(CONVERSATIONS)})
        self.current: dict[str, ThumbState] = {}
        self._said: dict[str, bytes] = {}
        self.wrong: list[str] = []
        self._numbers = iter(range(1_000_000))
        self._waiting: dict[str, Entry] = {}
        self._acting: Replica | None = None
        self.replicas = [Replica(self) for _ in range(REPLICAS)]
        self.holdings = [Holding(self, partition) for partition in range(PARTITIONS)]

    def claims_of(self) -> Claims:
        """Return the claims used by replicas."""
        return self._claims

    def require(self, topic_id: str) -> None:
        self.topic.require(topic_id)

    def catalogue(self) -> Catalogue:
        """Return the source of segments for readers."""
        return self.ledger

    def run(self, steps: int) -> None:
        """Run steps with faults, then restart all replicas without faults and drain."""
        choose = self.faults.random.choice
        moves = [
            self._submit,
            self._submit,
            self._relay,
            self._relay,
            self._sink,
            self._sink,
            self._sink,
            self._disturb,
        ]
        for _ in range(steps):
            self._guard(choose(moves))
        self.faults.on = False
        for replica in self.replicas:
            replica.start()
        for conversation in list(self._waiting):
            self._send(conversation, self.replicas[0])
        for replica in self.replicas:
            while replica.relay.step():
                pass
        for partition in range(PARTITIONS):
            self.holdings[partition] = Holding(self, partition)
            self._drain(self.holdings[partition])

    def problems(self) -> list[str]:
        """Return all violated invariants at the end."""
        found = (
            violations(self.history, self.catalogue(), self.store, "feedback", self.ends(), read)
            + self.wrong
        )
        for conversation, events in self.history.sent.items():
            # The acknowledged content of an event wins, and the last event of a conversation is
            # current.
            if events and self.current[conversation].up != (self._said[events[-1]] == UP):
                found.append(f"E: not the last thumb of {conversation} stands")
        return found

    def ends(self) -> dict[PartitionKey, int]:
        return {
            (topic_id, number): len(log)
            for topic_id, logs in self.topic.logs.items()
            for number, log in enumerate(logs)
        }

    def fold(
        self, _connection: object, _position: Position, kept: Sequence[tuple[Record, FeedbackEvent]]
    ) -> None:
        """Update the current thumbs like the real table."""
        for record, event in kept:
            change = change_of(event, record.entry.accept_order)
            if change and change[1].replaces(self.current.get(event.conversation_id)):
                self.current[event.conversation_id] = change[1]

    def at(self, step: SinkStep) -> None:
        if self.faults.strike(f"crash at {step}", 0.03):
            raise CrashError
        if step is not SinkStep.TRIMMED and self.faults.strike(f"zombie at {step}", 0.05):
            # The caller is paused here. The partition moves and its new sink works, then the caller
            # continues as a zombie.
            partition = self.faults.random.randrange(PARTITIONS)
            self.holdings[partition] = Holding(self, partition)
            for _ in range(self.faults.random.randint(0, 3)):
                self._work(self.holdings[partition])

    def _guard(self, move: Callable[[], None]) -> None:
        """Run a move; a crash restarts one replica and moves one partition."""
        try:
            move()
        except CrashError:
            replica = self._acting or self.faults.random.choice(self.replicas)
            replica.start()
            partition = self.faults.random.randrange(PARTITIONS)
            self.holdings[partition] = Holding(self, partition)
        self._acting = None

    def _submit(self) -> None:
        conversation = str(self.faults.random.randrange(CONVERSATIONS))
        if conversation not in self._waiting:
            event_id = f"e{next(self._numbers)}"
            content = self.faults.random.choice((UP, DOWN))
            self._waiting[conversation] = Entry(event_id, conversation, content, 1, content)
            self.history.sent[conversation].append(event_id)
        replica = self.faults.random.choice(self.replicas)
        if self.faults.strike("sent to both", 0.1):
            other = self.replicas[1 - self.replicas.index(replica)]
            self._store(other, self._waiting[conversation])
        self._send(conversation, replica)

    def _send(self, conversation: str, replica: Replica) -> None:
        entry = self._waiting[conversation]
        result = self._store(replica, entry)
        if self.faults.strike("crash before reply", 0.03):
            raise CrashError
        if result:
            self.history.acknowledged.add(entry.event_id)
            del self._waiting[conversation]
            if self.faults.strike("other content under a used id", 0.1):
                lie = DOWN if entry.fingerprint == UP else UP
                self._store(
                    self.faults.random.choice(self.replicas),
                    Entry(entry.event_id, entry.key, lie, 1, lie),
                )

    def _store(self, replica: Replica, entry: Entry) -> bool:
        """Store an entry, return True if acknowledged, and check for a single content per id."""
        self._acting = replica
        (result,) = replica.acceptance.store([[entry]]).results
        if isinstance(result, AlreadyExistsError):
            self.faults.counts["other content refused"] += 1
        if (
            isinstance(result, int)
            and self._said.setdefault(entry.event_id, entry.fingerprint) != entry.fingerprint
        ):
            self.wrong.append(f"D: two contents of {entry.event_id} were acknowledged")
        return isinstance(result, int)

    def _relay(self) -> None:
        self._acting = self.faults.random.choice(self.replicas)
        try:
            self._acting.relay.step()
        except PublishError:
            self.faults.counts["relayed again"] += 1

    def _sink(self) -> None:
        self._work(self.faults.random.choice(self.holdings))

    def _work(self, holding: Holding) -> None:
        """Run one iteration of consumer and sink."""
        try:
            holding.fetch()
            holding.sink.flush()
        except RETRIED as error:
            self.faults.counts[type(error).__name__] += 1
            holding.sink.assign()
        except TopicReplacedError:
            self.faults.counts["replaced topic noticed"] += 1
            self.holdings[holding.partition] = Holding(self, holding.partition)

    def _disturb(self) -> None:
        if self.faults.strike("record twice in the log", 0.2):
            self._repeat()
        if self.faults.strike("undecodable record", 0.1):
            number = next(self._numbers)
            self.topic.append(Entry(f"g{number}", str(number), bytes(32), 1, GARBAGE))
        if self.faults.strike("partition moved", 0.2):
            partition = self.faults.random.randrange(PARTITIONS)
            self.holdings[partition] = Holding(self, partition)
        if self._all_sunk() and self.faults.strike("topic made anew", 0.3):
            self.topic.make()

    def _repeat(self) -> None:
        log = self.topic.logs[self.topic.topic_id][self.faults.random.randrange(PARTITIONS)]
        if log:
            self.topic.append(log[-1].entry)

    def _all_sunk(self) -> bool:
        """Return True if all records are sunk; only then may the topic be deleted without loss."""
        topic_id = self.topic.topic_id
        return all(
            self.ledger.places.get((topic_id, number), [0, 0])[1] == len(log)
            for number, log in enumerate(self.topic.logs[topic_id])
        )

    def _drain(self, holding: Holding) -> None:
        end = len(self.topic.logs[self.topic.topic_id][holding.partition])
        while holding.sink.position < end:
            self._work(holding)
