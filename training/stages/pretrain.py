"""Pre-training a tiny decoder from nothing on plain text: how `nano` is made.

Texts are packed end to end into rows of one length, each closed by the end token; a text may see the one before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from training.data.chat import load_chat
from training.data.examples import read_texts
from training.data.order import rows_of_step, seed_of
from training.manifest import Manifest
from training.model.checkpoint import save_decoder
from training.model.config import parse_config
from training.model.transformer import Decoder, initialise
from training.optim.adam import OptimizerConfig, build_optimizer
from training.optim.gradients import apply_gradients
from training.optim.schedule import learning_rate_at
from training.rl.losses import token_log_probs
from training.stages.artifact import finished, publish
from training.stages.context import ConfigError, Lineage, Machine, Progress, RunContext
from training.stages.machine import settle
from training.stages.state import TrainingState

STAGE = "pretrain"


@dataclass(frozen=True)
class PretrainConfig:
    """data_path: JSON lines {"text": str}. model_json: config.json to build (training.model.config.llama_json)."""

    tokenizer_directory: Path  # tokenizer.json and its companions
    data_path: Path
    output_directory: Path
    lineage: Lineage
    model_json: Mapping[str, Any]
    steps: int = 1000
    batch_rows: int = 32
    context_tokens: int = 128
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    checkpoint_every_steps: int = 200
    seed: int = 0
    machine: Machine = field(default_factory=Machine)


def run(config: PretrainConfig, context: RunContext) -> Manifest:
    """Train, write output_directory, and return its manifest (kind "model").

    Progress metrics: loss, learning_rate, gradient_norm, tokens. Report: tokens (in the data), steps, loss (of the last step).
    """
    if done := finished(config.output_directory):
        return done
    autocast = settle(config.machine)
    rows_RT = pack(config)
    decoder = Decoder(parse_config(config.model_json))
    initialise(decoder, seed_of(config.seed, "weights"))
    parameters = list(decoder.parameters())
    optimizer = build_optimizer(decoder.named_parameters(), config.optimizer)
    state = TrainingState({"model": parameters}, {"model": optimizer})

    checkpoint = context.checkpoints.latest()
    numbers = state.read(checkpoint) if checkpoint else {"step": 0, "loss": 0.0}
    tokens = config.batch_rows * (config.context_tokens - 1)
    for step in range(int(numbers["step"]), config.steps):
        rows = rows_of_step(step, config.batch_rows, len(rows_RT), config.seed)
        ids_BT = rows_RT[context.ranks.share(rows)]
        with autocast():
            logits_BTV = decoder.logits(decoder(ids_BT)[:, :-1])
        loss = -token_log_probs(logits_BTV, ids_BT[:, 1:]).sum() / tokens
        torch.autograd.backward(loss)
        rate = learning_rate_at(step, config.steps, config.optimizer)
        norm = apply_gradients(optimizer, parameters, rate, config.optimizer.gradient_clip, context.ranks)
        numbers.update(step=step + 1, loss=float(context.ranks.sum(loss.detach())))
        if (step + 1) % config.checkpoint_every_steps == 0 or step + 1 == config.steps:
            context.checkpoints.save(step + 1, lambda directory: state.write(directory, numbers))
        metrics = {"loss": numbers["loss"], "learning_rate": rate, "gradient_norm": norm, "tokens": float(tokens)}
        context.progress(Progress(STAGE, step + 1, config.steps, metrics))

    return publish(
        config,
        config.lineage,
        config.output_directory,
        context,
        lambda: save_decoder(decoder, config.output_directory, companions_from=config.tokenizer_directory),
        kind="model",
        parents=(),
        seed=config.seed,
        report={"tokens": rows_RT.numel(), "steps": config.steps, "loss": numbers["loss"]},
    )


def pack(config: PretrainConfig) -> Tensor:
    """All texts end to end, cut into rows of context_tokens, [R, T]; the rest of the last row is dropped."""
    tokenizer = Tokenizer.from_file(str(config.tokenizer_directory / "tokenizer.json"))
    end_id = load_chat(config.tokenizer_directory).end_id
    stream: list[int] = []
    for encoding in tokenizer.encode_batch(read_texts(config.data_path), add_special_tokens=False):
        stream += [*encoding.ids, end_id]
    rows = len(stream) // config.context_tokens
    if rows == 0:
        raise ConfigError(f"context_tokens: {config.context_tokens}, but the data has {len(stream)} tokens")
    return torch.tensor(stream[: rows * config.context_tokens]).view(rows, config.context_tokens)
