"""Location of downloads, and difference between interrupted and failed steps."""

import re
import sys
from pathlib import Path

import pytest

from infra.install.environment import cache, find_uv, run


def test_downloads_follow_the_users_cache_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("THUMBWHEEL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache() == tmp_path / "xdg" / "thumbwheel"
    monkeypatch.setenv("THUMBWHEEL_CACHE", str(tmp_path / "own"))
    assert cache() == tmp_path / "own"
    for name in ("THUMBWHEEL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache() == tmp_path / ".cache" / "thumbwheel"


def test_python_without_pip_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THUMBWHEEL_CACHE", str(tmp_path))
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho No module named pip >&2; exit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    with pytest.raises(SystemExit) as caught:
        find_uv()
    assert {str(python), "python3-pip"} <= set(re.split(r"[ ,]+", str(caught.value)))


def test_failed_step_is_named_and_interrupted_step_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THUMBWHEEL_CACHE", str(tmp_path))
    with pytest.raises(SystemExit) as caught:
        run(["sh", "-c", "exit $((2 + 5))"])
    assert "sh -c exit $((2 + 5))" in str(caught.value)
    assert re.search(r"\b7\b", str(caught.value)), "the status of the step"
    # As on a terminal: processes started in the background ignore the signal, and so do their
    # children.
    interrupted = (
        "import os, signal; signal.signal(signal.SIGINT, signal.SIG_DFL); "
        "os.kill(os.getpid(), signal.SIGINT)"
    )
    with pytest.raises(KeyboardInterrupt):
        run([sys.executable, "-c", interrupted])
