"""Data of policy training: prompts with their tasks, and examples to mix in, as training ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from training.data.chat import Chat
from training.data.examples import read_prompts, read_sft
from training.data.seeds import seed_of
from training.data.tensors import TokenisedExample, response_batch
from training.errors import ConfigError
from training.losses.log_probs import batch_loss
from training.model.backbone import Backbone
from training.model.checkpoint import read_config, require_positions
from training.model.vocabulary import VocabularyMap, choose_rows
from training.runtime.ranks import Ranks
from training.stages.config import PolicyConfig, SftMix
from training.stages.sft import narrow


@dataclass(frozen=True)
class Prompts:
    """Tokenised prompts.

    `tasks` has one task per prompt, "" if the row names none. `stop_ids` end a response. `decode`
    turns training ids into text.
    """

    ids: list[list[int]]
    tasks: list[str]
    stop_ids: tuple[int, ...]
    dropped_too_long: int
    mixed: list[TokenisedExample] = field(default_factory=list)
    vocabulary: VocabularyMap | None = None
    decode: Callable[[Sequence[int]], str] = str


def read_data(config: PolicyConfig, chat: Chat) -> Prompts:
    """Tokenise, drop prompts that are too long, and trim the vocabulary.

    The trimmed vocabulary has the ids of prompts, examples and responses.
    """
    require_positions(
        config.model_directory,
        max_prompt_tokens=config.max_prompt_tokens,
        max_response_tokens=config.max_response_tokens,
    )
    rows = read_prompts(config.data_path)
    tokenised = [(chat.prompt_ids(row.messages), row.task) for row in rows]
    fitting = [(ids, task) for ids, task in tokenised if len(ids) <= config.max_prompt_tokens]
    if not fitting:
        raise ConfigError(
            f"max_prompt_tokens: {config.max_prompt_tokens} fits none of {len(rows)} prompts",
            field="max_prompt_tokens",
            reason="TOO_SMALL",
        )
    ids, tasks = [ids for ids, _ in fitting], [task for _, task in fitting]
    mixed = read_mix(config, chat)
    dropped = len(rows) - len(ids)
    if config.vocabulary_rows is None:
        return Prompts(ids, tasks, chat.stop_ids, dropped, mixed, decode=chat.decode)
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
        dense, tasks, stop_ids, dropped, mixed, vocabulary, lambda ids: chat.decode(to_full(ids))
    )


def read_mix(config: PolicyConfig, chat: Chat) -> list[TokenisedExample]:
    """Return the examples to mix in, in ids of the full vocabulary; empty without sft_mix."""
    if config.sft_mix is None:
        return []
    longest = config.max_prompt_tokens + config.max_response_tokens
    rows = [
        TokenisedExample(
            tuple(chat.prompt_ids(row.messages)), tuple(chat.response_ids(row.response)), row.weight
        )
        for row in read_sft(config.sft_mix.data_path)
    ]
    fitting = [row for row in rows if row.tokens <= longest and row.weight > 0]
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
