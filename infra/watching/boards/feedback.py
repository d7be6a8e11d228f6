"""Feedback pipeline: durability of feedback and progress towards training."""

from infra.watching.panels import Dashboard, Panel, Query, Row, Unit, figure, quantiles, rate

FEEDBACK = "thumbwheel_feedback"

REJECTED = rate(
    "thumbwheel_rpcs_total",
    where='job="feedback", method=~"RecordFeedback|AppendTurns", '
    'code=~"INTERNAL|UNKNOWN|UNAVAILABLE|RESOURCE_EXHAUSTED|DEADLINE_EXCEEDED|DATA_LOSS"',
)

SUMMARY = Row(
    "Summary",
    (
        figure(
            "Events not acknowledged",
            "Failed calls that should have stored an event.",
            Unit.PER_SECOND,
            f"{REJECTED} or vector(0)",
            alert="FeedbackNotAcknowledged.perSecond",
        ),
        figure(
            "Fullest spool",
            "Share of the limit. A full spool rejects feedback.",
            Unit.RATIO,
            f"max({FEEDBACK}_spooled_bytes / {FEEDBACK}_spool_limit_bytes)",
            alert="SpoolFills.ratio",
        ),
        figure(
            "Relay lag to Kafka",
            "Age of the oldest event that is on a single disk only.",
            Unit.SECONDS,
            f"max({FEEDBACK}_relay_lag_seconds)",
            alert="RelayBehind.seconds",
        ),
        figure(
            "Sink lag to Parquet",
            "Age of the oldest event that training cannot read.",
            Unit.SECONDS,
            f"max({FEEDBACK}_sink_lag_seconds)",
            alert="SinkBehind.seconds",
        ),
        figure(
            "Answers in the outbox of session",
            "Not yet accepted by feedback.",
            Unit.COUNT,
            "max(thumbwheel_session_outbox_turns)",
            alert="OutboxGrows.records",
        ),
        figure(
            "Oldest waiting erasure",
            "Time since the request; its rows are unreadable but not yet removed.",
            Unit.SECONDS,
            f"max({FEEDBACK}_erasure_oldest_waiting_seconds)",
            alert="ErasureWaits.seconds",
        ),
    ),
)
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
            "Share of the limit, by replica and stream.",
            Unit.RATIO,
            [
                Query(
                    f"{FEEDBACK}_spooled_bytes / {FEEDBACK}_spool_limit_bytes",
                    "{{instance}} {{stream}}",
                )
            ],
            alert="SpoolFills.ratio",
        ),
        Panel(
            "Outbox of session",
            "Committed with the conversation, not yet accepted by feedback.",
            Unit.COUNT,
            [Query("max(thumbwheel_session_outbox_turns)", "waiting answers")],
            alert="OutboxGrows.records",
        ),
        Panel(
            "Answers accepted and rejected by feedback",
            "A rejected answer is a defect.",
            Unit.PER_SECOND,
            [
                Query(rate("thumbwheel_session_turns_relayed_total"), "accepted"),
                Query(rate("thumbwheel_session_turns_refused_total"), "rejected"),
            ],
        ),
        Panel(
            "Relay lag by replica",
            "Age of events that are only in the spool of a single replica.",
            Unit.SECONDS,
            [
                Query(
                    f"max by (instance, stream) ({FEEDBACK}_relay_lag_seconds)",
                    "{{instance}} {{stream}}",
                )
            ],
            alert="RelayBehind.seconds",
        ),
        Panel(
            "Spools without an owner",
            "Time since the last report of an ended replica whose spool may hold events.",
            Unit.SECONDS,
            [
                Query(
                    f"max by (owner, stream) ({FEEDBACK}_absent_spool_seconds)",
                    "{{owner}} {{stream}}",
                )
            ],
            alert="SpoolWithoutOwner.seconds",
        ),
    ),
)
PARQUET = Row(
    "Progress to training",
    (
        Panel(
            "Sink lag by stream",
            "Normally below the flush interval.",
            Unit.SECONDS,
            [Query(f"max by (stream) ({FEEDBACK}_sink_lag_seconds)", "{{stream}}")],
            alert="SinkBehind.seconds",
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
            "The next compaction removes the unreadable rows.",
            Unit.COUNT,
            [Query(f"max({FEEDBACK}_erasures_waiting)", "erasures")],
        ),
        Panel(
            "Age of the oldest waiting erasure",
            "Time since the request.",
            Unit.SECONDS,
            [Query(f"max({FEEDBACK}_erasure_oldest_waiting_seconds)", "oldest")],
            alert="ErasureWaits.seconds",
        ),
    ),
)
COMPACTION = Row(
    "Compaction",
    (
        Panel(
            "Time since the last compaction",
            "The alert CompactionStalled compares it with the period of the compaction.",
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
    (SUMMARY, ACKS, PARQUET, COMPACTION, ERASURE),
)
