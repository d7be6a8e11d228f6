"""Conflicts between settings of the demonstration."""

from pathlib import Path

import pytest

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
