"""Prometheus metrics of the feedback service."""

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
    "Acknowledged events by outcome: new or known.",
    ["stream", "outcome"],
)
ACK_SECONDS = Histogram(
    "thumbwheel_feedback_ack_seconds",
    "Time from the call to durable storage.",
    ["stream"],
    buckets=ACK_BUCKETS_SECONDS,
)
RELAYED = Counter(
    "thumbwheel_feedback_relayed_total", "Events acknowledged by the broker.", ["stream"]
)
RELAY_LAG_EVENTS = Gauge(
    "thumbwheel_feedback_relay_lag_events",
    "Acknowledged events not yet at the broker.",
    ["stream"],
)
RELAY_LAG_SECONDS = Gauge(
    "thumbwheel_feedback_relay_lag_seconds",
    "Time since the relay has been behind the spool.",
    ["stream"],
)
RELAY_FAILURES = Counter(
    "thumbwheel_feedback_relay_failures_total", "Batches to be sent again.", ["stream"]
)
PRODUCER_BUILDS = Counter(
    "thumbwheel_feedback_producer_builds_total",
    "Producers built: one at the start and one after each failure.",
    ["topic"],
)
SPOOLED_BYTES = Gauge("thumbwheel_feedback_spooled_bytes", "Bytes in the spool.", ["stream"])
SPOOL_LIMIT_BYTES = Gauge(
    "thumbwheel_feedback_spool_limit_bytes",
    "Maximum size of the spool; a full spool rejects events.",
    ["stream"],
)
ABSENT_SPOOL_SECONDS = Gauge(
    "thumbwheel_feedback_absent_spool_seconds",
    "Time since the last report of a spool without a live owner, which may hold events.",
    ["stream", "owner"],
)
ABSENT_SPOOL_EVENTS = Gauge(
    "thumbwheel_feedback_absent_spool_events",
    "Acknowledged events in a spool without a live owner, as last reported.",
    ["stream", "owner"],
)
PARTITIONS = Gauge("thumbwheel_feedback_partitions", "Partitions sunk by this process.", ["stream"])
STOPPED = Gauge(
    "thumbwheel_feedback_stopped_partitions",
    "1: the log does not continue at the ledger's end, and an operator must act.",
    ["stream", "partition"],
)
LOST_OFFSETS = Gauge(
    "thumbwheel_feedback_lost_offsets",
    "Offsets deleted before they were sunk.",
    ["stream", "partition"],
)
CONSUMER_LAG_EVENTS = Gauge(
    "thumbwheel_feedback_consumer_lag_events",
    "Events in the topic but not yet in the ledger.",
    ["stream", "partition"],
)
CONSUMER_BUFFERED_BYTES = Gauge(
    "thumbwheel_feedback_consumer_buffered_bytes",
    "Size of events fetched but not yet in the ledger.",
    ["stream"],
)
CONSUMER_PAUSED = Gauge(
    "thumbwheel_feedback_consumer_paused",
    "1: fetching is paused because too much is buffered.",
    ["stream"],
)
CONSUMER_FAILURES = Counter(
    "thumbwheel_feedback_consumer_failures_total",
    "Fetches to be retried.",
    ["stream", "error"],
)
LAG_EVENTS = Gauge(
    "thumbwheel_feedback_sink_lag_events",
    "Available events not yet in Parquet.",
    ["stream", "partition"],
)
LAG_SECONDS = Gauge(
    "thumbwheel_feedback_sink_lag_seconds",
    "Time since the sink has been behind.",
    ["stream", "partition"],
)
SINK_FAILURES = Counter(
    "thumbwheel_feedback_sink_failures_total",
    "Flushes to be retried.",
    ["stream", "error"],
)
SEGMENTS = Counter(
    "thumbwheel_feedback_segments_total", "Segments committed to the ledger.", ["stream"]
)
ROWS = Counter("thumbwheel_feedback_rows_total", "Rows committed to Parquet.", ["stream"])
DEAD_LETTERS = Counter("thumbwheel_feedback_dead_letters_total", "Undecodable records.", ["stream"])
UNVERIFIED = Counter(
    "thumbwheel_feedback_unverified_records_total",
    "Records of a topic without a valid signature, by outcome: accepted, or dead letter because "
    "the signature is missing or wrong, or the texts are plain.",
    ["stream", "outcome"],
)
TOMBSTONES = Counter(
    "thumbwheel_feedback_tombstones_total",
    "Repeated or erased events dropped by the sink.",
    ["stream"],
)
COMPACTION_TIME_SECONDS = Gauge(
    "thumbwheel_feedback_compaction_time_seconds",
    "Unix time of the last complete compaction pass of any replica; before the first pass, "
    "the time of the start.",
    ["stream"],
)
COMPACTION_PERIOD_SECONDS = Gauge(
    "thumbwheel_feedback_compaction_period_seconds",
    "Period of compaction passes; 0: never.",
)
COMPACTION_FAILURES = Counter(
    "thumbwheel_feedback_compaction_failures_total",
    "Failures in compaction passes.",
    ["stream", "error"],
)
COVERS = Counter("thumbwheel_feedback_covers_total", "Compacted segments published.", ["stream"])
DROPPED_REASONS = ("duplicate", "erased", "expired")
DROPPED_ROWS = Counter(
    "thumbwheel_feedback_dropped_rows_total",
    "Rows removed by compaction by reason: duplicate, erased, expired.",
    ["stream", "reason"],
)
THUMBS = Counter(
    "thumbwheel_feedback_thumbs_total",
    "Thumbs by the version of the answer.",
    ["model_version", "value"],
)
# Milliseconds on an idle database; longer if a commit in progress delays the shredding.
SHRED_BUCKETS_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)

ERASURES = Counter(
    "thumbwheel_feedback_erasures_total",
    "Erasures that shredded a key; repeated calls do not count.",
)
SHRED_SECONDS = Histogram(
    "thumbwheel_feedback_shred_seconds",
    "Time from the call until all earlier feedback is unreadable.",
    buckets=SHRED_BUCKETS_SECONDS,
)
ERASURES_WAITING = Gauge(
    "thumbwheel_feedback_erasures_waiting",
    "Erasures whose unreadable rows are still in objects.",
)
ERASURE_OLDEST_SECONDS = Gauge(
    "thumbwheel_feedback_erasure_oldest_waiting_seconds",
    "Age of the oldest waiting erasure; 0 without waiting erasures.",
)
