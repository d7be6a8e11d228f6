"""What a command is given to begin from, looked at before anything is written or started."""

from __future__ import annotations

from pathlib import Path

from training.data.examples import read_prompts
from training.model.reward import SETTINGS
from training.planning.work import StageConfig
from training.stages.context import ConfigError
from training.stages.policy_loop import PolicyConfig


def there(option: str, path: Path) -> Path:
    """Raises: ConfigError: nothing is there."""
    if not path.exists():
        raise ConfigError(f"{option}: {path} is not there", field=option, reason="MISSING")
    return path.absolute()


def checked_model(path: Path) -> Path:
    """Raises: ConfigError: it is a reward model, which scores and does not speak, or nothing is
    there.
    """
    if (path / SETTINGS).exists():
        raise ConfigError(
            f"model: {path} is a reward model, not a language model",
            field="model",
            reason="MISMATCH",
        )
    return there("model", path)


def checked_judge(path: Path | None, data: Path) -> Path | None:
    """The reward model; None where the prompts' own tasks judge.

    Raises:
        ConfigError: it is none, or neither is there.
    """
    if path is None:
        bare = next(
            (line for line, row in enumerate(read_prompts(data), start=1) if not row.task), None
        )
        if bare is not None:
            raise ConfigError(
                f"reward-model: missing, and line {bare} of {data.name} has no task; give one of both",
                field="reward-model",
                reason="MISSING",
            )
        return None
    directory = there("reward-model", path)
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


def check_prompts(config: StageConfig) -> None:
    """Raises: ConfigError: an update asks for more prompts than there are."""
    if not isinstance(config, PolicyConfig) or not config.data_path.exists():
        return
    count = len(read_prompts(config.data_path))
    if config.prompts_per_update > count:
        raise ConfigError(
            f"prompts_per_update: {config.prompts_per_update} is more than the {count} prompts",
            field="prompts_per_update",
            reason="TOO_LARGE",
            limit=f"at most {count}",
        )
