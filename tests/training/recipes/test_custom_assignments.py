"""Config fields from command line text."""

import dataclasses
import itertools
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.errors import refused
from training.errors import ConfigError
from training.model.config import llama_json
from training.model.lora import LoraConfig
from training.optim.config import SCHEDULES
from training.optim.optimizers import OptimizerConfig
from training.recipes.custom import commands as custom_commands
from training.recipes.custom.assignments import (
    NEEDED,
    assigned,
    explained,
    fields_named,
    listed,
    settable,
    word,
)
from training.recipes.custom.hints import ALIASES, CONVERSIONS, OTHER_LIBRARIES
from training.recipes.custom.stages import STAGES
from training.recipes.pretraining import commands as pretraining_commands
from training.runtime.context import DeviceName, Lineage
from training.runtime.ranges import Choices, rules_of
from training.stages.dpo import DpoConfig
from training.stages.grpo import GrpoConfig
from training.stages.policy_config import PolicyConfig
from training.stages.ppo import PpoConfig
from training.stages.pretrain import PretrainConfig
from training.stages.pretrain_config import SampleConfig
from training.stages.sft import SftConfig

FIXED = (*custom_commands.FIXED, *pretraining_commands.FIXED)
CONFIGS = [*(stage.config for stage in STAGES.values()), PretrainConfig]
PATH = Path("x")
PLACES: dict[Any, dict[str, Any]] = {
    kind: {
        "model_directory": PATH,
        "data_path": PATH,
        "output_directory": PATH,
        "lineage": Lineage("v"),
    }
    | ({"reward_model_directory": PATH} if issubclass(kind, PolicyConfig) else {})
    for kind in (SftConfig, DpoConfig, PpoConfig, GrpoConfig)
} | {
    PretrainConfig: {
        "tokenizer_directory": PATH,
        "shards_directory": PATH,
        "output_directory": PATH,
        "lineage": Lineage("v"),
        "model_json": llama_json(300, 32, 2, 4, 2, 64),
        "context_tokens": 64,
    }
}


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


def test_lr_is_accepted_for_learning_rate() -> None:
    config = assigned(a_grpo(), ["policy_optimizer.lr=2e-5"])
    assert config.policy_optimizer.learning_rate == 2e-5
    assert fields_named(["policy_optimizer.lr=2e-5"]) == ["policy_optimizer.learning_rate"]


@pytest.mark.parametrize(
    ("kind", "field", "meant"),
    [
        (SftConfig, "optimizer.rate", "optimizer.learning_rate"),
        (SftConfig, "optimizer.learning_rte", "optimizer.learning_rate"),
        (SftConfig, "lr", "optimizer.learning_rate"),
        (PpoConfig, "lr", "policy_optimizer.learning_rate or critic_optimizer.learning_rate"),
        (SftConfig, "epoch", "epochs"),
        (SftConfig, "rank", "lora.rank"),
        (SftConfig, "num_train_epochs", "epochs"),
        (GrpoConfig, "num_generations", "samples_per_prompt"),
        (SftConfig, "optimizer.muon_momentum", "optimizer.momentum"),
    ],
)
def test_an_unknown_field_is_refused_with_the_field_that_is_meant(
    kind: Any, field: str, meant: str
) -> None:
    with refused(ConfigError, reason="UNKNOWN") as caught:
        assigned(kind(**PLACES[kind]), [f"{field}=1"], FIXED)
    assert str(caught.value).endswith(f": unknown field; did you mean {meant}?")


def test_a_field_like_no_other_is_refused_with_a_short_list_or_the_help() -> None:
    with refused(ConfigError, field="quantum", reason="UNKNOWN") as caught:
        assigned(an_sft(), ["quantum=1"], FIXED)
    assert str(caught.value).endswith(f"known fields: {caught.value.limit}")
    with refused(ConfigError, field="quantum", reason="UNKNOWN") as caught:
        assigned(GrpoConfig(**PLACES[GrpoConfig]), ["quantum=1"], FIXED)
    assert "--help" in str(caught.value) and "lora" not in str(caught.value)
    assert "lora" in caught.value.limit


@pytest.mark.parametrize(
    ("kind", "given", "own", "numbers"),
    [
        (SftConfig, "steps", "epochs", ("steps * batch_rows", "rows")),
        (DpoConfig, "max_steps", "epochs", ("steps * batch_pairs", "rows")),
        (DpoConfig, "updates", "epochs", ("updates * batch_pairs", "rows")),
        (PretrainConfig, "epochs", "steps", ("batch_rows * context_tokens",)),
        (PretrainConfig, "updates", "steps", ("updates",)),
        (PpoConfig, "num_train_epochs", "updates", ("prompts_per_update",)),
        (GrpoConfig, "steps", "updates", ("minibatch_rows", "samples_per_prompt")),
    ],
)
def test_another_length_is_refused_with_the_own_one_and_its_conversion(
    kind: Any, given: str, own: str, numbers: tuple[str, ...]
) -> None:
    with refused(ConfigError, field=given, reason="UNKNOWN") as caught:
        assigned(kind(**PLACES[kind]), [f"{given}=3"], FIXED)
    said = str(caught.value)
    assert f"the length of this stage is {own}; {own} = " in said
    assert all(number in said for number in numbers)


def test_names_of_other_libraries_lead_to_fields() -> None:
    known = {field.name for kind in CONFIGS for field in settable(kind, FIXED)}
    assert {*itertools.chain(*OTHER_LIBRARIES.values())} <= known
    assert not OTHER_LIBRARIES.keys() & known
    words = {word for text in CONVERSIONS.values() for word in re.findall(r"\w+_\w+", text)}
    assert words <= known
    assert not ALIASES.keys() & {name.rpartition(".")[2] for name in known}


@pytest.mark.parametrize(
    ("assignment", "meant"),
    [
        ("optimizer.schedule=cosin", "cosine"),
        ("optimizer.algorithm=AdaW", "adamw"),
        ("machine.dtype=bf16", "bfloat16"),
        ("optimizer.schedule=up", None),
    ],
)
def test_an_unknown_value_is_refused_with_the_closest_one(
    assignment: str, meant: str | None
) -> None:
    with refused(ConfigError, field=assignment.partition("=")[0], reason="UNKNOWN") as caught:
        assigned(an_sft(), [assignment])
    hint = re.search(r"did you mean (.*)\?$", str(caught.value))
    assert (hint[1] if hint else None) == meant


def test_a_field_set_twice_is_refused() -> None:
    with refused(ConfigError, field="epochs", reason="DUPLICATE"):
        assigned(an_sft(), ["epochs=1", "epochs=2"])
    with refused(ConfigError, field="optimizer.learning_rate", reason="DUPLICATE"):
        assigned(an_sft(), ["optimizer.lr=1", "optimizer.learning_rate=2"])
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


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_field_of_a_help_is_explained_in_a_line(kind: type) -> None:
    for field in settable(kind, FIXED):
        assert field.explanation, (
            f"{kind.__name__}: {field.name}: missing in `Attributes:` of the docstring of its class"
        )
        assert "\n" not in field.explanation


def config_classes(kind: type) -> Iterator[Any]:
    """Yield a config class and those of its parts."""
    yield kind
    for field in typing.get_type_hints(kind).values():
        yield from filter(dataclasses.is_dataclass, (field, *typing.get_args(field)))


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_explanation_belongs_to_a_field(kind: type) -> None:
    for one in config_classes(kind):
        assert explained(one).keys() <= {field.name for field in dataclasses.fields(one)}, one


def test_help_shows_value_and_explanation_of_a_field() -> None:
    shown = listed(settable(SftConfig, FIXED))
    assert "  epochs = 1\n      passes over the rows, at least 1\n" in shown
    assert "  lora = none\n      low-rank adapters" in shown


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_explanation_states_the_range_of_its_field(kind: type) -> None:
    for one in config_classes(kind):
        said = explained(one)
        for name, rule in rules_of(one).items():
            # A device has further names, and the limit of context_tokens depends on the model.
            if name not in said or isinstance(rule, DeviceName) or name == "context_tokens":
                continue
            words = rule.names if isinstance(rule, Choices) else (str(rule),)
            missing = [word for word in words if word.removesuffix(" and finite") not in said[name]]
            assert missing == [], f"{one.__name__}.{name}"
