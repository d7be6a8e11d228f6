"""Apache Kafka in KRaft mode with a single broker or three; every broker is also a controller.

Kafka does not sync each message to disk; its durability relies on replicas. Three brokers therefore
store three replicas, accept a write after two of them, and never elect a broker that lacks
acknowledged messages. The loss of a broker is tolerated.
"""

import asyncio
import base64
import contextlib
import dataclasses
import os
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from infra.machine.servers.errors import ServerError
from infra.machine.servers.steps import run_steps
from infra.run.supervision.child import Child, Program
from infra.run.supervision.ports import HOST, distinct_free_ports
from infra.run.supervision.secret_file import read_or_create

HEAP = "-Xmx384m"
PORTS_A_BROKER = 2
STOP_SECONDS = 30.0
TIMEOUT_MILLISECONDS = 4_000
# Log to the supervisor's terminal, without the pages of settings at INFO.
LOGGING = """appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d %p %c{1}: %m%n
rootLogger.level=warn
rootLogger.appenderRef.out.ref=out
"""
# Brokers run for minutes on few cores and little memory: the C1 compiler and the serial collector
# reduce the start by 2 s.
JAVA_OPTIONS = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "--sun-misc-unsafe-memory-access=allow",
    "--enable-native-access=ALL-UNNAMED",
    # Suppress long messages about parts of the class cache that do not match this run.
    "-Xlog:disable",
    "-Xlog:all=error:stderr",
)


@dataclass(frozen=True)
class Java:
    """Kafka's jars and the Java that runs them.

    Args:
        class_data: option that selects the class cache to read or write.
    """

    binary: Path
    jars: Path
    class_data: str

    def command(
        self, program: str, arguments: Sequence[str], options: Sequence[str] = ()
    ) -> tuple[str, ...]:
        """Return a command line with the jars sorted by name.

        The class cache requires the class path of its creation.
        """
        path = os.pathsep.join(str(jar) for jar in sorted(self.jars.glob("*.jar")))
        return (
            str(self.binary),
            *JAVA_OPTIONS,
            self.class_data,
            *options,
            "-cp",
            path,
            program,
            *arguments,
        )


@dataclass(frozen=True)
class Kafka:
    """Brokers on loopback, or a broker for remote clients.

    Args:
        ports: two per broker, for clients and for the controllers.
        listens_on: address for clients; controllers stay on loopback.
        known_as: host name advertised to clients.
    """

    folder: Path
    ports: tuple[int, ...]
    listens_on: str = HOST
    known_as: str = HOST

    @property
    def nodes(self) -> range:
        return range(1, len(self.ports) // PORTS_A_BROKER + 1)

    def address(self, node: int) -> str:
        return f"{HOST}:{self._port(node)}"

    def _port(self, node: int) -> int:
        return self.ports[PORTS_A_BROKER * (node - 1)]

    def _controller(self, node: int) -> str:
        return f"{HOST}:{self.ports[PORTS_A_BROKER * (node - 1) + 1]}"

    @property
    def bootstrap(self) -> str:
        return ",".join(self.address(node) for node in self.nodes)

    def prepare(self, java: Java) -> tuple[Program, ...]:
        """Write the settings and format new folders."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "log4j2.properties").write_text(LOGGING)
        for node in self.nodes:
            self._settings_file(node).write_text(
                "".join(f"{key}={value}\n" for key, value in self._settings(node).items())
            )
        new = [node for node in self.nodes if not (self._data(node) / "meta.properties").exists()]
        cluster = read_or_create(self.folder / "cluster.id", lambda: _encode(uuid.uuid4()))
        # All brokers of a cluster are formatted with the same voters and directory ids.
        quorum = ["--standalone"]
        if len(self.nodes) > 1:
            voters = []
            for other in self.nodes:
                name = _encode(uuid.uuid5(uuid.NAMESPACE_OID, f"{cluster}/{other}"))
                voters.append(f"{other}@{self._controller(other)}:{name}")
            quorum = ["--initial-controllers", ",".join(voters)]
        formatting = ["format", "-t", cluster]
        run_steps(
            "formatting Kafka's folder",
            [
                java.command(
                    "kafka.tools.StorageTool",
                    [*formatting, "-c", str(self._settings_file(node)), *quorum],
                    [self._logging()],
                )
                for node in new
            ],
        )
        return tuple(
            Program(
                name="kafka" if len(self.nodes) == 1 else f"kafka-{node}",
                command=java.command(
                    "kafka.Kafka", [str(self._settings_file(node))], [HEAP, self._logging()]
                ),
                environment={},
                port=self._port(node),
                stop_seconds=STOP_SECONDS,
                ready=partial(is_ready, self.address(node), node),
            )
            for node in self.nodes
        )

    def _settings(self, node: int) -> dict[str, object]:
        copies = len(self.nodes)
        enough = min(2, copies)
        return {
            "process.roles": "broker,controller",
            "node.id": node,
            "controller.quorum.bootstrap.servers": ",".join(
                self._controller(other) for other in self.nodes
            ),
            "listeners": f"PLAINTEXT://{self.listens_on}:{self._port(node)},"
            f"CONTROLLER://{self._controller(node)}",
            "advertised.listeners": f"PLAINTEXT://{self.known_as}:{self._port(node)}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": self._data(node),
            # An automatically created topic would have default settings.
            "auto.create.topics.enable": "false",
            "default.replication.factor": copies,
            "min.insync.replicas": enough,
            "unclean.leader.election.enable": "false",
            **{f"{topic}.replication.factor": copies for topic in _OWN_TOPICS},
            **{f"{topic}.min.isr": enough for topic in _OWN_TOPICS if topic != "offsets.topic"},
            # The default is 50 each; the first consumer would wait for hundreds of files.
            **{f"{topic}.num.partitions": 4 for topic in _OWN_TOPICS},
            "group.initial.rebalance.delay.ms": 0,
            # The default is 6 s; tests use consumers with a shorter session.
            "group.min.session.timeout.ms": 1_000,
            # A controlled shutdown waits five minutes for a majority of controllers, which the last
            # of three brokers never has.
            "controlled.shutdown.enable": "false",
            # A killed broker may rejoin after its session has expired; the default is 9 s.
            "broker.session.timeout.ms": 3_000,
            "broker.heartbeat.interval.ms": 500,
            # The default is a third of the heap.
            "log.cleaner.dedupe.buffer.size": 16 << 20,
        }

    def _logging(self) -> str:
        return f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}"

    def _settings_file(self, node: int) -> Path:
        return self.folder / f"broker-{node}.properties"

    def _data(self, node: int) -> Path:
        return self.folder / f"broker-{node}"


_OWN_TOPICS = ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic")


async def is_ready(address: str, node: int) -> bool:
    """Return True if the controllers have unfenced the broker; the other brokers may be down."""
    return await asyncio.to_thread(_serves, address, node)


def _serves(address: str, node: int) -> bool:
    # Imported here: the image of the server contains no client.
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    try:
        client = KafkaAdminClient(
            bootstrap_servers=address,
            bootstrap_timeout_ms=TIMEOUT_MILLISECONDS,
            request_timeout_ms=TIMEOUT_MILLISECONDS,
        )
        with contextlib.closing(client):
            brokers = client.describe_cluster()["brokers"]
    except (KafkaError, OSError):
        return False
    return any(broker["broker_id"] == node and not broker["is_fenced"] for broker in brokers)


def _encode(name: uuid.UUID) -> str:
    """Encode a UUID as Kafka does.

    The first bit is cleared, because an id with a leading '-' would be parsed as an option.
    """
    raw = bytes([name.bytes[0] & 0x7F]) + name.bytes[1:]
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


CACHE_NAME = "kafka.aot"
RUN_SECONDS = 120.0
MAX_OUTPUT_CHARACTERS = 2_000


def cache_classes(java: Java, folder: Path) -> None:
    """Run a broker until ready; Java writes the cache of its classes (JEP 514) at its end.

    The cache reduces the start from 2.6 s to 1.5 s of a core.

    Raises:
        ServerError: no cache was written; the message contains the end of the output.
    """
    cache = folder / CACHE_NAME
    writing = f"-XX:AOTCacheOutput={cache}"
    with tempfile.TemporaryDirectory() as temporary:
        kafka = Kafka(Path(temporary), tuple(distinct_free_ports(2)))
        (broker,) = kafka.prepare(java)
        command = tuple(writing if word == java.class_data else word for word in broker.command)
        asyncio.run(
            _run_once(
                dataclasses.replace(broker, command=command, stop_seconds=RUN_SECONDS),
                Path(temporary),
            )
        )
        if not cache.exists():
            log_tail = (Path(temporary) / "broker.log").read_text()[-MAX_OUTPUT_CHARACTERS:]
            raise ServerError(
                f"Java wrote no class cache for Kafka: {log_tail}",
                field=CACHE_NAME,
                reason="MISSING",
            )


async def _run_once(broker: Program, folder: Path) -> None:
    child = Child(broker, lambda _source, _text: None, folder / "broker.log")
    child.start()
    try:
        await child.wait_ready(RUN_SECONDS)
        await child.stop()
    finally:
        await child.kill()
