"""Complete configs for open models on 1, 8 and 64 GPUs; RECIPES lists them by name.

Batch sizes and rates are common values for these sizes, not results: none of these recipes was run
here. Layouts, microbatches and token limits come from the plans: the fastest ones that fit into 80
GB.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from training.errors import unknown_choice
from training.model.config import LoraConfig, ModelConfig, parse_config
from training.model.fields import read_object
from training.optim.config import OptimizerConfig
from training.planning.stage import DataSize, PlannedStage
from training.rl.config import KlConfig
from training.runtime.context import Lineage, Machine, Parallelism
from training.stages.config import DpoConfig, KtoConfig, RewardModelConfig, SftConfig
from training.stages.policy_config import GrpoConfig, PpoConfig

# Shapes of open models as config.json, with sizes only, which are facts. Gemma 3 27B is its text
# decoder without the vision encoder.
SHAPES = Path(__file__).parent / "shapes"
MACHINE = Machine(dtype="bfloat16")
LORA = LoraConfig(rank=16, alpha=32.0)
# Assumed mean sizes for the estimates of time; pass the `DataSize` of your own data instead.
CHATS = DataSize(rows=50_000, prompt_tokens=200, response_tokens=300)
PAIRS = DataSize(rows=30_000, prompt_tokens=200, response_tokens=250)
PROMPTS = DataSize(rows=20_000, prompt_tokens=200, response_tokens=200)
PROBLEMS = DataSize(rows=10_000, prompt_tokens=150, response_tokens=350)


@dataclass(frozen=True)
class Places:
    """Input and output folders of a recipe.

    models: a folder per model, named by its shape. data: sft, pairs, thumbs, prompts and problems,
    each .jsonl.
    """

    models: Path = Path("models")
    data: Path = Path("data")
    output: Path = Path("runs")


@dataclass(frozen=True)
class OpenRecipe:
    """A recipe with its stages.

    gpus: number of GPUs it is designed for. shape: shape of the initial model of all stages, one of
    shapes/; "": as in the first stage.
    """

    name: str
    gpus: int
    shape: str
    stages: tuple[PlannedStage, ...]


def shape_names() -> list[str]:
    """Return the names of all available shapes."""
    return sorted(path.stem for path in SHAPES.glob("*.json"))


def shape(name: str) -> ModelConfig:
    """Return the model config of a shape.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in shape_names():
        raise unknown_choice("shape", name, shape_names())
    return parse_config(read_object(SHAPES / f"{name}.json"))


def qwen3_06b_sft(places: Places) -> OpenRecipe:
    """Full training of a small model on one GPU, then GRPO on problems with a verifier."""
    builder = _StageBuilder("qwen3-0.6b-sft-grpo", "qwen3-0.6b", places, Parallelism())
    sft = builder.sft(batch_rows=64, microbatch_rows=8, max_tokens=1024, rate=1e-5)
    return builder.recipe(1, sft, builder.grpo(after="sft", minibatch_rows=8, prompts=16))


def llama_31_8b_lora(places: Places) -> OpenRecipe:
    """Train adapters of an 8B model on one GPU."""
    builder = _StageBuilder("llama-3.1-8b-lora", "llama-3.1-8b", places, Parallelism(), LORA)
    sft = builder.sft(batch_rows=64, microbatch_rows=1, max_tokens=1024, rate=1e-4)
    return builder.recipe(1, sft, builder.dpo(after="sft", batch_pairs=32, max_tokens=512))


def gemma3_1b_full(places: Places) -> OpenRecipe:
    """Full training of a small model with a large vocabulary on one GPU."""
    builder = _StageBuilder("gemma-3-1b-sft-dpo", "gemma-3-1b", places, Parallelism())
    sft = builder.sft(batch_rows=64, microbatch_rows=4, max_tokens=1024, rate=1e-5)
    return builder.recipe(1, sft, builder.dpo(after="sft", batch_pairs=32, max_tokens=1024))


def llama_31_8b_full(places: Places) -> OpenRecipe:
    """Full training of an 8B model on 8 GPUs, from SFT to PPO."""
    builder = _StageBuilder("llama-3.1-8b-full", "llama-3.1-8b", places, Parallelism(shard=8))
    split = replace(builder, parallelism=Parallelism(shard=2, tensor=4), recomputed=True)
    return builder.recipe(
        8,
        builder.sft(batch_rows=64, microbatch_rows=2, max_tokens=1024, rate=1e-5),
        builder.reward_model(batch_pairs=64, max_tokens=768),
        split.ppo(minibatch_rows=8, prompts=64),
    )


def qwen3_8b_grpo(places: Places) -> OpenRecipe:
    """Full training with GRPO and a verifier on 8 GPUs."""
    builder = _StageBuilder(
        "qwen3-8b-grpo", "qwen3-8b", places, Parallelism(shard=2, tensor=2), recomputed=True
    )
    return builder.recipe(8, builder.grpo(after=None, minibatch_rows=8, prompts=32))


def qwen25_7b_full(places: Places) -> OpenRecipe:
    """Full training of a 7B model on 8 GPUs, on chats and thumbs."""
    builder = _StageBuilder("qwen2.5-7b-sft-kto", "qwen2.5-7b", places, Parallelism(shard=8))
    sft = builder.sft(batch_rows=64, microbatch_rows=2, max_tokens=1024, rate=1e-5)
    kto = replace(builder, recomputed=True).kto(after="sft", batch_rows=64, microbatch_rows=4)
    return builder.recipe(8, sft, kto)


def qwen3_32b_full(places: Places) -> OpenRecipe:
    """Full training of a 32B model on 64 GPUs."""
    builder = _StageBuilder(
        "qwen3-32b-sft-dpo", "qwen3-32b", places, Parallelism(shard=32, tensor=2), recomputed=True
    )
    sft = builder.sft(batch_rows=64, microbatch_rows=2, max_tokens=1024, rate=5e-6)
    dpo = builder.dpo(after="sft", batch_pairs=64, microbatch_pairs=2, max_tokens=768)
    return builder.recipe(64, sft, dpo)


def llama_31_70b_full(places: Places) -> OpenRecipe:
    """Full training of a 70B model on 64 GPUs."""
    builder = _StageBuilder(
        "llama-3.1-70b-sft",
        "llama-3.1-70b",
        places,
        Parallelism(shard=8, tensor=8),
        recomputed=True,
    )
    return builder.recipe(64, builder.sft(64, microbatch_rows=4, max_tokens=768, rate=5e-6))


def gemma3_27b_full(places: Places) -> OpenRecipe:
    """Full training of a 27B model on 64 GPUs."""
    builder = _StageBuilder(
        "gemma-3-27b-sft", "gemma-3-27b", places, Parallelism(shard=32, tensor=2), recomputed=True
    )
    return builder.recipe(64, builder.sft(64, microbatch_rows=2, max_tokens=1024, rate=5e-6))


RECIPES: Mapping[str, Callable[[Places], OpenRecipe]] = {
    "qwen3-0.6b-sft-grpo": qwen3_06b_sft,
    "llama-3.1-8b-lora": llama_31_8b_lora,
    "gemma-3-1b-sft-dpo": gemma3_1b_full,
    "llama-3.1-8b-full": llama_31_8b_full,
    "qwen3-8b-grpo": qwen3_8b_grpo,
    "qwen2.5-7b-sft-kto": qwen25_7b_full,
    "qwen3-32b-sft-dpo": qwen3_32b_full,
    "gemma-3-27b-sft": gemma3_27b_full,
    "llama-3.1-70b-sft": llama_31_70b_full,
}


def recipe_named(name: str, places: Places | None = None) -> OpenRecipe:
    """Return the recipe of this name.

    Raises:
        ConfigError: the name is unknown; lists the known names.
    """
    if name not in RECIPES:
        raise unknown_choice("recipe", name, RECIPES, "or a file of your own, FILE.py")
    return RECIPES[name](places or Places())


@dataclass(frozen=True)
class _StageBuilder:
    """Common settings of the stages of a recipe, with a method for each stage."""

    name: str
    shape: str
    places: Places
    parallelism: Parallelism
    lora: LoraConfig | None = None
    # Recompute activations, where larger microbatches or fewer parts of a model gain more time.
    recomputed: bool = False

    def recipe(self, gpus: int, *stages: PlannedStage) -> OpenRecipe:
        return OpenRecipe(self.name, gpus, self.shape, stages)

    def sft(
        self, batch_rows: int, microbatch_rows: int, max_tokens: int, rate: float
    ) -> PlannedStage:
        config = SftConfig(
            model_directory=self.places.models / self.shape,
            data_path=self.places.data / "sft.jsonl",
            output_directory=self._output("sft"),
            lineage=self._lineage("sft"),
            epochs=2,
            batch_rows=batch_rows,
            microbatch_rows=microbatch_rows,
            max_tokens=max_tokens,
            optimizer=_rate(rate),
            lora=self.lora,
            machine=MACHINE,
            checkpoint_activations=self.recomputed,
            parallelism=self.parallelism,
        )
        return PlannedStage("sft", config, CHATS)

    def reward_model(self, batch_pairs: int, max_tokens: int) -> PlannedStage:
        config = RewardModelConfig(
            model_directory=self._output("sft"),
            data_path=self.places.data / "pairs.jsonl",
            output_directory=self._output("reward"),
            lineage=self._lineage("reward"),
            batch_pairs=batch_pairs,
            microbatch_pairs=2,
            max_tokens=max_tokens,
            optimizer=_rate(5e-6),
            lora=self.lora,
            machine=MACHINE,
            checkpoint_activations=self.recomputed,
            parallelism=self.parallelism,
        )
        return PlannedStage("reward_model", config, PAIRS)

    def dpo(
        self, after: str, batch_pairs: int, max_tokens: int, microbatch_pairs: int = 1
    ) -> PlannedStage:
        config = DpoConfig(
            model_directory=self._output(after),
            data_path=self.places.data / "pairs.jsonl",
            output_directory=self._output("dpo"),
            lineage=self._lineage("dpo"),
            batch_pairs=batch_pairs,
            microbatch_pairs=microbatch_pairs,
            max_tokens=max_tokens,
            optimizer=_rate(5e-7 if self.lora is None else 5e-6),
            lora=self.lora,
            machine=MACHINE,
            checkpoint_activations=self.recomputed,
            parallelism=self.parallelism,
        )
        return PlannedStage("dpo", config, PAIRS)

    def kto(self, after: str, batch_rows: int, microbatch_rows: int) -> PlannedStage:
        config = KtoConfig(
            model_directory=self._output(after),
            data_path=self.places.data / "thumbs.jsonl",
            output_directory=self._output("kto"),
            lineage=self._lineage("kto"),
            batch_rows=batch_rows,
            microbatch_rows=microbatch_rows,
            max_tokens=1024,
            optimizer=_rate(5e-7),
            lora=self.lora,
            machine=MACHINE,
            checkpoint_activations=self.recomputed,
            parallelism=self.parallelism,
        )
        return PlannedStage("kto", config, PAIRS)

    def ppo(self, minibatch_rows: int, prompts: int) -> PlannedStage:
        config = PpoConfig(
            model_directory=self._output("sft"),
            reward_model_directory=self._output("reward"),
            data_path=self.places.data / "prompts.jsonl",
            output_directory=self._output("ppo"),
            lineage=self._lineage("ppo"),
            updates=300,
            prompts_per_update=prompts,
            minibatch_rows=minibatch_rows,
            epochs_per_update=1,
            max_prompt_tokens=512,
            max_response_tokens=256,
            kl=KlConfig(initial=0.05),
            policy_optimizer=_rate(1e-6),
            critic_optimizer=_rate(5e-6),
            lora=self.lora,
            machine=MACHINE,
            checkpoint_activations=self.recomputed,
            parallelism=self.parallelism,
        )
        return PlannedStage("ppo", config, PROMPTS)

    def grpo(self, after: str | None, minibatch_rows: int, prompts: int) -> PlannedStage:
        config = GrpoConfig(
            model_directory=self._output(after) if after else self.places.models / self.shape,
            reward_model_directory=None,
            data_path=self.places.data / "problems.jsonl",
            output_directory=self._output("grpo"),
            lineage=self._lineage("grpo"),
            updates=300,
            prompts_per_update=prompts,
            samples_per_prompt=8,
            minibatch_rows=minibatch_rows,
            epochs_per_update=1,
            max_prompt_tokens=256,
            max_response_tokens=768,
            policy_optimizer=_rate(1e-6),
            lora=self.lora,
            machine=MACHINE,
            checkpoint_activations=self.recomputed,
            parallelism=self.parallelism,
        )
        return PlannedStage("grpo", config, PROBLEMS)

    def _output(self, part: str) -> Path:
        return self.places.output / f"{self.name}-{part}"

    def _lineage(self, part: str) -> Lineage:
        return Lineage(f"{self.name}-{part}")


def _rate(learning_rate: float) -> OptimizerConfig:
    return OptimizerConfig(learning_rate=learning_rate, schedule="cosine")
