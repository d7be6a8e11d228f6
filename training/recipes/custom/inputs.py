"""Checks of the inputs of a command, before files are written or processes started."""

from __future__ import annotations

from pathlib import Path

from training.data.examples import read_prompts
from training.errors import ConfigError
from training.model.reward import SETTINGS
from training.planning.work import PlannedConfig
from training.stages.config import PolicyConfig


def existing_path(option: str, path: Path) -> Path:
    """Return the absolute path.

    Raises:
        ConfigError: the path does not exist.
    """
    if not path.exists():
        raise ConfigError(f"{option}: {path} does not exist", field=option, reason="MISSING")
    return path.absolute()


def checked_model(path: Path) -> Path:
    """Return the path of the initial model.

    Raises:
        ConfigError: the path does not exist or is a reward model, which cannot generate text.
    """
    if (path / SETTINGS).exists():
        raise ConfigError(
            f"model: {path} is a reward model, not a language model",
            field="model",
            reason="MISMATCH",
        )
    return existing_path("model", path)


def checked_judge(path: Path | None, data: Path) -> Path | None:
    """Return the path of the reward model, or None if all prompts have tasks.

    Raises:
        ConfigError: the path is not a reward model, or both reward model and tasks are missing.
    """
    if path is None:
        bare = next(
            (line for line, row in enumerate(read_prompts(data), start=1) if not row.task), None
        )
        if bare is not None:
            raise ConfigError(
                f"reward-model: missing, and line {bare} of {data.name} has no task; one of both "
                "is needed",
                field="reward-model",
                reason="MISSING",
            )
        return None
    directory = existing_path("reward-model", path)
    if not (directory / SETTINGS).exists():
        found = (
            "a language model, not a reward model"
            if (directory / "config.json").exists()
            else "no reward model"
        )
        raise ConfigError(
            f"reward-model: {path} is {found}", field="reward-model", reason="MISMATCH"
        )
    return directory


def check_prompts(config: PlannedConfig) -> None:
    """Check the number of prompts.

    Raises:
        ConfigError: an update needs more prompts than the data has.
    """
    if not isinstance(config, PolicyConfig) or not config.data_path.exists():
        return
    count = len(read_prompts(config.data_path))
    if config.prompts_per_update > count:
        raise ConfigError(
            f"prompts_per_update: {config.prompts_per_update} exceeds the {count} prompts",
            field="prompts_per_update",
            reason="TOO_LARGE",
            limit=f"at most {count}",
        )
