"""Machines without the requirements get a single line with the alternative, before any download."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from infra.machine.cluster import __main__ as commands
from infra.machine.cluster import lifecycle
from infra.machine.cluster.errors import ClusterError
from infra.machine.cluster.layout import Layout
from tests.support.errors import refused


def test_missing_root_is_reported_with_the_alternative(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with refused(ClusterError, field="", reason="UNSUPPORTED", limit="root on Linux") as caught:
        commands.able(Layout(tmp_path), [], print)
    assert "CLUSTER=skip" in caught.value.text


def test_small_disk_is_reported_with_the_alternative(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("THUMBWHEEL_CACHE", str(tmp_path))
    monkeypatch.setattr(lifecycle, "check_requirements", lambda: None)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    with refused(
        ClusterError, field=str(tmp_path), reason="TOO_SMALL", limit="at least 6 GB"
    ) as caught:
        commands.able(Layout(tmp_path), [], print)
    assert "CLUSTER=skip" in caught.value.text
