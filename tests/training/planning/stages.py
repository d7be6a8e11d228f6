"""Small stage configs with simple plans."""

from pathlib import Path

from training.planning.plan import PlannedStage
from training.planning.work import DataSize, StageConfig
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

SFT = SftConfig(MODEL, FILE, OUTPUT, LINEAGE, machine=MACHINE)
REWARD_MODEL = RewardModelConfig(MODEL, FILE, OUTPUT, LINEAGE, machine=MACHINE)
DPO = DpoConfig(MODEL, FILE, OUTPUT, LINEAGE, machine=MACHINE)
KTO = KtoConfig(MODEL, FILE, OUTPUT, LINEAGE, machine=MACHINE)
PPO = PpoConfig(MODEL, Path("reward"), FILE, OUTPUT, LINEAGE, machine=MACHINE)
GRPO = GrpoConfig(MODEL, None, FILE, OUTPUT, LINEAGE, machine=MACHINE)


def pretrain(model_json: dict[str, object]) -> PretrainConfig:
    return PretrainConfig(MODEL, FILE, OUTPUT, LINEAGE, model_json, machine=MACHINE)


def stage(config: StageConfig, shard: int = 1, tensor: int = 1) -> PlannedStage:
    return PlannedStage("it", config, DATA).laid_out(shard=shard, tensor=tensor)
