"""Feedback pipeline: durability of feedback and progress towards training."""

from infra.watching.panels import Dashboard, Panel, Query, Row, Unit, quantiles, rate

FEEDBACK = "thumbwheel_feedback"

ACKS = Row(
    "Durability",
    (
        Panel(
            "Acknowledged events",
            "New events, and repeated ones from retries.",
            Unit.PER_SECOND,
            [Query(rate(f"{FEEDBACK}_acks_total", "stream, outcome"), "{{stream}} {{outcome}}")],
        ),
        Panel(
            "Time to durable",
            "From the call to the sync on disk.",
            Unit.SECONDS,
            quantiles(f"{FEEDBACK}_ack_seconds", "stream", of=(0.5, 0.99)),
        ),
        Panel(
            "Spool in use",
            "Share of the limit. A full spool rejects feedback. SpoolFills fires at 80 %.",
            Unit.RATIO,
            [
                Query(
                    f"{FEEDBACK}_spooled_bytes / {FEEDBACK}_spool_limit_bytes",
                    "{{instance}} {{stream}}",
                )
            ],
        ),
        Panel(
            "Turns in the outbox of session",
            "Committed with the conversation, not yet accepted by feedback.",
            Unit.COUNT,
            [Query("max(thumbwheel_session_outbox_turns)", "waiting")],
        ),
        Panel(
            "Turns accepted and rejected by feedback",
            "A rejected turn is a defect.",
            Unit.PER_SECOND,
            [
                Query(rate("thumbwheel_session_turns_relayed_total"), "accepted"),
                Query(rate("thumbwheel_session_turns_refused_total"), "rejected"),
            ],
        ),
        Panel(
            "Relay lag to Kafka",
            "Age of events that are only in the spool of a single replica.",
            Unit.SECONDS,
            [
                Query(
                    f"max by (instance, stream) ({FEEDBACK}_relay_lag_seconds)",
                    "{{instance}} {{stream}}",
                )
            ],
        ),
        Panel(
            "Spools without an owner",
            "Time since the last report of an ended replica whose spool may hold events. "
            "SpoolWithoutOwner fires at five minutes.",
            Unit.SECONDS,
            [
                Query(
                    f"max by (owner, stream) ({FEEDBACK}_absent_spool_seconds)",
                    "{{owner}} {{stream}}",
                )
            ],
        ),
    ),
)
PARQUET = Row(
    "Progress to training",
    (
        Panel(
            "Sink lag to Parquet",
            "Normally below the flush interval. SinkBehind fires at two minutes.",
            Unit.SECONDS,
            [Query(f"max by (stream) ({FEEDBACK}_sink_lag_seconds)", "{{stream}}")],
        ),
        Panel(
            "Events not yet in Parquet",
            "Local events, and events in Kafka.",
            Unit.COUNT,
            [
                Query(f"sum by (stream) ({FEEDBACK}_sink_lag_events)", "{{stream}} local"),
                Query(f"sum by (stream) ({FEEDBACK}_consumer_lag_events)", "{{stream}} in Kafka"),
            ],
        ),
        Panel(
            "Rows committed",
            "To Parquet and the ledger.",
            Unit.PER_SECOND,
            [Query(rate(f"{FEEDBACK}_rows_total", "stream"), "{{stream}}")],
        ),
        Panel(
            "Failed flushes",
            "Retried; by error of the object store, the ledger or another writer.",
            Unit.PER_SECOND,
            [
                Query(
                    rate(f"{FEEDBACK}_sink_failures_total", "stream, error"), "{{stream}} {{error}}"
                )
            ],
        ),
        Panel(
            "Dead letters and duplicates",
            "Dead letters cannot be decoded. "
            "Duplicates and events erased in transit are dropped as intended.",
            Unit.PER_SECOND,
            [
                Query(rate(f"{FEEDBACK}_dead_letters_total", "stream"), "{{stream}} dead letters"),
                Query(
                    rate(f"{FEEDBACK}_tombstones_total", "stream"),
                    "{{stream}} duplicates or erased",
                ),
            ],
        ),
        Panel(
            "Stopped partitions and lost offsets",
            "Both must always be 0.",
            Unit.COUNT,
            [
                Query(f"sum by (stream) ({FEEDBACK}_stopped_partitions)", "{{stream}} stopped"),
                Query(f"sum by (stream) ({FEEDBACK}_lost_offsets)", "{{stream}} lost"),
            ],
        ),
    ),
)
ERASURE = Row(
    "Erasure",
    (
        Panel(
            "Erasures",
            "Users whose key was deleted, so that their earlier feedback is unreadable.",
            Unit.COUNT,
            [Query(f"sum(increase({FEEDBACK}_erasures_total[1h]))", "per hour")],
        ),
        Panel(
            "Time to delete the key",
            "From the call; at most five seconds are guaranteed.",
            Unit.SECONDS,
            quantiles(f"{FEEDBACK}_shred_seconds", of=(0.5, 0.99)),
        ),
        Panel(
            "Erasures without compaction",
            "The next compaction removes the unreadable rows. ErasureWaits fires after a day.",
            Unit.COUNT,
            [Query(f"max({FEEDBACK}_erasures_waiting)", "erasures")],
        ),
        Panel(
            "Age of the oldest waiting erasure",
            "Time since the request.",
            Unit.SECONDS,
            [Query(f"max({FEEDBACK}_erasure_oldest_waiting_seconds)", "oldest")],
        ),
    ),
)
COMPACTION = Row(
    "Compaction",
    (
        Panel(
            "Time since the last compaction",
            "CompactionStalled fires at three periods.",
            Unit.SECONDS,
            [Query(f"time() - max by (stream) ({FEEDBACK}_compaction_time_seconds)", "{{stream}}")],
        ),
        Panel(
            "Dropped rows",
            "Erased, expired or duplicate rows.",
            Unit.PER_SECOND,
            [
                Query(
                    rate(f"{FEEDBACK}_dropped_rows_total", "stream, reason"),
                    "{{stream}} {{reason}}",
                )
            ],
        ),
        Panel(
            "Compacted objects and failures",
            "By error of the object store, the ledger, another compactor or a damaged object.",
            Unit.PER_SECOND,
            [
                Query(rate(f"{FEEDBACK}_covers_total", "stream"), "{{stream}} published"),
                Query(
                    rate(f"{FEEDBACK}_compaction_failures_total", "stream, error"),
                    "{{stream}} {{error}}",
                ),
            ],
        ),
    ),
)

BOARD = Dashboard(
    "feedback",
    "feedback pipeline",
    "Durability of feedback, progress to training, compaction and erasure.",
    (ACKS, PARQUET, COMPACTION, ERASURE),
)
