"""What the generator counts, by version: the canary's watch reads these too."""

from prometheus_client import Counter, Gauge, Histogram

from services.chassis.telemetry import LATENCY_BUCKETS_SECONDS

GENERATIONS = Counter(
    "thumbwheel_generations_total",
    "Ended generations by version, arm and reason.",
    ["version", "arm", "reason"],
)
TOKENS = Counter(
    "thumbwheel_tokens_total",
    "Tokens by version and kind (prompt, completion).",
    ["version", "kind"],
)
SAMPLES = Counter(
    "thumbwheel_generator_samples_total",
    "Finished answers by version and whether the model server told their tokens and log-probs (whole, none).",
    ["version", "told"],
)
FIRST_TEXT_SECONDS = Histogram(
    "thumbwheel_first_text_seconds",
    "From the request to the first text of the model server.",
    ["version"],
    buckets=LATENCY_BUCKETS_SECONDS,
)
RUNNING = Gauge("thumbwheel_generations_running", "Generations that run now.", ["version"])
VERSIONS_READY = Gauge(
    "thumbwheel_version_ready",
    "1 for a wanted version that answers, 0 for one that does not.",
    ["version"],
)
KUBERNETES_UP = Gauge(
    "thumbwheel_kubernetes_up",
    "1 while the Kubernetes API answers about these objects; absent where versions are none, as only a labelled gauge can be.",
    ["objects"],
)
SHARE = Gauge("thumbwheel_version_share", "Share of the users of a version.", ["version"])
ROLLOUT_SERIAL = Gauge(
    "thumbwheel_rollout_serial",
    "Number of the rollout that this replica goes by; replicas differ for a moment only.",
)
ROLLOUT_READ_TIME = Gauge(
    "thumbwheel_rollout_read_time_seconds",
    "Unix time at which the rollout was last read; it ages while the store is away.",
)
