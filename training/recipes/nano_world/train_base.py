"""Training of nano's base from scratch, in ten minutes: `thumbwheel train nano-base`.

The steps are a tokenizer, pre-training on texts of the toy world, and fine-tuning on answers in all
five styles. The result is models/nano.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from training.artifacts.manifest import Manifest
from training.cluster.runner import StageRun, run_stage
from training.data.chat import Message, load_chat
from training.data.token_shards import ShardConfig, write_shards
from training.model.config import llama_json
from training.optim.optimizers import OptimizerConfig
from training.recipes.nano_world.corpus import (
    anchors,
    conversations,
    probes,
    prompts,
    retention_texts,
    stories,
)
from training.runtime.context import Lineage, Machine, Progress
from training.stages import pretrain, sft
from training.tokenization.byte_pairs import train_tokenizer

VERSION = "nano-0"
LICENCE = "Apache-2.0"
VOCABULARY = 1024
CONTEXT_TOKENS = 256
CONVERSATIONS, STORIES, FINE_TUNING = 24_000, 4_000, 64_000
PRETRAIN_STEPS = 400
SEED = 20_261_124


def model_json() -> dict[str, Any]:
    """Return the model shape: 0.85 M parameters, 1.7 MB in half precision."""
    shape = llama_json(
        vocab_size=VOCABULARY,
        hidden_size=128,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        intermediate_size=336,
    )
    return shape | {"max_position_embeddings": CONTEXT_TOKENS, "dtype": "float16"}


def train_base(
    work: Path, output: Path, code_commit: str, progress: Callable[[Progress], None]
) -> Manifest:
    """Train the base in `work` and copy it to `output`.

    A second call resumes after an interruption.
    """
    _write_corpus(work)
    machine = Machine(threads=1)
    write_shards(
        ShardConfig(
            sources=(work / "texts.jsonl",),
            tokenizer_directory=work / "tokenizer",
            output_directory=work / "shards",
            held_out_fraction=0.0,
            begin_documents=False,
            control_tokens=True,  # the texts are rendered chats
        )
    )
    pretraining = pretrain.PretrainConfig(
        tokenizer_directory=work / "tokenizer",
        shards_directory=work / "shards",
        output_directory=work / "nano-pretrained",
        lineage=Lineage("nano-pretrained", code_commit=code_commit, licence=LICENCE),
        model_json=model_json(),
        steps=PRETRAIN_STEPS,
        batch_rows=32,
        context_tokens=128,
        packing="stream",
        optimizer=OptimizerConfig(
            learning_rate=3e-3, schedule="cosine", final_fraction=0.1, weight_decay=0.01
        ),
        seed=SEED,
        machine=machine,
    )
    run_stage(StageRun("pretrain", pretrain.run, pretraining), work, progress)
    fine_tuning = sft.SftConfig(
        model_directory=work / "nano-pretrained",
        data_path=work / "conversations.jsonl",
        output_directory=work / "nano",
        lineage=Lineage(VERSION, code_commit=code_commit, licence=LICENCE),
        epochs=1,
        batch_rows=64,
        microbatch_rows=64,
        max_tokens=CONTEXT_TOKENS,
        optimizer=OptimizerConfig(learning_rate=2e-3, schedule="linear", final_fraction=0.0),
        held_out_fraction=0.02,
        seed=SEED,
        machine=machine,
    )
    manifest = run_stage(StageRun("sft", sft.run, fine_tuning), work, progress)
    shutil.rmtree(output, ignore_errors=True)
    shutil.copytree(work / "nano", output)
    return manifest


def write_texts(directory: Path) -> None:
    """Write the prompts of users and the texts of the evaluation, as committed."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "nano_prompts.json").write_text(json.dumps(prompts(), indent=1) + "\n")
    _write(directory / "nano_retention.jsonl", ({"text": text} for text in retention_texts()))
    _write(directory / "nano_probes.jsonl", probes())
    _write(directory / "nano_anchors.jsonl", anchors())


def _write_corpus(work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    chats, story_texts = list(conversations(CONVERSATIONS, SEED)), list(stories(STORIES, SEED))
    plain = [m["content"] for row in chats[:4000] for m in row["messages"]] + [
        row["response"] for row in chats[:4000]
    ]
    tokenizer = train_tokenizer([*plain, *story_texts[:2000]], VOCABULARY, work / "tokenizer")
    chat = load_chat(work / "tokenizer")
    every, texts = CONVERSATIONS // STORIES, list[str]()
    for number, row in enumerate(chats):
        ids = chat.prompt_ids([Message(**message) for message in row["messages"]])
        texts.append(tokenizer.decode(ids, skip_special_tokens=False) + row["response"])
        if number % every == 0:
            texts.append(story_texts[number // every % len(story_texts)])
    _write(work / "texts.jsonl", ({"text": text} for text in texts))
    _write(work / "conversations.jsonl", conversations(FINE_TUNING, SEED + 1))


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w") as opened:
        for row in rows:
            opened.write(json.dumps(row) + "\n")
