"""Complete configs: `ten_million` for 20 minutes on two cores, and three sizes for scaling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.model.config import llama_json
from training.optim.config import OptimizerConfig
from training.recipes.pretraining.texts import LICENCE, Prepared
from training.runtime.context import Lineage, Machine
from training.stages.pretrain_config import PretrainConfig, SampleConfig

CONTEXT_TOKENS = 256  # 90 % of the texts are shorter
EVALUATIONS, CHECKPOINTS = 20, 8  # per run, at least CLOSEST_STEPS apart
CLOSEST_STEPS = 10
PROMPTS = ("The", "Water is", "Paris is the", "In mathematics,", "He was an American", "A language")
SEED = 20_261_126


@dataclass(frozen=True)
class Shape:
    """A decoder of the Llama architecture with tied embeddings, and the learning rate for its
    width.
    """

    name: str
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    learning_rate: float
    batch_rows: int

    def model_json(self, vocabulary: int) -> dict[str, Any]:
        shape = llama_json(
            vocabulary,
            self.hidden_size,
            self.num_layers,
            self.num_heads,
            self.num_heads,
            self.intermediate_size,
        )
        return shape | {"max_position_embeddings": CONTEXT_TOKENS}

    def parameters(self, vocabulary: int) -> int:
        """Return the number of all parameters.

        With tied embeddings the product of the head is as large as the embedding, so 6ND holds.
        """
        d, wide = self.hidden_size, self.intermediate_size
        return vocabulary * d + self.num_layers * (4 * d * d + 3 * d * wide + 2 * d) + d


@dataclass(frozen=True)
class Recipe:
    """A shape with its vocabulary and default time."""

    shape: Shape
    vocabulary: int
    minutes: float


RECIPES: Mapping[str, Recipe] = {
    "ten_million": Recipe(
        Shape("ten_million", 320, 7, 5, 864, 2e-3, 16), vocabulary=4096, minutes=20.0
    ),
    "one_million": Recipe(
        Shape("one_million", 112, 6, 4, 304, 4e-3, 16), vocabulary=1024, minutes=3.0
    ),
}
SIZES_VOCABULARY = 1024  # with more, the smallest model would be mostly embeddings
SIZES = (
    Shape("0.3M", 64, 5, 4, 168, 5e-3, 8),
    Shape("1M", 112, 6, 4, 304, 4e-3, 8),
    Shape("3M", 176, 8, 4, 472, 3e-3, 8),
)


def muon(learning_rate: float) -> OptimizerConfig:
    """Return Muon with a final cooldown, which learns faster here than AdamW.

    See docs/decisions/pre-training.md.
    """
    return OptimizerConfig(
        algorithm="muon",
        learning_rate=learning_rate,
        schedule="wsd",
        warmup_fraction=0.05,
        final_fraction=0.0,
        weight_decay=0.1,
        epsilon=1e-8,
    )


def pretraining(
    shape: Shape, prepared: Prepared, steps: int, dtype: str, output: Path, code_commit: str
) -> PretrainConfig:
    """Return the config of a run.

    Models of user texts are sampled with their openings, as PROMPTS suit an encyclopedia.
    """
    return PretrainConfig(
        tokenizer_directory=prepared.tokenizer_directory,
        shards_directory=prepared.shards_directory,
        output_directory=output,
        lineage=Lineage(output.name, code_commit=code_commit, licence=prepared.licence),
        model_json=shape.model_json(prepared.vocabulary),
        steps=steps,
        batch_rows=shape.batch_rows,
        microbatch_rows=8,
        context_tokens=CONTEXT_TOKENS,
        optimizer=muon(shape.learning_rate),
        evaluate_every_steps=max(CLOSEST_STEPS, steps // EVALUATIONS),
        evaluation_tokens=1 << 15,
        samples=SampleConfig(PROMPTS)
        if prepared.licence == LICENCE
        else SampleConfig(openings=len(PROMPTS)),
        checkpoint_every_steps=max(CLOSEST_STEPS, steps // CHECKPOINTS),
        seed=SEED,
        machine=Machine(dtype=dtype),
    )
