"""What the feedback service counts."""

from prometheus_client import Counter, Gauge, Histogram

ACK_BUCKETS_SECONDS = (
    0.001,
    0.002,
    0.004,
    0.008,
    0.016,
    0.032,
    0.064,
    0.128,
    0.256,
    0.512,
    1,
    2,
    5,
)

ACKS = Counter(
    "thumbwheel_feedback_acks_total",
    "Acknowledged events: new or known before.",
    ["stream", "outcome"],
)
ACK_SECONDS = Histogram(
    "thumbwheel_feedback_ack_seconds",
    "From the call to durable.",
    ["stream"],
    buckets=ACK_BUCKETS_SECONDS,
)
RELAYED = Counter(
    "thumbwheel_feedback_relayed_total", "Events that the broker acknowledged.", ["stream"]
)
RELAY_LAG_EVENTS = Gauge(
    "thumbwheel_feedback_relay_lag_events",
    "Acknowledged events that the broker does not have yet.",
    ["stream"],
)
RELAY_LAG_SECONDS = Gauge(
    "thumbwheel_feedback_relay_lag_seconds",
    "Time that the relay has been behind the spool.",
    ["stream"],
)
RELAY_FAILURES = Counter(
    "thumbwheel_feedback_relay_failures_total", "Batches that must be sent again.", ["stream"]
)
PRODUCER_BUILDS = Counter(
    "thumbwheel_feedback_producer_builds_total",
    "Producers built: the first, and one after each failure.",
    ["topic"],
)
SPOOLED_BYTES = Gauge("thumbwheel_feedback_spooled_bytes", "Bytes in the spool.", ["stream"])
SPOOL_LIMIT_BYTES = Gauge(
    "thumbwheel_feedback_spool_limit_bytes",
    "What it may hold; full, it acknowledges nothing.",
    ["stream"],
)
PARTITIONS = Gauge(
    "thumbwheel_feedback_partitions", "Partitions that this process sinks.", ["stream"]
)
STOPPED = Gauge(
    "thumbwheel_feedback_stopped_partitions",
    "1: its records are not what the ledger goes on from; a person must look.",
    ["stream", "partition"],
)
LOST_OFFSETS = Gauge(
    "thumbwheel_feedback_lost_offsets",
    "Offsets that were deleted before they were sunk.",
    ["stream", "partition"],
)
CONSUMER_LAG_EVENTS = Gauge(
    "thumbwheel_feedback_consumer_lag_events",
    "Events in the topic that are not yet in the ledger.",
    ["stream", "partition"],
)
CONSUMER_BUFFERED_BYTES = Gauge(
    "thumbwheel_feedback_consumer_buffered_bytes", "Fetched and not yet in the ledger.", ["stream"]
)
CONSUMER_PAUSED = Gauge(
    "thumbwheel_feedback_consumer_paused", "1: fetches nothing, too much is buffered.", ["stream"]
)
CONSUMER_FAILURES = Counter(
    "thumbwheel_feedback_consumer_failures_total",
    "Fetches that must be tried again.",
    ["stream", "error"],
)
LAG_EVENTS = Gauge(
    "thumbwheel_feedback_sink_lag_events",
    "Events at hand that are not yet in Parquet.",
    ["stream", "partition"],
)
LAG_SECONDS = Gauge(
    "thumbwheel_feedback_sink_lag_seconds",
    "Time that the sink has been behind.",
    ["stream", "partition"],
)
SINK_FAILURES = Counter(
    "thumbwheel_feedback_sink_failures_total",
    "Flushes that must be tried again.",
    ["stream", "error"],
)
SEGMENTS = Counter(
    "thumbwheel_feedback_segments_total", "Segments committed to the ledger.", ["stream"]
)
ROWS = Counter("thumbwheel_feedback_rows_total", "Rows committed to Parquet.", ["stream"])
DEAD_LETTERS = Counter(
    "thumbwheel_feedback_dead_letters_total", "Records that could not be decoded.", ["stream"]
)
TOMBSTONES = Counter(
    "thumbwheel_feedback_tombstones_total",
    "Repeated or erased events dropped by the sink.",
    ["stream"],
)
COMPACTION_TIME_SECONDS = Gauge(
    "thumbwheel_feedback_compaction_time_seconds",
    "When the last whole pass of compaction ended, by whichever replica; before the first: since when it is awaited.",
    ["stream"],
)
COMPACTION_PERIOD_SECONDS = Gauge(
    "thumbwheel_feedback_compaction_period_seconds",
    "How often a pass of compaction is due; 0: never.",
)
COMPACTION_FAILURES = Counter(
    "thumbwheel_feedback_compaction_failures_total",
    "What a pass of compaction could not do.",
    ["stream", "error"],
)
COVERS = Counter("thumbwheel_feedback_covers_total", "Compacted objects published.", ["stream"])
DROPPED_REASONS = ("duplicate", "erased", "expired")
DROPPED_ROWS = Counter(
    "thumbwheel_feedback_dropped_rows_total",
    "Rows that compaction left out: duplicate, erased, expired.",
    ["stream", "reason"],
)
THUMBS = Counter(
    "thumbwheel_feedback_thumbs_total",
    "Thumbs by the version that wrote the answer.",
    ["model_version", "value"],
)
# Fast on an idle database; a commit that is under way is waited for.
SHRED_BUCKETS_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)

ERASURES = Counter(
    "thumbwheel_feedback_erasures_total", "Erasures that shredded something; repeated calls do not."
)
SHRED_SECONDS = Histogram(
    "thumbwheel_feedback_shred_seconds",
    "From the call to the moment from which nothing said before can be read.",
    buckets=SHRED_BUCKETS_SECONDS,
)
ERASURES_WAITING = Gauge(
    "thumbwheel_feedback_erasures_waiting",
    "Erasures whose unreadable rows are not yet rewritten out of the objects.",
)
ERASURE_OLDEST_SECONDS = Gauge(
    "thumbwheel_feedback_erasure_oldest_waiting_seconds",
    "Time that the oldest of them has waited; 0 without any.",
)
