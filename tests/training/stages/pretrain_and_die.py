"""A small pre-training that kills itself in the middle of a step: a subprocess of test_pretrain."""

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.training.toys import write_lines
from training.artifacts.manifest import Manifest
from training.cluster.runner import StageRun, run_stage
from training.data.token_shards import ShardConfig, write_shards
from training.model.config import llama_json
from training.optim.optimizers import OptimizerConfig
from training.runtime.context import Lineage, Machine, RunContext
from training.stages import pretrain
from training.stages.pretrain import PretrainConfig
from training.tokenization.byte_pairs import train_tokenizer

WORDS = ("tree", "river", "bird", "stone", "cloud", "house")
TEXTS = [
    f"the {WORDS[i % 6]} stands by the {WORDS[i // 6 % 6]} "
    f"and sees the {WORDS[i * 5 % 6]}, says number {i}"
    for i in range(80)
]


def pretrain_config(directory: Path) -> PretrainConfig:
    """Return the config, equal in every process of this directory."""
    tokenizer = train_tokenizer(TEXTS, 280, directory / "tokenizer")
    write_lines(directory / "texts.jsonl", [{"text": text} for text in TEXTS])
    write_shards(
        ShardConfig(
            sources=(directory / "texts.jsonl",),
            tokenizer_directory=directory / "tokenizer",
            output_directory=directory / "shards",
            held_out_fraction=0.15,
        )
    )
    return PretrainConfig(
        tokenizer_directory=directory / "tokenizer",
        shards_directory=directory / "shards",
        output_directory=directory / "base",
        lineage=Lineage("base"),
        model_json=llama_json(tokenizer.get_vocab_size(), 32, 2, 4, 2, 64),
        steps=15,
        batch_rows=8,
        microbatch_rows=4,
        context_tokens=32,
        optimizer=OptimizerConfig(learning_rate=2e-2),
        evaluate_every_steps=5,
        checkpoint_every_steps=5,
        machine=Machine(threads=1),
    )


def dying_in(step: int) -> Callable[[PretrainConfig, RunContext], Manifest]:
    """Kill the stage after the update of this step and before its report."""

    def run(config: PretrainConfig, context: RunContext) -> Manifest:
        return pretrain.run(
            config,
            replace(
                context,
                progress=lambda told: (
                    os.kill(os.getpid(), signal.SIGKILL) if told.step == step else None
                ),
            ),
        )

    return run


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    config = replace(pretrain_config(folder), output_directory=folder / "killed")
    run_stage(StageRun("killed", dying_in(int(sys.argv[2])), config), folder / "runs")
