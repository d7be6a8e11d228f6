"""Figures of experiments in Prometheus."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from services.feedback.projections.experiment_metrics import ExperimentMetrics, refresh_periodically
from services.feedback.projections.experiments import ArmFigures
from services.feedback.store.database import LedgerUnavailableError

STABLE = ArmFigures("v1", "stable", 5, 1, 30, 10)
SILENT = ArmFigures("v2", "candidate", 2, 2, 0, 0)


class Source:
    """Source with prepared results; an exception is raised."""

    def __init__(self, *answers: list[ArmFigures] | Exception) -> None:
        self._answers, self.asked = list(answers), asyncio.Event()

    async def figures(self, since_us: int = 0) -> list[ArmFigures]:
        if len(self._answers) == 1:
            self.asked.set()
        answer = self._answers[0] if len(self._answers) == 1 else self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def value(shown: ExperimentMetrics, name: str, version: str, arm: str) -> float | None:
    registry = CollectorRegistry()
    registry.register(shown)
    return registry.get_sample_value(
        f"thumbwheel_experiment_{name}", {"version": version, "arm": arm}
    )


def test_an_arm_has_users_thumbs_ratio_and_interval() -> None:
    shown = ExperimentMetrics()
    shown.update([STABLE, SILENT])
    assert value(shown, "exposed_users", "v1", "stable") == 5
    assert value(shown, "thumbs", "v1", "stable") == 40
    assert value(shown, "thumbs_up_ratio", "v1", "stable") == 0.75
    assert value(shown, "thumbs_up_low_ratio", "v1", "stable") == pytest.approx(
        STABLE.up_rate_interval.low
    )
    assert value(shown, "thumbs_up_high_ratio", "v1", "stable") == pytest.approx(
        STABLE.up_rate_interval.high
    )


def test_without_thumbs_there_is_no_ratio_and_the_interval_is_full() -> None:
    shown = ExperimentMetrics()
    shown.update([SILENT])
    assert value(shown, "thumbs_up_ratio", "v2", "candidate") is None
    assert value(shown, "thumbs_up_low_ratio", "v2", "candidate") == 0
    assert value(shown, "thumbs_up_high_ratio", "v2", "candidate") == 1


async def test_an_unavailable_database_keeps_the_last_figures() -> None:
    shown, source = ExperimentMetrics(), Source([STABLE], LedgerUnavailableError("away"))
    looking = asyncio.create_task(refresh_periodically(source, shown, 0.001))
    await asyncio.wait_for(source.asked.wait(), 5)
    assert value(shown, "thumbs", "v1", "stable") == 40
    assert not looking.done()
    looking.cancel()
