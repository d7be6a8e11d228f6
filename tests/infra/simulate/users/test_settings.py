"""Conflicts between settings of the demonstration."""

from pathlib import Path

import pytest

from infra.simulate.users.__main__ import _parser, _settings
from infra.simulate.users.settings import PLANS, Control, Settings
from tests.support.errors import refused
from training.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"worse": True, "shuffle_thumbs": True}, "--worse"),
        ({"false_claims": True, "shuffle_thumbs": True}, "--false-claims"),
    ],
)
def test_controls_exclude_each_other(given: dict[str, bool], field: str) -> None:
    with refused(ConfigError, field=field, reason="CONFLICT"):
        Control(**given)


def test_false_claims_need_questions_of_the_recipe(tmp_path: Path) -> None:
    with refused(ConfigError, field="--false-claims", reason="UNKNOWN", limit="nano"):
        Settings(
            recipe="small",
            plan=PLANS["small"],
            state=tmp_path,
            http_port=0,
            grpc_port=0,
            seed=0,
            keep=False,
            fresh=False,
            control=Control(false_claims=True),
        )


def test_users_of_auto_are_those_of_small_and_its_model_must_be_given(tmp_path: Path) -> None:
    options = ["--state", str(tmp_path)]
    with refused(ConfigError, field="--model", reason="MISSING"):
        _settings(_parser().parse_args(["demo", "--recipe", "auto", *options]))
    given = _parser().parse_args(["demo", "--recipe", "auto", "--model", "taught", *options])
    assert (_settings(given).plan.model, _settings(given).plan.users) == ("taught", "small")
    _settings(_parser().parse_args(["people", "--recipe", "auto", *options]))
