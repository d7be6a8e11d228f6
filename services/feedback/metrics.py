"""What the feedback service counts."""

from prometheus_client import Counter, Gauge, Histogram

ACK_BUCKETS_SECONDS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1, 2, 5)

ACKS = Counter("thumbwheel_feedback_acks_total", "Acknowledged events: new or known before.", ["stream", "outcome"])
ACK_SECONDS = Histogram(
    "thumbwheel_feedback_ack_seconds", "From the call to durable.", ["stream"], buckets=ACK_BUCKETS_SECONDS
)
SPOOLED_BYTES = Gauge("thumbwheel_feedback_spooled_bytes", "Bytes in the spool.", ["stream"])
LAG_EVENTS = Gauge("thumbwheel_feedback_sink_lag_events", "Acknowledged events not yet in Parquet.", ["stream"])
LAG_SECONDS = Gauge("thumbwheel_feedback_sink_lag_seconds", "Time that the sink has been behind.", ["stream"])
SINK_FAILURES = Counter(
    "thumbwheel_feedback_sink_failures_total", "Flushes that must be tried again.", ["stream", "error"]
)
SEGMENTS = Counter("thumbwheel_feedback_segments_total", "Segments committed to the ledger.", ["stream"])
ROWS = Counter("thumbwheel_feedback_rows_total", "Rows committed to Parquet.", ["stream"])
DEAD_LETTERS = Counter("thumbwheel_feedback_dead_letters_total", "Records that could not be decoded.", ["stream"])
TOMBSTONES = Counter("thumbwheel_feedback_tombstones_total", "Repeated events dropped by the sink.", ["stream"])
THUMBS = Counter(
    "thumbwheel_feedback_thumbs_total", "Thumbs by the version that wrote the answer.", ["model_version", "value"]
)
