"""Checks of the command's options before the first answer is sampled.

The checks call the code that would fail later; errors name the options of the command.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.cluster.group import Group
from training.data.chat import Chat
from training.errors import ConfigError
from training.evaluation.answers import ChatModel
from training.runtime.ranks import all_different
from training.stages.config import PolicyConfig
from training.stages.policy_loop import check_shares
from training.stages.prompts import read_data

COUNTS = ("updates", "items", "held_out", "samples", "prompt_tokens", "response_tokens")
OPTIONS = {  # by config field
    "rollout_actors": "rollout-actors",
    "max_prompt_tokens": "prompt-tokens",
    "max_prompt_tokens + max_response_tokens": "prompt-tokens + response-tokens",
}


def checked_group(options: argparse.Namespace) -> Group:
    """Return the group of processes.

    Raises:
        ConfigError: a count is too low, or rollout actors are requested without workers.
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
    with _with_option_names():
        return Group(options.workers, options.gpus_per_worker, options.rollout_actors)


def check_config(config: PolicyConfig, workers: int) -> None:
    """Check that the workers can share an update.

    Raises:
        ConfigError: the workers cannot share an update evenly.
    """
    try:
        check_shares(config, all_different(0, max(1, workers)))
    except ConfigError as error:
        raise ConfigError(
            f"workers: {error}", field="workers", reason=error.reason, limit=error.limit
        ) from error


def opened_model(directory: Path) -> ChatModel:
    """Load the model like the first measurement, so that its errors show early.

    Raises:
        ConfigError: the directory does not exist.
        ChatError, CheckpointError, ModelConfigError: the directory is not a complete model.
    """
    if not directory.is_dir():
        raise ConfigError(f"model: {directory} does not exist", field="model", reason="MISSING")
    return ChatModel(directory)


def check_prompts(config: PolicyConfig, chat: Chat) -> None:
    """Check the lengths of the prompts.

    Raises:
        ConfigError: no prompt is short enough, or prompt and response exceed the positions of the
            model.
    """
    with _with_option_names():
        read_data(config, chat)


@contextmanager
def _with_option_names() -> Iterator[None]:
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
