"""Who cannot run a cluster learns it in one line, with the way to do without, before anything is
fetched.
"""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from infra.cluster import __main__ as commands
from infra.cluster import lifecycle
from infra.cluster.errors import ClusterError
from infra.cluster.layout import Layout
from tests.support.errors import refused


def test_without_root_the_line_names_the_way_to_do_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with refused(ClusterError, field="", reason="UNSUPPORTED", limit="root on Linux") as caught:
        commands.able(Layout(tmp_path), [], print)
    assert "CLUSTER=skip" in caught.value.text


def test_too_little_disk_for_the_build_names_the_way_to_do_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("THUMBWHEEL_CACHE", str(tmp_path))
    monkeypatch.setattr(lifecycle, "refuse_unable", lambda: None)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    with refused(
        ClusterError, field=str(tmp_path), reason="TOO_SMALL", limit="at least 6 GB"
    ) as caught:
        commands.able(Layout(tmp_path), [], print)
    assert "CLUSTER=skip" in caught.value.text
