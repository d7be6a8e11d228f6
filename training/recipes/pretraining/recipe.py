"""Complete configs for shapes, and three sizes for scaling."""

from __future__ import annotations

from pathlib import Path

from training.optim.config import OptimizerConfig
from training.recipes.pretraining.shapes import Shape
from training.recipes.pretraining.texts import LICENCE, Prepared
from training.runtime.context import Lineage, Machine
from training.stages.pretrain_config import PretrainConfig, SampleConfig

EVALUATIONS, CHECKPOINTS = 20, 8  # per run, at least CLOSEST_STEPS apart
CLOSEST_STEPS = 10
PROMPTS = ("The", "Water is", "Paris is the", "In mathematics,", "He was an American", "A language")
SEED = 20_261_126


SIZES_VOCABULARY = 1024  # with more, the smallest model would be mostly embeddings
SIZES = (
    Shape("0.3M", 64, 5, 4, 168, batch_rows=8),
    Shape("1M", 112, 6, 4, 304, batch_rows=8),
    Shape("3M", 176, 8, 4, 472, batch_rows=8),
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
        context_tokens=shape.context_tokens,
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
