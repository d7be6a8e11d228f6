"""Recipe `auto`: any supported model on any hardware fits, or is refused with what would fit."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.errors import refused
from tests.training.model.hub_configs import LLAMA_3_2_1B
from training.__main__ import main
from training.errors import ConfigError
from training.parallelism.layout import Parallelism
from training.planning.accelerators import GIB, accelerator_named, cpu
from training.planning.collected import ASSUMED, Lengths
from training.planning.hardware import Hardware, named_hardware
from training.planning.memory import MemoryKind
from training.planning.plan import PlannedStage, estimate_stage
from training.planning.serving import serving_bytes
from training.planning.work import DataSize
from training.recipes.auto import rates
from training.recipes.auto.model import read_model
from training.recipes.auto.recipe import Derived, advise, auto, derive, first_fit
from training.recipes.auto.run_plan import require_vllm
from training.recipes.auto.values import training_modes
from training.recipes.open_models.recipes import shape
from training.recipes.recipe import LoopConfig, Plan
from training.recipes.small import small
from training.runtime.context import Machine
from training.serving.rollout_server import RolloutServer

PAGE = Path(__file__).parents[3] / "docs" / "training.md"
MODELS = (
    *("qwen3-0.6b", "qwen3-4b", "qwen3-8b", "qwen3-32b", "qwen2.5-7b"),
    *("llama-3.2-1b", "llama-3.1-8b", "llama-3.1-70b"),
    *("gemma-3-270m", "gemma-3-1b", "gemma-3-4b", "gemma-3-27b"),
)
L4, H100S = Hardware(accelerator_named("l4")), Hardware(accelerator_named("h100"), 8)
# As --accelerator cpu --cores 2 --memory-gib 16: a CPU that may lack fast products in bf16.
CORES = named_hardware("cpu", cores=2, memory_gib=16.0)
MACHINES = {"1 x 24 GB (l4)": L4, "8 x 80 GB (h100)": H100S, "2 cores, 16 GiB": CORES}
HEAD = f"| model | {' | '.join(MACHINES)} |"


def plan(hardware: Hardware, *assignments: str, **more: Any) -> Plan:
    return Plan("auto-1", Path("runs"), Path("models/it"), hardware, ASSUMED, assignments, **more)


def config_of(name: str, hardware: Hardware, *assignments: str, **more: Any) -> LoopConfig:
    return derive(plan(hardware, *assignments, **more), shape(name)).config


def cell(name: str, hardware: Hardware) -> str:
    """Return a cell of the table in docs/training.md."""
    found = first_fit(plan(hardware), shape(name), ASSUMED, hardware)
    if isinstance(found, Derived):
        peak = max(stage.memory.bytes for stage in found.planned.stages) / 2**30
        assert peak * 2**30 <= hardware.accelerator.usable_bytes
        mode = str(found.mode).replace(" of rank 16", "").replace(" of the vocabulary", "")
        return f"{mode}: {peak:.0f} GiB, {found.planned.hours:.1f} h"
    assert found.lacking > 1
    what = "time" if found.fits_memory else "memory"
    remedy = advise(plan(hardware), shape(name), ASSUMED, hardware)
    remedy = re.sub(
        r"fewer tokens, --set \S+=(\d+) --set \S+=(\d+)", r"\1 + \2 tokens", remedy
    ).partition(": ")[-1 if remedy.startswith("Would fit: ") else 0]
    part = found.text.split(": ")[1].split()[0]
    reason = what if found.fits_memory else f"{what}, {part}"
    return f"**no**: {found.lacking:.1f} x the {reason}. {remedy}"


def test_every_model_fits_or_is_refused_with_a_reason_as_the_page_says() -> None:
    rows = [
        HEAD,
        f"|{'---|' * (len(MACHINES) + 1)}",
        *(
            f"| {name} | {' | '.join(cell(name, hardware) for hardware in MACHINES.values())} |"
            for name in MODELS
        ),
    ]
    table = "\n".join(rows)
    assert table in PAGE.read_text(), f"docs/training.md must contain\n{table}"


def test_a_refusal_names_the_part_and_the_smallest_changes_that_fit() -> None:
    with pytest.raises(ConfigError) as caught:
        config_of("qwen3-8b", L4)
    assert (caught.value.reason, caught.value.limit) == ("TOO_LARGE", "19.8 GiB")
    text = str(caught.value)
    assert caught.value.field == "evaluation"
    assert "frozen weights" in text
    words = re.findall(r"--set (\S+=\d+)", text)
    assert [word.split("=")[0] for word in words] == [
        "ppo.max_prompt_tokens",
        "ppo.max_response_tokens",
    ]
    # Each piece of advice is followed.
    assert config_of("qwen3-8b", L4, *words).sft.max_tokens == sum(
        int(word.split("=")[1]) for word in words
    )
    machines = re.findall(r"or (\d+) x (l40s|l4)", text)
    assert machines == [("2", "l4"), ("1", "l40s")]
    for count, name in machines:
        config_of("qwen3-8b", Hardware(accelerator_named(name), int(count)))


def test_a_model_of_any_size_is_refused_where_nothing_listed_fits() -> None:
    with refused(ConfigError, field="evaluation", reason="TOO_LARGE", limit="19.8 GiB"):
        config_of("llama-3.1-70b", L4)


def test_vllm_samples_if_the_model_is_too_large_for_a_gpu() -> None:
    """It gets the memory that training leaves, and the comparison of versions several GPUs."""
    derived = derive(plan(H100S), shape("llama-3.1-70b"))
    ppo, evaluation = derived.config.ppo, derived.config.evaluation
    assert ppo.rollout_server is not None and ppo.rollout_server.gpu_memory is not None
    assert ppo.rollout_server.gpus == tuple(range(8))
    assert ppo.importance_cap == 2.0
    assert evaluation.devices == 3
    (stage,) = (stage for stage in derived.planned.stages if stage.name == "ppo")
    served = sum(part.bytes for part in stage.memory.parts if part.name is MemoryKind.SERVER)
    card = H100S.accelerator
    assert served / GIB == pytest.approx(ppo.rollout_server.gpu_memory * card.memory_gib)
    window = ppo.max_prompt_tokens + ppo.max_response_tokens
    assert served >= serving_bytes(shape("llama-3.1-70b"), window, 1, gpus=8)
    assert stage.start_seconds > 75
    assert "0.26 of the memory of each (--gpu-memory-utilization)" in derived.text()
    # The chosen values are those of a run with the fields assigned.
    words = ("ppo.rollout_server.gpus=0,1,2,3,4,5,6,7", "ppo.importance_cap=2")
    assert config_of("llama-3.1-70b", H100S, *words).ppo == ppo
    elsewhere = config_of("llama-3.1-70b", H100S, "ppo.rollout_server.python=/opt/vllm/bin/python")
    assert elsewhere.ppo.rollout_server is not None
    assert elsewhere.ppo.rollout_server.gpus == ppo.rollout_server.gpus
    # Without a server every worker would need the whole model.
    assert derive(plan(H100S), shape("qwen3-8b")).config.ppo.rollout_server is None


def test_a_server_on_the_only_gpu_is_planned_or_refused() -> None:
    """A model of 0.6B leaves room for a server beside its training, one of 4B does not."""
    server = "ppo.rollout_server.engine=vllm"
    ppo = config_of("qwen3-0.6b", L4, server).ppo
    assert ppo.rollout_server is not None and ppo.rollout_server.gpu_memory is not None
    with refused(ConfigError, field="ppo", reason="TOO_LARGE") as caught:
        config_of("qwen3-4b", L4, server)
    assert "rollout server" in str(caught.value)
    with refused(ConfigError, field="ppo.rollout_server.gpu_memory", reason="TOO_LARGE"):
        config_of("qwen3-0.6b", L4, "ppo.rollout_server.gpu_memory=0.05")
    # With a GPU of its own it takes nothing from training.
    own = replace(L4, count=1)
    assert config_of("qwen3-4b", own, "ppo.rollout_server.gpus=1").ppo.rollout_server is not None


def test_a_planned_server_needs_vllm_before_training_starts() -> None:
    with refused(ConfigError, field="ppo.rollout_server.python", reason="MISSING"):
        require_vllm(RolloutServer())
    require_vllm(RolloutServer(python=Path("/opt/vllm/bin/python")))
    require_vllm(RolloutServer(address="http://127.0.0.1:8000"))
    require_vllm(None)


def test_time_reduces_the_updates_down_to_those_that_were_measured() -> None:
    usual = config_of("gemma-3-270m", CORES, "ppo.max_response_tokens=128", max_hours=1000.0)
    assert usual.ppo.updates * usual.ppo.prompts_per_update == 960
    hours = derive(
        plan(CORES, "ppo.max_response_tokens=128", max_hours=1000.0), shape("gemma-3-270m")
    ).planned.hours
    fewer = derive(
        plan(CORES, "ppo.max_response_tokens=128", max_hours=0.9 * hours), shape("gemma-3-270m")
    )
    assert 640 <= fewer.config.ppo.updates * fewer.config.ppo.prompts_per_update < 960
    assert fewer.planned.hours <= 0.9 * hours
    with refused(ConfigError, field="max_hours", reason="TOO_LARGE"):
        config_of("gemma-3-270m", CORES, "ppo.max_response_tokens=128", max_hours=0.1 * hours)
    with refused(ConfigError, field="max_hours", reason="TOO_LARGE"):
        config_of(
            "gemma-3-270m",
            CORES,
            "ppo.max_response_tokens=128",
            "ppo.updates=60",
            max_hours=0.9 * hours,
        )


def test_few_assigned_prompts_are_kept_or_refused_by_name() -> None:
    few = ("ppo.prompts_per_update=4", "ppo.minibatch_rows=4", "ppo.updates=2")
    words = ("ppo.max_response_tokens=128", *few)
    ppo = config_of("gemma-3-270m", CORES, *words).ppo
    assert (ppo.prompts_per_update, ppo.minibatch_rows, ppo.updates) == (4, 4, 2)
    with refused(ConfigError, field="ppo.minibatch_rows", limit="a multiple of 8"):
        config_of("gemma-3-270m", H100S, *few)


def test_assigned_fields_are_kept_and_planned() -> None:
    words = ["ppo.max_response_tokens=256", "sft.microbatch_rows=1", "sft.parallelism.shard=8"]
    words += ["ppo.prompts_per_update=32", "ppo.minibatch_rows=16", "ppo.updates=7"]
    found = derive(plan(H100S, *words), shape("qwen3-8b"))
    config = found.config
    assert config.sft.parallelism == Parallelism(shard=8)
    assert config.sft.microbatch_rows == 1
    assert (config.ppo.prompts_per_update, config.ppo.minibatch_rows, config.ppo.updates) == (
        32,
        16,
        7,
    )
    # Limits of PPO are those of all stages.
    assert config.evaluation.sampling.max_response_tokens == 256
    assert config.sft.max_tokens == config.judge.max_tokens == 2048 + 256
    for stage in found.planned.stages:
        if stage.name != "evaluation":
            planned = PlannedStage(stage.name, getattr(config, stage.name), DataSize(1, 1, 1))
            assert stage.layout.parallelism == planned.config.parallelism
    assert found.planned.stages[3].work.steps == 7
    full = config_of("qwen3-0.6b", H100S, "ppo.lora=none")
    assert {getattr(full, stage).lora for stage in STAGES} == {None}
    adapted = config_of("qwen3-0.6b", H100S, "ppo.lora.rank=4", "sft.lora.targets=q_proj")
    ranks = {stage: getattr(adapted, stage).lora.rank for stage in STAGES}
    assert set(ranks.values()) == {4}
    assert adapted.sft.lora is not None
    assert adapted.sft.lora.targets == ("q_proj",)
    with refused(ConfigError, field="ppo.update", reason="UNKNOWN"):
        config_of("qwen3-8b", H100S, "ppo.update=7")
    with refused(ConfigError, field="ppo.max_response_tokens", reason="OUT_OF_RANGE"):
        config_of("qwen3-8b", H100S, "ppo.max_response_tokens=0")


STAGES = ("sft", "reward_model", "judge", "ppo")


def test_limits_hold_the_texts_within_the_served_answers_and_the_positions() -> None:
    def limits(prompt: int, response: int, name: str = "qwen3-0.6b") -> tuple[int, int]:
        data = replace(
            ASSUMED, prompt=Lengths(prompt / 3, prompt), response=Lengths(response / 3, response)
        )
        made = derive(replace(plan(H100S), data=data), shape(name)).config
        assert made.reward_model.max_tokens == (
            made.ppo.max_prompt_tokens + made.ppo.max_response_tokens
        )
        return made.ppo.max_prompt_tokens, made.ppo.max_response_tokens

    assert limits(10, 5) == (64, 64)
    assert limits(3001, 1500) == (3008, 1536)
    assert limits(2000, 5000)[1] == 4096  # the longest answer that is served


def test_batches_suit_the_data_and_every_number_of_workers() -> None:
    def rows(examples: int, hardware: Hardware = H100S) -> int:
        data = replace(ASSUMED, sft_examples=examples)
        return derive(replace(plan(hardware), data=data), shape("qwen3-0.6b")).config.sft.batch_rows

    assert [rows(count) for count in (10, 500, 1000, 100_000)] == [8, 16, 32, 64]
    elastic = replace(H100S, count=4, fewest=2)
    config = config_of("qwen3-0.6b", elastic)
    assert list(config.group.sizes) == [2, 3, 4]
    assert config.sft.parallelism == Parallelism()  # a part of a model divides 2 and 3
    assert config.sft.batch_rows % 12 == config.ppo.minibatch_rows % 12 == 0


def test_adapters_or_all_weights_follow_from_the_size_and_the_data() -> None:
    def first(name: str, examples: int, hardware: Hardware = H100S) -> str:
        data = replace(ASSUMED, sft_examples=examples)
        return str(next(iter(training_modes(plan(hardware), shape(name), data, hardware))))

    assert first("qwen3-8b", 1000) == "LoRA of rank 16"
    assert first("qwen3-8b", 10_000_000) == "full training"  # more than an adapter holds
    assert first("gemma-3-270m", 1000, CORES) == "LoRA of rank 16, 32,768 rows of the vocabulary"
    nano = read_model(Path("models/nano"))
    assert str(next(iter(training_modes(plan(CORES), nano, ASSUMED, CORES)))) == "full training"
    # 30,000 ids leave no room for control tokens in 32,768 rows.
    more = replace(ASSUMED, distinct_ids=30_000)
    modes = training_modes(plan(H100S), shape("qwen3-8b"), more, H100S)
    assert {mode.vocabulary_rows for mode in modes} == {None, 65_536}
    many = replace(ASSUMED, distinct_ids=70_000)
    assert {
        mode.vocabulary_rows for mode in training_modes(plan(H100S), shape("qwen3-8b"), many, H100S)
    } == {
        None,
        131_072,
    }


def test_rates_agree_with_measured_and_published_ones() -> None:
    laws = (rates.SFT, rates.REWARD_MODEL, rates.POLICY, rates.CRITIC)
    for law in laws:
        assert law.at(850_000, adapted=False) == law.nano
        assert law.at(int(law.weights), adapted=False) == law.published
        assert law.at(10**9, adapted=True) == pytest.approx(10 * law.at(10**9, adapted=False))
    # Not fitted: 70B of Tulu 3 (arXiv 2411.15124), and our LoRA on 270M within a factor of 3.
    assert rates.SFT.at(70_000_000_000, adapted=False) == pytest.approx(2e-6, rel=0.2)
    config = small(plan(CORES))
    optimizers = (
        config.sft.optimizer,
        config.reward_model.optimizer,
        config.ppo.policy_optimizer,
        config.ppo.critic_optimizer,
    )
    for law, optimizer in zip(laws, optimizers, strict=True):
        ratio = law.at(268_000_000, adapted=True) / optimizer.learning_rate
        assert abs(math.log(ratio)) < math.log(3)


def test_the_plan_of_a_cpu_agrees_with_a_measured_run() -> None:
    """PPO of small took 17.3 minutes without other load (docs/demo.md)."""
    config = small(plan(CORES)).ppo
    narrow = replace(config, machine=replace(config.machine, dtype="bfloat16"))
    stage = PlannedStage("ppo", narrow, DataSize(100, 40, 40, mix_tokens=60))
    planned = estimate_stage(stage, shape("gemma-3-270m"), 1, CORES.accelerator)
    assert 0.5 < planned.hours * 60 / 17.3 < 2


QUANTISED: Mapping[str, dict[str, Any]] = {
    "Qwen3-8B-AWQ": {"quantization_config": {"quant_method": "awq", "bits": 4}},
    "Qwen3-8B-GPTQ-Int4": {"quantization_config": {"quant_method": "gptq"}},
    "Qwen3-8B-FP8": {"quantization_config": {"quant_method": "fp8"}},
}


@pytest.mark.parametrize("name", QUANTISED)
def test_quantised_weights_are_refused_with_the_name_of_the_plain_model(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        read_model(written(tmp_path / name, LLAMA_3_2_1B | QUANTISED[name]))
    assert (caught.value.field, caught.value.reason) == ("quantization_config", "UNSUPPORTED")
    assert "train the model" in str(caught.value)
    assert "Qwen3-8B in bf16" in str(caught.value)


@pytest.mark.parametrize("family", ["gpt2", "gemma3", "mixtral"])
def test_other_families_are_refused(family: str, tmp_path: Path) -> None:
    directory = written(tmp_path / "it", LLAMA_3_2_1B | {"model_type": family})
    with refused(ConfigError, field="model_type", reason="UNSUPPORTED"):
        auto(Plan("auto-1", tmp_path, directory, CORES))


def written(directory: Path, config: dict[str, Any]) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def test_a_model_directory_gives_a_complete_configuration(tmp_path: Path) -> None:
    directory = written(tmp_path / "llama", LLAMA_3_2_1B)
    config = auto(Plan("auto-1", tmp_path, directory, CORES))
    assert config.ppo.lora is None
    assert config.ppo.output_directory == tmp_path / "auto-1"
    assert config.evaluation.incumbent_directory == directory
    # One core, on which a tiny model is planned too.
    assert config.sft.machine == Machine(threads=1)
    seconds = [
        derive(plan(Hardware(cpu(cores, 16.0))), read_model(directory)).planned.hours
        for cores in (1, 2)
    ]
    assert seconds[0] == seconds[1]
    with refused(ConfigError, field="hardware", reason="EMPTY"):
        auto(Plan("auto-1", tmp_path, directory))


def test_the_command_prints_choices_memory_and_time(capsys: pytest.CaptureFixture[str]) -> None:
    def printed(*words: str) -> str:
        assert main(["plan", "--recipe", "auto", *words]) == 0
        return capsys.readouterr().out

    text = printed("--model", "qwen3-8b", "--accelerator", "h100", "--gpus", "8")
    assert text.startswith("LoRA of rank 16; assumed data")
    assert "auto on 8 x h100, 71.1 GiB of each usable" in text
    assert re.search(r"^evaluation +1 +1 +1 ", text, re.MULTILINE)
    cores = ["--accelerator", "cpu", "--cores", "2", "--memory-gib", "16"]
    text = printed("--model", "gemma-3-270m", *cores, "--set", "ppo.updates=20")
    assert "Memory of one process" in text
    assert "GPU" not in text
    assert "20 updates of 16 prompts" in text
    found = json.loads(printed("--model", "models/nano", *cores, "--json"))
    assert [stage["stage"] for stage in found["stages"]] == [*STAGES, "evaluation"]


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (["--recipe", "auto"], "model"),
        (["--recipe", "auto", "--model", "nowhere"], "nowhere"),
        (["--recipe", "auto", "--model", "qwen3-8b", "--accelerator", "tpu"], "accelerator"),
        (
            ["--recipe", "auto", "--model", "qwen3-8b", "--accelerator", "h100", "--gpus", "0"],
            "gpus",
        ),
        (
            ["--recipe", "auto", "--model", "qwen3-8b", "--accelerator", "h100", "--cores", "2"],
            "cores",
        ),
        (
            ["--recipe", "auto", "--model", "qwen3-8b", "--accelerator", "cpu", "--memory-gib=-1"],
            "memory-gib",
        ),
        (["--recipe", "qwen3-8b-grpo", "--cores", "2"], "cores"),
    ],
)
def test_invalid_words_are_refused_in_one_line(
    words: list[str], field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *words]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert field in line
