"""Every number in every stage's config has a range or is listed here; bounds hold on both sides."""

import copy
import dataclasses
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from tests.support.errors import refused
from training.errors import ConfigError
from training.evaluation.config import Sampling
from training.model.config import llama_json
from training.model.lora import LoraConfig
from training.optim.optimizers import OptimizerConfig
from training.parallelism.layout import Parallelism
from training.recipes.custom.assignments import assigned, settable
from training.recipes.names import RLVR_ALGORITHMS
from training.recipes.open_models.recipes import RECIPES as OPEN
from training.recipes.open_models.recipes import Places
from training.recipes.pretraining.recipe import pretraining
from training.recipes.pretraining.shapes import SHAPES
from training.recipes.pretraining.texts import Prepared
from training.recipes.rlvr.recipe import LARGE, TINY, make_config
from training.rl.advantages import KlConfig, next_beta
from training.rl.config import RewardShape
from training.rl.reference import WatchConfig
from training.rl.served import OffPolicyConfig
from training.runtime.context import Lineage, Machine
from training.runtime.ranges import Choices, Range, check_fields, rules_of
from training.serving.rollout_server import RolloutServer
from training.stages.dpo import DpoConfig
from training.stages.grpo import GrpoConfig
from training.stages.kto import KtoConfig
from training.stages.policy_config import SftMix, VerifiableMix
from training.stages.ppo import PpoConfig
from training.stages.pretrain import PretrainConfig
from training.stages.pretrain_config import SampleConfig
from training.stages.reward_model import RewardModelConfig
from training.stages.sft import SftConfig

PATH, LINEAGE = Path("x"), Lineage("x")
PLACES: dict[str, Any] = {
    "model_directory": PATH,
    "data_path": PATH,
    "output_directory": PATH,
    "lineage": LINEAGE,
}
STAGES: list[Any] = [
    PretrainConfig(PATH, PATH, PATH, LINEAGE, llama_json(300, 32, 2, 4, 2, 64)),
    *(kind(**PLACES) for kind in (SftConfig, RewardModelConfig, DpoConfig, KtoConfig)),
    *(kind(reward_model_directory=PATH, **PLACES) for kind in (PpoConfig, GrpoConfig)),
]
PARTS: list[Any] = [
    OptimizerConfig(),
    LoraConfig(),
    Machine(),
    Parallelism(),
    SampleConfig(),
    WatchConfig(),
    OffPolicyConfig(),
    KlConfig(),
    RewardShape(),
    SftMix(PATH),
    VerifiableMix(PATH),
    RolloutServer(),
    LINEAGE,
]
CONFIGS = [*STAGES, *PARTS, Sampling()]
MAY_BE_ANYTHING = {"seed"}


def ranges_of(kind: Any) -> dict[str, Range]:
    return {name: rule for name, rule in rules_of(kind).items() if isinstance(rule, Range)}


RANGED = [
    pytest.param(config, name, allowed, id=f"{type(config).__name__}.{name}")
    for config in CONFIGS
    for name, allowed in ranges_of(type(config)).items()
]


def leaves(hint: Any) -> Iterator[Any]:
    """Yield the types in a type hint."""
    yield hint
    for part in get_args(hint):
        yield from leaves(part)


def shaped(config: Any, name: str, value: float) -> Any:
    """Convert the value to the type of the field."""
    return (value, value) if isinstance(getattr(config, name), tuple) else value


def is_whole(config: Any, name: str) -> bool:
    return int in leaves(get_type_hints(type(config))[name])


def neighbour(of: float, towards: float, whole: bool) -> float:
    return of + math.copysign(1, towards) if whole else math.nextafter(of, towards)


def beyond(allowed: Range, whole: bool) -> list[float]:
    """Return the nearest values outside the range."""
    low = allowed.low if allowed.above else neighbour(allowed.low, -math.inf, whole)
    high = allowed.high if allowed.below else neighbour(allowed.high, math.inf, whole)
    outside = [low, *([high] if allowed.below or allowed.high < math.inf else [])]
    return [int(value) for value in outside] if whole else [*outside, math.nan]


def at_bounds(allowed: Range, whole: bool) -> list[float]:
    """Return the outermost values inside the range."""
    low = neighbour(allowed.low, math.inf, whole) if allowed.above else allowed.low
    high = neighbour(allowed.high, -math.inf, whole) if allowed.below else allowed.high
    return [int(low)] if whole else [low, high]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_every_number_has_a_range_or_is_listed(config: Any) -> None:
    hints = get_type_hints(type(config))
    numbers = {
        field.name
        for field in dataclasses.fields(config)
        if {int, float} & set(leaves(hints[field.name]))
    }
    assert numbers - MAY_BE_ANYTHING == set(ranges_of(type(config)))


def test_nested_configs_are_checked() -> None:
    hints = [hint for config in STAGES for hint in get_type_hints(type(config)).values()]
    parts = {part for hint in hints for part in leaves(hint) if dataclasses.is_dataclass(part)}
    assert parts == {type(part) for part in PARTS}


@pytest.mark.parametrize(("config", "name", "allowed"), RANGED)
def test_bounds_are_accepted_and_values_beyond_are_rejected_by_name(
    config: Any, name: str, allowed: Range
) -> None:
    whole = is_whole(config, name)
    for value in beyond(allowed, whole):
        with refused(ConfigError, field=name, reason="OUT_OF_RANGE", limit=str(allowed)) as caught:
            replace(config, **{name: shaped(config, name, value)})
        assert str(value) in str(caught.value)
    for value in at_bounds(allowed, whole):
        changed = copy.copy(config)  # checked alone, because other fields may not fit this value
        object.__setattr__(changed, name, shaped(config, name, value))
        check_fields(changed)


@pytest.mark.parametrize("config", STAGES, ids=lambda config: type(config).__name__)
def test_error_has_the_full_name_of_the_field(config: Any) -> None:
    looked_at = {type(part): part for part in PARTS}
    for name in (field.name for field in settable(type(config), ("lineage",))):
        *above, leaf = name.split(".")
        kinds = leaves(get_type_hints(type(config))[above[0]]) if above else iter(())
        holder = next((looked_at[kind] for kind in kinds if kind in looked_at), config)
        if (allowed := ranges_of(type(holder)).get(leaf)) is None:
            continue
        value = beyond(allowed, is_whole(holder, leaf))[0]
        text = f"{value},{value}" if isinstance(getattr(holder, leaf), tuple) else str(value)
        is_mix = above and above[0] in ("sft_mix", "verifiable")
        needed = [f"{above[0]}.data_path=x"] if is_mix else []
        with refused(ConfigError, field=name, reason="OUT_OF_RANGE", limit=str(allowed)) as caught:
            assigned(config, [*needed, f"{name}={text}"])
        assert str(value) in str(caught.value)


def test_range_is_described_in_words() -> None:
    said = [
        Range(1),
        Range(above=True),
        Range(below=True),
        Range(high=1, above=True),
        Range(high=0.5, below=True),
    ]
    assert list(map(str, said)) == [
        "at least 1",
        "above 0",
        "at least 0 and finite",
        "in (0, 1]",
        "in [0, 0.5)",
    ]


NAMED = [
    pytest.param(config, name, rule.names, id=f"{type(config).__name__}.{name}")
    for config in CONFIGS
    for name, rule in rules_of(type(config)).items()
    if isinstance(rule, Choices)
]


@pytest.mark.parametrize(("config", "name", "known"), NAMED)
def test_known_names_are_accepted_and_others_are_rejected_with_the_closest(
    config: Any, name: str, known: tuple[str, ...]
) -> None:
    is_tuple = isinstance(getattr(config, name), tuple)
    for one in known:
        value = (one,) if is_tuple else one
        assert getattr(replace(config, **{name: value}), name) == value
    wrong = f"{known[-1]}x"
    with refused(ConfigError, field=name, reason="UNKNOWN", limit=", ".join(known)) as caught:
        replace(config, **{name: (known[0], wrong) if is_tuple else wrong})
    assert str(caught.value).endswith(f"did you mean {known[-1]}?")


def test_beta_stays_above_0_for_any_measurement() -> None:
    ppo = next(config for config in STAGES if isinstance(config, PpoConfig))
    rows = ppo.rows_per_update
    least = rows // 5 + 1
    for measured in (0.0, 1e-9, 4.9, 5.0, 1e9):
        kl = replace(ppo, kl=KlConfig(target_nats=5.0, horizon_samples=least)).kl
        assert next_beta(0.05, measured, rows, kl) > 0
    with refused(ConfigError, field="kl.horizon_samples", reason="TOO_SMALL", limit="above 6.4"):
        replace(ppo, kl=KlConfig(target_nats=5.0, horizon_samples=least - 1))
    replace(ppo, kl=KlConfig(horizon_samples=1))  # beta is fixed
    with refused(ConfigError, field="initial", reason="CONFLICT"):
        KlConfig(initial=0.0, target_nats=5.0)


def test_every_recipe_is_within_its_ranges() -> None:
    assert all(recipe(Places()).stages for recipe in OPEN.values())
    for shape in SHAPES.values():
        pretraining(shape, Prepared(PATH, PATH, shape.vocabulary, ""), 100, "float32", PATH, "")
    for algorithm in RLVR_ALGORITHMS:
        for size in (LARGE, TINY):
            make_config(algorithm, size, 1e-4, PLACES)
