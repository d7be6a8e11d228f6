"""Pre-training and SFT of pipelined models, run in each worker by test_pipeline."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests.support.errors import refused
from tests.training.rl.toy import toy_decoder
from tests.training.stages.pretrain_and_die import pretrain_config
from tests.training.toys import FAMILIES, ProgressList, sft_rows, toy_model, write_lines
from tests.training.workers import tell
from training.errors import ConfigError
from training.model.config import gpt2_json
from training.model.lora import LoraConfig
from training.optim.optimizers import OptimizerConfig
from training.parallelism.layout import Parallelism, arrange, assemble, distribute, whole_weights
from training.parallelism.pipeline import keep_own_layers
from training.runtime.context import Lineage, Machine, RunContext
from training.runtime.ranks import all_different
from training.runtime.training_state import DirectoryCheckpoints
from training.stages import pretrain, sft
from training.stages.pretrain import PretrainConfig
from training.stages.sft import SftConfig

FAST = OptimizerConfig(learning_rate=1e-3, warmup_fraction=0.0, gradient_clip=0.5)
MACHINE = Machine(threads=1)
LAYERS = 3  # parts of different sizes


def write_data(directory: Path) -> None:
    """Write texts and an initial model."""
    config = pretrain_config(directory)
    shape = {**config.model_json, **FAMILIES["qwen3"], "num_hidden_layers": LAYERS}
    (directory / "model.json").write_text(json.dumps(shape))
    toy_model(directory / "first", layers=LAYERS)
    write_lines(directory / "sft.jsonl", sft_rows(32))


def configs(directory: Path, into: Path, parallelism: Parallelism) -> dict[str, Any]:
    """Return configs of pre-training and SFT.

    Pre-training has tied or untied embeddings (with learned positions), SFT is full or with an
    adapter.
    """
    model_json = json.loads((directory / "model.json").read_text())
    tied = PretrainConfig(
        tokenizer_directory=directory / "tokenizer",
        shards_directory=directory / "shards",
        output_directory=into / "tied",
        lineage=Lineage("tied"),
        model_json=model_json,
        steps=4,
        batch_rows=8,
        microbatch_rows=4,  # fewer microbatches than parts if there are three
        context_tokens=32,
        optimizer=FAST,
        evaluate_every_steps=2,
        checkpoint_every_steps=2,
        checkpoint_activations=True,
        machine=MACHINE,
        parallelism=parallelism,
    )
    full = SftConfig(
        model_directory=directory / "first",
        data_path=directory / "sft.jsonl",
        output_directory=into / "full",
        lineage=Lineage("full"),
        batch_rows=8,
        microbatch_rows=2,
        optimizer=FAST,
        checkpoint_every_steps=2,
        machine=MACHINE,
        parallelism=parallelism,
    )
    learned = {
        **gpt2_json(model_json["vocab_size"], 32, LAYERS, 4, 64),
        "tie_word_embeddings": False,
    }
    settings: dict[str, Any] = {
        "tied": tied,
        "untied": replace(tied, output_directory=into / "untied", model_json=learned),
        "full": full,
    }
    if parallelism.tensor == 1:
        settings["adapted"] = replace(
            full, output_directory=into / "adapted", lora=LoraConfig(rank=2)
        )
    return settings


RUNS: dict[str, Callable[[Any, RunContext], object]] = {
    "tied": pretrain.run,
    "untied": pretrain.run,
    "full": sft.run,
    "adapted": sft.run,
}


def stages(directory: Path, rank: int, world: int, name: str, layout: str, only: str = "") -> None:
    """Run all stages, or one of them; every worker writes the figures of all steps."""
    into, ranks = directory / name, all_different(rank, world)
    for run, config in configs(directory, into, Parallelism(**json.loads(layout))).items():
        if only not in ("", run):
            continue
        progress = ProgressList()
        RUNS[run](
            config, RunContext(DirectoryCheckpoints(into / f"{run}-run", ranks), progress, ranks)
        )
        tell(progress.steps, into, run, rank)


def parts(directory: Path, rank: int, world: int) -> None:
    """Check that each worker has its own layers under their names.

    The first and the last worker also have the modules before and after the layers.
    """
    ranks, decoder = arrange(Parallelism(pipeline=2), all_different(rank, world)), toy_decoder()
    names = [name for name, _ in decoder.named_parameters()]
    keep_own_layers(decoder, ranks)
    held = [name for name, _ in decoder.named_parameters()]
    layer = [name for name in names if f".layers.{rank}." in name]
    both = ["model.embed_tokens.weight"]
    assert held == (both + layer if rank == 0 else [*both, *layer, "model.norm.weight"])
    whole = whole_weights(decoder, ranks)
    assert sorted(whole) == (sorted(names) if rank == 0 else [])
    assemble(decoder, ranks)
    if rank == 0:
        ids_BT = torch.arange(8).view(2, 4)
        assert torch.equal(decoder(ids_BT), toy_decoder()(ids_BT))


def refusals(directory: Path, rank: int, world: int) -> None:
    """Check refusals: more parts than layers, and a stage that needs all layers."""
    ranks = arrange(Parallelism(pipeline=3), all_different(rank, world))
    with refused(ConfigError, field="parallelism.pipeline", reason="TOO_LARGE", limit="2"):
        keep_own_layers(toy_decoder(), ranks)
    with refused(ConfigError, field="parallelism.pipeline", reason="UNSUPPORTED"):
        distribute(toy_decoder(), ranks)
