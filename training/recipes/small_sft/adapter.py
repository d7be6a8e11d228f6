"""SFT config of the small model's adapter, and its conversion to the committed adapter in bf16.

The manifest has its origin and sample answers.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from training.artifacts.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from training.data.chat import Message
from training.evaluation.answers import ChatModel, Sampling
from training.model.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS, LoraConfig
from training.optim.optimizers import OptimizerConfig
from training.recipes.small_sft.dataset import newcomer_conversations
from training.runtime.context import Lineage, Machine
from training.stages.artifact import ADAPTER
from training.stages.sft import SftConfig

LICENCE = (
    "Gemma Terms of Use (a Model Derivative of google/gemma-3-270m); trained on texts under "
    "CC BY-SA 4.0 (Wikipedia, ARC, OpenBookQA: see LICENCES.md) and on our own under Apache-2.0"
)
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BASE_VERSION, VERSION = "gemma-3-270m-64k", "small-adapter-1"
MAX_BYTES = 10_000_000  # limit of the repository
_LICENCES = Path(__file__).parent / "LICENCES.md"
# Practically greedy, with the same sampler as elsewhere.
_SAMPLING = Sampling(samples_per_prompt=1, max_response_tokens=160, temperature=0.01)


def small_sft(
    base: Path, data: Path, data_sha256: str, output: Path, code_commit: str
) -> SftConfig:
    """Return a config with rank 16 on every projection, 7.6 MB in bf16.

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
    model: Path, target: Path, base: Path, sources: Mapping[str, int], seconds: float
) -> Manifest:
    """Write `target` from the finished SFT run in `model`.

    Raises:
        ValueError: the file is larger than MAX_BYTES.
    """
    run = read_manifest(model)
    tensors = {
        name: tensor.to(torch.bfloat16)
        for name, tensor in load_file(model / ADAPTER / ADAPTER_WEIGHTS).items()
    }
    target.mkdir(parents=True, exist_ok=True)
    (target / MANIFEST).unlink(missing_ok=True)
    save_file(tensors, target / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    if (size := (target / ADAPTER_WEIGHTS).stat().st_size) > MAX_BYTES:
        raise ValueError(f"{ADAPTER_WEIGHTS}: {size} bytes, the limit is {MAX_BYTES}")
    shutil.copyfile(model / ADAPTER / ADAPTER_CONFIG, target / ADAPTER_CONFIG)
    shutil.copyfile(_LICENCES, target / _LICENCES.name)
    # Without folders of the machine.
    settings = {
        name: value
        for name, value in run.config.items()
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
            "sources": sources,
        },
        code_commit=run.code_commit,
        seeds=run.seeds,
        data=run.data,
        report={**run.report, "training_seconds": round(seconds), "samples": answers(model)},
        licence=LICENCE,
    )


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
