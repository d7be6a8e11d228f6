"""Metrics of the predictor, in a registry of their own.

Labels are loaded versions, endpoints and statuses, never a caller's text.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LATENCY_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


class Metrics:
    """All metrics of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter(
            "thumbwheel_predictor_requests_total",
            "Requests by endpoint, version and status.",
            "endpoint",
            "version",
            "status",
        )
        self.prompt_tokens = self._counter(
            "thumbwheel_predictor_prompt_tokens_total",
            "Prompt tokens of started generations.",
            "version",
        )
        self.generated_tokens = self._counter(
            "thumbwheel_predictor_generated_tokens_total", "Generated tokens.", "version"
        )
        self.engine_steps = self._counter(
            "thumbwheel_predictor_engine_steps_total", "Forward passes.", "version"
        )
        self.queue_seconds = self._histogram(
            "thumbwheel_predictor_queue_seconds", "From the request to its first step.", "version"
        )
        self.first_token_seconds = self._histogram(
            "thumbwheel_predictor_time_to_first_token_seconds",
            "From the request to the first token.",
            "version",
        )
        self.inter_token_seconds = self._histogram(
            "thumbwheel_predictor_inter_token_seconds",
            "Between two tokens of one generation.",
            "version",
        )
        self.load_seconds = self._histogram(
            "thumbwheel_predictor_load_seconds", "From the load request to ready.", "version"
        )
        self.running = self._gauge(
            "thumbwheel_predictor_running_requests",
            "Running generations, which share a step.",
            "version",
        )
        self.waiting = self._gauge(
            "thumbwheel_predictor_waiting_requests", "Generations in the queue.", "version"
        )
        self.cache_usage = self._gauge(
            "thumbwheel_predictor_cache_usage_ratio",
            "Share of KV blocks in use, cached prefixes included.",
            "version",
        )

    def render(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def forget(self, version: str) -> None:
        """Remove the gauges of an unloaded version; counters remain for rates."""
        for gauge in (self.running, self.waiting, self.cache_usage):
            gauge.remove(version)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(name, text, labels, buckets=LATENCY_SECONDS, registry=self.registry)


class VersionMetrics:
    """Observer of one engine (implements `EngineObserver`).

    Labels are resolved once, since the methods are called hundreds of times per second.
    """

    def __init__(self, metrics: Metrics, version: str) -> None:
        self._queue = metrics.queue_seconds.labels(version)
        self._first = metrics.first_token_seconds.labels(version)
        self._inter = metrics.inter_token_seconds.labels(version)
        self._prompt_tokens = metrics.prompt_tokens.labels(version)
        self._generated_tokens = metrics.generated_tokens.labels(version)
        self._steps = metrics.engine_steps.labels(version)
        self._running = metrics.running.labels(version)
        self._waiting = metrics.waiting.labels(version)
        self._cache_usage = metrics.cache_usage.labels(version)

    def started(self, queue_seconds: float, prompt_tokens: int) -> None:
        """Record the start of a request and its time in the queue."""
        self._queue.observe(queue_seconds)
        self._prompt_tokens.inc(prompt_tokens)

    def first_token(self, seconds: float) -> None:
        """Record the time from the request to the first token."""
        self._first.observe(seconds)

    def next_tokens(self, seconds: float) -> None:
        """Record the time since the last token of the generation."""
        self._inter.observe(seconds)

    def stepped(self, new_tokens: int, running: int, waiting: int, cache_usage: float) -> None:
        """Record one forward pass."""
        self._steps.inc()
        self._generated_tokens.inc(new_tokens)
        self._running.set(running)
        self._waiting.set(waiting)
        self._cache_usage.set(cache_usage)
