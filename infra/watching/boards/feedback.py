"""The feedback pipeline: is what people said durable, and how far is it on its way to training."""

from infra.watching.panels import Dashboard, Panel, Query, Row, Unit, quantiles, rate

FEEDBACK = "thumbwheel_feedback"

ACKS = Row(
    "Durable?",
    (
        Panel(
            "Acknowledged events",
            "New ones, and those known before (a retry).",
            Unit.PER_SECOND,
            [Query(rate(f"{FEEDBACK}_acks_total", "stream, outcome"), "{{stream}} {{outcome}}")],
        ),
        Panel(
            "Time to durable",
            "From the call to the disk.",
            Unit.SECONDS,
            quantiles(f"{FEEDBACK}_ack_seconds", "stream", of=(0.5, 0.99)),
        ),
        Panel(
            "Spool in use",
            "Of its limit. Full: nothing is acknowledged any more. SpoolFills fires at 80 %.",
            Unit.RATIO,
            [
                Query(
                    f"{FEEDBACK}_spooled_bytes / {FEEDBACK}_spool_limit_bytes",
                    "{{instance}} {{stream}}",
                )
            ],
        ),
        Panel(
            "Turns in session's outbox",
            "Committed with the conversation, not yet taken by feedback.",
            Unit.COUNT,
            [Query("max(thumbwheel_session_outbox_turns)", "waiting")],
        ),
        Panel(
            "Turns taken and refused by feedback",
            "Refused ones are a defect.",
            Unit.PER_SECOND,
            [
                Query(rate("thumbwheel_session_turns_relayed_total"), "taken"),
                Query(rate("thumbwheel_session_turns_refused_total"), "refused"),
            ],
        ),
        Panel(
            "Behind on the way to Kafka",
            "Safe in one replica's spool alone.",
            Unit.SECONDS,
            [
                Query(
                    f"max by (instance, stream) ({FEEDBACK}_relay_lag_seconds)",
                    "{{instance}} {{stream}}",
                )
            ],
        ),
    ),
)
PARQUET = Row(
    "On its way to training",
    (
        Panel(
            "Behind on the way to Parquet",
            "Usually below the flush interval. SinkBehind fires at two minutes.",
            Unit.SECONDS,
            [Query(f"max by (stream) ({FEEDBACK}_sink_lag_seconds)", "{{stream}}")],
        ),
        Panel(
            "Events not yet in Parquet",
            "At hand, and in Kafka.",
            Unit.COUNT,
            [
                Query(f"sum by (stream) ({FEEDBACK}_sink_lag_events)", "{{stream}} at hand"),
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
            "Flushes to be tried again",
            "By error: the object store, the ledger, another writer.",
            Unit.PER_SECOND,
            [
                Query(
                    rate(f"{FEEDBACK}_sink_failures_total", "stream, error"), "{{stream}} {{error}}"
                )
            ],
        ),
        Panel(
            "Dead letters and repeats",
            "Dead letters could not be decoded; repeats and what was erased on its way are dropped, which is their purpose.",
            Unit.PER_SECOND,
            [
                Query(rate(f"{FEEDBACK}_dead_letters_total", "stream"), "{{stream}} dead letters"),
                Query(
                    rate(f"{FEEDBACK}_tombstones_total", "stream"), "{{stream}} repeats or erased"
                ),
            ],
        ),
        Panel(
            "Partitions that stand, offsets that are lost",
            "Both must be 0, always.",
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
            "Users whose key was shredded: nothing they had said can be read since.",
            Unit.COUNT,
            [Query(f"sum(increase({FEEDBACK}_erasures_total[1h]))", "in an hour")],
        ),
        Panel(
            "Time to shred",
            "From the call; five seconds at most are promised.",
            Unit.SECONDS,
            quantiles(f"{FEEDBACK}_shred_seconds", of=(0.5, 0.99)),
        ),
        Panel(
            "Unreadable and not yet rewritten",
            "Their rows leave the objects with the next compaction. ErasureWaits fires after a day.",
            Unit.COUNT,
            [Query(f"max({FEEDBACK}_erasures_waiting)", "erasures")],
        ),
        Panel(
            "The oldest of them",
            "Since it was asked for.",
            Unit.SECONDS,
            [Query(f"max({FEEDBACK}_erasure_oldest_waiting_seconds)", "waits")],
        ),
    ),
)
COMPACTION = Row(
    "Kept small and clean",
    (
        Panel(
            "Since the last pass of compaction",
            "CompactionStands fires at three periods.",
            Unit.SECONDS,
            [Query(f"time() - max by (stream) ({FEEDBACK}_compaction_time_seconds)", "{{stream}}")],
        ),
        Panel(
            "Rows left out",
            "Erased by their people, past their days, or there twice.",
            Unit.PER_SECOND,
            [
                Query(
                    rate(f"{FEEDBACK}_dropped_rows_total", "stream, reason"),
                    "{{stream}} {{reason}}",
                )
            ],
        ),
        Panel(
            "Compacted objects, and what failed",
            "By error: the object store, the ledger, another compactor, a damaged object.",
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
    "Is what people said durable, how far is it on its way, and gone where they want it gone.",
    (ACKS, PARQUET, COMPACTION, ERASURE),
)
