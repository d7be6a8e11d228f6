"""Kafka path of one stream in one process: relay, consumer and sinks.

Both ends are independent: any replica may sink the records relayed by this process.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from services.feedback.events import Stream
from services.feedback.kafka.consumer import TopicConsumer
from services.feedback.kafka.partition_sinks import KafkaLog, PartitionSinks
from services.feedback.kafka.producer import KafkaPublisher
from services.feedback.kafka.record import RecordSigner
from services.feedback.kafka.relay import Relay
from services.feedback.kafka.topic import NamedTopic, TopicSettings
from services.feedback.settings import FeedbackSettings
from services.feedback.sink_loop import Flusher
from services.feedback.spool.spool import Spool

# Flushes of a stream are serialised at the ledger, so more threads would only wait.
SINK_THREADS = 2


def topic_settings(settings: FeedbackSettings) -> TopicSettings:
    """Return the settings of the topics, which are also the minimum for relaying."""
    return TopicSettings(
        settings.partitions,
        settings.replication_factor,
        settings.min_insync_replicas,
        settings.retention_days,
    )


def _relay(
    settings: FeedbackSettings,
    stream: Stream,
    spool: Spool,
    signing_key: bytes,
    on_relayed: Callable[[int], None],
) -> Relay:
    publisher = KafkaPublisher(
        settings.cluster(),
        settings.topic(stream),
        settings.relay_watchdog_seconds,
        topic_settings(settings),
        RecordSigner(stream, signing_key),
    )
    return Relay(stream, spool, publisher, settings.relay_events, settings.relay_bytes, on_relayed)


@asynccontextmanager
async def relaying(
    settings: FeedbackSettings,
    stream: Stream,
    spool: Spool,
    signing_key: bytes,
    on_relayed: Callable[[int], None],
) -> AsyncIterator[None]:
    """Relay until the block ends, then relay the rest while the broker accepts records."""
    relay = _relay(settings, stream, spool, signing_key, on_relayed)
    with ThreadPoolExecutor(1, f"relay-{stream}") as executor:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            # An unreadable spool ends the process: the task group cancels the service.
            tasks.create_task(_in_thread(executor, relay.run, relay.stop))
            yield
            relay.stop()
        await loop.run_in_executor(executor, relay.finish, settings.drain_seconds)


def relay_all(settings: FeedbackSettings, stream: Stream, spool: Spool, signing_key: bytes) -> int:
    """Relay the log of an ended process, and return its number of events; blocking.

    Events keep their ids, fingerprints and order, so the sink recognises those that are in the
    topic already.

    Raises:
        PublishError: The broker has not acknowledged all events; the rest stays in the log.
        LogError: The log needs an operator.
    """
    relay = _relay(settings, stream, spool, signing_key, lambda end: None)
    events = relay.waiting
    try:
        while relay.step():
            pass
    finally:
        relay.close()
    return events


@asynccontextmanager
async def sinking(
    settings: FeedbackSettings,
    stream: Stream,
    signing_key: bytes,
    make_sink: Callable[[KafkaLog], Flusher],
) -> AsyncIterator[None]:
    """Sink the partitions assigned to this process until the block ends."""
    cluster, name = settings.cluster(), settings.topic(stream)
    topic = NamedTopic(cluster, name)
    with (
        ThreadPoolExecutor(1, f"consume-{stream}") as consumer_thread,
        ThreadPoolExecutor(SINK_THREADS, f"sink-{stream}") as sink_threads,
    ):
        sinks = PartitionSinks(
            stream, topic, make_sink, sink_threads, settings.flush_rows, settings.flush_seconds
        )
        consumer = TopicConsumer(
            cluster,
            name,
            stream,
            f"{settings.consumer_group}.{stream}",
            settings.consumer_session_seconds,
            settings.consumer_bytes,
            sinks,
            RecordSigner(stream, signing_key),
        )
        async with asyncio.TaskGroup() as tasks:
            consuming_task = tasks.create_task(
                _in_thread(consumer_thread, consumer.run, consumer.stop)
            )
            sinking_task = tasks.create_task(sinks.run(consumer))
            yield
            consumer.stop()
            await consuming_task
            sinks.stop()
            await sinking_task
        topic.close()


async def _in_thread(
    executor: ThreadPoolExecutor, run: Callable[[], None], stop: Callable[[], None]
) -> None:
    """Run a blocking loop in a thread and stop it on cancellation."""
    try:
        await asyncio.get_running_loop().run_in_executor(executor, run)
    finally:
        stop()
