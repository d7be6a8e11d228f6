"""Convert a trained adapter to the committed one, in bf16.

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
from training.model.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from training.recipes.small_sft.dataset import newcomer_conversations
from training.recipes.small_sft.recipe import LICENCE, VERSION
from training.stages.artifact import ADAPTER

MAX_BYTES = 10_000_000  # limit of the repository
_LICENCES = Path(__file__).parent / "LICENCES.md"
# Practically greedy, with the same sampler as elsewhere.
_SAMPLING = Sampling(samples_per_prompt=1, max_response_tokens=160, temperature=0.01)


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
    return write_manifest(
        target,
        kind="adapter",
        version=VERSION,
        parents=(read_manifest(base).version,),
        config={
            **_without_places(run.config),
            "base": read_manifest(base).config,
            "sources": sources,
        },
        code_commit=run.code_commit,
        seeds=run.seeds,
        data=run.data,
        report={**run.report, "training_seconds": round(seconds), "samples": answers(model)},
        licence=LICENCE,
    )


def _without_places(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a run without folders of the machine."""
    return {
        name: value for name, value in config.items() if not name.endswith(("_directory", "_path"))
    }


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
