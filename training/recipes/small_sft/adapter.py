"""SFT config of the small model's adapter; the published adapter is the mean of RUNS runs.

The runs differ in the draw of the generated texts, in misspellings and in the order of the rows.
Their mean keeps more of the base's abilities than each of them (Wortsman et al. 2022, arXiv
2203.05482; figures in docs/decisions/small-model.md). The manifest has origin and sample answers.
"""

import math
import shutil
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from training.artifacts.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from training.data.chat import Message
from training.evaluation.answers import ChatModel
from training.evaluation.config import Sampling
from training.model.base_adapter import (
    add_updates,
    read_updates,
    reduce_updates,
    write_updates,
)
from training.model.checkpoint import load_decoder, save_decoder
from training.model.config import LoraConfig
from training.model.lora import ADAPTER_WEIGHTS, merge_saved_adapter, record_base
from training.optim.config import OptimizerConfig
from training.recipes.small_sft.dataset import newcomer_conversations
from training.runtime.context import Lineage, Machine
from training.stages.artifact import ADAPTER
from training.stages.config import SftConfig

LICENCE = (
    "Gemma Terms of Use (a Model Derivative of google/gemma-3-270m); trained on texts under "
    "CC BY-SA 4.0 (Wikipedia, ARC, OpenBookQA: see LICENCES.md) and on our own under Apache-2.0"
)
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BASE_VERSION, VERSION = "gemma-3-270m-64k", "small-adapter-1"
RUNS = 2
ADAPTER_RANK = 20
MAX_BYTES = 10_000_000  # limit of the repository
_LICENCES = Path(__file__).parent / "LICENCES.md"
# Practically greedy, with the same sampler as elsewhere.
_SAMPLING = Sampling(samples_per_prompt=1, max_response_tokens=160, temperature=0.01)


def small_sft(
    base: Path, data: Path, data_sha256: str, output: Path, code_commit: str
) -> SftConfig:
    """Return the config of a run, with rank 16 on every projection.

    bf16 autocast is used if it is faster: 1.8 times on the build machine.
    """
    return SftConfig(
        model_directory=base,
        data_path=data,
        output_directory=output,
        lineage=Lineage(VERSION, "small-sft-texts", data_sha256, code_commit, LICENCE),
        epochs=3,
        batch_rows=16,
        microbatch_rows=8,
        max_tokens=192,
        optimizer=OptimizerConfig(learning_rate=3e-4, schedule="cosine", warmup_fraction=0.05),
        lora=LoraConfig(rank=16, alpha=32.0, targets=PROJECTIONS),
        vocabulary_rows=32768,  # of 65,536: the head is a third of the work
        held_out_fraction=0.03,
        checkpoint_every_steps=40,
        seed=1,
        machine=Machine(threads=2, dtype="auto"),
    )


def publish_adapter(
    runs: Sequence[Path],
    target: Path,
    base: Path,
    sources: Sequence[Mapping[str, int]],
    seconds: float,
) -> Manifest:
    """Write `target` from finished SFT runs with one start of their adapters.

    Args:
        runs: models of the runs.
        sources: numbers of examples by source, for each run.
        seconds: duration of all runs.

    Raises:
        ValueError: the file is larger than MAX_BYTES.
    """
    manifests = [read_manifest(model) for model in runs]
    first = manifests[0]
    target.mkdir(parents=True, exist_ok=True)
    (target / MANIFEST).unlink(missing_ok=True)
    error = write_mean([model / ADAPTER for model in runs], target, base)
    if (size := (target / ADAPTER_WEIGHTS).stat().st_size) > MAX_BYTES:
        raise ValueError(f"{ADAPTER_WEIGHTS}: {size} bytes, the limit is {MAX_BYTES}")
    shutil.copyfile(_LICENCES, target / _LICENCES.name)
    # Without folders of the machine.
    settings = {
        name: value
        for name, value in first.config.items()
        if not name.endswith(("_directory", "_path"))
    }
    return write_manifest(
        target,
        kind="adapter",
        version=VERSION,
        parents=(read_manifest(base).version,),
        config={
            **settings,
            "base": read_manifest(base).config,
            "runs": [
                {"data": run.data, "sources": counts, "report": run.report}
                for run, counts in zip(manifests, sources, strict=True)
            ],
        },
        code_commit=first.code_commit,
        seeds=first.seeds,
        data=first.data,
        report={
            "rank_reduction_error": error,
            "training_seconds": round(seconds),
            "samples": answers(merged(target, base, runs[0].parent / "merged")),
        },
        licence=LICENCE,
    )


def write_mean(adapters: Sequence[Path], target: Path, base: Path) -> float:
    """Write the mean of adapters with the rank ADAPTER_RANK in bf16.

    Adapters with one start share most of their inputs, so that the mean needs hardly a higher rank.

    Returns:
        norm of the part of the update that the rank omits, divided by the norm of the update.
    """
    share = 1 / len(adapters)
    scaled = (
        {name: update.scaled(share) for name, update in read_updates(adapter).items()}
        for adapter in adapters
    )
    mean = reduce(add_updates, scaled)
    reduced, lost = reduce_updates(mean, ADAPTER_RANK)
    write_updates(reduced, target, base.name)
    record_base(target, base)
    tensors = load_file(target / ADAPTER_WEIGHTS)
    halves = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    save_file(halves, target / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    return lost / math.sqrt(sum(update.squared_norm() for update in mean.values()))


def merged(adapter: Path, base: Path, output: Path) -> Path:
    """Write the base with the adapter merged, and return the folder."""
    decoder = load_decoder(base)
    merge_saved_adapter(decoder, adapter)
    save_decoder(decoder, output, companions_from=base)
    return output


def answers(model: Path) -> list[dict[str, Any]]:
    """Return the model's answers to the questions of new users, in conversations."""
    speaker = ChatModel(model)
    rows: list[dict[str, Any]] = []
    for questions in newcomer_conversations():
        messages: list[Message] = []
        for question in questions:
            messages.append(Message("user", question))
            answer = speaker.answer([messages], _SAMPLING)[0]
            rows.append({"question": question, "answer": answer.text, "ended": answer.ended})
            messages.append(Message("assistant", answer.text))
    return rows
