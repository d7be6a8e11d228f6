"""A stage is refused if rows may exceed the positions of its model.

Learned positions would fail in the middle of the run; rotated ones would be trained outside their
range.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.errors import refused
from tests.training.toys import toy_model
from training.data.chat import load_chat
from training.data.tensors import TokenisedExample
from training.errors import ConfigError
from training.model.checkpoint import read_config, save_decoder
from training.model.config import gpt2_json, llama_json, parse_config
from training.model.transformer import Decoder, initialise
from training.rl.reference import WatchConfig
from training.runtime.context import Lineage
from training.stages import dpo, kto, policy_inputs, reward_model, sft
from training.stages.dpo import DpoConfig
from training.stages.grpo import GrpoConfig
from training.stages.kto import KtoConfig
from training.stages.policy_inputs import check_scorers
from training.stages.ppo import PpoConfig
from training.stages.preference_loop import watched_prompts
from training.stages.reward_model import RewardModelConfig
from training.stages.sft import SftConfig

POSITIONS = 40
READERS: dict[type, Callable[[Any, Any], object]] = {
    SftConfig: sft.read_examples,
    RewardModelConfig: reward_model.read_data,
    DpoConfig: dpo.read_data,
    KtoConfig: kto.read_data,
}


@pytest.fixture(params=["gpt2", "llama"])
def short_model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    first = toy_model(tmp_path / "first")
    rows = read_config(first).vocab_size
    shapes = {
        "gpt2": gpt2_json(rows, 32, 1, 4, max_positions=POSITIONS),
        "llama": llama_json(rows, 32, 1, 4, 2, 64) | {"max_position_embeddings": POSITIONS},
    }
    decoder = Decoder(parse_config(shapes[request.param]))
    initialise(decoder, 1)
    save_decoder(decoder, tmp_path / "short", companions_from=first)
    return tmp_path / "short"


@pytest.mark.parametrize("kind", READERS, ids=lambda kind: kind.__name__)
def test_rows_may_not_be_longer_than_the_positions(
    kind: Any, short_model: Path, tmp_path: Path
) -> None:
    config = kind(
        model_directory=short_model,
        data_path=tmp_path / "nowhere.jsonl",
        output_directory=tmp_path / "out",
        lineage=Lineage("out"),
        max_tokens=POSITIONS + 1,
    )
    with refused(ConfigError, field="max_tokens", reason="TOO_LARGE", limit="at most 40") as caught:
        READERS[kind](config, load_chat(short_model))
    assert "short" in str(caught.value)
    with pytest.raises(FileNotFoundError):  # the exact number of positions is allowed
        READERS[kind](replace(config, max_tokens=POSITIONS), load_chat(short_model))


@pytest.mark.parametrize("kind", [PpoConfig, GrpoConfig])
def test_prompt_and_response_together_may_not_be_longer_than_the_positions(
    kind: Any, short_model: Path, tmp_path: Path
) -> None:
    config = kind(
        model_directory=short_model,
        reward_model_directory=None,
        data_path=tmp_path / "nowhere.jsonl",
        output_directory=tmp_path / "out",
        lineage=Lineage("out"),
        max_prompt_tokens=30,
    )
    fits, too_long = (replace(config, max_response_tokens=tokens) for tokens in (10, 11))
    both = {
        "field": "max_prompt_tokens + max_response_tokens",
        "reason": "TOO_LARGE",
        "limit": "at most 40",
    }
    with refused(ConfigError, **both):
        policy_inputs.read_data(too_long, load_chat(short_model))
    with pytest.raises(FileNotFoundError):
        policy_inputs.read_data(fits, load_chat(short_model))
    judged = replace(
        too_long, model_directory=tmp_path / "first", reward_model_directory=short_model
    )
    for config in (
        judged,
        replace(judged, judge_directory=short_model, judge_base_directory=tmp_path / "first"),
        replace(judged, judge_directory=tmp_path / "first", judge_base_directory=short_model),
    ):
        with refused(ConfigError, **both) as caught:
            check_scorers(config, None)
        assert "short" in str(caught.value)
    check_scorers(replace(judged, max_response_tokens=10), None)


def test_watched_prompts_have_positions_left_for_a_response() -> None:
    short, long = ((7,) * 28, (7,) * 29)
    pairs = [
        dpo.Pair(*2 * (TokenisedExample(prompt, (9,)),)) for prompt in (long, short, (8, 8), short)
    ]
    config = WatchConfig(prompts=3, max_response_tokens=12)
    assert watched_prompts(dpo.Pairs([], pairs, (9,)), config, POSITIONS) == [short, (8, 8)]
    with refused(ConfigError, field="watch.max_response_tokens", reason="TOO_LARGE"):
        watched_prompts(dpo.Pairs([], pairs[:1], (9,)), config, POSITIONS)
