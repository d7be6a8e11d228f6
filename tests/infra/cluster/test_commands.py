"""Who cannot run a cluster learns it in one line, with the way to do without, before anything is fetched."""

from pathlib import Path

import pytest

from infra.cluster import __main__ as commands
from infra.cluster import lifecycle
from infra.cluster.errors import ClusterError
from infra.cluster.layout import Layout


def test_without_root_the_line_names_the_way_to_do_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(ClusterError, match=r"needs root on Linux.*CLUSTER=skip"):
        commands.able(Layout(tmp_path), [], print)


def test_without_go_and_without_what_it_builds_likewise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("THUMBWHEEL_CACHE", str(tmp_path))
    monkeypatch.setattr(lifecycle, "refuse_unable", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match=r"install Go.*CLUSTER=skip"):
        commands.able(Layout(tmp_path), [], print)
