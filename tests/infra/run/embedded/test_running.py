"""Checks before a start: a running system, a missing system, an unknown recipe."""

import json
import os
from pathlib import Path

import pytest

from infra.run.embedded import running
from infra.run.embedded.running import (
    RECIPES,
    UnknownRecipeError,
    check_not_running,
    check_recipe,
    find_ports,
)
from infra.run.supervision.supervisor import RUNNING, AlreadyRunningError, NotRunningError
from infra.simulate.users.settings import PLANS
from tests.support.errors import refused
from training.commands import RECIPES as TRAINED

PORTS = {"http": 8123, "feedback": 8124}


def run_in(state: Path, pid: int) -> None:
    """Write the file of a supervisor with this process id."""
    state.mkdir(parents=True)
    (state / RUNNING).write_text(json.dumps({"pid": pid, "ports": PORTS}))


def ended_pid() -> int:
    """Return the id of a process that has ended."""
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def test_second_start_prints_the_url_of_the_first(tmp_path: Path) -> None:
    check_not_running(tmp_path / "state")
    run_in(tmp_path / "state", os.getpid())
    (tmp_path / "state" / "owner.key").write_text("tw_owner\n")
    with refused(AlreadyRunningError, field=str(tmp_path / "state"), reason="IN_USE") as caught:
        check_not_running(tmp_path / "state")
    assert str(os.getpid()) in caught.value.text
    assert caught.value.text.split()[-1] == "http://127.0.0.1:8123/#key=tw_owner"


def test_stale_pid_file_is_ignored(tmp_path: Path) -> None:
    run_in(tmp_path / "state", ended_pid())
    check_not_running(tmp_path / "state")


def test_loop_without_system_suggests_the_running_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "ROOT", tmp_path)
    monkeypatch.setattr(running, "STACK_STATE", tmp_path / ".state" / "stack")
    with refused(
        NotRunningError, field=str(tmp_path / ".state"), reason="STOPPED", limit=""
    ) as caught:
        find_ports(tmp_path / ".state")
    assert "make up" in caught.value.text
    run_in(tmp_path / ".state" / "stack", os.getpid())
    with refused(
        NotRunningError, field=str(tmp_path / ".state"), reason="STOPPED", limit=".state/stack"
    ) as caught:
        find_ports(tmp_path / ".state")
    assert "make loop STATE=.state/stack" in caught.value.text
    assert find_ports(tmp_path / ".state" / "stack") == PORTS


def test_unknown_recipe_is_reported_with_known_recipes() -> None:
    with refused(
        UnknownRecipeError, field="RECIPE", reason="UNKNOWN", limit="nano, small"
    ) as caught:
        check_recipe("medium")
    assert "medium" in caught.value.text
    assert set(RECIPES) == set(TRAINED) == set(PLANS)
