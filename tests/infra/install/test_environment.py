"""Where downloads are kept, and that a step which somebody stopped is no step that failed."""

import re
import sys
from pathlib import Path

import pytest

from infra.install.environment import cache, run


def test_downloads_are_kept_where_the_user_keeps_such_things(
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


def test_a_step_that_fails_is_named_and_one_that_ctrl_c_ended_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THUMBWHEEL_CACHE", str(tmp_path))
    with pytest.raises(SystemExit) as caught:
        run(["sh", "-c", "exit $((2 + 5))"])
    assert "sh -c exit $((2 + 5))" in str(caught.value)
    assert re.search(r"\b7\b", str(caught.value)), "the status of the step"
    # As on a terminal: whoever was started in the background ignores the signal, and so do their
    # children.
    interrupted = "import os, signal; signal.signal(signal.SIGINT, signal.SIG_DFL); os.kill(os.getpid(), signal.SIGINT)"
    with pytest.raises(KeyboardInterrupt):
        run([sys.executable, "-c", interrupted])
