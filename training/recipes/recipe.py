"""The complete configuration of one run of the loop.

A recipe is a function from a Plan to a LoopConfig. Invalid combinations raise here, before any
training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from training.cluster.group import Group
from training.data.feedback.sets import ANCHORS, SetsConfig
from training.data.feedback.snapshot import SnapshotConfig
from training.errors import ConfigError
from training.evaluation.canary import CanaryConfig
from training.evaluation.config import EvaluationConfig
from training.evaluation.gate import GateConfig
from training.planning.collected import CollectedData
from training.runtime.context import Lineage, Machine, require_divisible
from training.runtime.ranks import all_different
from training.stages.config import RewardModelConfig, SftConfig
from training.stages.policy_config import PpoConfig

if TYPE_CHECKING:
    from training.planning.hardware import Hardware

TEXTS = Path(__file__).parent / "texts"
MAX_HOURS = 24.0  # a run a day is the least frequent schedule of the chart's examples


@dataclass(frozen=True)
class Plan:
    """Version, base and folders of a run, and what a recipe may derive its values from.

    Folders are named by version, so parents in manifests are artifact ids.

    Attributes:
        hardware: None: unknown, as for recipes with measured values.
        data: None: not collected yet; `loop_run` sets it after the snapshot.
        assignments: fields set by the operator, STEP.FIELD=VALUE.
        max_hours: longest run that a derived plan may have.
    """

    version: str
    run_directory: Path
    incumbent_directory: Path
    hardware: Hardware | None = None
    data: CollectedData | None = None
    assignments: tuple[str, ...] = ()
    max_hours: float = MAX_HOURS

    def directory(self, part: str) -> Path:
        """Return the folder of a part of this run; "" is the candidate itself."""
        return self.run_directory / (f"{self.version}-{part}" if part else self.version)

    def lineage(self, part: str) -> Lineage:
        """Return the lineage of a part; `LoopConfig.pinned` adds the snapshot later."""
        return Lineage(f"{self.version}-{part}" if part else self.version)


@dataclass(frozen=True)
class LoopConfig:
    """Configuration of all steps of a run, from snapshot to canary."""

    name: str
    plan: Plan
    snapshot: SnapshotConfig
    sets: SetsConfig
    sft: SftConfig
    reward_model: RewardModelConfig
    judge: RewardModelConfig
    ppo: PpoConfig
    evaluation: EvaluationConfig
    gate: GateConfig
    canary: CanaryConfig
    num_workers: int = 1
    gpus_per_worker: int = 0  # reserved by Ray for each worker; 0: workers compute on CPUs
    # Minimum of an elastic number of workers, with num_workers as the maximum.
    fewest_workers: int | None = None
    rollout_actors: int = 0  # processes that sample for PPO; 0: workers sample themselves
    checkpoints_in_bucket: bool = False  # the bucket of TW_TRAINING_S3_*, not the volume
    # Limit for the incumbent's weights: full training of a large model would take too long.
    max_model_bytes: int = 1 << 40

    def __post_init__(self) -> None:
        self._check_divisibility()
        _require_equal(
            "ppo.model_directory",
            self.ppo.model_directory,
            "sft.output_directory",
            self.sft.output_directory,
        )
        _require_equal(
            "ppo.reward_model_directory",
            self.ppo.reward_model_directory,
            "reward_model.output_directory",
            self.reward_model.output_directory,
        )
        if self.ppo.lora is not None:
            _require_equal(
                "reward_model.model_directory",
                self.reward_model.model_directory,
                "ppo.model_directory, as adapters share its weights",
                self.ppo.model_directory,
            )
        _require_equal(
            "evaluation.reward_model_base",
            self.evaluation.reward_model_base,
            "reward_model.model_directory",
            self.reward_model.model_directory,
        )
        if self.judge.data_path == self.reward_model.data_path:
            raise ConfigError(
                "judge.data_path: the judge must not be trained on the pairs of the reward model",
                field="judge.data_path",
                reason="CONFLICT",
            )
        if self.ppo.data_path == self.evaluation.held_out_prompts:
            raise ConfigError(
                "ppo.data_path: held-out prompts must not be used for training",
                field="ppo.data_path",
                reason="CONFLICT",
            )
        self._check_second_objective()
        if self.gate.kl_ceiling_nats < self.ppo.kl_ceiling_nats:
            raise ConfigError(
                f"gate.kl_ceiling_nats: {self.gate.kl_ceiling_nats:g} is below "
                f"ppo.kl_ceiling_nats, {self.ppo.kl_ceiling_nats:g}: the gate would reject models "
                "that PPO allows",
                field="gate.kl_ceiling_nats",
                reason="TOO_SMALL",
                limit=f"at least {self.ppo.kl_ceiling_nats:g}",
            )
        longest = self.ppo.max_prompt_tokens + self.ppo.max_response_tokens
        for name, config in (("reward_model", self.reward_model), ("judge", self.judge)):
            if config.max_tokens < longest:
                raise ConfigError(
                    f"{name}.max_tokens: {config.max_tokens} is below the {longest} tokens of PPO",
                    field=f"{name}.max_tokens",
                    reason="TOO_SMALL",
                    limit=f"at least {longest}",
                )

    def _check_second_objective(self) -> None:
        """Check that PPO has an objective that does not come from the thumbs.

        The KL penalty is none: its reference has been fine-tuned on liked answers.
        """
        mix, sets = self.ppo.sft_mix, self.plan.directory("sets")
        if mix is None or (mix.data_path == sets / ANCHORS and self.sets.anchors is None):
            raise ConfigError(
                "ppo.sft_mix: thumbs would be the only objective of PPO; set it to examples of "
                f"your own, such as {ANCHORS} of the sets with sets.anchors",
                field="ppo.sft_mix",
                reason="MISSING",
            )
        if mix.data_path.parent == sets and mix.data_path.name != ANCHORS:
            raise ConfigError(
                f"ppo.sft_mix.data_path: {mix.data_path.name} is made of feedback",
                field="ppo.sft_mix.data_path",
                reason="CONFLICT",
                limit=ANCHORS,
            )

    def _check_divisibility(self) -> None:
        """Check before training that the workers can share all batches evenly."""
        sizes = self.group.sizes
        rows = {
            "sft.batch_rows": self.sft.batch_rows,
            "reward_model.batch_pairs": self.reward_model.batch_pairs,
            "judge.batch_pairs": self.judge.batch_pairs,
            "ppo.prompts_per_update": self.ppo.prompts_per_update,
            "ppo.minibatch_rows": self.ppo.minibatch_rows,
        }
        if self.ppo.sft_mix is not None:
            rows["ppo.sft_mix.rows"] = self.ppo.sft_mix.rows
        require_divisible(rows, all_different(0, sizes[-1], sizes))

    @property
    def group(self) -> Group:
        """Return the group of training processes."""
        return Group(
            self.num_workers, self.gpus_per_worker, self.rollout_actors, self.fewest_workers
        )

    def on_device(self, device: str) -> LoopConfig:
        """Return the same configuration with every stage on this device."""

        def put(machine: Machine) -> Machine:
            return replace(machine, device=device)

        return replace(
            self,
            sft=replace(self.sft, machine=put(self.sft.machine)),
            reward_model=replace(self.reward_model, machine=put(self.reward_model.machine)),
            judge=replace(self.judge, machine=put(self.judge.machine)),
            ppo=replace(self.ppo, machine=put(self.ppo.machine)),
            evaluation=replace(self.evaluation, machine=put(self.evaluation.machine)),
        )

    def pinned(self, snapshot_id: str, snapshot_sha256: str, code_commit: str) -> LoopConfig:
        """Return the same configuration with snapshot and commit in every lineage."""

        def fill(lineage: Lineage) -> Lineage:
            return replace(
                lineage,
                snapshot=snapshot_id,
                snapshot_sha256=snapshot_sha256,
                code_commit=code_commit,
            )

        return replace(
            self,
            sft=replace(self.sft, lineage=fill(self.sft.lineage)),
            reward_model=replace(self.reward_model, lineage=fill(self.reward_model.lineage)),
            judge=replace(self.judge, lineage=fill(self.judge.lineage)),
            ppo=replace(self.ppo, lineage=fill(self.ppo.lineage)),
        )


Recipe = Callable[[Plan], LoopConfig]


def _require_equal(name: str, value: Path | None, other: str, expected: Path) -> None:
    if value != expected:
        raise ConfigError(
            f"{name}: {value and value.name} is not {other}, {expected.name}",
            field=name,
            reason="MISMATCH",
            limit=expected.name,
        )
