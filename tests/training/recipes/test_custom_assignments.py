"""Config fields from command line text."""

import dataclasses
import typing
from pathlib import Path
from typing import Any

import pytest

from tests.support.errors import refused
from training.errors import ConfigError
from training.model.lora import LoraConfig
from training.optim.optimizers import SCHEDULES, OptimizerConfig
from training.recipes.custom import commands as custom_commands
from training.recipes.custom.assignments import NEEDED, assigned, explained, listed, settable, word
from training.recipes.custom.stages import STAGES
from training.recipes.pretraining import commands as pretraining_commands
from training.runtime.context import Lineage
from training.runtime.ranges import ranges_of
from training.stages.grpo import GrpoConfig
from training.stages.pretrain import PretrainConfig, SampleConfig
from training.stages.sft import SftConfig

FIXED = (*custom_commands.FIXED, *pretraining_commands.FIXED)


def fields_of(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def an_sft() -> SftConfig:
    return SftConfig(
        model_directory=Path("model"),
        data_path=Path("data"),
        output_directory=Path("output"),
        lineage=Lineage("v"),
    )


def a_grpo() -> GrpoConfig:
    return GrpoConfig(
        model_directory=Path("model"),
        reward_model_directory=None,
        data_path=Path("data"),
        output_directory=Path("output"),
        lineage=Lineage("v"),
    )


def test_fields_and_nested_fields_are_parsed_by_type() -> None:
    config = assigned(
        an_sft(),
        [
            "epochs=3",
            "optimizer.learning_rate=1e-5",
            "optimizer.betas=0.9,0.99",
            "machine.dtype=bfloat16",
        ],
    )
    assert (config.epochs, config.machine.dtype) == (3, "bfloat16")
    assert config.optimizer == OptimizerConfig(learning_rate=1e-5, betas=(0.9, 0.99))


def test_an_absent_part_gets_defaults_and_none_turns_a_field_off() -> None:
    config = assigned(an_sft(), ["lora.rank=4", "lora.targets=q_proj,v_proj"])
    assert config.lora == LoraConfig(rank=4, targets=("q_proj", "v_proj"))
    assert assigned(config, ["lora=none"]).lora is None


def test_dependent_fields_are_set_together() -> None:
    config = assigned(
        a_grpo(), ["normalisation=constant", "constant_tokens=64", "standardise=false"]
    )
    assert (config.constant_tokens, config.standardise) == (64, False)
    with refused(ConfigError, field="constant_tokens", reason="MISSING"):
        assigned(a_grpo(), ["normalisation=constant"])


@pytest.mark.parametrize(
    ("assignment", "field", "reason", "limit"),
    [
        ("epochs", "set", "MALFORMED", "FIELD=VALUE"),
        (
            "epoch=2",
            "epoch",
            "UNKNOWN",
            ", ".join(name for name in fields_of(SftConfig) if name not in FIXED),
        ),
        (
            "optimizer.rate=2",
            "optimizer.rate",
            "UNKNOWN",
            ", ".join(f"optimizer.{name}" for name in fields_of(OptimizerConfig)),
        ),
        ("epochs=two", "epochs", "MALFORMED", None),
        ("epochs=none", "epochs", "MALFORMED", None),
        ("epochs.of=2", "epochs", "UNSUPPORTED", ""),
        ("lora=8", "lora", "MALFORMED", None),
        ("optimizer.betas=0.9", "optimizer.betas", "MALFORMED", None),
        ("optimizer.schedule=up", "optimizer.schedule", "UNKNOWN", ", ".join(SCHEDULES)),
        ("model_directory=elsewhere", "model_directory", "UNKNOWN", None),
        ("vocabulary_rows=100", "vocabulary_rows", "CONFLICT", ""),
    ],
)
def test_invalid_assignments_are_refused_by_name(
    assignment: str, field: str, reason: str, limit: str | None
) -> None:
    with refused(ConfigError, field=field, reason=reason, limit=limit):
        assigned(an_sft(), [assignment], FIXED)


def test_a_field_set_twice_is_refused() -> None:
    with refused(ConfigError, field="epochs", reason="DUPLICATE"):
        assigned(an_sft(), ["epochs=1", "epochs=2"])
    with refused(ConfigError, field="lora.rank", reason="CONFLICT"):
        assigned(an_sft(), ["lora=none", "lora.rank=2"])


def test_a_part_with_a_missing_required_field_names_the_field() -> None:
    with refused(ConfigError, field="sft_mix.data_path", reason="MISSING"):
        assigned(a_grpo(), ["sft_mix.rows=4"])


def test_listed_values_can_be_assigned() -> None:
    fields = {field.name: field.value for field in settable(GrpoConfig, FIXED)}
    assert (fields["updates"], fields["lora"], fields["lora.rank"]) == (100, None, 8)
    assert fields["sft_mix.data_path"] == fields["verifiable.data_path"] == NEEDED
    assert not fields.keys() & set(FIXED)
    words = [
        f"{name}={word(value)}"
        for name, value in fields.items()
        if name.partition(".")[0] not in ("lora", "sft_mix", "verifiable", "rollout_server")
    ]
    assert assigned(a_grpo(), words, FIXED) == a_grpo()


def test_an_empty_value_is_an_empty_tuple() -> None:
    nothing = {field.name: field.value for field in settable(PretrainConfig)}["samples.prompts"]
    assert word(nothing) == ""
    assert assigned(SampleConfig(("The",)), [f"prompts={word(nothing)}"]) == SampleConfig(())


CONFIGS = [*(stage.config for stage in STAGES.values()), PretrainConfig]


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_field_of_a_help_is_explained_in_a_line(kind: type) -> None:
    for field in settable(kind, FIXED):
        assert field.explanation, (
            f"{kind.__name__}: {field.name}: missing in `Attributes:` of the docstring of its class"
        )
        assert "\n" not in field.explanation


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_explanation_belongs_to_a_field(kind: type) -> None:
    classes = [
        kind,
        *(
            one
            for field in typing.get_type_hints(kind).values()
            for one in (field, *typing.get_args(field))
        ),
    ]
    for one in filter(dataclasses.is_dataclass, classes):
        assert explained(one).keys() <= {field.name for field in dataclasses.fields(one)}, one


def test_help_shows_value_and_explanation_of_a_field() -> None:
    shown = listed(settable(SftConfig, FIXED))
    assert "  epochs = 1\n      passes over the rows, at least 1\n" in shown
    assert "  lora = none\n      low-rank adapters" in shown


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_explanation_states_the_range_of_its_field(kind: type) -> None:
    classes = [
        kind,
        *(
            one
            for field in typing.get_type_hints(kind).values()
            for one in (field, *typing.get_args(field))
        ),
    ]
    for one in filter(dataclasses.is_dataclass, classes):
        said = explained(one)
        for name, allowed in ranges_of(
            one
        ).items():  # the limit of context_tokens depends on the model
            limit = str(allowed).removesuffix(" and finite")
            assert name == "context_tokens" or name not in said or limit in said[name], (
                f"{one.__name__}.{name}: {limit}"
            )
