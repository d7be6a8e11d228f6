"""Who cannot run a cluster learns it in one line, with the way to do without, before anything is fetched."""

from pathlib import Path

import pytest

from infra.cluster import __main__ as commands
from infra.cluster import lifecycle
from infra.cluster.errors import ClusterError
from infra.cluster.layout import Layout
from tests.support.errors import refused


def test_without_root_the_line_names_the_way_to_do_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with refused(ClusterError, field="", reason="UNSUPPORTED", limit="root on Linux") as caught:
        commands.able(Layout(tmp_path), [], print)
    assert "CLUSTER=skip" in caught.value.text


def test_without_go_and_without_what_it_builds_likewise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("THUMBWHEEL_CACHE", str(tmp_path))
    monkeypatch.setattr(lifecycle, "refuse_unable", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with refused(ClusterError, field="go", reason="MISSING", limit="at least 1.26") as caught:
        commands.able(Layout(tmp_path), [], print)
    assert "CLUSTER=skip" in caught.value.text
