"""Work of each stage, derived from its config."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.errors import refused
from tests.training.planning.stages import DATA, DPO, GRPO, KTO, PPO, REWARD_MODEL, SFT, pretrain
from training.errors import ConfigError
from training.model.config import llama_json, parse_config
from training.model.lora import LoraConfig
from training.optim.optimizers import OptimizerConfig
from training.parallelism.layout import Parallelism
from training.planning.layout import Layout
from training.planning.step import Pass, Role, Sampled, Shared, Work, adapter_size, sizes_of
from training.planning.work import DataSize, PlannedConfig, work_of
from training.runtime.context import Machine
from training.stages.grpo import GrpoConfig
from training.stages.policy_config import SftMix
from training.stages.ppo import PpoConfig

MODEL = parse_config(llama_json(1000, 64, 2, 4, 2, 128))
WHOLE, LORA = sizes_of(MODEL).total, LoraConfig(rank=2)
ALONE, EIGHT = Layout(1, Parallelism()), Layout(8, Parallelism(shard=4))


def work(config: PlannedConfig, layout: Layout = ALONE, data: DataSize = DATA) -> Work:
    return work_of(config, data, MODEL, layout)


def roles(config: PlannedConfig) -> dict[str, Role]:
    return {network.name: network.role for network in work(config).networks}


def test_each_stage_has_its_networks() -> None:
    learns, frozen = Role.LEARNS, Role.FROZEN
    assert roles(pretrain(llama_json(1000, 64, 2, 4, 2, 128))) == {"model": learns}
    assert roles(SFT) == {"policy": learns}
    assert roles(REWARD_MODEL) == {"reward": learns}
    assert roles(DPO) == roles(KTO) == {"policy": learns, "reference": frozen}
    assert roles(PPO) == {"policy": learns, "critic": learns, "reference": frozen, "reward": frozen}
    assert roles(GRPO) == {"policy": learns, "reference": frozen}
    assert roles(replace(GRPO, kl_coefficient=0.0, kl_ceiling_nats=None)) == {"policy": learns}
    judged = replace(GRPO, judge_directory=Path("judge"), judge_base_directory=Path("base"))
    assert roles(judged) == {"policy": learns, "reference": frozen, "judge": frozen}


def test_with_lora_networks_share_one_frozen_decoder() -> None:
    adapter = Role.ADAPTER
    assert roles(replace(DPO, lora=LORA)) == {"base": Role.FROZEN, "policy": adapter}
    assert roles(replace(PPO, lora=LORA)) == {
        "base": Role.FROZEN,
        "policy": adapter,
        "critic": adapter,
    }
    found = {network.name: network.weights for network in work(replace(SFT, lora=LORA)).networks}
    assert found == {"base": WHOLE, "policy": adapter_size(MODEL, LORA)}
    judged = replace(
        PPO, lora=LORA, judge_directory=Path("judge"), judge_base_directory=Path("base")
    )
    assert roles(judged)["judge"] is Role.FROZEN


def test_sft_has_microbatches_and_logits_of_responses() -> None:
    found = work(replace(SFT, batch_rows=32, microbatch_rows=3, epochs=2), EIGHT)
    assert found.passes == (Pass("policy", True, 2, 3, 80, 512, 50, 512),)
    assert found.steps == -(-2 * 950 // 32)  # 5 % of rows are held out
    assert found.narrow


def test_reward_model_processes_both_responses_without_logits() -> None:
    assert work(REWARD_MODEL).passes == (Pass("reward", True, 4, 8, 80, 512),)


def test_reference_has_the_passes_of_the_policy_and_kto_mismatched_ones() -> None:
    policy = Pass("policy", True, 4, 8, 80, 512, 50, 512)
    assert work(DPO).passes == (policy, replace(policy, network="reference", learns=False))
    read = [(made.network, made.learns) for made in work(KTO).passes]
    assert read == [("policy", True), ("reference", False), ("policy", False), ("reference", False)]


def test_ppo_samples_scores_and_trains_two_networks() -> None:
    config = replace(
        PPO, prompts_per_update=64, minibatch_rows=16, epochs_per_update=3, max_response_tokens=60
    )
    found = work(config, EIGHT)
    assert found.sampled == Sampled(rows=8, prompts=8, prompt_tokens=256, response_tokens=60)
    one = Pass("policy", False, 4, 2, 80, 316, 50, 60)
    plain = replace(one, logits=0.0, most_logits=0)
    assert found.passes[:4] == (
        one,
        replace(plain, network="critic"),
        replace(one, network="reference"),
        replace(plain, network="reward"),
    )
    assert found.passes[4:] == (
        replace(one, learns=True, times=12),
        replace(plain, network="critic", learns=True, times=12),
    )
    assert (found.steps, found.optimizer_steps, found.tokens) == (100, 12, 8 * 80)


def test_grpo_processes_the_prompt_of_a_group_once() -> None:
    found = work(replace(GRPO, max_response_tokens=60))
    assert found.sampled == Sampled(rows=32 * 16, prompts=32, prompt_tokens=256, response_tokens=60)


def test_log_prob_passes_share_prompts_of_a_group() -> None:
    """Use minibatches of 64 rows from 32 groups of 16.

    In order they contain 4 prompts, in random order nearly all 32.
    """
    found = work(replace(GRPO, reward_model_directory=Path("reward"), max_response_tokens=60))
    policy, reference, reward, learning = found.passes
    assert policy.shared == reference.shared == Shared(4, 30)
    assert policy.read_tokens == 4 * 30 + 64 * 50
    assert (reward.shared, reward.read_tokens) == (None, 64 * 80)
    assert learning.shared is not None
    assert 27 < learning.shared.prompts < 32
    assert all(made.shared is None for made in work(PPO).passes)  # one response to a prompt


@pytest.mark.parametrize(
    ("config", "others"), [(GRPO, ["reference"]), (PPO, ["critic", "reference", "reward"])]
)
def test_one_step_update_uses_the_training_pass_for_scoring(
    config: GrpoConfig | PpoConfig, others: list[str]
) -> None:
    one = replace(config, epochs_per_update=1, minibatch_rows=config.rows_per_update)
    made = work(one).passes
    assert [each.network for each in made if not each.learns] == others
    assert [each.network for each in made if each.learns] == [
        "policy",
        *(["critic"] if config is PPO else []),
    ]
    assert work(replace(one, epochs_per_update=2)).passes[0].network == "policy"


def test_mixed_in_examples_add_a_training_pass() -> None:
    mixed = replace(GRPO, max_response_tokens=60, sft_mix=SftMix(Path("mix.jsonl"), rows=8))
    last = work(mixed).passes[-1]
    assert (last.network, last.learns, last.rows, last.tokens, last.most_logits) == (
        "policy",
        True,
        8,
        316,
        316,
    )


def test_pre_training_has_full_rows_and_its_own_shape() -> None:
    config = replace(pretrain(llama_json(1000, 64, 2, 4, 2, 128)), checkpoint_activations=True)
    found = work_of(config, DataSize(), MODEL, EIGHT)
    assert found.passes == (Pass("model", True, 1, 4, 128, 128, 128, 128),)
    assert found.recomputed
    muon = replace(SFT, optimizer=OptimizerConfig(algorithm="muon"))
    assert work(muon).optimizer_numbers == (1, 2)


@pytest.mark.parametrize("config", [SFT, REWARD_MODEL, DPO, KTO, PPO, GRPO])
def test_recomputation_disables_shared_prompts(
    config: PlannedConfig,
) -> None:
    kept, recomputed = work(config), work(replace(config, checkpoint_activations=True))
    assert (kept.recomputed, recomputed.recomputed) == (False, True)
    assert [made.learns for made in kept.passes] == [made.learns for made in recomputed.passes]
    assert all(made.shared is None for made in recomputed.passes)


def test_trimmed_vocabulary_is_planned_with_its_rows() -> None:
    assert work(replace(SFT, lora=LORA, vocabulary_rows=500)).model.vocab_size == 500
    assert work(replace(SFT, lora=LORA, vocabulary_rows=5000)).model.vocab_size == 1000


def test_auto_dtype_is_planned_as_bf16() -> None:
    assert not work(replace(SFT, machine=Machine(dtype="float32"))).narrow
    assert work(replace(SFT, machine=Machine(dtype="auto"))).narrow


def test_indivisible_rows_are_rejected_like_in_the_stage() -> None:
    for config, name in (
        (replace(SFT, batch_rows=12), "batch_rows"),
        (replace(REWARD_MODEL, batch_pairs=12), "batch_pairs"),
        (replace(DPO, batch_pairs=12), "batch_pairs"),
        (replace(KTO, batch_rows=12), "batch_rows"),
        (replace(PPO, minibatch_rows=4), "minibatch_rows"),
    ):
        with refused(ConfigError, field=name, reason="OUT_OF_RANGE", limit="a multiple of 8"):
            work(config, EIGHT)


def test_impossible_data_is_rejected() -> None:
    with refused(ConfigError, field="data", reason="EMPTY", limit="above 0"):
        work(SFT, data=DataSize())
    with refused(ConfigError, field="data", reason="TOO_LARGE", limit="512"):
        work(SFT, data=DataSize(10, 300, 300))
