"""Whether what the command was asked for can be done: looked at before the first answer is sampled,
by the code that would refuse it later, and told by the options' own names.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.cluster.group import Group
from training.data.chat import Chat
from training.evaluation.answers import Speaker
from training.optim.ranks import all_different
from training.stages.context import ConfigError
from training.stages.policy_loop import PolicyConfig, check_shares
from training.stages.prompts import read_data

COUNTS = ("updates", "items", "held_out", "samples", "prompt_tokens", "response_tokens")
OPTIONS = {  # by the fields that they set
    "rollout_actors": "rollout-actors",
    "max_prompt_tokens": "prompt-tokens",
    "max_prompt_tokens + max_response_tokens": "prompt-tokens + response-tokens",
}


def checked_group(options: argparse.Namespace) -> Group:
    """Who works.

    Raises:
        ConfigError: a count is below its least, or actors are asked for without workers.
    """
    for name in COUNTS:
        if getattr(options, name) < 1:
            option = name.replace("_", "-")
            raise ConfigError(
                f"{option}: {getattr(options, name)} is not at least 1",
                field=option,
                reason="OUT_OF_RANGE",
                limit="at least 1",
            )
    if options.workers < 0:
        raise ConfigError(
            f"workers: {options.workers} is below 0",
            field="workers",
            reason="OUT_OF_RANGE",
            limit="at least 0",
        )
    with _named_as_typed():
        return Group(options.workers, options.gpus_per_worker, options.rollout_actors)


def check_config(config: PolicyConfig, workers: int) -> None:
    """Raises: ConfigError: the workers cannot share an update evenly."""
    try:
        check_shares(config, all_different(0, max(1, workers)))
    except ConfigError as error:
        raise ConfigError(
            f"workers: {error}", field="workers", reason=error.reason, limit=error.limit
        ) from error


def opened_model(directory: Path) -> Speaker:
    """Loaded as the first measurement loads it, so that whatever is wrong with it shows.

    Raises:
        ConfigError: there is no such directory.
        ChatError, CheckpointError, ModelConfigError: what is there is no model, or not a whole one.
    """
    if not directory.is_dir():
        raise ConfigError(f"model: {directory} is not there", field="model", reason="MISSING")
    return Speaker(directory)


def check_prompts(config: PolicyConfig, chat: Chat) -> None:
    """Raises: ConfigError: no prompt is short enough, or prompt and response may be longer than the
    model's positions.
    """
    with _named_as_typed():
        read_data(config, chat)


@contextmanager
def _named_as_typed() -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        field, colon, rest = str(error).partition(":")
        raise ConfigError(
            f"{OPTIONS.get(field, field)}{colon}{rest}",
            field=OPTIONS.get(error.field, error.field),
            reason=error.reason,
            limit=error.limit,
        ) from error
