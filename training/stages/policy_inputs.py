"""Inputs of PPO and GRPO: prompts with their tasks, examples to mix in, and scores of responses.

Prompts and examples are in training ids. Scores come from a reward model or from a verifier.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from training.data.chat import Chat
from training.data.context import fit_context
from training.data.examples import read_prompts, read_sft
from training.data.seeds import seed_of
from training.data.tensors import TokenisedExample, response_batch
from training.errors import ConfigError
from training.losses.log_probs import batch_loss
from training.model.backbone import Backbone
from training.model.checkpoint import require_positions
from training.model.config import read_config
from training.model.reward import RewardModel, is_adapter, load_reward_model, require_one_tokenizer
from training.model.vocabulary import VocabularyMap, choose_rows
from training.parallelism.layout import distribute
from training.rl.experience import ScoringConfig
from training.rl.networks import Sources
from training.rl.rollout import Rollout
from training.rl.scores import (
    FigureSource,
    Score,
    Verifier,
    figure_source,
    score_by_model,
    score_by_verifier,
    score_mixed,
)
from training.runtime.machine import Autocast
from training.runtime.ranks import Ranks
from training.stages.policy_config import PolicyConfig, SftMix
from training.stages.sft import fitting_examples, narrow


@dataclass(frozen=True)
class Prompts:
    """Tokenised prompts.

    `tasks` has one task per prompt, "" if the row names none. The last `verifiable` prompts are
    those of a VerifiableMix, and only these have tasks then. `stop_ids` end a response. `decode`
    turns training ids into text.
    """

    ids: list[list[int]]
    tasks: list[str]
    stop_ids: tuple[int, ...]
    dropped_too_long: int
    mixed: list[TokenisedExample] = field(default_factory=list)
    vocabulary: VocabularyMap | None = None
    decode: Callable[[Sequence[int]], str] = str
    verifiable: int = 0
    contexts_shortened: int = 0


def read_data(config: PolicyConfig, chat: Chat) -> Prompts:
    """Tokenise, shorten contexts, drop prompts that are still too long, and trim the vocabulary.

    The trimmed vocabulary has the ids of prompts, examples and responses.
    """
    require_positions(
        config.model_directory,
        max_prompt_tokens=config.max_prompt_tokens,
        max_response_tokens=config.max_response_tokens,
    )
    fitting, dropped, shortened = _read_fitting(config.data_path, config, chat)
    verifiable = 0
    if config.verifiable is not None:
        tasks_of_mix, too_long, too = _read_fitting(config.verifiable.data_path, config, chat)
        # Tasks of the other rows have no meaning for a reward model, and would be verified here.
        fitting = [*((ids, "") for ids, _ in fitting), *tasks_of_mix]
        verifiable, dropped, shortened = len(tasks_of_mix), dropped + too_long, shortened + too
    ids, tasks = [ids for ids, _ in fitting], [task for _, task in fitting]
    mixed = read_mix(config, chat)
    if config.vocabulary_rows is None:
        return Prompts(
            ids,
            tasks,
            chat.stop_ids,
            dropped,
            mixed,
            decode=chat.decode,
            verifiable=verifiable,
            contexts_shortened=shortened,
        )
    used = {
        *chat.stop_ids,
        *(i for row in ids for i in row),
        *(i for e in mixed for i in (*e.prompt, *e.response)),
    }
    vocabulary = choose_rows(
        used, read_config(config.model_directory).vocab_size, config.vocabulary_rows
    )
    dense = [vocabulary.narrow(row) for row in ids]
    stop_ids = tuple(vocabulary.narrow(chat.stop_ids))
    to_full = vocabulary.widen
    mixed = narrow(mixed, vocabulary)
    return Prompts(
        dense,
        tasks,
        stop_ids,
        dropped,
        mixed,
        vocabulary,
        lambda ids: chat.decode(to_full(ids)),
        verifiable,
        shortened,
    )


def _read_fitting(
    path: Path, config: PolicyConfig, chat: Chat
) -> tuple[list[tuple[list[int], str]], int, int]:
    """Return the prompts of a file as (ids, task), and how many are too long and shortened."""
    rows = read_prompts(path, config.allow_extra_fields)
    fitting: list[tuple[list[int], str]] = []
    shortened = 0
    for row in rows:
        if prompt := fit_context(chat, row.messages, config.max_prompt_tokens):
            fitting.append((list(prompt.ids), row.task))
            shortened += prompt.dropped > 0
    if not fitting:
        raise ConfigError(
            f"max_prompt_tokens: {config.max_prompt_tokens} fits none of {len(rows)} prompts of "
            f"{path.name}",
            field="max_prompt_tokens",
            reason="TOO_SMALL",
        )
    return fitting, len(rows) - len(fitting), shortened


def read_mix(config: PolicyConfig, chat: Chat) -> list[TokenisedExample]:
    """Return the examples to mix in, in ids of the full vocabulary; empty without sft_mix."""
    if config.sft_mix is None:
        return []
    longest = config.max_prompt_tokens + config.max_response_tokens
    rows = read_sft(config.sft_mix.data_path, config.allow_extra_fields)
    fitting, _ = fitting_examples([row for row in rows if row.weight > 0], chat, longest)
    if not fitting:
        raise ConfigError(
            f"sft_mix: none of {len(rows)} examples fits {longest} tokens",
            field="sft_mix",
            reason="TOO_LARGE",
            limit=f"at most {longest}",
        )
    return fitting


def mixed_loss(
    policy: Backbone,
    examples: Sequence[TokenisedExample],
    mix: SftMix,
    seeds: tuple[int, ...],
    ranks: Ranks,
) -> Tensor:
    """Return this rank's share of the mixed-in loss.

    The examples are chosen by `seeds`: (run seed, update, minibatch).
    """
    generator = torch.Generator().manual_seed(seed_of("sft mix", *seeds))
    rows = torch.randint(len(examples), (mix.rows,), generator=generator, device="cpu").tolist()
    chosen = [examples[row] for row in rows]
    weight_total = sum(example.weight * len(example.response) for example in chosen)
    own_examples = ranks.share(chosen)
    return mix.coefficient * batch_loss(policy, response_batch(own_examples), weight_total)


@dataclass(frozen=True)
class PolicyInputs:
    """Inputs of an algorithm in addition to its networks and its config.

    `gold` is a reward model for monitoring only. `verifier` is the source of the scores if it
    reports figures on its verdicts.
    """

    prompts: Prompts
    score: Score
    autocast: Autocast
    ranks: Ranks
    gold: Score | None = None
    verifier: FigureSource | None = None

    def scoring(self, config: PolicyConfig) -> ScoringConfig:
        """Return how to score a rollout, in chunks of one minibatch."""
        rows = max(1, config.minibatch_rows // self.ranks.data_size)
        return ScoringConfig(
            score=self.score,
            temperature=config.temperature,
            rows=rows,
            ranks=self.ranks,
            importance_cap=config.importance_cap,
            gold=self.gold,
            verifier=self.verifier,
            verifiable_scale=None if config.verifiable is None else config.verifiable.reward_scale,
            keeps_graph=config.is_one_step,
        )


def check_scorers(config: PolicyConfig, verifier: Verifier | None) -> None:
    """Check that exactly one source gives the scores, and that it has positions for the responses.

    Raises:
        ConfigError: both or neither of reward model and verifier, no verifier for `verifiable`, or
            too few positions.
    """
    if config.verifiable is not None:
        if verifier is None:
            raise ConfigError(
                "verifiable: no verifier scores its tasks", field="verifiable", reason="MISSING"
            )
    elif (config.reward_model_directory is None) == (verifier is None):
        given = "a reward model and a verifier" if verifier else "neither a model nor a verifier"
        raise ConfigError(
            f"reward_model_directory: {given} for the scores, not exactly one",
            field="reward_model_directory",
            reason="CONFLICT" if verifier else "MISSING",
        )
    reward_models = [
        config.judge_base_directory,
        config.reward_model_directory,
        config.judge_directory,
    ]
    for directory in reward_models:
        if directory is not None and not is_adapter(directory):
            require_positions(
                directory,
                max_prompt_tokens=config.max_prompt_tokens,
                max_response_tokens=config.max_response_tokens,
            )


def network_sources(config: PolicyConfig, vocabulary: VocabularyMap | None) -> Sources:
    """Return the artifacts and settings from which the networks are opened."""
    return Sources(
        config.model_directory, config.reward_model_directory, config.lora, vocabulary, config.seed
    )


def open_policy_inputs(
    config: PolicyConfig,
    prompts: Prompts,
    reward: RewardModel | None,
    verifier: Verifier | None,
    autocast: Autocast,
    ranks: Ranks,
) -> PolicyInputs:
    """Return the inputs of an algorithm, with scores of the reward model, the verifier or both."""
    scores = [score_by_model(reward)] if reward is not None else []
    if verifier is not None:
        scores.append(score_by_verifier(verifier, prompts.decode, ranks))
    score = scores[0]
    if config.verifiable is not None:
        score = score_mixed(scores[0], scores[1], config.verifiable.reward_scale)
    gold = open_gold(config, prompts.vocabulary, ranks)
    return PolicyInputs(prompts, score, autocast, ranks, gold, figure_source(verifier))


def open_gold(config: PolicyConfig, vocabulary: VocabularyMap | None, ranks: Ranks) -> Score | None:
    """Open the reward model for monitoring, from which nothing is learned.

    The model has its own weights, therefore reads ids of the full vocabulary. It is split like the
    other networks.

    Raises:
        RewardModelError: the tokenizer of the model or of its base differs from the policy's.
    """
    if config.judge_directory is None or config.judge_base_directory is None:
        return None
    require_one_tokenizer(config.judge_base_directory, config.model_directory)
    judge = load_reward_model(config.judge_directory, config.judge_base_directory)
    distribute(judge.scalar.backbone.decoder, ranks)
    full_ids = None if vocabulary is None else torch.tensor(vocabulary.kept)

    def score(rollout: Rollout) -> torch.Tensor:
        ids_BT = rollout.ids_BT if full_ids is None else full_ids[rollout.ids_BT]
        return judge.score(ids_BT, rollout.mask_BT)

    return score
