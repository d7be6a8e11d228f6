"""Conflicts between settings of the demonstration."""

from pathlib import Path

import pytest

from infra.simulate.users.__main__ import _parser, _settings
from infra.simulate.users.settings import LOOP, PLANS, Control, Settings, select_plan
from tests.support.errors import refused
from training.__main__ import parser
from training.errors import ConfigError
from training.recipes.custom.loop_recipe import adjusted_recipe
from training.recipes.nano import nano
from training.recipes.recipe import Plan


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


@pytest.mark.parametrize(
    ("words", "recipe", "model"),
    [
        ([], "small", "small"),
        (["--model", "nano"], "nano", "nano"),
        (["--model", "d"], "auto", "d"),
    ],
)
def test_demonstration_trains_the_model_that_its_users_rate(
    words: list[str], recipe: str, model: str
) -> None:
    settings = _settings(_parser().parse_args(["demo", *words]))
    assert (settings.recipe, settings.plan.model) == (recipe, model)


def test_users_of_nano_rate_another_model_of_its_world(tmp_path: Path) -> None:
    words = ["demo", "--recipe", "auto", "--users", "nano", "--model", "llama-0"]
    words += ["--state", str(tmp_path), "--false-claims", "--set", "ppo.updates=3"]
    settings = _settings(_parser().parse_args(words))
    plan, nano = settings.plan, PLANS["nano"]
    assert (settings.recipe, plan.model, plan.users) == ("auto", "llama-0", "nano")
    assert (plan.thumbs, plan.questions, plan.goal) == (nano.thumbs, nano.questions, nano.goal)
    assert (plan.loop, settings.assignments) == (LOOP["nano"], ("ppo.updates=3",))
    assert PLANS["nano"].loop == ()


def test_margins_for_nanos_world_are_those_of_its_recipe(tmp_path: Path) -> None:
    options = parser().parse_args(["loop", "--recipe", "small", *LOOP["nano"]])
    plan = Plan("v", tmp_path / "run", tmp_path / "base")
    config, measured = adjusted_recipe(options)(plan), nano(plan)
    for name in ("margins", "ceiling_gap", "min_length_ratio", "retention_rise_bits"):
        assert getattr(config.gate, name) == getattr(measured.gate, name)
    assert config.sets.anchors == measured.sets.anchors
    assert config.evaluation.probes == measured.evaluation.probes
    assert config.evaluation.retention_texts == measured.evaluation.retention_texts


@pytest.mark.parametrize(
    ("recipe", "users", "reason"), [("auto", "experts", "UNKNOWN"), ("nano", "small", "CONFLICT")]
)
def test_other_users_are_refused(recipe: str, users: str, reason: str) -> None:
    with refused(ConfigError, field="--users", reason=reason):
        select_plan(recipe, users)
