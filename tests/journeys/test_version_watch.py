"""A version made worse after its promotion is rolled back by the watch, while no loop runs."""

import json
import time
import urllib.error
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.client import Client
from tests.journeys.stack import ROOT, WITHOUT_QUOTAS, Stack, running_stack
from tests.journeys.version_copies import copy_of, write_manifest
from training.evaluation.canary import Verdict
from training.remote import RolloutClient
from training.service_channel import RemoteError
from training.service_identity import FOLDER, OPERATOR, ServiceIdentity

PROMOTED, USERS = "nano-1", 60
NEVER = 0  # a token that the model never generates


def make_endless(folder: Path) -> None:
    """Remove the end token, so that answers have the maximum length."""
    settings = folder / "generation_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "eos_token_id": NEVER}))
    write_manifest(folder, folder.name)


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    monkeypatch.setenv("TW_GENERATOR_WATCH_SHARE", "0.3")
    with running_stack(tmp_path / "state", options=WITHOUT_QUOTAS) as running:
        yield running


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_version_made_worse_after_its_promotion_is_rolled_back(
    watched: Stack, record_property: Any
) -> None:
    stack = watched
    users = [Client(stack.http, stack.make_keys(f"user-{n}")[0]) for n in range(USERS)]
    operator = ServiceIdentity(OPERATOR, stack.state / FOLDER / f"{OPERATOR}.key")
    target = f"127.0.0.1:{stack.ports['generator']}"
    with closing(RolloutClient(target, None, 60.0, operator)) as rollout:
        stable = rollout.view().stable
        nano = json.loads((ROOT / "models" / "nano" / "manifest.json").read_text())["version"]
        assert stable == nano
        folder = copy_of(stack.state / "models" / stable, PROMOTED)
        rollout.start(PROMOTED, folder, 0.1, 60)
        rollout.finish(PROMOTED, Verdict.PROMOTE, "a test")
        assert ask_all(users) == {stable, PROMOTED}
        make_endless(folder)
        stack.kill("predictor")
        degraded = time.monotonic()
        deadline = degraded + 600
        while rollout.view().stable == PROMOTED:
            assert time.monotonic() < deadline, "the watch has not rolled the version back"
            ask_all(users)
        record_property("rolled_back_seconds", round(time.monotonic() - degraded))
        [(version, reason)] = rollout.view().undone.items()
        record_property("reason", reason)
        assert version == PROMOTED
        rolled_back = time.monotonic()
        while ask_all(users) != {stable}:
            assert time.monotonic() < rolled_back + 60
        record_property("traffic_seconds", round(time.monotonic() - rolled_back))
    assert not (stack.state / "loop" / "runs").exists(), "no loop has run"


def ask_all(users: list[Client]) -> set[str]:
    """Return the versions that answered; calls during a restart of the model server may fail."""

    def ask(user: Client) -> str:
        with suppress(urllib.error.URLError, AssertionError, OSError, RemoteError):
            return str(user.ask("hello")[0]["started"]["modelVersion"])
        return ""

    with ThreadPoolExecutor(8) as pool:
        return {version for version in pool.map(ask, users) if version}
