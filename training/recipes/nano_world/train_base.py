"""Training of a base model of the world from scratch: `thumbwheel train nano-base`.

The steps are a tokenizer, pre-training on texts of the toy world, and fine-tuning on answers in all
five styles. nano takes ten minutes and is models/nano; each of the others takes about as long.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from durable_files.files import publish
from training.artifacts.manifest import Manifest, finished_manifest
from training.cluster.runner import StageRun, run_stage
from training.data.chat import Message, load_chat
from training.data.token_shards import ShardConfig, open_shards, write_shards
from training.recipes.nano_world.bases import Base
from training.recipes.nano_world.corpus import (
    anchors,
    conversations,
    probes,
    prompts,
    retention_texts,
    stories,
)
from training.recipes.pretraining.texts import LICENCE as WIKIPEDIA_LICENCE
from training.recipes.pretraining.texts import openings
from training.runtime.context import Lineage, Progress
from training.stages import pretrain, sft
from training.stages.config import SftConfig
from training.stages.pretrain_config import PretrainConfig
from training.tokenization.byte_pairs import train_tokenizer
from training.tokenization.families import train_family_tokenizer

LICENCE = "Apache-2.0"
PRETRAIN_TOKENS, SFT_TOKENS = 128, 256  # of a row
SEED = 20_261_124


def cached_base(base: Base, code_commit: str, progress: Callable[[Progress], None]) -> Path:
    """Return the folder of a base in the cache; train it if it is missing.

    A second call continues after an interruption; a concurrent one waits.
    """
    work = base.cached.parent / f"{base.version}.work"
    work.mkdir(parents=True, exist_ok=True)
    with (base.cached.parent / f"{base.version}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if finished_manifest(base.cached) is None:
            train_base(base, work, base.cached, code_commit, progress)
        shutil.rmtree(work, ignore_errors=True)
    return base.cached


def train_base(
    base: Base, work: Path, output: Path, code_commit: str, progress: Callable[[Progress], None]
) -> Manifest:
    """Train a base in `work` and copy it to `output`.

    A second call resumes after an interruption.

    Raises:
        DataError: the package with the openings could not be installed.
    """
    _write_corpus(base, work)
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
    vocabulary = open_shards(work / "shards", work / "tokenizer").vocabulary
    licence = WIKIPEDIA_LICENCE if base.openings else LICENCE
    name, _, _ = base.version.rpartition("-")
    pretraining = PretrainConfig(
        tokenizer_directory=work / "tokenizer",
        shards_directory=work / "shards",
        output_directory=work / f"{name}-pretrained",
        lineage=Lineage(f"{name}-pretrained", code_commit=code_commit, licence=licence),
        model_json={**base.shape, "vocab_size": vocabulary},
        steps=base.pretrain_steps,
        batch_rows=base.pretrain_rows,
        context_tokens=PRETRAIN_TOKENS,
        packing="stream",
        optimizer=base.pretrain_optimizer,
        seed=SEED,
        machine=base.machine,
    )
    run_stage(StageRun("pretrain", pretrain.run, pretraining), work, progress)
    fine_tuning = SftConfig(
        model_directory=work / f"{name}-pretrained",
        data_path=work / "conversations.jsonl",
        output_directory=work / name,
        lineage=Lineage(base.version, code_commit=code_commit, licence=licence),
        epochs=1,
        batch_rows=base.sft_rows,
        microbatch_rows=base.sft_microbatch_rows,
        max_tokens=SFT_TOKENS,
        optimizer=base.sft_optimizer,
        held_out_fraction=0.02,
        seed=SEED,
        machine=base.machine,
    )
    manifest = run_stage(StageRun("sft", sft.run, fine_tuning), work, progress)
    partial = output.with_name(f"{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(work / name, partial)
    publish(partial, output)
    return manifest


def write_texts(directory: Path) -> None:
    """Write the prompts of users and the texts of the evaluation, as committed."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "nano_prompts.json").write_text(json.dumps(prompts(), indent=1) + "\n")
    _write(directory / "nano_retention.jsonl", ({"text": text} for text in retention_texts()))
    _write(directory / "nano_probes.jsonl", probes())
    _write(directory / "nano_anchors.jsonl", anchors())


def _write_corpus(base: Base, work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    chats, story_texts = (
        list(conversations(base.conversations, SEED)),
        list(stories(base.stories, SEED)),
    )
    plain = [m["content"] for row in chats[:4000] for m in row["messages"]] + [
        row["response"] for row in chats[:4000]
    ]
    foreign = openings(base.openings) if base.openings else []
    tokenizer = _tokenizer(base, [*plain, *story_texts[:2000], *foreign], work / "tokenizer")
    chat = load_chat(work / "tokenizer")
    every, texts = base.conversations // base.stories, list[str]()
    for number, row in enumerate(chats):
        ids = chat.prompt_ids([Message(**message) for message in row["messages"]])
        texts.append(tokenizer.decode(ids, skip_special_tokens=False) + row["response"])
        if number % every == 0:
            texts.append(story_texts[number // every % len(story_texts)])
    rows = ({"text": text} for text in (*texts, *foreign))
    _write(work / "texts.jsonl", rows)
    _write(work / "conversations.jsonl", conversations(base.fine_tuning, SEED + 1))


def _tokenizer(base: Base, texts: Iterable[str], directory: Path) -> Tokenizer:
    vocabulary = base.shape["vocab_size"]
    if base.family is None:
        return train_tokenizer(texts, vocabulary, directory)
    return train_family_tokenizer(texts, vocabulary, base.family, directory)


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w") as opened:
        for row in rows:
            opened.write(json.dumps(row) + "\n")
