"""Administrative commands: schema, topics, bucket, maintenance of the store, and audit."""

import socket
import sys
from argparse import ArgumentParser, Namespace
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Engine, func, select

from services.chassis.audit.acts import (
    DONE,
    Act,
    add_audit_options,
    add_operator,
    operator,
    print_records,
)
from services.chassis.audit.table import records_since
from services.feedback.compaction.compaction import Compaction
from services.feedback.compaction.compactors import Compactors
from services.feedback.compaction.schedule import compact_all
from services.feedback.events import Stream
from services.feedback.lake.audit import audit
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.location import bucket, object_store
from services.feedback.lake.object_store import load_objects, save_objects
from services.feedback.lake.orphans import add_orphan_options, collect_orphans
from services.feedback.principals.data_keys import DataKeys
from services.feedback.principals.erasures import Erasures
from services.feedback.principals.rotation import rotate
from services.feedback.settings import FeedbackSettings
from services.feedback.spool.log import LogError, LogView
from services.feedback.spool.registry import SpoolRegistry
from services.feedback.spool.spool import Spool, inspect
from services.feedback.store import tables
from services.feedback.store.database import connect, migrate, opened_database, transaction
from services.feedback.streams import Stores


def _audit(settings: FeedbackSettings, _options: Namespace) -> int:
    def log_views(stream: Stream) -> list[LogView]:
        if settings.kafka_bootstrap:
            from services.feedback.kafka.topic import partition_views

            return partition_views(settings.cluster(), settings.topic(stream))
        return inspect(settings.spool_directory / stream)

    with opened_database(settings.database_url) as engine:
        report = audit(Ledger(engine), object_store(settings), log_views)
    print("\n".join(report.lines()))
    return 1 if report.problems else 0


def _compact(settings: FeedbackSettings, _options: Namespace) -> int:
    with opened_database(settings.database_url) as engine:
        return compact_all(
            compaction_of(settings, engine, Stores(Ledger(engine), object_store(settings)))
        )


def _bucket(settings: FeedbackSettings, _options: Namespace) -> int:
    if not settings.s3_endpoint:
        print(
            "s3_endpoint: empty; the directory object store needs no bucket",
            file=sys.stderr,
        )
        return 2
    store = bucket(settings)
    state = "created" if store.make_bucket() else "exists"
    store.check()
    print(f"bucket {settings.s3_bucket} {state}; access check succeeded")
    return 0


def _migrate(settings: FeedbackSettings, _options: Namespace) -> int:
    engine = connect(settings.database_url)
    try:
        before, after = migrate(engine)
    finally:
        engine.dispose()
    print(f"feedback database: revision {before or 'none'} → {after}")
    return 0


def _topics(settings: FeedbackSettings, _options: Namespace) -> int:
    from services.feedback.kafka.stream import topic_settings
    from services.feedback.kafka.topic import make_topics, open_admin

    with open_admin(settings.cluster()) as admin:
        print(
            "\n".join(
                make_topics(
                    admin,
                    [settings.topic(stream) for stream in Stream],
                    topic_settings(settings),
                )
            )
        )
    return 0


def _orphans(settings: FeedbackSettings, options: Namespace) -> int:
    with opened_database(settings.database_url) as engine:
        collect_orphans(Ledger(engine), object_store(settings), options.older_than, options.delete)
    return 0


def _objects(settings: FeedbackSettings, options: Namespace) -> int:
    store = object_store(settings)
    count = (
        save_objects(store, sys.stdout.buffer)
        if options.what == "save"
        else load_objects(store, sys.stdin.buffer)
    )
    print(f"{count} objects", file=sys.stderr)
    return 0


def _spools(settings: FeedbackSettings, options: Namespace) -> int:
    with opened_database(settings.database_url) as engine:
        registry = SpoolRegistry(engine, socket.gethostname())
        if options.forget and not registry.remove(options.forget):
            print(f"--forget: no write-ahead log {options.forget}", file=sys.stderr)
            return 2
        logs = registry.logs()
    for each in logs:
        state = "no owner" if each.is_absent else "owned"
        print(
            f"{state} stream={each.stream} owner={each.owner} folder={each.directory} "
            f"log={each.topic_id} waiting={each.waiting} reported={each.silent_seconds:.0f}s ago"
        )
    return 0


def _relay(settings: FeedbackSettings, options: Namespace) -> int:
    if not settings.kafka_bootstrap:
        print("kafka_bootstrap: empty; events are relayed to Kafka only", file=sys.stderr)
        return 2
    streams = [stream for stream in Stream if (options.folder / stream / "topic_id").exists()]
    if not streams:
        expected = " or ".join(f"{stream}/topic_id" for stream in Stream)
        print(f"folder: {options.folder} has no write-ahead log ({expected})", file=sys.stderr)
        return 2
    from services.feedback.kafka.relay import PublishError
    from services.feedback.kafka.stream import relay_all

    with opened_database(settings.database_url) as engine:
        registry, master = SpoolRegistry(engine, socket.gethostname()), settings.master_keys()
        stored = DataKeys(engine, master).fingerprint_key()
        signing_key = master.with_fingerprints(stored).record_key()
        for stream in streams:
            try:
                spool = Spool(
                    options.folder / stream,
                    max_bytes=settings.max_spool_bytes,
                    segment_bytes=settings.segment_bytes,
                )
                with closing(spool):
                    events = relay_all(settings, stream, spool, signing_key)
            except (LogError, PublishError) as error:
                print(f"{stream}: not all events are relayed: {error}", file=sys.stderr)
                return 1
            registry.remove(spool.topic_id)
            print(f"{stream}: {events} events relayed, log {spool.topic_id} is empty")
    return 0


def _audit_log(settings: FeedbackSettings, options: Namespace) -> int:
    with opened_database(settings.database_url) as engine, transaction(engine) as connection:
        records = connection.execute(records_since(tables.audit, options.since)).mappings()
        print_records("feedback", [dict(row) for row in records])
    return 0


def _dead_letters(settings: FeedbackSettings, _options: Namespace) -> int:
    letters = tables.dead_letters.c
    counted = func.count().label("records")
    found = select(letters.error, counted, func.max(letters.commit_us).label("newest_us"))
    with opened_database(settings.database_url) as engine, transaction(engine) as connection:
        rows = connection.execute(found.group_by(letters.error).order_by(counted.desc())).all()
    for row in rows:
        newest = datetime.fromtimestamp(row.newest_us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        print(f"{row.records} records, newest {newest}: {row.error}")
    print(f"{sum(row.records for row in rows)} dead letters")
    return 0


def _record(engine: Engine, act: Act) -> None:
    with transaction(engine) as connection:
        connection.execute(tables.audit.insert().values(act.record()))


def _rotate_master_key(settings: FeedbackSettings, options: Namespace) -> int:
    if not settings.accepted_master_keys.get_secret_value():
        print(
            "accepted_master_keys: empty; set it to the previous master key, see "
            "docs/kubernetes.md",
            file=sys.stderr,
        )
        return 2

    def report(read: int, total: int) -> None:
        print(f"{read:,} of {total:,} keys", flush=True)

    with opened_database(settings.database_url) as engine:
        DataKeys(engine, settings.master_keys()).require_fingerprint_key()
        # Two records for each call: a rotation has many transactions and can be interrupted.
        started = Act("master key rotation started", operator(options), "data_keys")
        _record(engine, started)
        done = rotate(engine, settings.master_keys(), report)
        outcome = DONE if not done.remaining else "incomplete"
        detail = f"{done.rewrapped} of {done.keys} keys wrapped again, {done.remaining} remain"
        _record(engine, replace(started, act="master key rotated", outcome=outcome, detail=detail))
    print(
        f"{done.rewrapped:,} wrapped again; {done.remaining:,} of {done.keys:,} keys do not open "
        f"under the new master key alone ({done.broken:,} under none)"
    )
    if not done.remaining:
        print("the previous master key is no longer needed by this database")
    return 1 if done.remaining else 0


COMMANDS = {
    "audit-log": (_audit_log, "print administrative acts as JSON"),
    "audit": (_audit, "verify that no event is lost or duplicated in store, ledger and log"),
    "rotate-master-key": (
        _rotate_master_key,
        "wrap all data keys under master_key while the service runs; may be repeated",
    ),
    "compact": (_compact, "run one compaction pass now"),
    "migrate": (_migrate, "migrate the database schema"),
    "topics": (_topics, "create missing Kafka topics and describe all topics"),
    "bucket": (_bucket, "create the S3 bucket if missing, and check access"),
    "objects": (
        _objects,
        "save all objects as a tar to standard output, or load from standard input",
    ),
    "spools": (_spools, "list write-ahead logs that may hold events, and forget lost ones"),
    "relay": (_relay, "relay the write-ahead logs of an ended replica to Kafka"),
    "dead-letters": (_dead_letters, "count dead letters by reason, without their content"),
    "orphans": (_orphans, "list objects without a ledger row, and optionally delete dead ones"),
}


def add_commands(parser: ArgumentParser) -> None:
    """Add the subcommands to the parser."""
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("serve", help="run the service (default)")
    described = {name: commands.add_parser(name, help=what) for name, (_, what) in COMMANDS.items()}
    add_audit_options(described["audit-log"])
    add_operator(described["rotate-master-key"])
    described["objects"].add_argument("what", choices=["save", "load"])
    add_orphan_options(described["orphans"])
    described["spools"].add_argument(
        "--forget", metavar="LOG", help="remove the log with this id, whose volume is lost"
    )
    described["relay"].add_argument(
        "folder", type=Path, help="spool directory of a replica that does not run"
    )


def run_command(settings: FeedbackSettings, options: Namespace) -> int:
    """Run the chosen subcommand and return its exit status."""
    return COMMANDS[options.command][0](settings, options)


def compaction_of(settings: FeedbackSettings, engine: Engine, stores: Stores) -> Compaction:
    """Return the compaction for the `compact` command and for the schedule of the service."""
    return Compaction(
        stores.ledger,
        Compactors(engine),
        stores.objects,
        Erasures(engine),
        settings.compaction_options(),
    )
