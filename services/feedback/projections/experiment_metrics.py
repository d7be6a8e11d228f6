"""Experiments for Prometheus: the figures of the last look, looked at again now and then and never
while somebody scrapes.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Protocol

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from services.chassis.telemetry import fields
from services.feedback.lake.ledger import LedgerUnavailableError
from services.feedback.projections.experiments import ArmFigures

log = logging.getLogger(__name__)

REFRESH_SECONDS = 15.0


class FigureSource(Protocol):
    """Where they come from."""

    async def figures(self, since_us: int = 0) -> list[ArmFigures]:
        """All arms of the newest versions. Raises: LedgerUnavailableError."""


class ExperimentMetrics(Collector):
    """Every replica tells the same; a query takes the greatest."""

    def __init__(self) -> None:
        self._figures: Sequence[ArmFigures] = ()

    def update(self, figures: Sequence[ArmFigures]) -> None:
        """From now on these."""
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        """Of the last look, each arm whole."""
        users, thumbs, ratio, low, high = families = _families()
        for arm in self._figures:
            labels = [arm.model_version, arm.arm]
            users.add_metric(labels, arm.exposed_users)
            thumbs.add_metric(labels, arm.up + arm.down)
            low.add_metric(labels, arm.up_rate_interval.low)
            high.add_metric(labels, arm.up_rate_interval.high)
            if arm.up + arm.down:
                ratio.add_metric(labels, arm.up_rate)
        return families


def _families() -> tuple[GaugeMetricFamily, ...]:
    return (
        GaugeMetricFamily(
            "thumbwheel_experiment_exposed_users",
            "Users who met a version.",
            labels=["version", "arm"],
        ),
        GaugeMetricFamily(
            "thumbwheel_experiment_thumbs",
            "Standing thumbs on its answers.",
            labels=["version", "arm"],
        ),
        GaugeMetricFamily(
            "thumbwheel_experiment_thumbs_up_ratio",
            "Thumbs up of its standing thumbs.",
            labels=["version", "arm"],
        ),
        GaugeMetricFamily(
            "thumbwheel_experiment_thumbs_up_low_ratio",
            "Lower end of where that ratio lies; valid at every look, together with the upper one.",
            labels=["version", "arm"],
        ),
        GaugeMetricFamily(
            "thumbwheel_experiment_thumbs_up_high_ratio",
            "Upper end of where that ratio lies.",
            labels=["version", "arm"],
        ),
    )


async def refresh_periodically(
    source: FigureSource, exported: ExperimentMetrics, seconds: float = REFRESH_SECONDS
) -> None:
    """For ever. A database that is away leaves the last look standing."""
    while True:
        try:
            exported.update(await source.figures())
        except LedgerUnavailableError as error:
            log.warning("experiment not read", extra=fields(reason=error.reason))
        await asyncio.sleep(seconds)
