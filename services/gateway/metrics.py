"""The gateway's own figures, beside those of the chassis. Labels are ids and names, never texts."""

from prometheus_client import Counter, Gauge, Histogram

from services.chassis.telemetry import LATENCY_BUCKETS_SECONDS

TURNS = Counter(
    "thumbwheel_turns_total", "Ended turns by finish reason, version and arm.", ["reason", "version", "arm"]
)
TURNS_RUNNING = Gauge("thumbwheel_turns_running", "Turns that run now.")
TTFT_SECONDS = Histogram(
    "thumbwheel_ttft_seconds", "Request accepted to first text released.", buckets=LATENCY_BUCKETS_SECONDS
)
ADDED_SECONDS = Histogram(
    "thumbwheel_added_seconds",
    "The part of the time to first text that the generator did not take.",
    buckets=LATENCY_BUCKETS_SECONDS,
)
STAGE_SECONDS = Histogram(
    "thumbwheel_turn_stage_seconds",
    "Stages before the first text: enhance, begin, guard_input (what it takes longer), generate, guard_output.",
    ["stage"],
    buckets=LATENCY_BUCKETS_SECONDS,
)
GUARD_VERDICTS = Counter(
    "thumbwheel_guard_verdicts_total", "Verdicts that redact or block.", ["stage", "action", "category"]
)
ENHANCER_SKIPPED = Counter("thumbwheel_enhancer_skipped_total", "Messages left as typed because the enhancer was away.")
ANSWERS_NOT_STORED = Counter("thumbwheel_answers_not_stored_total", "Answers that session did not take in time.")
THUMBS = Counter("thumbwheel_thumbs_total", "Acknowledged thumbs by version and value.", ["version", "arm", "value"])
HTTP_REQUESTS = Counter("thumbwheel_http_requests_total", "HTTP requests by route and status.", ["route", "status"])
HTTP_SECONDS = Histogram(
    "thumbwheel_http_seconds",
    "Time to the response's head, by route.",
    ["route"],
    buckets=LATENCY_BUCKETS_SECONDS,
)
REFUSED_BEARERS = Counter(
    "thumbwheel_refused_bearers_total", "Keys and tokens that were refused, by reason.", ["reason"]
)
ISSUER_FETCHES = Counter("thumbwheel_issuer_fetches_total", "Fetches of issuers' keys by outcome.", ["outcome"])
