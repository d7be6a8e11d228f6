"""Stages of the run after the corpus: base, SFT, reward model, PPO; and measurements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from training.cluster.runner import StageRun, run_stage
from training.data.chat import Message
from training.data.packing import PackedRows
from training.data.token_shards import open_shards
from training.evaluation.answers import ChatModel
from training.evaluation.comparison import contains_word, read_probes
from training.evaluation.config import Sampling
from training.model.config import llama_json
from training.optim.config import OptimizerConfig
from training.recipes.life import chats
from training.recipes.life.plan import Plan
from training.recipes.life.texts import CORPUS_LICENCE, shards_of, tokenizer_of
from training.recipes.nano_world.facts import Question
from training.recipes.pretraining.recipe import muon
from training.recipes.recipe import TEXTS
from training.rl.config import KlConfig
from training.runtime.context import Lineage, Machine, Progress
from training.runtime.machine import configure_device
from training.runtime.ranks import ALONE
from training.stages import perplexity, ppo, pretrain, reward_model, sft
from training.stages.config import RewardModelConfig, SftConfig
from training.stages.policy_config import PpoConfig, SftMix
from training.stages.pretrain_config import PretrainConfig, SampleConfig

CONTEXT_TOKENS = 256
PROMPT_TOKENS, RESPONSE_TOKENS = 128, 56
EVALUATION_TOKENS = 1 << 16
SEED = 20_261_129
BEGINNINGS = ("The", "PostgreSQL is", "In Python, a function", "He was born in", "A language")
BASE, RAW_BASE, SFT, REWARD, PPO = "base", "raw-base", "sft", "reward", "ppo"
# Matrices of 128 columns gain little from a second thread, and on busy cores two threads wait for
# each other: a step took ten times as long.
MACHINE = Machine(threads=1)
EVALUATIONS = 10


class Stages:
    """Training stages in a folder; each continues where it was interrupted."""

    def __init__(
        self,
        work: Path,
        clean: Path,
        plan: Plan,
        code_commit: str,
        tell: Callable[[Progress], None],
    ) -> None:
        """Describe the stages without running any.

        Args:
            work: folder of the models and their runs.
            clean: cleaned corpus, with tokenizer and shards.
        """
        self._work, self._clean, self._plan = work, clean, plan
        self._commit, self._tell = code_commit, tell
        self._chats = work / "chats"

    def model(self, name: str) -> Path:
        """Return the folder of a model."""
        return self._work / name

    def runs(self, name: str) -> Path:
        """Return the folder with progress and samples of a stage."""
        return self._work / "runs" / name

    def pretrain(self, name: str, shards: Path) -> dict[str, Any]:
        """Train a base model with random initial weights on token shards."""
        vocabulary = open_shards(shards, tokenizer_of(self._clean)).vocabulary
        shape = llama_json(vocabulary, 128, 4, 4, 2, 336)
        steps = self._plan.pretrain_steps
        config = PretrainConfig(
            tokenizer_directory=tokenizer_of(self._clean),
            shards_directory=shards,
            output_directory=self.model(name),
            lineage=self._lineage(name),
            model_json=shape | {"max_position_embeddings": CONTEXT_TOKENS},
            steps=steps,
            batch_rows=8,
            microbatch_rows=8,
            context_tokens=CONTEXT_TOKENS,
            optimizer=muon(4e-3),
            samples=SampleConfig(BEGINNINGS),
            checkpoint_every_steps=max(10, steps // EVALUATIONS),
            seed=SEED,
            machine=MACHINE,
        )
        return self._run(StageRun(name, pretrain.run, config))

    def fine_tune(self) -> dict[str, Any]:
        """Fine-tune the base on conversations in all styles."""
        chats.write_chats(self._chats, self._plan)
        config = SftConfig(
            model_directory=self.model(BASE),
            data_path=self._chats / chats.CONVERSATIONS,
            output_directory=self.model(SFT),
            lineage=self._lineage(SFT),
            batch_rows=64,
            microbatch_rows=64,
            max_tokens=CONTEXT_TOKENS,
            optimizer=OptimizerConfig(learning_rate=2e-3, schedule="linear", final_fraction=0.0),
            held_out_fraction=0.02,
            seed=SEED,
            machine=MACHINE,
        )
        return self._run(StageRun(SFT, sft.run, config))

    def reward(self) -> dict[str, Any]:
        """Train the reward model on the judged pairs."""
        config = RewardModelConfig(
            model_directory=self.model(SFT),
            data_path=self._chats / chats.PAIRS,
            output_directory=self.model(REWARD),
            lineage=self._lineage(REWARD),
            epochs=2,
            batch_pairs=16,
            microbatch_pairs=16,
            max_tokens=PROMPT_TOKENS + RESPONSE_TOKENS,
            optimizer=OptimizerConfig(learning_rate=2e-4),
            machine=MACHINE,
        )
        return self._run(StageRun(REWARD, reward_model.run, config))

    def optimise(self) -> dict[str, Any]:
        """Improve the fine-tuned model by PPO with the reward model."""
        config = PpoConfig(
            model_directory=self.model(SFT),
            reward_model_directory=self.model(REWARD),
            data_path=self._chats / chats.PROMPTS,
            output_directory=self.model(PPO),
            lineage=self._lineage(PPO),
            updates=self._plan.updates,
            prompts_per_update=64,
            minibatch_rows=32,
            epochs_per_update=2,
            max_prompt_tokens=PROMPT_TOKENS,
            max_response_tokens=RESPONSE_TOKENS,
            kl=KlConfig(initial=0.35),
            sft_mix=SftMix(self._chats / chats.CONVERSATIONS, rows=8),
            policy_optimizer=OptimizerConfig(learning_rate=3e-4),
            critic_optimizer=OptimizerConfig(learning_rate=1e-3),
            machine=MACHINE,
        )
        return self._run(StageRun(PPO, ppo.run, config))

    def bits_per_byte(self, name: str) -> float:
        """Return the bits per byte of the held-out cleaned texts."""
        autocast = configure_device(MACHINE)
        held_out = open_shards(shards_of(self._clean), tokenizer_of(self._clean)).held_out
        rows = PackedRows(held_out.first(EVALUATION_TOKENS), CONTEXT_TOKENS, "documents")
        decoder = ChatModel(self.model(name)).backbone.decoder
        return perplexity.measure(decoder, rows, 16, autocast, ALONE).bits_per_byte

    def judged(self, name: str) -> dict[str, Any]:
        """Return probes, judgements on held-out questions, and a few dialogues of a model."""
        configure_device(MACHINE)
        model = ChatModel(self.model(name))
        asked = chats.split_questions()[1][: self._plan.questions]
        answers = _answers(model, [[Message("user", one.phrasings[0])] for one in asked])
        judged = chats.judge(asked, answers)
        probes = read_probes(TEXTS / "nano_probes.jsonl")
        kinds: dict[str, list[bool]] = {}
        chosen = [
            probe
            for kind in dict.fromkeys(probe.kind for probe in probes)
            for probe in [one for one in probes if one.kind == kind][: self._plan.questions]
        ]
        replies = _answers(model, [probe.messages for probe in chosen])
        for probe, reply in zip(chosen, replies, strict=True):
            kinds.setdefault(probe.kind, []).append(contains_word(reply, probe.expect))
        return {
            "right": judged.right,
            "friendly": judged.friendly,
            "preferred": judged.preferred,
            "probes": {kind: sum(found) / len(found) for kind, found in kinds.items()},
            "dialogues": _dialogues(asked, answers),
        }

    def _lineage(self, name: str) -> Lineage:
        return Lineage(f"life-{name}", code_commit=self._commit, licence=CORPUS_LICENCE)

    def _run(self, stage: StageRun[Any]) -> dict[str, Any]:
        manifest = run_stage(stage, self._work / "runs", self._tell)
        return {name: value for name, value in manifest.report.items() if _is_figure(value)}


def _answers(model: ChatModel, prompts: Sequence[Sequence[Message]]) -> list[str]:
    """Return a sampled answer to each prompt, at the temperature of PPO."""
    sampling = Sampling(
        samples_per_prompt=1,
        max_prompt_tokens=PROMPT_TOKENS,
        max_response_tokens=RESPONSE_TOKENS,
        batch_prompts=32,
        seed=SEED,
    )
    return [answer.text for answer in model.answer(prompts, sampling)]


def _dialogues(asked: Sequence[Question], answers: Sequence[str]) -> list[dict[str, str]]:
    return [
        {"title": question.phrasings[0], "text": text}
        for question, text in zip(asked[:6], answers, strict=False)
    ]


def _is_figure(value: object) -> bool:
    return isinstance(value, int | float | str) and not isinstance(value, bool)
