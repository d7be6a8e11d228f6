"""Small stage configs with simple plans."""

from pathlib import Path
from typing import Any

from training.planning.plan import PlannedStage
from training.planning.work import DataSize, PlannedConfig
from training.runtime.context import Lineage, Machine
from training.stages.dpo import DpoConfig
from training.stages.grpo import GrpoConfig
from training.stages.kto import KtoConfig
from training.stages.ppo import PpoConfig
from training.stages.pretrain import PretrainConfig
from training.stages.reward_model import RewardModelConfig
from training.stages.sft import SftConfig

DATA = DataSize(rows=1000, prompt_tokens=30, response_tokens=50)
MODEL, FILE, OUTPUT, LINEAGE, MACHINE = (
    Path("model"),
    Path("data.jsonl"),
    Path("out"),
    Lineage("out"),
    Machine(dtype="bfloat16"),
)

COMMON: dict[str, Any] = {
    "model_directory": MODEL,
    "data_path": FILE,
    "output_directory": OUTPUT,
    "lineage": LINEAGE,
    "machine": MACHINE,
}
SFT = SftConfig(**COMMON)
REWARD_MODEL = RewardModelConfig(**COMMON)
DPO = DpoConfig(**COMMON)
KTO = KtoConfig(**COMMON)
PPO = PpoConfig(reward_model_directory=Path("reward"), **COMMON)
GRPO = GrpoConfig(reward_model_directory=None, **COMMON)


def pretrain(model_json: dict[str, object]) -> PretrainConfig:
    return PretrainConfig(MODEL, FILE, OUTPUT, LINEAGE, model_json, machine=MACHINE)


def stage(config: PlannedConfig, shard: int = 1, tensor: int = 1) -> PlannedStage:
    return PlannedStage("it", config, DATA).laid_out(shard=shard, tensor=tensor)
