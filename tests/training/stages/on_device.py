"""Run every stage on a device from files to files, with one interruption.

A subprocess of test_accelerator: python -m tests.training.stages.on_device DEVICE DIRECTORY writes
figures.json, waits.json and machine.json.
"""

import json
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.training import fake_accelerator
from tests.training.stages.die_in_every_stage import CHECKPOINT, stages
from tests.training.stages.pretrain_and_die import pretrain_config
from tests.training.toys import KillAfter, Killed, ProgressList
from training.cluster.runner import StageRun
from training.data.chat import Message
from training.decoding.beam import BeamConfig, beam_search
from training.errors import ConfigError
from training.evaluation.answers import ChatModel, score
from training.evaluation.config import Sampling
from training.model.placement import spread
from training.model.reward import load_reward_model
from training.runtime.context import Machine, Progress, RunContext
from training.runtime.machine import configure_device, peak_memory_bytes, to_device, use_device
from training.runtime.ranks import ALONE
from training.runtime.training_state import DirectoryCheckpoints
from training.stages import pretrain
from training.stages.pretrain_config import SampleConfig

NAMES = ("sft", "sft-lora", "reward_model", "ppo", "ppo-lora", "grpo", "dpo", "kto", "pretrain")
OF_THE_MACHINE = ("tokens_per_second", "memory_bytes")


def all_stages(directory: Path, into: Path, device: str) -> dict[str, StageRun[Any]]:
    """Return the stages by name, on the device."""
    found = stages(directory, into)
    of_texts = replace(
        pretrain_config(directory),
        output_directory=into / "pretrain",
        steps=5,
        evaluate_every_steps=4,
        samples=SampleConfig(("the",), max_tokens=4),
        checkpoint_every_steps=CHECKPOINT,
    )
    found["sft"] = replace(found["sft"], config=replace(found["sft"].config, microbatch_rows=1))
    found["pretrain"] = StageRun("pretrain", pretrain.run, of_texts)
    return {
        name: replace(
            found[name], config=replace(config, machine=replace(config.machine, device=device))
        )
        for name, config in ((name, found[name].config) for name in NAMES)
    }


class Watching(ProgressList):
    """Record how often each step waited for the device, by reason."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[dict[str, int]] = []

    def __call__(self, progress: Progress) -> None:
        super().__call__(progress)
        self.waits.append(dict(fake_accelerator.WAITS))
        fake_accelerator.WAITS.clear()


def run_twice(run: StageRun[Any], checkpoints: Path, progress: ProgressList) -> dict[str, float]:
    """Kill at the first checkpoint, then resume; return all figures by step and name."""
    try:
        run.function(run.config, RunContext(KillAfter(checkpoints, CHECKPOINT), progress, ALONE))
    except Killed:
        pass
    else:
        sys.exit(f"{run.name} did not die")
    fake_accelerator.WAITS.clear()
    run.function(run.config, RunContext(DirectoryCheckpoints(checkpoints), progress, ALONE))
    return {
        f"{step.step} {name}": value
        for step in progress.steps
        for name, value in step.metrics.items()
        if name not in OF_THE_MACHINE
    }


def asked(directory: Path, device: str) -> dict[str, Any]:
    """Return results of inference outside of stages."""
    use_device(device)
    speaker = ChatModel(directory / "first")
    prompts = [[Message("user", text)] for text in ("good tree", "bird")]
    sampling = Sampling(samples_per_prompt=2, max_response_tokens=5)
    said = speaker.answer(prompts, sampling)
    devices = [torch.get_default_device(), torch.device("cpu")]
    divided = ChatModel(directory / "first", partial(spread, devices=devices))
    assert {p.device.type for p in divided.backbone.decoder.parameters()} == {device, "cpu"}
    reward = load_reward_model(directory / "reward-adapter", directory / "first")
    to_device(reward.scalar.backbone.decoder)
    best = beam_search(speaker.backbone, [[3, 4, 5], [6]], BeamConfig(2), 4, speaker.chat.stop_ids)
    return {
        "answers": [asdict(answer) for answer in said],
        "answers of two devices": [asdict(one) for one in divided.answer(prompts, sampling)],
        "bits": speaker.bits(["good tree", "river stone"], 16),
        "scores": score(reward, speaker.chat, [(prompts[0], "bird"), (prompts[1], "tree")], 32),
        "beams": [[asdict(beam) for beam in beams] for beams in best],
    }


def machine(device: str) -> dict[str, Any]:
    """Return the resolved machine settings on the device."""
    autocast = configure_device(Machine(threads=1, dtype="auto"))
    found: dict[str, Any] = {
        "auto": str(torch.get_default_device()),
        "peak_memory_bytes": peak_memory_bytes(),
    }
    with autocast():
        found["auto is bfloat16"] = torch.is_autocast_enabled(device)
    for name in ("cuda", f"{device}:3"):
        try:
            configure_device(Machine(threads=1, device=name))
        except ConfigError as error:
            found[name] = str(error)
    configure_device(Machine(threads=1, device="cpu"))
    found["cpu"] = [
        str(torch.get_default_device()),
        str(torch.zeros(1).device),
        torch._C._len_torch_function_stack(),
    ]
    return found


def main(device: str, directory: Path) -> None:
    torch.set_num_threads(1)
    torch.backends.cuda.enable_flash_sdp(
        False
    )  # the CPU's own kernel; the fake device uses the formula
    if device == fake_accelerator.NAME:
        fake_accelerator.install()
    into, figures, waits = directory / device, {}, {}
    for name, run in all_stages(directory, into, device).items():
        progress = Watching()
        figures[name] = run_twice(run, into / "runs" / name, progress)
        waits[name] = progress.waits
    figures["asked"] = asked(directory, device)
    (into / "machine.json").write_text(json.dumps(machine(device)))
    (into / "figures.json").write_text(json.dumps(figures))
    (into / "waits.json").write_text(json.dumps(waits))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
