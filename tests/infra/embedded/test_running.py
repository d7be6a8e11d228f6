"""A second start, a loop without a system, a recipe that is none: each is answered before anything is done."""

import json
import os
from pathlib import Path

import pytest

from infra.embedded import running
from infra.embedded.running import RECIPES, UnknownRecipeError, check_recipe, find_ports, refuse_second
from infra.simulated_users.settings import PLANS
from infra.supervision.supervisor import RUNNING, AlreadyRunningError, NotRunningError
from training.__main__ import RECIPES as TRAINED

PORTS = {"http": 8123, "feedback": 8124}


def run_in(state: Path, pid: int) -> None:
    """As if a supervisor with this process id had been started."""
    state.mkdir(parents=True)
    (state / RUNNING).write_text(json.dumps({"pid": pid, "ports": PORTS}))


def ended_pid() -> int:
    """Of a process that is gone."""
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def test_a_second_start_says_where_the_first_one_answers(tmp_path: Path) -> None:
    refuse_second(tmp_path / "state")
    run_in(tmp_path / "state", os.getpid())
    (tmp_path / "state" / "owner.key").write_text("tw_owner\n")
    with pytest.raises(
        AlreadyRunningError, match=rf"process {os.getpid()}\): chat at http://127\.0\.0\.1:8123/#key=tw_owner$"
    ):
        refuse_second(tmp_path / "state")


def test_one_that_was_killed_is_in_nobodys_way(tmp_path: Path) -> None:
    run_in(tmp_path / "state", ended_pid())
    refuse_second(tmp_path / "state")


def test_a_loop_without_a_system_is_told_of_the_stack_where_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "ROOT", tmp_path)
    monkeypatch.setattr(running, "STACK_STATE", tmp_path / ".state" / "stack")
    with pytest.raises(NotRunningError, match=r"start it with `make up` in another terminal$"):
        find_ports(tmp_path / ".state")
    run_in(tmp_path / ".state" / "stack", os.getpid())
    with pytest.raises(NotRunningError, match=r"what runs is the stack: make loop STATE=\.state/stack$"):
        find_ports(tmp_path / ".state")
    assert find_ports(tmp_path / ".state" / "stack") == PORTS


def test_a_recipe_that_is_none_is_answered_with_those_that_are() -> None:
    with pytest.raises(UnknownRecipeError, match="RECIPE=medium: choose nano or small"):
        check_recipe("medium")
    assert set(RECIPES) == set(TRAINED) == set(PLANS)
