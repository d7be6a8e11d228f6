"""Fixtures of tests with InferenceServices."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.generator.kubernetes import inference_services
from tests.services.generator.fake_kubernetes import FakeKubernetes
from tests.services.generator.kubernetes.world import World, world_of


@pytest.fixture
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference_services, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(inference_services, "FAILING_SECONDS", 0.2)


@pytest.fixture
async def world(tmp_path: Path, quick_polls: None) -> AsyncIterator[World]:
    async with world_of(tmp_path, FakeKubernetes()) as found:
        yield found
