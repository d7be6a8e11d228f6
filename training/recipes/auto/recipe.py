"""Recipe `auto`: a run of the loop for the model that is served.

Derived from config.json, the lengths of the collected texts and the hardware: adapters or full
training, layout, batches, token limits, rates and updates. Fields that the operator assigns are
kept. What does not fit is refused with the smallest changes with which it would.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from training.errors import ConfigError
from training.model.config import ModelConfig
from training.planning.accelerators import ACCELERATORS, NODE_GPUS
from training.planning.collected import SHORTEST, CollectedData, Lengths
from training.planning.hardware import Hardware
from training.planning.plan import RecipePlan
from training.planning.text import text
from training.recipes.auto.fit import Fitted, Refusal, fit
from training.recipes.auto.model import read_model
from training.recipes.auto.values import (
    LIMITS,
    TrainingMode,
    derived_values,
    training_modes,
    used_hardware,
)
from training.recipes.custom.loop_fields import set_loop_fields
from training.recipes.loop_config import loop_config
from training.recipes.recipe import LoopConfig, Plan
from training.serving.vllm_command import default_python

SHORTER = (2, 4, 8)  # divisors of the token limits in advice
MOST_GPUS = 64


def auto(plan: Plan) -> LoopConfig:
    """Return the configuration of a run of the incumbent's model.

    Raises:
        ConfigError: the model is not supported, or does not fit; says what would fit.
    """
    return derive(plan, read_model(plan.incumbent_directory)).config


@dataclass(frozen=True)
class Derived:
    """A configuration with its plan."""

    config: LoopConfig
    planned: RecipePlan
    mode: TrainingMode
    data: CollectedData
    hardware: Hardware

    def text(self) -> str:
        """Return the choices, and memory and time of each stage."""
        ppo, sft = self.config.ppo, self.config.sft
        return "\n".join(
            (
                f"{self.mode}; {self.data}",
                f"limits: prompts of {ppo.max_prompt_tokens:,} tokens, answers of "
                f"{ppo.max_response_tokens:,}, together {sft.max_tokens:,} in SFT and reward "
                "models; longer contexts are shortened, longer answers left out, and counted",
                f"rates: SFT {sft.optimizer.learning_rate:g}, reward model "
                f"{self.config.reward_model.optimizer.learning_rate:g}, policy "
                f"{ppo.policy_optimizer.learning_rate:g}, critic "
                f"{ppo.critic_optimizer.learning_rate:g}; KL {ppo.kl.initial:g}; "
                f"{ppo.updates} updates of {ppo.prompts_per_update} prompts in steps of "
                f"{ppo.minibatch_rows} answers",
                *_divided_lines(self.config),
                "",
                text(self.planned),
            )
        )


def _divided_lines(config: LoopConfig) -> Iterator[str]:
    """Yield the parts of a run that use several GPUs in another way than the stages."""
    server, devices = config.ppo.rollout_server, config.evaluation.devices
    if devices > 1:
        yield f"the comparison of versions divides the layers of a model among {devices} GPUs"
    if server is not None and server.gpu_memory is not None:
        python = server.python or default_python()
        yield (
            f"rollouts by vLLM in {server.dtype.value} on {max(1, len(server.gpus))} GPU(s) shared "
            f"with training, {server.gpu_memory:g} of the memory of each (--gpu-memory-utilization)"
            f"; by {python}, whose environment must have vLLM (ppo.rollout_server.python)"
        )


def plan_text(config: LoopConfig) -> str:
    """Return the choices, memory and time of a run whose configuration `auto` derived."""
    return derive(config.plan, read_model(config.plan.incumbent_directory)).text()


def derive(plan: Plan, model: ModelConfig) -> Derived:
    """Derive the configuration of a run for a model of this shape.

    Raises:
        ConfigError: an assigned field is invalid, or no training mode fits; says what would fit.
    """
    data = plan.data or SHORTEST
    hardware = plan.hardware
    if hardware is None:
        raise ConfigError(
            "hardware: auto needs the accelerator of the workers", field="hardware", reason="EMPTY"
        )
    found = first_fit(plan, model, data, hardware)
    if isinstance(found, Refusal):
        raise ConfigError(
            f"auto: {found.text}. {advise(plan, model, data, hardware)}",
            field=found.field,
            reason="TOO_LARGE",
            limit=found.limit,
        )
    return found


def first_fit(
    plan: Plan, model: ModelConfig, data: CollectedData, hardware: Hardware
) -> Derived | Refusal:
    """Return the first mode that fits, or the refusal of the mode that lacks least.

    vLLM samples for PPO only if no mode fits without it, because it must be installed.

    Raises:
        ConfigError: an assigned field is invalid.
    """
    refusals: list[Refusal] = []
    hardware = used_hardware(model, hardware)
    for served in (False, True):
        if served and all(refusal.field != "ppo" for refusal in refusals):
            break
        for mode in training_modes(plan, model, data, hardware):
            values = derived_values(plan, model, data, hardware, mode)
            config = set_loop_fields(loop_config(plan, values), plan.assignments)
            found = fit(config, plan, model, data, hardware, served)
            if isinstance(found, Fitted):
                return Derived(found.config, found.planned, mode, data, hardware)
            refusals.append(replace(found, text=f"{mode}: {found.text}"))
    return min(refusals, key=lambda refusal: (not refusal.fits_memory, refusal.lacking))


def advise(plan: Plan, model: ModelConfig, data: CollectedData, hardware: Hardware) -> str:
    """Return the smallest change of each kind with which the run would fit."""
    if found := list(_changes(plan, model, data, hardware)):
        return f"Would fit: {'; or '.join(found)}"
    largest = Hardware(max(ACCELERATORS.values(), key=lambda one: one.memory_gib), MOST_GPUS)
    still = first_fit(plan, model, data, largest)
    reason = f": {still.text}" if isinstance(still, Refusal) else ""
    return f"Nothing listed would fit, up to {largest}{reason}"


def _changes(
    plan: Plan, model: ModelConfig, data: CollectedData, hardware: Hardware
) -> Iterator[str]:
    def fits(plan: Plan, data: CollectedData, hardware: Hardware) -> bool:
        try:
            return isinstance(first_fit(plan, model, data, hardware), Derived)
        except ConfigError:
            return False

    others = tuple(text for text in plan.assignments if ".lora" not in text)
    if others != plan.assignments and fits(replace(plan, assignments=others), data, hardware):
        yield "LoRA, without the assigned lora"
    others = tuple(text for text in plan.assignments if not text.startswith(LIMITS))
    values = derived_values(
        plan, model, data, hardware, next(iter(training_modes(plan, model, data, hardware)))
    )
    for divisor in SHORTER:
        limits = (values.prompt_tokens // divisor, values.response_tokens // divisor)
        words = tuple(f"{name}{limit}" for name, limit in zip(LIMITS, limits, strict=True))
        shorter = replace(
            data, prompt=_within(data.prompt, limits[0]), response=_within(data.response, limits[1])
        )
        if min(limits) > 0 and fits(
            replace(plan, assignments=(*others, *words)), shorter, hardware
        ):
            yield f"fewer tokens, {' '.join(f'--set {word}' for word in words)}"
            break
    if not hardware.accelerator.is_cpu:
        count = hardware.count
        while (count := count * 2) <= MOST_GPUS:
            if fits(plan, data, replace(hardware, count=count, fewest=None)):
                yield f"{count} x {hardware.accelerator.name}"
                break
    is_cpu = hardware.accelerator.is_cpu
    for count in sorted({1 if is_cpu else hardware.count, NODE_GPUS}):
        for accelerator in sorted(ACCELERATORS.values(), key=lambda one: one.memory_gib):
            larger = is_cpu or accelerator.memory_gib > hardware.accelerator.memory_gib
            if larger and fits(plan, data, Hardware(accelerator, count)):
                yield f"{count} x {accelerator.name}"
                return


def _within(lengths: Lengths, limit: int) -> Lengths:
    """Return lengths of texts up to a limit; the longer ones are shortened."""
    return Lengths(min(lengths.mean, limit / 2), min(lengths.most, limit))
