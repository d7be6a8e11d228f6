"""Metrics of the vLLM server, and one page with the metrics of all vLLM processes."""

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

# Those of the Python process have no label that distinguishes the versions.
VLLM_PREFIX = "vllm:"


class Metrics:
    """Metrics of this process; labels are loaded versions, endpoints and statuses."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "thumbwheel_vllm_server_requests_total",
            "Requests by endpoint, version and status.",
            ["endpoint", "version", "status"],
            registry=self._registry,
        )
        self.process_ends = Counter(
            "thumbwheel_vllm_server_process_ends_total",
            "vLLM processes that ended by themselves.",
            ["version"],
            registry=self._registry,
        )

    def render(self, ready: Sequence[str], pages: Iterable[str]) -> bytes:
        """Return one page in Prometheus' text format.

        Args:
            ready: versions that can answer.
            pages: pages of the vLLM processes; their labels `model_name` are the versions.
        """
        registry = CollectorRegistry()
        registry.register(self._registry)
        registry.register(_Merged(ready, pages))
        return generate_latest(registry)


class _Merged(Collector):
    """Families of all pages; a family of several pages has the samples of all."""

    def __init__(self, ready: Sequence[str], pages: Iterable[str]) -> None:
        gauge = GaugeMetricFamily(
            "thumbwheel_vllm_server_version_ready", "1: the version can answer.", labels=["version"]
        )
        for version in ready:
            gauge.add_metric([version], 1)
        self._families: dict[str, Metric] = {gauge.name: gauge}
        for page in pages:
            for family in text_string_to_metric_families(page):
                if family.name.startswith(VLLM_PREFIX):
                    known = self._families.setdefault(family.name, family)
                    if known is not family:
                        known.samples += family.samples

    def collect(self) -> Iterator[Metric]:
        """Yield the families of vLLM and the readiness of versions."""
        yield from self._families.values()
