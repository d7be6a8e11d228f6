"""Prometheus metrics of experiments, refreshed periodically and never during a scrape."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Protocol

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from services.chassis.telemetry import fields
from services.feedback.projections.experiments import ArmFigures
from services.feedback.store.database import LedgerUnavailableError

log = logging.getLogger(__name__)

REFRESH_SECONDS = 15.0


class FigureSource(Protocol):
    """Source of the figures."""

    async def figures(self, since_us: int = 0) -> list[ArmFigures]:
        """Return the figures of all arms of the newest versions.

        Raises:
            LedgerUnavailableError: The database does not answer.
        """


class ExperimentMetrics(Collector):
    """Collector of experiment figures.

    Every replica exports the same values; queries take the maximum.
    """

    def __init__(self) -> None:
        self._figures: Sequence[ArmFigures] = ()

    def update(self, figures: Sequence[ArmFigures]) -> None:
        """Replace the exported figures."""
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        """Return the latest figures, each arm complete."""
        users, thumbs, ratio, low, high = families = (
            GaugeMetricFamily(
                "thumbwheel_experiment_exposed_users",
                "Users exposed to a version.",
                labels=["version", "arm"],
            ),
            GaugeMetricFamily(
                "thumbwheel_experiment_thumbs",
                "Current thumbs on the answers of a version.",
                labels=["version", "arm"],
            ),
            GaugeMetricFamily(
                "thumbwheel_experiment_thumbs_up_ratio",
                "Share of thumbs up among the current thumbs.",
                labels=["version", "arm"],
            ),
            GaugeMetricFamily(
                "thumbwheel_experiment_thumbs_up_low_ratio",
                "Lower end of the confidence interval of the ratio, valid at every look.",
                labels=["version", "arm"],
            ),
            GaugeMetricFamily(
                "thumbwheel_experiment_thumbs_up_high_ratio",
                "Upper end of the confidence interval of the ratio, valid at every look.",
                labels=["version", "arm"],
            ),
        )
        for arm in self._figures:
            labels = [arm.model_version, arm.arm]
            users.add_metric(labels, arm.exposed_users)
            thumbs.add_metric(labels, arm.up + arm.down)
            low.add_metric(labels, arm.up_rate_interval.low)
            high.add_metric(labels, arm.up_rate_interval.high)
            if arm.up + arm.down:
                ratio.add_metric(labels, arm.up_rate)
        return families


async def refresh_periodically(
    source: FigureSource, exported: ExperimentMetrics, seconds: float = REFRESH_SECONDS
) -> None:
    """Refresh the figures until cancelled; while the database is unavailable the last ones stay."""
    while True:
        try:
            exported.update(await source.figures())
        except LedgerUnavailableError as error:
            log.warning("experiment figures not refreshed", extra=fields(reason=error.reason))
        await asyncio.sleep(seconds)
