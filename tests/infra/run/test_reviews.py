"""`thumbwheel review …` finds services and stores of the system in a state folder."""

import os
import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from infra.run.embedded.environment import Environment, write_environment
from infra.run.reviews import __main__ as reviews
from infra.run.supervision.supervisor import NotRunningError
from training.__main__ import parser


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what the module of training would see."""
    seen: dict[str, Any] = {}

    def run_module(module: str, run_name: str) -> None:
        seen.update(module=module, words=sys.argv, environment=dict(os.environ))

    monkeypatch.setattr(runpy, "run_module", run_module)
    for name in ("TW_TRAINING_S3_ENDPOINT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "before")
    return seen


def run(monkeypatch: pytest.MonkeyPatch, ports: Mapping[str, int] | None, *words: str) -> None:
    def read_ports(state: Path) -> Mapping[str, int]:
        if ports is None:
            raise NotRunningError("not running")
        return ports

    monkeypatch.setattr(reviews, "read_ports", read_ports)
    monkeypatch.setattr(sys, "argv", ["thumbwheel review draw", *words])
    reviews.main()


def test_ports_and_stores_of_the_running_system_are_used(
    monkeypatch: pytest.MonkeyPatch, started: dict[str, Any], tmp_path: Path
) -> None:
    bucket = {"TW_TRAINING_S3_ENDPOINT": "127.0.0.1:9"}
    write_environment(tmp_path, Environment("sqlite://", loop_environment=bucket))
    words = ("draw", "--state", str(tmp_path), "--random", "2")
    run(monkeypatch, {"feedback": 1, "review": 2}, *words)
    assert (started["module"], started["words"][0]) == ("training", "thumbwheel review draw")
    options = parser().parse_args(started["words"][1:])
    assert (options.feedback, options.review) == ("127.0.0.1:1", "127.0.0.1:2")
    assert (options.state, options.random) == (tmp_path, 2)
    assert started["environment"]["TW_TRAINING_S3_ENDPOINT"] == "127.0.0.1:9"


def test_options_of_the_caller_go_first(
    monkeypatch: pytest.MonkeyPatch, started: dict[str, Any], tmp_path: Path
) -> None:
    words = ("export", "--out", "file", "--state", str(tmp_path), "--review", "host:3")
    run(monkeypatch, {"feedback": 1, "review": 2}, *words)
    options = parser().parse_args(started["words"][1:])
    assert (options.feedback, options.review) == ("127.0.0.1:1", "host:3")


def test_usual_ports_remain_without_a_running_system(
    monkeypatch: pytest.MonkeyPatch, started: dict[str, Any], tmp_path: Path
) -> None:
    run(monkeypatch, None, "draw", "--state", str(tmp_path))
    options = parser().parse_args(started["words"][1:])
    assert (options.feedback, options.review) == ("127.0.0.1:50056", "127.0.0.1:50058")
